// A worker's labels, some of which may change while it runs.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace assay::worker {

// INVALID_ARGUMENT unless it is key=value without control characters, of at most 256 bytes.
absl::Status CheckLabel(absl::string_view label);

// Thread-safe.
class Labels {
 public:
  // `fixed` stay; those of `file`, a line each ('#' begins a comment), come after them. A label of the file
  // replaces a fixed one of the same key. No file: its name is empty.
  //   INVALID_ARGUMENT  a label is none, with file and line.
  //   NOT_FOUND         the file is not there.
  static absl::StatusOr<std::unique_ptr<Labels>> Open(std::vector<std::string> fixed,
                                                      std::filesystem::path file);

  // Reads the file again where it has changed since (by its identity, time and size), or `always`. A file
  // that cannot be read, or has something that is no label in it, changes nothing and is logged once.
  std::vector<std::string> Current(bool always = false);

 private:
  Labels(std::vector<std::string> fixed, std::filesystem::path file)
      : fixed_(std::move(fixed)), file_(std::move(file)) {}
  absl::Status Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> fixed_;
  const std::filesystem::path file_;
  absl::Mutex mutex_;
  std::vector<std::string> current_ ABSL_GUARDED_BY(mutex_);
  struct stat seen_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace assay::worker

// What a person sees while batches run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "assay/v1/batch.pb.h"
#include "cli/terminal.h"

namespace assay::cli {

// A line for each job that ends, and below it what its checkpoint showed; on a terminal beneath them one line
// that is drawn anew, with how far it is. Thread-safe: several batches may be watched at once.
class Progress {
 public:
  // `total`: jobs of all batches watched.
  Progress(std::FILE* file, Terminal terminal, size_t total);
  // Leaves the drawn line's place clean.
  ~Progress();

  void Show(const v1::BatchEvent& event);
  // Jobs by outcome, in all.
  std::map<v1::Outcome, size_t> counts() const;
  // Takes the drawn line away, so that others may write.
  void Clear();

 private:
  void Draw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::FILE* const file_;
  const Terminal terminal_;
  const size_t total_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> running_ ABSL_GUARDED_BY(mutex_);  // job id -> model
  std::set<std::string> done_ ABSL_GUARDED_BY(mutex_);
  std::map<v1::Outcome, size_t> counts_ ABSL_GUARDED_BY(mutex_);
  bool drawn_ ABSL_GUARDED_BY(mutex_) = false;
};

// "PASSED  llama_3  0.03 s  11 checks", without colour or line feed.
std::string JobLine(const v1::Job& job);

}  // namespace assay::cli

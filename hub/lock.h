// Locks between processes, and between threads of one: flock(2) on a file, as Python's filelock takes it on
// Unix, so that Python and Assay exclude each other.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"

namespace assay::hub {

// Held until it is destroyed, or the process dies. The file stays, as filelock leaves it: unlinking it would
// let two holders in.
class FileLock {
 public:
  enum Kind { kShared, kExclusive };

  // Makes the file, and folders to it, where missing; waits. CANCELLED, or what the file system says.
  static absl::StatusOr<FileLock> Take(const std::filesystem::path& path, Kind kind,
                                       const std::function<bool()>& cancelled);
  // Empty where another holds it.
  static absl::StatusOr<std::optional<FileLock>> Try(const std::filesystem::path& path, Kind kind);

  FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileLock& operator=(FileLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace assay::hub

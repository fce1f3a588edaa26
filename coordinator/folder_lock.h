// One process at a time for a data folder.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace assay::coordinator {

// A lock on a data folder, for as long as it lives.
class FolderLock {
 public:
  // FAILED_PRECONDITION: another process has it.
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const std::filesystem::path& dir) {
    const std::filesystem::path path = dir / "lock";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) return absl::UnavailableError(absl::StrCat(path.string(), ": ", std::strerror(errno)));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      close(fd);
      return absl::FailedPreconditionError(absl::StrCat(
          dir.string(), " is in use by another coordinator: stop it, or give each its own folder"));
    }
    return std::unique_ptr<FolderLock>(new FolderLock(fd));
  }
  ~FolderLock() { close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace assay::coordinator

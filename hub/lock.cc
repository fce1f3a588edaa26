#include "hub/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"

namespace assay::hub {

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<std::optional<FileLock>> FileLock::Try(const std::filesystem::path& path, Kind kind) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);  // a failure shows in open
  while (true) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the lock ", path.string()));
    FileLock lock(fd);
    if (::flock(fd, (kind == kShared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK || errno == EACCES) return std::nullopt;
      if (errno == EINTR) continue;
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path.string()));
    }
    // Somebody may have unlinked it between open and flock; such a lock excludes nobody.
    struct stat ours, named;
    if (::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev) {
      return lock;
    }
  }
}

absl::StatusOr<FileLock> FileLock::Take(const std::filesystem::path& path, Kind kind,
                                        const std::function<bool()>& cancelled) {
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(std::optional<FileLock> lock, Try(path, kind));
    if (lock.has_value()) return *std::move(lock);
    if (cancelled && cancelled())
      return absl::CancelledError(absl::StrCat("waiting for ", path.string(), " was cancelled"));
    absl::SleepFor(absl::Milliseconds(50));  // as filelock does: a blocking flock could not be cancelled
  }
}

}  // namespace assay::hub

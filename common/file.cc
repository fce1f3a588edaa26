#include "common/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace assay {
namespace {

absl::Status Errno(int error, absl::string_view what, const std::filesystem::path& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", path.string()));
}

absl::Status SyncFolder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Errno(errno, "cannot open folder", folder);
  const int failed = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  return failed ? Errno(error, "cannot sync folder", folder) : absl::OkStatus();
}

absl::Status WriteWhole(const std::filesystem::path& path, absl::string_view content, bool durable,
                        mode_t mode) {
  static std::atomic<uint64_t> counter{0};
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return Errno(error.value(), "cannot make folder", folder);

  const std::filesystem::path beside =
      folder / absl::StrCat(".", path.filename().string(), ".", ::getpid(), ".", counter++);
  const int fd = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return Errno(errno, "cannot write", beside);
  absl::Cleanup remove = [&beside] { ::unlink(beside.c_str()); };
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t wrote = ::write(fd, content.data() + done, content.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const int why = errno;
      ::close(fd);
      return Errno(why, "cannot write", path);
    }
    done += static_cast<size_t>(wrote);
  }
  const bool unsynced = durable && ::fsync(fd) != 0;
  const int why = errno;
  if (::close(fd) != 0 && !unsynced) return Errno(errno, "cannot write", path);
  if (unsynced) return Errno(why, "cannot sync", path);
  if (::rename(beside.c_str(), path.c_str()) != 0) return Errno(errno, "cannot write", path);
  std::move(remove).Cancel();
  return durable ? SyncFolder(folder) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, size_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Errno(errno, "cannot open", path);
  absl::Cleanup close = [fd] { ::close(fd); };
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Errno(errno, "cannot stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is not a regular file"));
  }
  if (static_cast<size_t>(info.st_size) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has ", info.st_size, " bytes; at most ", max_bytes, " are read"));
  }
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t have = 0;
  while (have < content.size()) {
    const ssize_t got = ::read(fd, content.data() + have, content.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Errno(errno, "cannot read", path);
    if (got == 0) break;  // shrank meanwhile
    have += static_cast<size_t>(got);
  }
  content.resize(have);
  return content;
}

absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view content, bool durable) {
  return WriteWhole(path, content, durable, 0644);
}

absl::Status WriteSecretFile(const std::filesystem::path& path, absl::string_view content) {
  return WriteWhole(path, content, true, 0600);
}

bool LiesBelow(const std::filesystem::path& path, const std::filesystem::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

}  // namespace assay

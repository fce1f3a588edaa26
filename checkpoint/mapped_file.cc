#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"

namespace assay::checkpoint {
namespace {

namespace fs = std::filesystem;

// The blobs of the cache that a snapshot belongs to; empty where the folder is no snapshot.
fs::path BlobsOf(const fs::path& folder) {
  for (fs::path at = folder; at.has_relative_path(); at = at.parent_path()) {
    const fs::path repository = at.parent_path();
    if (at.filename() == "snapshots" && absl::StartsWith(repository.filename().string(), "models--")) {
      return repository / "blobs";
    }
  }
  return {};
}

}  // namespace

absl::StatusOr<fs::path> ResolveInside(const fs::path& folder, const std::string& name) {
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), folder.string());
  const fs::path target = fs::canonical(root / name, error);
  if (error) return absl::ErrnoToStatus(error.value(), (folder / name).string());
  if (LiesBelow(target, root)) return target;
  const fs::path blobs = BlobsOf(root);
  if (!blobs.empty() && LiesBelow(target, blobs)) return target;
  return absl::InvalidArgumentError(
      absl::StrCat((folder / name).string(), ": a link out of its folder, to ", target.string()));
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) return absl::ErrnoToStatus(errno, path.string());
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a regular file"));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* start = size == 0 ? nullptr : mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (start == MAP_FAILED) return absl::ErrnoToStatus(error, path.string());
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const uint8_t*>(start), size));
}

MappedFile::~MappedFile() {
  if (start_ != nullptr) munmap(const_cast<uint8_t*>(start_), size_);
}

}  // namespace assay::checkpoint

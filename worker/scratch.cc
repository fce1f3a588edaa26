#include "worker/scratch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "worker/subprocess.h"

namespace assay::worker {

namespace fs = std::filesystem;

absl::StatusOr<ScratchFolder> ScratchFolder::Make(const fs::path& parent) {
  ScratchFolder folder;
  const fs::path path = parent / NewUuid();
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return absl::InternalError(absl::StrCat(path.string(), ": ", error.message()));
  folder.path_ = path;
  return folder;
}

ScratchFolder& ScratchFolder::operator=(ScratchFolder&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

ScratchFolder::~ScratchFolder() {
  std::error_code error;
  if (!path_.empty()) fs::remove_all(path_, error);
}

absl::StatusOr<MappedContent> MappedContent::Open(const fs::path& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info {};
  if (!file.open() || ::fstat(file.get(), &info) != 0) return absl::ErrnoToStatus(errno, path.string());
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(path.string() + ": no regular file");
  MappedContent mapped;
  if (info.st_size == 0) return mapped;
  void* data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, path.string());
  mapped.data_ = data;
  mapped.size_ = static_cast<size_t>(info.st_size);
  return mapped;
}

MappedContent::~MappedContent() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

absl::StatusOr<std::string> FileDigest(const fs::path& path) {
  std::error_code error;
  const fs::path file = fs::canonical(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path.string(), ": ", error.message()));
  ASSAY_ASSIGN_OR_RETURN(const MappedContent mapped, MappedContent::Open(file));
  return Sha256Hex(mapped.content());
}

}  // namespace assay::worker

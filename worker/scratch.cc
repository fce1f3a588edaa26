#include "worker/scratch.h"

#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/id.h"

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

}  // namespace assay::worker

#include "cli/checkpoint_config.h"

#include <memory>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{4} << 20;

absl::StatusOr<std::string> ReadConfigOf(const fs::path& folder) {
  absl::StatusOr<std::string> config = ReadFile(folder / "config.json", kMaxConfigBytes);
  if (absl::IsNotFound(config.status())) return std::string();
  return config;
}

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

}  // namespace

absl::StatusOr<std::string> ReadCheckpointConfig(const v1::CheckpointRef& checkpoint,
                                                 const fs::path& checkpoint_root,
                                                 const hub::HubOptions& options) {
  if (absl::StartsWith(checkpoint.id(), "/")) {
    if (!IsFolder(checkpoint.id())) return absl::NotFoundError(absl::StrCat("no folder ", checkpoint.id()));
    return ReadConfigOf(checkpoint.id());
  }
  if (!checkpoint_root.empty() && IsFolder(checkpoint_root / checkpoint.id())) {
    return ReadConfigOf(checkpoint_root / checkpoint.id());
  }
  ASSAY_ASSIGN_OR_RETURN(const std::unique_ptr<hub::Hub> hub, hub::Hub::Open(options));
  ASSAY_ASSIGN_OR_RETURN(const hub::Found found,
                         hub->Find(checkpoint.id(), checkpoint.revision(), hub::Need::kConfig));
  return ReadConfigOf(found.folder);
}

}  // namespace assay::cli

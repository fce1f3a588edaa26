#include "worker/checkpoint.h"

#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoint_name.h"

namespace assay::worker {

std::filesystem::path FindCheckpoint(const std::filesystem::path& root, absl::string_view id) {
  if (root.empty() || !CheckCheckpointId(id).ok()) return {};
  const std::filesystem::path folder = root / std::string(id);
  std::error_code error;
  return std::filesystem::is_directory(folder, error) ? folder : std::filesystem::path();
}

absl::StatusOr<hub::Found> CheckpointFinder::Find(const v1::CheckpointRef& checkpoint,
                                                  const std::function<bool()>& cancelled) const {
  const std::string& id = checkpoint.id();
  if (absl::StartsWith(id, "/")) {
    if (places_.any_folder) return hub::FindFolder(id, {});
    if (places_.folders.empty()) {
      return absl::PermissionDeniedError(
          absl::StrCat(id, ": this worker opens no folders as checkpoints (assay-worker --checkpoints)"));
    }
    return hub::FindFolder(id, places_.folders);
  }
  const bool plain =
      checkpoint.commit().empty() && (checkpoint.revision().empty() || checkpoint.revision() == "main");
  if (plain) {
    const std::filesystem::path folder = FindCheckpoint(places_.root, id);
    if (!folder.empty()) return hub::FindFolder(folder, {places_.root});
  }
  if (!hub_.ok()) {
    return absl::InternalError(absl::StrCat("the hub's cache cannot be used: ", hub_.status().ToString()));
  }
  hub::FindOptions options;
  options.cancelled = cancelled;
  return (*hub_)->Find(id, checkpoint.commit().empty() ? checkpoint.revision() : checkpoint.commit(),
                       hub::Need::kEverything, options);
}

absl::StatusOr<hub::Found> CheckpointFinder::FindAgain(const v1::CheckpointRef& resolved,
                                                       const std::function<bool()>& cancelled) const {
  if (resolved.commit().empty() && !absl::StartsWith(resolved.id(), "/") &&
      FindCheckpoint(places_.root, resolved.id()).empty()) {
    return absl::NotFoundError(
        absl::StrCat(resolved.id(),
                     ": the export stage found it in a folder (assay-worker --checkpoint-root); this worker "
                     "has none of that name"));
  }
  return Find(resolved, cancelled);
}

}  // namespace assay::worker

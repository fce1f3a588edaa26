#include "worker/checkpoint.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace assay::worker {
namespace {

bool IsHubName(absl::string_view part) {
  if (part.empty() || part == "." || part == "..") return false;
  return std::all_of(part.begin(), part.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

}  // namespace

std::filesystem::path FindCheckpoint(const std::filesystem::path& root, absl::string_view id) {
  if (root.empty()) return {};
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '/');
  if (parts.size() > 2 || !std::all_of(parts.begin(), parts.end(), IsHubName)) return {};
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

#include <algorithm>
#include <set>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "hub/hub.h"
#include "hub/selection.h"

namespace assay::hub {

namespace fs = std::filesystem;

namespace {

bool IsWeights(absl::string_view name) {
  return !absl::StrContains(name, '/') &&
         (absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".safetensors.index.json") ||
          absl::EndsWith(name, ".gguf"));
}

}  // namespace

absl::StatusOr<Found> FindFolder(const fs::path& path, const std::vector<fs::path>& roots) {
  if (!path.is_absolute()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a checkpoint's folder must be an absolute path: ", path.string()));
  }
  std::error_code error;
  const fs::path folder = fs::canonical(path, error);
  if (error || !fs::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("no folder ", path.string()));
  }
  const bool allowed = roots.empty() || std::any_of(roots.begin(), roots.end(), [&](const fs::path& root) {
                         std::error_code no_root;
                         const fs::path canonical = fs::canonical(root, no_root);
                         return !no_root && LiesBelow(folder, canonical);
                       });
  if (!allowed) {
    return absl::PermissionDeniedError(
        absl::StrCat(path.string(), " lies below none of the folders that checkpoints may be read from"));
  }

  std::set<std::string> names;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.insert(entry->path().filename().string());
  }
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", path.string()));
  if (fs::exists(folder / "1_Pooling" / "config.json", error)) names.insert("1_Pooling/config.json");
  std::set<std::string> wanted;
  for (const std::string& name : SmallFiles(names, Need::kTokenizer)) wanted.insert(name);
  for (const std::string& name : names) {
    if (IsWeights(name)) wanted.insert(name);
  }

  Found found;
  found.folder = folder;
  found.root = folder;
  const fs::path repository =
      folder.parent_path().filename() == "snapshots" ? folder.parent_path().parent_path() : folder;
  for (const std::string& name : wanted) {
    const fs::path content = fs::weakly_canonical(folder / name, error);
    if (error || !LiesBelow(content, repository)) {
      return absl::FailedPreconditionError(absl::StrCat(
          (folder / name).string(), " leads out of the folder, to ", content.string(), ": refused"));
    }
    if (!fs::exists(content, error)) {
      return absl::FailedPreconditionError(
          absl::StrCat((folder / name).string(), " is a link that leads nowhere"));
    }
    if (!LiesBelow(content, folder)) found.root = repository;
    found.files.push_back({.name = name,
                           .path = folder / name,
                           .hub_sha256 = "",
                           .weights = IsWeights(name) && !name.ends_with(".json")});
  }
  return found;
}

}  // namespace assay::hub

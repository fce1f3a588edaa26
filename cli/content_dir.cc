#include "cli/content_dir.h"

#include <cstdlib>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

bool HoldsContent(const fs::path& dir) {
  std::error_code error;
  return fs::is_directory(dir / "templates", error) && fs::is_directory(dir / "models", error);
}

}  // namespace

fs::path ExecutablePath() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error);
}

absl::StatusOr<fs::path> FindContentDir(const std::string& given) {
  // What was asked for by name is taken or refused, never replaced by something else.
  const char* variable = std::getenv("ASSAY_CONTENT_DIR");
  const std::string named = !given.empty() ? given : variable != nullptr ? variable : "";
  if (!named.empty()) {
    if (HoldsContent(named)) return fs::path(named);
    return absl::NotFoundError(absl::StrCat("content folder ", named, ": no templates/ and models/ in it"));
  }
  std::vector<fs::path> candidates;
  const fs::path binary = ExecutablePath();
  if (!binary.empty()) {
    candidates.push_back(binary.parent_path().parent_path() / "share" / "assay");
    for (fs::path up = binary.parent_path(); up.has_relative_path(); up = up.parent_path())
      candidates.push_back(up);
  }
  candidates.push_back(".");
  for (const fs::path& candidate : candidates) {
    if (HoldsContent(candidate)) return candidate;
  }
  return absl::NotFoundError(absl::StrCat(
      "no folder with templates/ and models/ in ",
      absl::StrJoin(candidates, ", ",
                    [](std::string* out, const fs::path& path) { absl::StrAppend(out, path.string()); }),
      ": give --content-dir or set ASSAY_CONTENT_DIR"));
}

}  // namespace assay::cli

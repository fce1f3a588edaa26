#include "worker/checkpoint.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
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

}  // namespace assay::worker

#include "worker/gpus.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace assay::worker {
namespace {

constexpr absl::string_view kVariable = "CUDA_VISIBLE_DEVICES=";

bool IsGpuFile(absl::string_view name) {
  return absl::ConsumePrefix(&name, "nvidia") && !name.empty() &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

}  // namespace

std::vector<std::string> FindGpus(const std::vector<std::string>& environment,
                                  const std::filesystem::path& devices) {
  std::vector<std::string> gpus;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(devices, error)) {
    if (IsGpuFile(file.path().filename().string())) gpus.push_back(absl::StrCat(gpus.size()));
  }
  if (gpus.empty()) return gpus;
  for (const std::string& entry : environment) {
    absl::string_view value = entry;
    if (!absl::ConsumePrefix(&value, kVariable)) continue;
    gpus = absl::StrSplit(value, ',', absl::SkipWhitespace());
    // As CUDA reads it: what comes after an invalid name is not visible.
    gpus.erase(std::find(gpus.begin(), gpus.end(), "-1"), gpus.end());
  }
  return gpus;
}

std::vector<std::string> WithVisibleGpus(const std::vector<std::string>& environment,
                                         const std::string& gpus) {
  std::vector<std::string> changed;
  for (const std::string& entry : environment) {
    if (!absl::StartsWith(entry, kVariable)) changed.push_back(entry);
  }
  changed.push_back(absl::StrCat(kVariable, gpus));
  return changed;
}

}  // namespace assay::worker

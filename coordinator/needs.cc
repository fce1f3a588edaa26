#include "coordinator/needs.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr uint64_t kSmallestStep = 64 * kMiB;
constexpr size_t kMaxPart = 63;

uint64_t RoundUp(uint64_t value, uint64_t step) {
  return value > UINT64_MAX - step ? UINT64_MAX / step * step : (value + step - 1) / step * step;
}

bool IsPart(absl::string_view part) {
  return part.size() <= kMaxPart && std::all_of(part.begin(), part.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '/' ||
                  c == '-';
         });
}

}  // namespace

std::string RouteOf(const Requirement& requirement) {
  std::vector<std::string> parts;
  auto add_memory = [&parts](const char* name, uint64_t bytes) {
    if (bytes > 0) parts.push_back(absl::StrCat(name, RoundUp(bytes, kMiB) / kMiB));
  };
  add_memory("gpu:", requirement.gpu_memory);
  add_memory("host:", requirement.memory);
  if (!parts.empty() && requirement.predicted) parts.push_back("predicted");
  std::vector<std::string> selector = requirement.selector;
  std::sort(selector.begin(), selector.end());
  selector.erase(std::unique(selector.begin(), selector.end()), selector.end());
  for (const std::string& label : selector) parts.push_back(absl::StrCat("+", label));
  std::string route;
  for (const std::string& part : parts) absl::StrAppend(&route, route.empty() ? "" : " ", part);
  return route;
}

absl::StatusOr<Requirement> ParseRoute(absl::string_view route) {
  Requirement requirement;
  for (absl::string_view part : absl::StrSplit(route, ' ', absl::SkipEmpty())) {
    uint64_t mebibytes = 0;
    if (absl::ConsumePrefix(&part, "+")) {
      requirement.selector.emplace_back(part);
    } else if (part == "predicted") {
      requirement.predicted = true;
    } else if (absl::ConsumePrefix(&part, "gpu:") && absl::SimpleAtoi(part, &mebibytes)) {
      requirement.gpu_memory = mebibytes * kMiB;
    } else if (absl::ConsumePrefix(&part, "host:") && absl::SimpleAtoi(part, &mebibytes)) {
      requirement.memory = mebibytes * kMiB;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("'", route, "' is no route of a job"));
    }
  }
  return requirement;
}

Requirement RequirementOf(const v1::Job& job) {
  Requirement requirement;
  if (StageOf(job) == v1::STAGE_EXPORT) return requirement;
  const v1::Needs& needs = job.needs();
  requirement.gpu_memory = job.target().device() == v1::CPU ? 0 : RoundUp(needs.gpu_memory_bytes(), kMiB);
  requirement.memory = job.target().device() == v1::CUDA ? 0 : RoundUp(needs.memory_bytes(), kMiB);
  requirement.predicted = needs.predicted() && (requirement.gpu_memory > 0 || requirement.memory > 0);
  requirement.selector.assign(needs.selector().begin(), needs.selector().end());
  std::sort(requirement.selector.begin(), requirement.selector.end());
  requirement.selector.erase(std::unique(requirement.selector.begin(), requirement.selector.end()),
                             requirement.selector.end());
  return requirement;
}

absl::Status CheckSelector(absl::string_view selector) {
  const size_t equals = selector.find('=');
  const absl::string_view key = selector.substr(0, equals);
  const absl::string_view value =
      equals == absl::string_view::npos ? absl::string_view() : selector.substr(equals + 1);
  if (!key.empty() && IsPart(key) && IsPart(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "selector '", selector, "': key or key=value is wanted, of letters, digits and ._/-, up to ", kMaxPart,
      " in each"));
}

uint64_t PredictedBytes(uint64_t peak) {
  if (peak == 0) return 0;
  const uint64_t with_room = peak > UINT64_MAX / 2 ? peak : peak + peak / 4;
  uint64_t power = kSmallestStep;
  while (power <= with_room / 2) power *= 2;
  return RoundUp(with_room, std::max(kSmallestStep, power / 8));
}

bool Suffices(uint64_t has, uint64_t needs, bool predicted) {
  return has >= needs || (predicted && has >= needs / 10 * 7);
}

std::string MemoryText(uint64_t bytes) {
  if (bytes < kGiB) return absl::StrCat(RoundUp(bytes, kMiB) / kMiB, " MiB");
  const double gibibytes = static_cast<double>(bytes) / static_cast<double>(kGiB);
  std::string text = absl::StrFormat("%.1f", gibibytes);
  return absl::StrCat(absl::StripSuffix(text, ".0"), " GiB");
}

}  // namespace assay::coordinator

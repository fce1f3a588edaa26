#include "checkpoint/names.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace assay::checkpoint {
namespace {

constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxCandidates = 20'000;
constexpr size_t kMaxParts = 32;

using Parts = std::vector<absl::string_view>;

Parts Split(absl::string_view name) { return absl::StrSplit(name, '.'); }

bool IsNumber(absl::string_view part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
}

// What it costs, in halves, to take one part for another: a little where one is in the other, so that "attn"
// is nearer to "self_attn" than to "mlp".
uint32_t Exchange(absl::string_view a, absl::string_view b) {
  if (a == b) return 0;
  const bool similar = !IsNumber(a) && !IsNumber(b) && a.size() > 1 && b.size() > 1 &&
                       (absl::StrContains(a, b) || absl::StrContains(b, a));
  return similar ? 1 : 2;
}

// Edit distance in halves of a part, or `enough` where it is no less than that.
uint32_t Distance(const Parts& from, const Parts& to, uint32_t enough) {
  const auto heads = std::mismatch(from.begin(), from.end(), to.begin(), to.end());
  const auto tails = std::mismatch(from.rbegin(), std::make_reverse_iterator(heads.first), to.rbegin(),
                                   std::make_reverse_iterator(heads.second));
  const Parts a(heads.first, tails.first.base()), b(heads.second, tails.second.base());
  const size_t apart = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  if (2 * apart >= enough || a.size() > kMaxParts || b.size() > kMaxParts) return enough;
  uint32_t row[kMaxParts + 1];
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<uint32_t>(2 * j);
  for (size_t i = 1; i <= a.size(); ++i) {
    uint32_t diagonal = row[0];
    row[0] = static_cast<uint32_t>(2 * i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const uint32_t exchanged = diagonal + Exchange(a[i - 1], b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({exchanged, row[j] + 2, row[j - 1] + 2});
    }
  }
  return std::min(enough, row[b.size()]);
}

}  // namespace

absl::Status CheckTensorName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("a tensor without a name");
  if (name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a tensor's name of ", name.size(), " bytes"));
  }
  if (std::any_of(name.begin(), name.end(), absl::ascii_iscntrl)) {
    return absl::InvalidArgumentError("a tensor's name with control characters");
  }
  return absl::OkStatus();
}

std::vector<std::string> NearestNames(const std::vector<std::string>& names,
                                      const std::vector<std::string>& candidates, size_t limit) {
  const size_t considered = std::min(candidates.size(), kMaxCandidates);
  std::vector<Parts> parts;
  parts.reserve(considered);
  for (size_t i = 0; i < considered; ++i) parts.push_back(Split(candidates[i]));
  std::vector<std::string> nearest(std::min(names.size(), limit));
  for (size_t i = 0; i < nearest.size(); ++i) {
    const Parts name = Split(names[i]);
    // Close is less than half of the parts.
    uint32_t best = static_cast<uint32_t>(name.size());
    for (size_t j = 0; j < considered && best > 0; ++j) {
      const uint32_t distance = Distance(name, parts[j], best);
      if (distance >= best) continue;
      best = distance;
      nearest[i] = candidates[j];
    }
  }
  return nearest;
}

}  // namespace assay::checkpoint

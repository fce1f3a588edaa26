#include "engine/numbered_names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace assay::engine {

std::string NumberedName::Joined(size_t end, size_t wild) const {
  std::string joined;
  for (size_t i = 0; i < std::min(end, parts.size()); ++i) {
    absl::StrAppend(&joined, i == 0 ? "" : ".", i == wild ? "#" : parts[i]);
  }
  return joined;
}

NumberedName SplitNumbered(absl::string_view name) {
  NumberedName split;
  for (const absl::string_view part : absl::StrSplit(name, '.')) {
    if (!part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit)) {
      split.numbers.push_back(split.parts.size());
    }
    split.parts.emplace_back(part);
  }
  return split;
}

std::string WithoutNumbers(absl::string_view name) {
  NumberedName split = SplitNumbered(name);
  for (const size_t place : split.numbers) split.parts[place] = std::string(1, '#');
  return split.Joined(split.parts.size(), split.parts.size());
}

std::string FirstOf(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i)
    absl::StrAppend(&text, i == 0 ? "" : ", ", names[i]);
  if (names.size() > kShown) absl::StrAppend(&text, " and ", names.size() - kShown, " more");
  return text;
}

}  // namespace assay::engine

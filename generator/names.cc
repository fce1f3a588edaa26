#include "generator/names.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace assay::generator {
namespace {

bool IsWord(absl::string_view text, absl::string_view more) {
  if (text.empty() || text.size() > kMaxNameLength) return false;
  const auto plain = [](char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); };
  return plain(text[0]) && std::all_of(text.begin(), text.end(), [&](char c) {
           return plain(c) || more.find(c) != absl::string_view::npos;
         });
}

// Edits between two words: a letter put in, dropped or replaced, or two neighbours swapped (optimal string
// alignment), by the last three rows of the table.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1), last, before_last;
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    before_last = std::move(last);
    last = row;
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1), last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

}  // namespace

std::string NormaliseName(absl::string_view name) { return absl::StrReplaceAll(name, {{"-", "_"}}); }

bool IsName(absl::string_view name) { return IsWord(name, "_"); }

bool IsTask(absl::string_view task) { return IsWord(task, "_-"); }

const std::vector<std::string>& ArchTypes() {
  static const auto* const kTypes =
      new std::vector<std::string>{"decoder_only", "encoder_decoder", "encoder_only", "multimodal",
                                   "other",        "speech",          "vision",       "vision_text"};
  return *kTypes;
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& known) {
  if (name.size() > kMaxNameLength) return "";
  std::string nearest;
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 60;
  const absl::string_view shown = text.substr(0, kShown);
  return absl::StrCat("'", absl::CHexEscape(shown), shown.size() < text.size() ? "…'" : "'");
}

std::string Printable(absl::string_view message) {
  std::string copy(message.substr(0, 300));
  std::replace_if(
      copy.begin(), copy.end(), [](char c) { return !absl::ascii_isprint(c); }, '?');
  return copy;
}

}  // namespace assay::generator

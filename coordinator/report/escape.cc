#include "coordinator/report/escape.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/utf8.h"

namespace assay::report {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// The Char production of XML 1.0, less carriage returns, which a parser would turn into line feeds, and the
// C1 controls, which a terminal may obey.
bool MayStand(uint32_t code) {
  if (code == '\t' || code == '\n') return true;
  if (code < 0x20 || (code >= 0x7F && code < 0xA0)) return false;
  return code != 0xFFFE && code != 0xFFFF;
}

}  // namespace

std::string CleanText(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const auto [length, code] = FirstCharacter(text.substr(at));
    if (length > 0 && MayStand(code)) {
      absl::StrAppend(&clean, text.substr(at, length));
    } else {
      absl::StrAppend(&clean, kReplacement);
    }
    at += std::max<size_t>(length, 1);
  }
  return clean;
}

std::string XmlText(absl::string_view text) {
  return absl::StrReplaceAll(CleanText(text),
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string XmlAttribute(absl::string_view text) {
  return absl::StrReplaceAll(XmlText(text), {{"\n", "&#10;"}, {"\t", "&#9;"}, {"'", "&#39;"}});
}

std::string MarkdownText(absl::string_view text) {
  const std::string clean = CleanText(text);
  std::string escaped;
  for (size_t i = 0; i < clean.size(); ++i) {
    const char c = clean[i];
    const bool within_word = i > 0 && i + 1 < clean.size() && absl::ascii_isalnum(clean[i - 1]) &&
                             absl::ascii_isalnum(clean[i + 1]);
    if (c == '\n' || c == '\t') {
      escaped += ' ';
    } else if (absl::string_view("\\`*[]<>|#&~").find(c) != absl::string_view::npos) {
      escaped += '\\';
      escaped += c;
    } else if (c == '_' && !within_word) {  // llama_3 needs none, and reads better without
      escaped += "\\_";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string MarkdownCode(absl::string_view text) {
  std::string clean = absl::StrReplaceAll(CleanText(text), {{"\n", " "}, {"\t", " "}, {"|", "\\|"}});
  if (clean.find('`') == std::string::npos) return absl::StrCat("`", clean, "`");
  size_t longest = 0, run = 0;
  for (char c : clean) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(longest + 1, '`');
  return absl::StrCat(fence, " ", clean, " ", fence);
}

std::string MarkdownBlock(absl::string_view text) {
  const std::string clean = CleanText(text);
  size_t longest = 2, run = 0;
  for (char c : clean) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(longest + 1, '`');
  return absl::StrCat(fence, "text\n", absl::StripTrailingAsciiWhitespace(clean), "\n", fence, "\n");
}

}  // namespace assay::report

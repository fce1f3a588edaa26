// Text of others (messages, logs, names) made safe for each format.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace assay::report {

// Bytes that are not UTF-8, and control characters other than tab and line feed, become U+FFFD. What comes
// out may stand in XML 1.0.
std::string CleanText(absl::string_view text);

// For element content and quoted attributes, of XML and of HTML. Cleans the text first; line feeds and tabs
// stay as they are in content, and are written as character references in attributes, where XML would fold
// them.
std::string XmlText(absl::string_view text);
std::string XmlAttribute(absl::string_view text);

// Inline text of Markdown, in a table cell or not: marks that would start a construct are escaped, and line
// feeds are spaces.
std::string MarkdownText(absl::string_view text);
// As `code`, also where the text has backquotes or (in a table) bars.
std::string MarkdownCode(absl::string_view text);
// A fenced block that the text cannot close.
std::string MarkdownBlock(absl::string_view text);

}  // namespace assay::report

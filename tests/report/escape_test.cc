#include "coordinator/report/escape.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace assay::report {
namespace {

TEST(CleanText, KeepsTextAndReplacesWhatNoXmlMayHold) {
  EXPECT_EQ(CleanText("plain é 漢 😀\t\n"), "plain é 漢 😀\t\n");
  EXPECT_EQ(CleanText(absl::string_view("a\0b", 3)),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(CleanText("\x1b[31m"), "\xEF\xBF\xBD[31m");
  EXPECT_EQ(CleanText("\r\n"), "\xEF\xBF\xBD\n");
  EXPECT_EQ(CleanText("\xc3"), "\xEF\xBF\xBD");                  // cut in the middle of a character
  EXPECT_EQ(CleanText("\xc0\xaf"), "\xEF\xBF\xBD\xEF\xBF\xBD");  // overlong '/'
  EXPECT_EQ(CleanText("\xed\xa0\x80").find("\xed\xa0\x80"), std::string::npos);  // a lone surrogate
  EXPECT_EQ(CleanText("\xef\xbf\xbe"), "\xEF\xBF\xBD");                          // U+FFFE
}

TEST(XmlText, LeavesNoMarkup) {
  EXPECT_EQ(XmlText("<b a=\"1\">&]]>"), "&lt;b a=&quot;1&quot;&gt;&amp;]]&gt;");
  EXPECT_EQ(XmlAttribute("a\n'b'"), "a&#10;&#39;b&#39;");
}

TEST(MarkdownText, LeavesNoConstruct) {
  EXPECT_EQ(MarkdownText("a|b\nc"), "a\\|b c");
  EXPECT_EQ(MarkdownText("<script>"), "\\<script\\>");
  EXPECT_EQ(MarkdownText("`x` *y* [z]"), "\\`x\\` \\*y\\* \\[z\\]");
  EXPECT_EQ(MarkdownText("llama_3 _it_"), "llama_3 \\_it\\_");
}

TEST(MarkdownCode, FencesBackquotes) {
  EXPECT_EQ(MarkdownCode("abc"), "`abc`");
  EXPECT_EQ(MarkdownCode("a`b``c"), "``` a`b``c ```");
  EXPECT_EQ(MarkdownCode("a|b"), "`a\\|b`");
}

TEST(MarkdownBlock, CannotBeClosedByItsText) {
  EXPECT_EQ(MarkdownBlock("x\n```\ny\n"), "````text\nx\n```\ny\n````\n");
}

}  // namespace
}  // namespace assay::report

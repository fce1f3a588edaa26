// docs/common_tests.md names checks that exist, and says of every test what stands for it.
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "assay/v1/test.pb.h"
#include "common/file.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

std::vector<std::string> Quoted(const std::string& text) {
  static const std::regex kQuoted("`([^`]*)`");
  std::vector<std::string> words;
  for (std::sregex_iterator it(text.begin(), text.end(), kQuoted), end; it != end; ++it)
    words.push_back((*it)[1]);
  return words;
}

TEST(CommonTests, NameChecksThatExistAndEachTestOnce) {
  ASSERT_OK_AND_ASSIGN(const std::string page, ReadFile("docs/common_tests.md"));
  const auto* kinds = v1::Check::descriptor()->FindOneofByName("kind");
  std::set<std::string> known = {"left", "LoadReport"};  // a field, a message
  for (int i = 0; i < kinds->field_count(); ++i) known.insert(kinds->field(i)->name());
  std::set<std::string> tests;
  const std::vector<std::string> lines = absl::StrSplit(page, '\n');
  for (const std::string& line : lines) {
    if (!absl::StartsWith(line, "| `test_")) continue;
    const std::vector<std::string> cells = absl::StrSplit(line, " | ");
    ASSERT_EQ(cells.size(), 2u) << line;
    for (const std::string& test : Quoted(cells[0])) {
      if (!absl::StartsWith(test, "test_")) continue;  // the end of a name
      EXPECT_TRUE(tests.insert(test).second) << test << " stands twice";
    }
    bool held = absl::StrContains(cells[1], "does not apply") || absl::StrContains(cells[1], "**missing**") ||
                absl::StrContains(cells[1], "**Missing**") || absl::StrContains(cells[1], "*export*");
    for (const std::string& word : Quoted(cells[1])) {
      EXPECT_EQ(known.count(word), 1u) << line << "\nthere is no check " << word;
      held = true;
    }
    EXPECT_TRUE(held) << line;
  }
  EXPECT_GT(tests.size(), 100u);
}

}  // namespace
}  // namespace assay::generator

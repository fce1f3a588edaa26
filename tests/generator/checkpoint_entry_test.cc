#include "generator/checkpoint_entry.h"

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

constexpr absl::string_view kMiniLm = R"pb(
  name: "all_minilm_l6_v2"
  checkpoint: "sentence-transformers/all-MiniLM-L6-v2"
  model: "bert"
  template: "bert"
  task: "feature-extraction"
  model_class: "transformers.BertModel"
  weights_digest: "0123456789012345678901234567890123456789012345678901234567890123"
  license: "Apache-2.0"
  sample { answer: "nearest" text: "A man is eating food." }
  sample { text: "A man eats." }
  known_answer { answer: "nearest" text: "A man eats." }
)pb";

TEST(ParseCheckpointEntry, ReadsAnEntry) {
  ASSERT_OK_AND_ASSIGN(const v1::CheckpointEntry entry,
                       ParseCheckpointEntry("x/all_minilm_l6_v2.textproto", kMiniLm));
  EXPECT_EQ(entry.model(), "bert");
  EXPECT_EQ(entry.known_answer(0).text(), "A man eats.");
}

TEST(ParseCheckpointEntry, RefusesWithFileAndField) {
  struct Bad {
    std::string from;
    std::string to;
    std::string error;
  };
  const Bad kBad[] = {
      {"name: \"all_minilm_l6_v2\"", "name: \"other\"", "name: must be the file's stem"},
      {"sentence-transformers/", "/etc/", "checkpoint: must be like"},
      {"sentence-transformers/all", "a/../all", "checkpoint: must be like"},
      {"checkpoint: \"sentence-transformers/all-MiniLM-L6-v2\"", "", "checkpoint: is missing"},
      {"model: \"bert\"", "model: \"Bert\"", "model: must name a tracked model"},
      {"template: \"bert\"", "template: \"../bert\"", "template: must name a template"},
      {"feature-extraction", "feature extraction", "task: must be like"},
      {"transformers.BertModel", "os.system('x')", "model_class: must be a dotted name"},
      {"0123\"", "012\"", "weights_digest: must be a SHA-256"},
      {"text: \"A man eats.\" }", "text: \"A man eats.\" picture: \"../cat.png\" }",
       "sample[1].picture: must be the plain name"},
      {"text: \"A man eats.\" }", "picture: \"a.png\" speech: \"b.wav\" }",
       "sample[1]: has a picture and speech"},
      {"text: \"A man eats.\" }", "text: \"x\" token: \"y\" }", "sample[1]: has text and tokens"},
      {"text: \"A man eats.\" }", "}", "sample[1]: puts nothing in"},
      {"text: \"A man eats.\" }", "text: \"x\" answer: \"nearest\" }",
       "a second sample that answers 'nearest'"},
      {"answer: \"nearest\" text: \"A man is", "answer: \"Nearest!\" text: \"A man is",
       "sample[0].answer: must be"},
      {"known_answer { answer: \"nearest\"", "known_answer { answer: \"farthest\"",
       "known_answer[0].answer: no sample answers 'farthest'; there are nearest"},
      {"known_answer { answer: \"nearest\" text: \"A man eats.\" }", "known_answer { answer: \"nearest\" }",
       "known_answer[0].text: is missing"},
      {"known_answer {", "known_answer { answer: \"nearest\" text: \"y\" } known_answer {",
       "'nearest' is known twice"},
      {"license:", "licence:", "licence"},
  };
  for (const Bad& bad : kBad) {
    std::string text(kMiniLm);
    const size_t at = text.find(bad.from);
    ASSERT_NE(at, std::string::npos) << bad.from;
    text.replace(at, bad.from.size(), bad.to);
    EXPECT_THAT(ParseCheckpointEntry("x/all_minilm_l6_v2.textproto", text),
                StatusIs(kInvalid, AllOf(HasSubstr("all_minilm_l6_v2.textproto"), HasSubstr(bad.error))))
        << bad.to;
  }
}

class LoadCheckpointEntriesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void Write(const std::string& name, absl::string_view text) {
    ASSERT_THAT(WriteFileAtomically(dir_ / name, text), IsOk());
  }
  const std::filesystem::path dir_ = std::filesystem::path(::testing::TempDir()) / "checkpoint_entries";
};

TEST_F(LoadCheckpointEntriesTest, GivesThemByTheIdThatBatchesName) {
  Write("all_minilm_l6_v2.textproto", kMiniLm);
  Write("fetch.py", "not an entry");
  ASSERT_OK_AND_ASSIGN(const auto entries, LoadCheckpointEntries(dir_));
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries.begin()->first, "sentence-transformers/all-MiniLM-L6-v2");
}

TEST_F(LoadCheckpointEntriesTest, RefusesTwoEntriesOfOneCheckpointAndAFolderThatIsNotThere) {
  Write("all_minilm_l6_v2.textproto", kMiniLm);
  Write("again.textproto", absl::StrReplaceAll(kMiniLm, {{"name: \"all_minilm_l6_v2\"", "name: \"again\""}}));
  EXPECT_THAT(LoadCheckpointEntries(dir_), StatusIs(kInvalid, AllOf(HasSubstr("all_minilm_l6_v2.textproto"),
                                                                    HasSubstr("again.textproto"))));
  EXPECT_THAT(LoadCheckpointEntries(dir_ / "none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

// The entries that ship: their templates exist, their models are tracked, and the files that they put in are
// there.
TEST(ShippedEntries, BelongToTheContent) {
  ASSERT_OK_AND_ASSIGN(const auto entries, LoadCheckpointEntries("models/checkpoints"));
  ASSERT_OK_AND_ASSIGN(const std::string registry, ReadFile("models/registry.json"));
  for (const auto& [id, entry] : entries) {
    if (!entry.template_().empty()) {
      EXPECT_TRUE(std::filesystem::exists(absl::StrCat("templates/", entry.template_(), ".textproto"))) << id;
    }
    if (!entry.model().empty()) {
      EXPECT_THAT(registry, HasSubstr(absl::StrCat("\"name\": \"", entry.model(), "\""))) << id;
    }
    EXPECT_FALSE(entry.license().empty()) << id;
    for (const v1::Sample& sample : entry.sample()) {
      for (const std::string& file : {sample.picture(), sample.speech()}) {
        if (!file.empty()) {
          EXPECT_TRUE(std::filesystem::exists(absl::StrCat("models/samples/", file))) << file;
        }
      }
    }
  }
}

}  // namespace
}  // namespace assay::generator

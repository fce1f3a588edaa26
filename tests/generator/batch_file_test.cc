#include "generator/batch_file.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "generator/verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

const std::set<std::string>& Templates() {
  static const auto* const kTemplates =
      new std::set<std::string>{"bert", "gpt2", "vision_text_dual_encoder", "vit"};
  return *kTemplates;
}

std::vector<std::string> Errors(absl::string_view content) {
  std::vector<v1::FileError> errors;
  const absl::StatusOr<BatchFile> batch = ParseBatchFile("b.json", content, Templates(), &errors);
  EXPECT_EQ(batch.ok(), errors.empty());
  std::vector<std::string> texts;
  for (const v1::FileError& error : errors) texts.push_back(FormatFileError(error));
  return texts;
}

// A batch of one model with these fields.
std::string One(absl::string_view fields) { return absl::StrCat("{\"vision\": [{", fields, "}]}"); }

TEST(ParseBatchFile, ReadsModelsInTheirOrder) {
  ASSERT_OK_AND_ASSIGN(const BatchFile batch, ParseBatchFile("b.json", R"({
      "vision": [{"name": "dino", "template": "vit", "task": "image-classification"}],
      "decoder_only": [
        {"task": "text-generation", "original_name": "command-r", "name": "command_r", "template": "gpt2"},
        {"name": "olmo", "template": "gpt2", "task": "text-generation"}
      ],
      "speech": []
    })",
                                                             Templates(), nullptr));
  ASSERT_EQ(batch.models.size(), 3u);
  EXPECT_EQ(batch.models[0].name(), "dino");
  EXPECT_EQ(batch.models[0].arch_type(), "vision");
  EXPECT_EQ(batch.models[0].template_(), "vit");
  EXPECT_EQ(batch.models[0].task(), "image-classification");
  EXPECT_EQ(batch.models[0].original_name(), "");
  EXPECT_EQ(batch.models[1].name(), "command_r");
  EXPECT_EQ(batch.models[1].original_name(), "command-r");
  EXPECT_EQ(batch.models[2].arch_type(), "decoder_only");
}

TEST(ParseBatchFile, NormalisesAHyphenatedName) {
  ASSERT_OK_AND_ASSIGN(
      const BatchFile batch,
      ParseBatchFile("b.json",
                     One(R"("name": "command-r-plus", "template": "gpt2", "task": "text-generation")"),
                     Templates(), nullptr));
  EXPECT_EQ(batch.models[0].name(), "command_r_plus");
  EXPECT_EQ(batch.models[0].original_name(), "command-r-plus");
}

TEST(ParseBatchFile, AByteOrderMarkDoesNotMatter) {
  const std::string batch = One(R"("name": "x", "template": "vit", "task": "t")");
  EXPECT_THAT(Errors("\xef\xbb\xbf" + batch), IsEmpty());
  EXPECT_THAT(Errors("\xef\xbb\xbf" + One(R"("name": "x", "template": "vit")")),
              ElementsAre(StartsWith("b.json:1:13: vision[0].task: is missing")));
}

TEST(ParseBatchFile, TheMessageOfTheStatusHasEveryError) {
  EXPECT_THAT(ParseBatchFile("b.json", One(R"("name": "X", "template": "vti")"), Templates(), nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::AllOf(HasSubstr("vision[0].name"), HasSubstr("vision[0].template"),
                                        HasSubstr("vision[0].task"))));
}

// Every rule: a file that breaks it, and the whole place that the error must give.
TEST(ParseBatchFile, EverySemanticRuleFires) {
  const std::string good = R"("name": "x", "template": "vit", "task": "t")";
  struct Case {
    std::string content;
    std::string error;
  };
  const Case kCases[] = {
      {"{}", "b.json:1:1: holds no models"},
      {R"({"vision": []})", "b.json:1:1: holds no models"},
      {"[]", "b.json:1:1: must be an object of architecture types, is an array"},
      {"\n 7", "b.json:2:2: must be an object of architecture types, is a number"},
      {"null", "b.json:1:1: must be an object of architecture types, is null"},
      {R"({"vision": {}})", "b.json:1:12: vision: must be an array of models, is an object"},
      {R"({"vision": "x"})", "b.json:1:12: vision: must be an array of models, is a string"},
      {R"({"vision": true})", "b.json:1:12: vision: must be an array of models, is a boolean"},
      {R"({"vision": ["dino"]})", "b.json:1:13: vision[0]: must be an object, is a string"},
      {R"({"vision": [[[{}]], 1.5]})", "b.json:1:21: vision[1]: must be an object, is a number"},
      {absl::StrCat("{\"visoin\": [{", good, "}]}"),
       "b.json:1:2: visoin: unknown architecture type 'visoin', must be one of decoder_only, "
       "encoder_decoder, "
       "encoder_only, multimodal, other, speech, vision, vision_text; did you mean vision?"},
      {absl::StrCat("{\"vision\": [{", good, "}],\n \"vision\": []}"),
       "b.json:2:2: vision: a second time, first in line 1"},
      {One(R"("template": "vit", "task": "t")"), "b.json:1:13: vision[0].name: is missing"},
      {One(R"("name": "x", "task": "t")"), "b.json:1:13: vision[0].template: is missing"},
      {One(R"("name": "x", "template": "vit")"), "b.json:1:13: vision[0].task: is missing"},
      {One(R"("name": "", "template": "vit", "task": "t")"), "b.json:1:22: vision[0].name: is empty"},
      {One(R"("name": "Dino", "template": "vit", "task": "t")"),
       "b.json:1:22: vision[0].name: must be lower-case letters"},
      {One(R"("name": "../dino", "template": "vit", "task": "t")"), "is '../dino'"},
      {One(R"("name": "a\nb", "template": "vit", "task": "t")"), R"(is 'a\nb')"},
      {One(R"("name": "a\u0000g", "template": "vit", "task": "t")"), R"(is 'a\x00g')"},
      {One(R"("name": "_x", "template": "vit", "task": "t")"), "vision[0].name"},
      {One(absl::StrCat("\"name\": \"", std::string(101, 'x'), R"(", "template": "vit", "task": "t")")),
       "at most 100"},
      {One(R"("name": 5, "template": "vit", "task": "t")"),
       "b.json:1:22: vision[0].name: must be a string, is a number"},
      {One(R"("name": "x", "template": ["vit"], "task": "t")"),
       "b.json:1:39: vision[0].template: must be a string, is an array"},
      {One(R"("name": "x", "template": {"a": {"b": 1}}, "task": "t")"),
       "b.json:1:39: vision[0].template: must be a string, is an object"},
      {One(R"("name": "x", "template": "vit", "task": null)"), "vision[0].task: must be a string, is null"},
      {One(R"("name": "x", "template": "vit", "task": "")"), "vision[0].task: must be like"},
      {One(R"("name": "x", "template": "vit", "task": "a b")"), "vision[0].task: must be like"},
      {One(R"("name": "x", "template": "vit", "task": "t", "name": "y")"),
       "b.json:1:59: vision[0].name: a second time, first in line 1"},
      {One(absl::StrCat(good, R"(, "tempalte": "vit")")),
       "vision[0].tempalte: unknown field; there are checkpoint, config_digest, name, original_name, task, "
       "template, weights_digest; did you mean template?"},
      {One(absl::StrCat(good, ", \"\\u0007\\n\": {}")), R"(vision[0].'\x07\n': unknown field)"},
      {One(R"("name": "x", "template": "vision_text_dual_encodr", "task": "t")"),
       "vision[0].template: unknown template 'vision_text_dual_encodr'; there are bert, gpt2, "
       "vision_text_dual_encoder, vit; did you mean vision_text_dual_encoder?"},
      {One(R"("name": "x", "template": "base", "task": "t")"), "unknown template 'base'"},
      {One(R"("name": "x", "template": "vti", "task": "t")"), "did you mean vit?"},
      {absl::StrCat("{\"vision\": [{", good, "}],\n\"speech\": [{", good, "}]}"),
       "b.json:2:21: speech[0].name: model x is named a second time, first in line 1"},
      {One(absl::StrCat(
           R"("name": "a-b", "template": "vit", "task": "t"}, {"name": "a_b", "template": "vit", )",
           R"("task": "t")")),
       "vision[1].name: model a_b is named a second time"},
      {One(absl::StrCat(good, R"(, "original_name": "y-z")")),
       "vision[0].original_name: 'y-z' with underscores for hyphens is not the name 'x'"},
      {One(absl::StrCat(good, R"(, "original_name": false)")), "vision[0].original_name: must be a string"},
  };
  for (const Case& one : kCases) {
    const std::vector<std::string> errors = Errors(one.content);
    bool found = false;
    for (const std::string& error : errors) found = found || absl::StrContains(error, one.error);
    EXPECT_TRUE(found) << one.content << "\nwants: " << one.error
                       << "\ngave:  " << (errors.empty() ? "nothing" : errors[0]);
  }
}

TEST(ParseBatchFile, GivesEveryErrorOfAFileInTheOrderOfTheirPlaces) {
  EXPECT_THAT(
      Errors(R"({
  "vision": [
    {"template": "nope", "task": "t"},
    {"name": "ok", "template": "vit", "task": "t"},
    7,
    {"name": "ok", "template": "vit", "task": "t", "extra": 1}
  ],
  "sound": [{"name": "é", "template": "vit", "task": "t"}]
})"),
      ElementsAre(StartsWith("b.json:3:5: vision[0].name: is missing"),
                  StartsWith("b.json:3:18: vision[0].template: unknown template"),
                  StartsWith("b.json:5:5: vision[2]: must be an object, is a number"),
                  StartsWith("b.json:6:14: vision[3].name: model ok is named a second time, first in line 4"),
                  StartsWith("b.json:6:52: vision[3].extra: unknown field"),
                  StartsWith("b.json:6:61: vision[3].extra: must be a string, is a number"),
                  StartsWith("b.json:8:3: sound: unknown architecture type"),
                  StartsWith("b.json:8:22: sound[0].name: must be lower-case")));
}

TEST(ParseBatchFile, ColumnsCountCharacters) {
  EXPECT_THAT(Errors(R"({"vision": [{"name": "ééé", "template": "vit", "task": 1}]})"),
              ElementsAre(StartsWith("b.json:1:22:"), StartsWith("b.json:1:56: vision[0].task")));
}

TEST(ParseBatchFile, GivesOnlyTheFirstSyntaxError) {
  struct Case {
    std::string content;
    std::string place;
  };
  const Case kCases[] = {
      {"", "b.json:1:1: "},
      {"{", "b.json:1:2: "},
      {"{\"vision\": [{\"name\": 7, \"name\": \"X\"\n \"task\": 1}]}", "b.json:2:"},
      {"{\"vision\": [}", "b.json:1:13: "},
      {"{\"vision\": [],}", "b.json:1:15: "},
      {"{'vision': []}", "b.json:1:2: "},
      {"{} {}", "b.json:1:4: "},
      {"{\"vision\": [{\"name\": \"\xff\"}]}", "b.json:1:"},
      {"{\"vision\": [{\"name\": \"a\nb\"}]}", "b.json:1:"},
      {"{\"vision\": [{\"name\": \"\\ud800\"}]}", "b.json:1:"},
      {"{\"vision\": [{\"name\": 1e999}]}", "b.json:1:"},
      {"{\"vision\": [{\"name\": \"x\" // remark\n}]}", "b.json:1:"},
      {std::string("{\"vision\": \0[]}", 15), "b.json:1:"},
      {std::string(100000, '['), "b.json:1:65: nested more than 64 levels deep"},
      {std::string(kMaxBatchFileBytes + 1, ' '), "b.json:1:1: is larger than 1048576 bytes"},
  };
  for (const Case& one : kCases) {
    EXPECT_THAT(Errors(one.content), ElementsAre(StartsWith(one.place))) << one.content.substr(0, 100);
  }
}

// 30,000 models on one line, each with two errors: found in one pass, not in one pass an error.
TEST(ParseBatchFile, AFileFullOfErrorsIsReadInOnePass) {
  std::string content = "{\"vision\": [{}";
  while (content.size() + 10 < kMaxBatchFileBytes) content += ",{\"name\":\"\"}";
  content += "]}";
  EXPECT_GT(Errors(content).size(), 250'000u);
}

}  // namespace
}  // namespace assay::generator

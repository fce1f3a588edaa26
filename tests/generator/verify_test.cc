#include "generator/verify.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/generator/sample.h"

namespace assay::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::string_view kFile = "out/test_hf_command_r.textproto";

std::string SampleText() {
  const v1::CatalogueEntry entry = SampleEntry();
  return FormatTest(Generate(SampleTemplate(), &entry, SampleJob()).value());
}

std::vector<std::string> Verify(absl::string_view text, absl::string_view file = kFile) {
  return VerifyErrors(file, text);
}

// The line, from 1, of the first line that holds `what`.
int LineOf(absl::string_view text, absl::string_view what) {
  int line = 1;
  for (absl::string_view one : absl::StrSplit(text, '\n')) {
    if (one.find(what) != absl::string_view::npos) return line;
    ++line;
  }
  return 0;
}

TEST(VerifyTest, AGeneratedTestHasNoErrors) { EXPECT_THAT(Verify(SampleText()), IsEmpty()); }

TEST(VerifyTest, GivesOnlyTheFirstSyntaxErrorWithItsPlace) {
  const std::string text =
      absl::StrReplaceAll(SampleText(), {{"timeout_ms", "tiemout_ms"}, {"task:", "task"}});
  const std::vector<v1::FileError> errors = VerifyTest(kFile, text);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].file(), kFile);
  EXPECT_EQ(static_cast<int>(errors[0].line()), LineOf(text, "task"));
  EXPECT_EQ(errors[0].column(), 6u);
}

TEST(VerifyTest, GivesEverySemanticErrorInTheOrderOfTheirPlaces) {
  const std::string text = absl::StrReplaceAll(
      SampleText(),
      {{"threads: 1", "threads: 100000"}, {"position: -2", "position: 0"}, {"\"decoder_only\"", "\"x\""}});
  const std::vector<v1::FileError> errors = VerifyTest(kFile, text);
  ASSERT_EQ(errors.size(), 3u);
  EXPECT_EQ(errors[0].field(), "arch_type");
  EXPECT_EQ(static_cast<int>(errors[0].line()), LineOf(text, "arch_type"));
  EXPECT_EQ(errors[1].field(), "set_up.threads");
  EXPECT_EQ(static_cast<int>(errors[1].line()), LineOf(text, "threads"));
  EXPECT_EQ(errors[1].column(), 3u);
  EXPECT_EQ(errors[2].field(), "case[1].check[3].causality.position");
  EXPECT_EQ(static_cast<int>(errors[2].line()), LineOf(text, "position"));
}

// Every rule: one change that breaks it, and the error that it must give.
TEST(VerifyTest, EveryRuleFires) {
  const std::string finite_check = "  check {\n    name: \"finite\"\n    finite {\n    }\n  }\n";
  const std::string golden_check = "  check {\n    name: \"golden\"\n    golden {\n    }\n  }\n";
  const std::string batch_check =
      "  check {\n    name: \"batch_invariance\"\n    batch_invariance {\n      row: 1\n    }\n  }\n";
  const std::string bound_check = "  check {\n    name: \"weights_bound\"\n    weights_bound {\n    }\n  }\n";
  struct Mutation {
    std::string from;
    std::string to;
    std::string field;
    std::string message;
  };
  const Mutation kMutations[] = {
      {"name: \"command_r\"", "name: \"Command_r\"", "name", "must be lower-case"},
      {"original_name: \"command-r\"", "original_name: \"commandr\"", "original_name", "is not the name"},
      {"template: \"gpt2\"", "template: \"gpt 2\"", "template", "must be lower-case"},
      {"task: \"text-generation\"\n", "", "task", "must be like"},
      {"decoder_only", "decoder_onyl", "arch_type", "did you mean decoder_only?"},
      {"transformers.Cohere", "transformers;Cohere", "model_class", "dotted name"},
      {"CohereForAI/", "/etc/", "checkpoint", "'owner/name' or 'name'"},
      {std::string(64, 'a'), std::string(64, 'A'), "template_digest", "SHA-256"},
      {std::string(64, 'b'), std::string(63, 'b'), "catalogue_digest", "SHA-256"},
      {std::string(64, 'c'), std::string(63, 'c') + "/", "program_digest", "SHA-256"},
      {"  device: AUTO\n", "", "set_up.device", "is missing"},
      {"device: AUTO", "device: 44", "set_up.device", "is missing"},
      {"  dtype: FLOAT32\n", "", "set_up.dtype", "is missing"},
      {"  seed: 0\n", "", "set_up.seed", "is missing"},
      {"  threads: 1\n", "", "set_up.threads", "must be 1 to"},
      {"set_up {\n  device: AUTO\n  dtype: FLOAT32\n  seed: 0\n  threads: 1\n}\n", "", "", "has no set_up"},
      {"limits {\n  timeout_ms: 60000\n  memory_bytes: 2147483648\n}\n", "", "", "has no limits"},
      {"timeout_ms: 60000", "timeout_ms: 86400001", "limits.timeout_ms", "a day"},
      {"  timeout_ms: 60000\n", "", "limits.timeout_ms", "must be 1 to"},
      {"memory_bytes: 2147483648", "memory_bytes: 1000", "limits.memory_bytes", "1 MiB"},
      {"memory_bytes: 2147483648", "memory_bytes: 18446744073709551615", "limits.memory_bytes", "16 TiB"},
      {"name: \"test_model_loading\"", "name: \"test_loading\"", "case[0].name", "unknown case"},
      {"name: \"test_model_loading\"", "name: \"test_model_with_mock\"", "case[1].name", "a second case"},
      {"weights: REAL", "weights: MOCK", "case[0].weights", "must be REAL or SYNTHETIC"},
      {"weights: MOCK", "weights: REAL", "case[1].weights", "must be MOCK"},
      {bound_check + finite_check, "", "case[0]", "has no check"},
      {finite_check, "  check { name: \"r\" repeated_layers { except { name: \"a\" } } }\n",
       "case[0].check[1].repeated_layers.except[0].reason", "is missing"},
      {finite_check, "  check { name: \"r\" every_input { except { reason: \"a\" } } }\n",
       "case[0].check[1].every_input.except[0].name", "is missing"},
      {finite_check,
       "  check { name: \"r\" weights_alike { except { name: \"a\" reason: \"b\" } except { name: \"a\" "
       "reason: \"c\" } "
       "} }\n",
       "case[0].check[1].weights_alike.except[1].name", "left out twice"},
      {finite_check, "  check { name: \"r\" weights_intact {} }\n", "case[0].check[1].weights_intact",
       "only mock weights"},
      {"position: -2", "position: -2 further_position: 0", "case[1].check[3].causality.further_position[0]",
       "must not be 0"},
      {bound_check, "", "case[0]", "no check of kind weights_bound"},
      {golden_check, "", "case[1]", "no check of kind golden"},
      {golden_check, golden_check + golden_check, "case[1].check[1].name", "a second check 'golden'"},
      {golden_check, golden_check + "  check {\n    name: \"none\"\n  }\n", "case[1].check[1]",
       "has no kind"},
      {golden_check, absl::StrReplaceAll(golden_check, {{"name: \"golden\"", "name: \"the golden\""}}),
       "case[1].check[0].name", "lower-case"},
      {bound_check, bound_check + golden_check, "case[0].check[1].golden", "no golden of its own"},
      {golden_check, golden_check + bound_check, "case[1].check[1].weights_bound", "no checkpoint"},
      {"golden {\n", "golden {\n      tolerance {\n        scale: 0\n      }\n",
       "case[1].check[0].golden.tolerance.scale", "above 0"},
      {"golden {\n", "golden {\n      tolerance {\n        scale: 0.2\n      }\n",
       "case[1].check[0].golden.tolerance.scale", "at most 0.1"},
      {"golden {\n", "golden {\n      tolerance {\n        scale: 0.05\n      }\n",
       "case[1].check[0].golden.tolerance.scale", "at most 0.001 in float32"},
      {"golden {\n", "golden {\n      tolerance {\n        rounding: nan\n      }\n",
       "case[1].check[0].golden.tolerance.rounding", "above 0"},
      {"golden {\n", "golden {\n      tolerance {\n        rounding: inf\n      }\n",
       "case[1].check[0].golden.tolerance.rounding", "above 0"},
      {"golden {\n", "golden {\n      tolerance {\n      }\n", "case[1].check[0].golden.tolerance",
       "sets nothing"},
      {"      input: \"input_ids\"\n", "", "case[1].check[3].causality.input", "is missing"},
      {"input: \"input_ids\"", "input: \"input ids\"", "case[1].check[3].causality.input",
       "not a tensor's name"},
      {"output: \"logits\"", "output: \"input_ids\"", "case[1].check[3].causality.output",
       "as another field"},
      {"position: -2", "position: -2000000", "case[1].check[3].causality.position", "must not be 0"},
      {"row: 1", "row: 4000000000", "case[1].check[2].batch_invariance.row", "at most"},
      {batch_check,
       "  check {\n    name: \"p\"\n    padding_invariance {\n      input: \"a\"\n      mask: \"b\"\n"
       "      output: \"c\"\n    }\n  }\n",
       "case[1].check[2].padding_invariance.masked", "must be 1 to"},
      {batch_check,
       "  check {\n    name: \"s\"\n    similarity_symmetry {\n      first: \"a\"\n      second: \"a\"\n    "
       "}\n  }\n",
       "case[1].check[2].similarity_symmetry.second", "as another field"},
  };
  for (const Mutation& mutation : kMutations) {
    const std::string sample = SampleText();
    const size_t at = sample.find(mutation.from);
    ASSERT_NE(at, std::string::npos) << mutation.from;
    // The first occurrence only; in the body, not in the header.
    const size_t in_body = sample.find(mutation.from, sample.find("name: \"command_r\""));
    ASSERT_NE(in_body, std::string::npos) << mutation.from;
    std::string text = sample;
    text.replace(in_body, mutation.from.size(), mutation.to);
    bool found = false;
    std::string all;
    for (const v1::FileError& error : VerifyTest(kFile, text)) {
      absl::StrAppend(&all, FormatFileError(error), "\n");
      EXPECT_GE(error.line(), 1u);
      EXPECT_GE(error.column(), 1u);
      found =
          found || (error.field() == mutation.field && absl::StrContains(error.message(), mutation.message));
    }
    EXPECT_TRUE(found) << mutation.from << " -> " << mutation.to << " gave\n" << all;
  }
}

TEST(VerifyTest, AbsentChecksHaveAReasonAndAreNotPresent) {
  const std::string sample = SampleText();
  const auto with = [&](absl::string_view fields) {
    return absl::StrCat(sample, "absent {\n", fields, "}\n");
  };
  EXPECT_THAT(Verify(with("  case_name: \"test_model_with_mock\"\n  check: \"shapes\"\n")),
              ElementsAre(HasSubstr("absent[0]: has no reason")));
  EXPECT_THAT(Verify(with("  case_name: \"test_model_with_mock\"\n  check: \"golden\"\n  reason: \"r\"\n")),
              ElementsAre(HasSubstr("check 'golden' is present in test_model_with_mock too")));
  EXPECT_THAT(Verify(with("  case_name: \"mock\"\n  check: \"shapes\"\n  reason: \"r\"\n")),
              ElementsAre(HasSubstr("unknown case 'mock'")));
  EXPECT_THAT(Verify(with("  case_name: \"test_model_with_mock\"\n  reason: \"r\"\n")),
              ElementsAre(HasSubstr("absent[0].check: must name a check")));
  const std::string good =
      with("  case_name: \"test_model_with_mock\"\n  check: \"shapes\"\n  reason: \"r\"\n");
  EXPECT_THAT(Verify(good), IsEmpty());
  EXPECT_THAT(Verify(good + good.substr(sample.size())), ElementsAre(HasSubstr("is absent twice")));
}

TEST(VerifyTest, TheFileIsNamedAfterTheModel) {
  EXPECT_THAT(Verify(SampleText(), "test_hf_command-r.textproto"),
              ElementsAre(HasSubstr("belongs in 'test_hf_command_r.textproto'")));
  EXPECT_THAT(Verify(SampleText(), "test_hf_command_r.textproto"), IsEmpty());
}

TEST(VerifyTest, GivesTheFirstPlaceThatIsNotCanonical) {
  const std::string text = SampleText();
  struct Change {
    std::string from;
    std::string to;
    std::string at;  // text of the line that the error must name
    std::string message;
  };
  const Change kChanges[] = {
      {"  dtype: FLOAT32", "   dtype: FLOAT32", "dtype: FLOAT32", "expected '  dtype: FLOAT32'"},
      {"  seed: 0\n  threads: 1\n", "  threads: 1\n  seed: 0\n", "threads: 1", "expected '  seed: 0'"},
      {"# Original name: command-r\n", "", "name: \"command_r\"", "the header comment differs"},
      {"# Do not edit", "# Do edit", "# Do edit", "the header comment differs"},
      {"(aaaaaaaaaaaa)", "(bbbbbbbbbbbb)", "# Generated", "the header comment differs"},
      {"limits {", "# a remark\nlimits {", "# a remark", "expected 'limits {'"},
      {"limits {", "limits: {", "limits: {", "expected 'limits {'"},
      {"\"command_r\"", "'command_r'", "'command_r'", "expected 'name: \"command_r\"'"},
  };
  for (const Change& change : kChanges) {
    const std::string changed = absl::StrReplaceAll(text, {{change.from, change.to}});
    ASSERT_NE(changed, text) << change.from;
    const std::vector<v1::FileError> errors = VerifyTest(kFile, changed);
    ASSERT_EQ(errors.size(), 1u) << change.from;
    EXPECT_THAT(errors[0].message(), HasSubstr(change.message));
    EXPECT_EQ(static_cast<int>(errors[0].line()), LineOf(changed, change.at)) << change.from;
  }
  EXPECT_THAT(Verify(text + "\n"), ElementsAre(HasSubstr("goes on")));
  EXPECT_THAT(Verify(text.substr(0, text.size() - 1)), ElementsAre(HasSubstr("without a newline")));
}

TEST(VerifyTest, RefusesWhatIsNoTest) {
  EXPECT_THAT(Verify("\x01\x02"), ElementsAre(HasSubstr(":1:1:")));
  EXPECT_FALSE(Verify("").empty());
  EXPECT_THAT(Verify(std::string((1 << 20) + 1, '#')), ElementsAre(HasSubstr("is larger than")));
  std::string deep = "case {";
  for (int i = 0; i < 100000; ++i) deep += "check {";
  EXPECT_EQ(Verify(deep).size(), 1u);
}

TEST(VerifyTest, RefusesTextThatCouldHideSomething) {
  const std::string text =
      absl::StrReplaceAll(SampleText(), {{"checkpoint: ", "deviation: \"a\\nb\"\ncheckpoint: "}});
  EXPECT_THAT(Verify(text), ElementsAre(HasSubstr("deviation: has a control character")));
  EXPECT_THAT(Verify(absl::StrReplaceAll(text, {{"a\\nb", "\\xc3("}})),
              ElementsAre(HasSubstr("deviation: is not UTF-8")));
}

}  // namespace
}  // namespace assay::generator

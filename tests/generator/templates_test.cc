#include "generator/templates.h"

#include <filesystem>

#include "common/file.h"
#include "common/textproto.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/generator/sample.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::vector<std::string> CheckNames(const v1::Template& in, int case_index) {
  std::vector<std::string> names;
  for (const v1::Check& check : in.case_(case_index).check()) names.push_back(check.name());
  return names;
}

// A child of kBase with these lines more.
absl::StatusOr<v1::Template> ResolveChild(const std::string& lines) {
  return Resolve(
      {{"base", std::string(kBase)}, {"child", "name: 'child' base: 'base' description: 'd'\n" + lines}},
      "child");
}

TEST(ResolveTemplate, ChildStartsFromItsBase) {
  ASSERT_OK_AND_ASSIGN(const v1::Template child, ResolveChild(""));
  EXPECT_EQ(child.name(), "child");
  EXPECT_EQ(child.base(), "");
  EXPECT_FALSE(child.abstract());
  EXPECT_EQ(child.set_up().device(), v1::AUTO);
  EXPECT_THAT(CheckNames(child, 0), ElementsAre("weights_bound", "finite"));
  EXPECT_THAT(CheckNames(child, 1), ElementsAre("golden", "finite", "batch_invariance"));
}

TEST(ResolveTemplate, AddsAtTheEndAndReplacesInPlace) {
  ASSERT_OK_AND_ASSIGN(const v1::Template child, ResolveChild(R"pb(
                         case {
                           name: "test_model_with_mock"
                           check {
                             name: "not_constant"
                             not_constant {}
                           }
                           check {
                             name: "golden"
                             golden { tolerance { scale: 1e-5 } }
                           }
                         }
                       )pb"));
  EXPECT_THAT(CheckNames(child, 1), ElementsAre("golden", "finite", "batch_invariance", "not_constant"));
  EXPECT_EQ(child.case_(1).check(0).golden().tolerance().scale(), 1e-5);
}

TEST(ResolveTemplate, ReplacementLeavesNothingOfWhatItReplaces) {
  ASSERT_OK_AND_ASSIGN(const v1::Template child,
                       Resolve({{"base", std::string(kBase)},
                                {"gpt2", std::string(kGpt2)},
                                {"child", R"pb(name: 'child'
                                               base: 'gpt2'
                                               description: 'd'
                                               case {
                                                 name: 'test_model_with_mock'
                                                 check {
                                                   name: 'causality'
                                                   causality { input: 'ids' output: 'scores' position: 3 }
                                                 }
                                               })pb"}},
                               "child"));
  const v1::Check& causality = child.case_(1).check(3);
  EXPECT_EQ(FormatTextProto(causality),
            "name: \"causality\"\ncausality {\n  input: \"ids\"\n  output: \"scores\"\n  position: 3\n}\n");
}

TEST(ResolveTemplate, RemovedCheckIsGoneAndItsReasonKept) {
  ASSERT_OK_AND_ASSIGN(
      const v1::Template child,
      ResolveChild("remove { case_name: 'test_model_with_mock' check: 'finite' reason: 'gives -inf' }"));
  EXPECT_THAT(CheckNames(child, 1), ElementsAre("golden", "batch_invariance"));
  EXPECT_THAT(CheckNames(child, 0), ElementsAre("weights_bound", "finite"));
  ASSERT_EQ(child.remove_size(), 1);
  EXPECT_EQ(child.remove(0).reason(), "gives -inf");
}

TEST(ResolveTemplate, WhatAGrandchildAddsAgainIsNotAbsent) {
  ASSERT_OK_AND_ASSIGN(
      const v1::Template child,
      Resolve({{"base", std::string(kBase)},
               {"middle",
                "name: 'middle' base: 'base' description: 'd' abstract: true "
                "remove { case_name: 'test_model_with_mock' check: 'finite' reason: 'gives -inf' }"},
               {"child",
                "name: 'child' base: 'middle' description: 'd' "
                "case { name: 'test_model_with_mock' check { name: 'finite' finite {} } }"}},
              "child"));
  EXPECT_THAT(CheckNames(child, 1), ElementsAre("golden", "batch_invariance", "finite"));
  EXPECT_EQ(child.remove_size(), 0);
}

TEST(ResolveTemplate, SetUpAndLimitsAreReplacedFieldByField) {
  ASSERT_OK_AND_ASSIGN(const v1::Template child,
                       ResolveChild("set_up { device: CPU seed: 7 } limits { timeout_ms: 5 }"));
  EXPECT_EQ(child.set_up().device(), v1::CPU);
  EXPECT_EQ(child.set_up().dtype(), v1::FLOAT32);
  EXPECT_EQ(child.set_up().seed(), 7u);
  EXPECT_EQ(child.limits().timeout_ms(), 5u);
  EXPECT_EQ(child.limits().memory_bytes(), 2147483648u);
}

TEST(ResolveTemplate, NamesEveryTemplateOfACycle) {
  EXPECT_THAT(Resolve({{"a", "name: 'a' base: 'b' description: 'd'"},
                       {"b", "name: 'b' base: 'c' description: 'd'"},
                       {"c", "name: 'c' base: 'b' description: 'd'"}},
                      "a"),
              StatusIs(kInvalid, HasSubstr("a -> b -> c -> b")));
}

TEST(ResolveTemplate, UnknownNameIsNotFound) {
  EXPECT_THAT(ResolveTemplate({}, "bert"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'bert'")));
  EXPECT_THAT(ResolveTemplate({}, ""), StatusIs(absl::StatusCode::kNotFound));
}

struct BadTemplate {
  std::string lines;
  std::string error;
};

TEST(ResolveTemplate, RefusesWhatDoesNotFitItsBase) {
  const BadTemplate kBad[] = {
      {"remove { case_name: 'test_model_with_mock' check: 'golden_' reason: 'r' }",
       "removes check golden_ of test_model_with_mock, which base has not"},
      {"remove { case_name: 'test_x' check: 'golden' reason: 'r' }", "removes check golden of test_x"},
      {"case { name: 'test_model_with_mock' check { name: 'golden' finite {} } }", "keeps the kind"},
      {"remove { case_name: 'test_model_with_mock' check: 'finite' reason: 'r' } "
       "case { name: 'test_model_with_mock' check { name: 'finite' finite {} } }",
       "which this template sets"},
      {"set_up { threads: 100000 }", "set_up.threads"},
      {"limits { timeout_ms: 4000000000 }", "limits.timeout_ms"},
      {"case { name: 'test_model_loading' weights: MOCK }", "must be REAL or SYNTHETIC"},
      {"case { name: 'test_model_with_mock' check { name: 'answers' answers {} } }",
       "mock weights come from no checkpoint"},
  };
  for (const BadTemplate& bad : kBad) {
    EXPECT_THAT(ResolveChild(bad.lines), StatusIs(kInvalid, AllOf(HasSubstr("child"), HasSubstr(bad.error))))
        << bad.lines;
  }
}

TEST(ParseTemplate, RefusesWithFileAndPlace) {
  const BadTemplate kBad[] = {
      {"nmae: 'x'", "x.textproto:1:5:"},
      {"name: 'x'\nbase: 'base'\ncase {", "x.textproto:3:"},
      {"name: 'y' base: 'base' description: 'd'", "must be the file's stem, 'x'"},
      {"name: 'x' description: 'd'", "only base is a root"},
      {"name: 'x' base: '../base' description: 'd'", "not a template's name"},
      {"name: 'x' base: 'base'", "description: is missing"},
      {"name: 'x' base: 'base' description: 'a\\nb'", "control character"},
      {"name: 'x' base: 'base' description: 'a\\xff'", "not UTF-8"},
      {"name: 'x' base: 'base' description: 'd' case { name: 'test_speed' }", "unknown case 'test_speed'"},
      {"name: 'x' base: 'base' description: 'd' case { name: 'test_model_loading' } "
       "case { name: 'test_model_loading' }",
       "a second case"},
      {"name: 'x' base: 'base' description: 'd' case { name: 'test_model_loading' "
       "check { name: 'finite' finite {} } check { name: 'finite' finite {} } }",
       "case[0].check[1].name: a second check 'finite'"},
      {"name: 'x' base: 'base' description: 'd' case { name: 'test_model_loading' check { name: 'finite' } }",
       "has no kind"},
      {"name: 'x' base: 'base' description: 'd' "
       "remove { case_name: 'test_model_loading' check: 'finite' }",
       "remove[0]: has no reason"},
  };
  for (const BadTemplate& bad : kBad) {
    EXPECT_THAT(ParseTemplate("x.textproto", bad.lines),
                StatusIs(kInvalid, AllOf(HasSubstr("x.textproto"), HasSubstr(bad.error))))
        << bad.lines;
  }
}

class LoadTemplatesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, absl::string_view text) {
    ASSERT_THAT(WriteFileAtomically(dir_ / name, text), IsOk());
  }

  std::filesystem::path dir_;
};

TEST_F(LoadTemplatesTest, GivesWhatABatchMayNameAndNothingElse) {
  Write("base.textproto", kBase);
  Write("gpt2.textproto", kGpt2);
  Write("README.md", "not a template");
  ASSERT_OK_AND_ASSIGN(const auto templates, LoadTemplates(dir_));
  EXPECT_THAT(TemplateNames(templates), ElementsAre("gpt2"));
}

TEST_F(LoadTemplatesTest, ResolvedTextIsReadBackAsTheSameTemplate) {
  Write("base.textproto", kBase);
  Write("gpt2.textproto", kGpt2);
  ASSERT_OK_AND_ASSIGN(const auto templates, LoadTemplates(dir_));
  const std::string text = FormatTextProto(templates.at("gpt2"));
  v1::Template again;
  ASSERT_THAT(ParseTextProto("gpt2", text, again), IsOk());
  EXPECT_EQ(FormatTextProto(again), text);
}

TEST_F(LoadTemplatesTest, NamesTheFileWhoseBaseIsMissing) {
  Write("gpt2.textproto", kGpt2);
  EXPECT_THAT(LoadTemplates(dir_),
              StatusIs(kInvalid, AllOf(HasSubstr("gpt2.textproto"), HasSubstr("'base' does not exist"))));
}

TEST_F(LoadTemplatesTest, AnAbstractTemplateIsCheckedToo) {
  Write("base.textproto", kBase);
  Write("gpt2.textproto", kGpt2);
  Write("lost.textproto", "name: 'lost' base: 'nowhere' description: 'd' abstract: true");
  EXPECT_THAT(LoadTemplates(dir_), StatusIs(kInvalid, HasSubstr("lost.textproto")));
}

TEST_F(LoadTemplatesTest, RefusesAFileTooLargeToBeATemplate) {
  Write("base.textproto", std::string((1 << 20) + 1, '#'));
  EXPECT_THAT(LoadTemplates(dir_), Not(IsOk()));
}

TEST_F(LoadTemplatesTest, AnEmptyOrMissingFolderIsNotFound) {
  EXPECT_THAT(LoadTemplates(dir_), StatusIs(absl::StatusCode::kNotFound, HasSubstr("holds no template")));
  EXPECT_THAT(LoadTemplates(dir_ / "nowhere"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace assay::generator

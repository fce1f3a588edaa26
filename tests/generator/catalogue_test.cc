#include "generator/catalogue.h"

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/generator/sample.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ParseCatalogueEntry, ReadsAnEntry) {
  ASSERT_OK_AND_ASSIGN(const v1::CatalogueEntry entry,
                       ParseCatalogueEntry("a/command_r.textproto", kCommandR));
  EXPECT_EQ(entry.original_name(), "command-r");
  EXPECT_EQ(entry.checkpoint(), "CohereForAI/c4ai-command-r-v01");
}

TEST(ParseCatalogueEntry, RefusesWithFileAndField) {
  struct Bad {
    std::string from;
    std::string to;
    std::string error;
  };
  const Bad kBad[] = {
      {"original_name: \"command-r\"", "original_name: \"command-s\"", "is not the name 'command_r'"},
      {"original_name: \"command-r\"", "original_name: \"command_r\"", "has no hyphen"},
      {"name: \"command_r\"", "name: \"command_s\"", "must be the file's stem"},
      {"transformers.CohereForCausalLM", "transformers CohereForCausalLM",
       "model_class: must be a dotted name"},
      {"model_class:", "note:", "model_class"},
      {"transformers.CohereConfig", "os.system('x')", "config_class"},
      {"task: \"text-generation\"", "", "task"},
      {"decoder_only", "decoder-only", "did you mean decoder_only?"},
      {"template: \"gpt2\"", "", "template: must name a template"},
      {"CohereForAI/", "../", "checkpoint"},
      {"CohereForAI/", "/", "checkpoint"},
      {"CohereForAI/", "a/b/", "checkpoint"},
      {"input_maker: \"text\"", "config_override { field: 'a' json: '{' }",
       "config_override[0].json: is not JSON"},
      {"input_maker: \"text\"", "config_override { json: '1' }", "config_override[0].field: is missing"},
      {"input_maker: \"text\"", "patch: '../x'", "patch[0]"},
      {"input_maker: \"text\"", "not_applicable { case_name: 'test_model_with_mock' check: 'finite' }",
       "not_applicable[0]: has no reason"},
      {"input_maker: \"text\"", "not_applicable { case_name: 'mock' check: 'finite' reason: 'r' }",
       "unknown case 'mock'"},
      {"input_maker: \"text\"",
       "replace_check { case_name: 'test_model_with_mock' check { name: 'finite' finite {} } } "
       "not_applicable { case_name: 'test_model_with_mock' check: 'finite' reason: 'r' }",
       "a second time"},
      {"input_maker: \"text\"",
       "replace_check { case_name: 'test_model_with_mock' check { name: 'finite' } }",
       "replace_check[0].check: check 'finite' has no kind"},
      {"input_maker: \"text\"", "inptu_maker: \"text\"", "command_r.textproto:10:14"},
      {"input_maker: \"text\"", "note: '\\001'", "control character"},
  };
  for (const Bad& bad : kBad) {
    const std::string text = absl::StrReplaceAll(kCommandR, {{bad.from, bad.to}});
    ASSERT_NE(text, kCommandR) << bad.from;
    EXPECT_THAT(ParseCatalogueEntry("command_r.textproto", text),
                StatusIs(kInvalid, AllOf(HasSubstr("command_r.textproto"), HasSubstr(bad.error))))
        << text;
  }
}

TEST(LoadCatalogue, ReadsEveryEntryOrNamesTheBadOne) {
  const std::filesystem::path dir = std::filesystem::path(::testing::TempDir()) / "load_catalogue";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  ASSERT_OK_AND_ASSIGN(const auto none, LoadCatalogue(dir));
  EXPECT_TRUE(none.empty());
  ASSERT_THAT(WriteFileAtomically(dir / "command_r.textproto", kCommandR), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto one, LoadCatalogue(dir));
  EXPECT_EQ(one.size(), 1u);
  EXPECT_EQ(one.count("command_r"), 1u);
  ASSERT_THAT(WriteFileAtomically(dir / "other.textproto", kCommandR), IsOk());
  EXPECT_THAT(LoadCatalogue(dir), StatusIs(kInvalid, HasSubstr("other.textproto")));
  std::filesystem::remove_all(dir);
  EXPECT_THAT(LoadCatalogue(dir), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace assay::generator

// Whatever bytes come in, the parsers give a value or an error, and what they accept holds what they promise.
// Seeded, so that a failure repeats; ASSAY_FUZZ_ROUNDS sets how long.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/textproto.h"
#include "generator/batch_file.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/generator/sample.h"

namespace assay::generator {
namespace {

int Rounds() {
  int rounds = 2000;
  const char* given = std::getenv("ASSAY_FUZZ_ROUNDS");
  const bool valid = given == nullptr || absl::SimpleAtoi(given, &rounds);
  EXPECT_TRUE(valid) << "ASSAY_FUZZ_ROUNDS is " << given;
  return rounds;
}

// Changes a few bytes of `text`: flipped, dropped, doubled, or pieces of the format itself put in.
std::string Mutate(std::string text, const std::vector<std::string>& pieces, std::mt19937& random) {
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  for (size_t changes = 1 + below(4); changes > 0; --changes) {
    const size_t at = text.empty() ? 0 : below(text.size());
    switch (below(5)) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, below(20));
        break;
      case 2:
        text.insert(at, text.substr(at, below(60)));
        break;
      case 3:
        text.insert(at, pieces[below(pieces.size())]);
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

std::string Noise(std::mt19937& random) {
  std::string text(random() % 200, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

void CheckPlaces(const std::vector<v1::FileError>& errors, absl::string_view text) {
  const auto lines = static_cast<uint32_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  for (const v1::FileError& error : errors) {
    EXPECT_GE(error.line(), 1u);
    EXPECT_LE(error.line(), lines);
    EXPECT_GE(error.column(), 1u);
    EXPECT_NE(error.message(), "");
    // Fields of a proto must be UTF-8, or no reply could carry them.
    v1::FileError again;
    EXPECT_TRUE(again.ParseFromString(error.SerializeAsString()));
    std::vector<Problem> problems;
    ExamineStrings(error, {}, &problems);
    for (const Problem& problem : problems) EXPECT_THAT(problem.message, ::testing::HasSubstr("longer"));
  }
}

TEST(Fuzz, BatchFiles) {
  const std::set<std::string> templates = {"gpt2", "vit"};
  const std::string good =
      R"({"vision": [{"name": "a-b", "template": "vit", "task": "t", "original_name": "a-b"},
    {"name": "c", "template": "gpt2", "task": "u"}], "speech": [{"name": "d", "template": "vit", "task": "v"}]})";
  const std::vector<std::string> pieces = {"{",  "}",         "[",    "]",     ",",       ":",
                                           "\"", "\"name\":", "null", "1e400", "\\u0000", "\"vision\": [",
                                           "\n", "\xc3\xa9",  "\\",   "true",  "-",       "\xef\xbb\xbf"};
  std::mt19937 random(20261122);
  int accepted = 0;
  for (int round = 0; round < 10 * Rounds(); ++round) {
    const std::string text = round % 10 == 0 ? Noise(random) : Mutate(good, pieces, random);
    SCOPED_TRACE(text);
    std::vector<v1::FileError> errors;
    const auto batch = ParseBatchFile("b.json", text, templates, &errors);
    ASSERT_EQ(batch.ok(), errors.empty());
    CheckPlaces(errors, text);
    if (!batch.ok()) continue;
    ++accepted;
    std::set<std::string> names;
    ASSERT_FALSE(batch->models.empty());
    for (const v1::ModelRef& model : batch->models) {
      ASSERT_TRUE(IsName(model.name()) && IsTask(model.task()) && templates.count(model.template_()) == 1);
      ASSERT_TRUE(names.insert(model.name()).second);
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(Fuzz, TestFiles) {
  const v1::CatalogueEntry entry = SampleEntry();
  const std::string good = FormatTest(Generate(SampleTemplate(), &entry, SampleJob()).value());
  const std::vector<std::string> pieces = {
      "{", "}",  "case {", "check {", "name: ", "\"", "'",        "\n",        "absent {", "golden {",
      "#", "-1", "1e400",  "nan",     "<",      ">",  "[a.b]: 1", "set_up: 3", "\xff",     "\\377"};
  std::mt19937 random(20261122);
  for (int round = 0; round < Rounds(); ++round) {
    const std::string text = round % 10 == 0 ? Noise(random) : Mutate(good, pieces, random);
    SCOPED_TRACE(text);
    const std::vector<v1::FileError> errors = VerifyTest("test_hf_command_r.textproto", text);
    CheckPlaces(errors, text);
    // Only exactly what the generator writes is accepted.
    if (errors.empty()) {
      v1::ModelTest test;
      ASSERT_TRUE(ParseTextProto(text, test).empty());
      ASSERT_EQ(FormatTest(test), text);
    }
  }
}

TEST(Fuzz, TemplatesAndCatalogueEntries) {
  const std::vector<std::string> pieces = {
      "{",        "}", "case {", "check {", "name: ", "\"", "'", "\n",           "remove {",
      "golden {", "#", "-1",     "1e400",   "nan",    "<",  ">", "base: 'base'", "\xff"};
  std::mt19937 random(20261122);
  for (int round = 0; round < Rounds(); ++round) {
    const std::string text = round % 10 == 0 ? Noise(random) : Mutate(std::string(kBase), pieces, random);
    SCOPED_TRACE(text);
    const auto parsed = ParseTemplate("base.textproto", text);
    if (parsed.ok()) {
      const auto resolved = ResolveTemplate({{"base", *parsed}}, "base");
      if (resolved.ok() && !resolved->abstract()) {
        JobSpec job = SampleJob();
        job.model.set_template_("base");
        job.catalogue_digest.clear();
        const auto test = Generate(*resolved, nullptr, job);
        ASSERT_TRUE(test.ok()) << test.status();
        ASSERT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(*test)), ::testing::IsEmpty());
      }
    }
    const auto entry =
        ParseCatalogueEntry("command_r.textproto", Mutate(std::string(kCommandR), pieces, random));
    if (entry.ok()) {
      const auto test = Generate(SampleTemplate(), &*entry, SampleJob());
      if (test.ok()) {
        ASSERT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(*test)), ::testing::IsEmpty());
      }
    }
  }
}

}  // namespace
}  // namespace assay::generator

// How much of the variants ran: a model in one place each, causes kept, nothing left out in silence.
#include "coordinator/report/variants.h"

#include <string>
#include <vector>

#include "coordinator/report/renderers.h"
#include "tests/matchers.h"
#include "tests/report/fixture.h"

namespace assay::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Not;
using ::testing::SizeIs;

v1::Job With(const std::string& model, v1::Outcome outcome, const std::string& reason = "",
             const std::string& message = "", const std::string& note = "") {
  v1::Job job = PassedJob("batch-a." + model, model, 100);
  v1::CheckResult& check = *job.mutable_result()->mutable_case_(1)->add_check();
  check.set_name("kv_cache");
  check.set_outcome(outcome);
  check.set_reason(reason);
  check.set_message(message);
  check.set_note(note);
  return job;
}

VariantCount Only(const std::vector<v1::Job>& jobs) {
  std::vector<const v1::Job*> given;
  for (const v1::Job& job : jobs) given.push_back(&job);
  const std::vector<VariantCount> counts = CountVariants(given);
  EXPECT_THAT(counts, SizeIs(1));
  return counts.empty() ? VariantCount{} : counts[0];
}

TEST(VariantCounts, EachModelIsInOnePlaceWithItsCause) {
  const VariantCount count =
      Only({With("gpt2", v1::PASSED), With("mamba", v1::PASSED, "", "", "the batch alone"),
            With("bert", v1::SKIPPED, "NOT_APPLICABLE", "does not generate"),
            With("fsmt", v1::SKIPPED, "MISSING_VARIANT", "did not export"), With("llama", v1::FAILED),
            With("opt", v1::SKIPPED, "NOT_COMPARABLE", "rounding")});
  EXPECT_THAT(count.passed, ElementsAre("gpt2", "mamba"));
  EXPECT_THAT(count.failed, ElementsAre("llama"));
  EXPECT_THAT(count.partial, ElementsAre(Key("mamba")));
  EXPECT_THAT(count.skipped, ElementsAre(Key("opt")));
  EXPECT_EQ(count.missing.at("fsmt"), "did not export");
  EXPECT_EQ(count.not_applicable.at("bert"), "does not generate");
  EXPECT_EQ(count.possible(), 5u);
  EXPECT_EQ(VariantText(count),
            "kv_cache: 2 of 5 passed (1 in part); 1 not applicable; FAILED: llama; not comparable: opt; "
            "missing: fsmt");
}

TEST(VariantCounts, AFailureOnOneTargetIsNotHiddenByAPassOnAnother) {
  for (const auto& jobs : {std::vector<v1::Job>{With("gpt2", v1::PASSED), With("gpt2", v1::FAILED)},
                           std::vector<v1::Job>{With("gpt2", v1::FAILED), With("gpt2", v1::PASSED)}}) {
    const VariantCount count = Only(jobs);
    EXPECT_THAT(count.failed, ElementsAre("gpt2"));
    EXPECT_THAT(count.passed, IsEmpty());
    EXPECT_EQ(count.possible(), 1u);
  }
  // Half precision that cannot be compared takes nothing from float32's pass.
  const VariantCount count = Only({With("gpt2", v1::SKIPPED, "NOT_COMPARABLE"), With("gpt2", v1::PASSED)});
  EXPECT_THAT(count.passed, ElementsAre("gpt2"));
  EXPECT_EQ(count.possible(), 1u);
}

TEST(VariantCounts, ASkipWithoutAKnownReasonIsNeitherPassedNorNotApplicable) {
  const VariantCount count = Only({With("gpt2", v1::SKIPPED)});
  EXPECT_THAT(count.skipped, ElementsAre(Key("gpt2")));
  EXPECT_EQ(count.possible(), 1u);
}

TEST(VariantCounts, AreToldInEveryFormatAndOnlyWhereThereAreAny) {
  ReportInput input = MixedInput();
  EXPECT_THAT(RenderText(*MakeScope(input)), Not(HasSubstr("Variants")));
  input.jobs.push_back(With("gpt2", v1::SKIPPED, "MISSING_VARIANT", "a <cause>"));
  const Scope scope = *MakeScope(input);
  EXPECT_THAT(RenderText(scope), HasSubstr("kv_cache: 0 of 1 passed; 0 not applicable; missing: gpt2"));
  EXPECT_THAT(RenderMarkdown(scope), HasSubstr("| missing |"));
  EXPECT_THAT(RenderHtml(scope), HasSubstr("gpt2: missing: a &lt;cause&gt;"));
  EXPECT_THAT(RenderJson(scope), HasSubstr("\"missing\""));
}

}  // namespace
}  // namespace assay::report

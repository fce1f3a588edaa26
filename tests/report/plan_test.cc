// The plan held against the evidence: criteria, dates, what comes next.
#include "coordinator/report/plan.h"

#include "coordinator/report/criteria.h"
#include "coordinator/report/report.h"
#include "generator/batch_file.h"
#include "generator/catalogue.h"
#include "generator/templates.h"
#include "tests/matchers.h"
#include "tests/report/fixture.h"

namespace assay::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Criteria, SayMetOrNotMetWithFigures) {
  const ReportInput input = MixedInput();
  const std::vector<Criterion> criteria = JudgePlan(ComputeCoverage(input), input);
  ASSERT_EQ(criteria.size(), 6u);
  EXPECT_TRUE(criteria[0].met);
  EXPECT_THAT(criteria[0].figures, HasSubstr("4 of 4 (100.0 %)"));
  EXPECT_TRUE(criteria[1].met);
  EXPECT_FALSE(criteria[2].met);
  EXPECT_THAT(criteria[2].figures, HasSubstr("0 of 4 (0.0 %)"));
  EXPECT_THAT(criteria[2].figures, HasSubstr("1 are needed"));
  EXPECT_TRUE(criteria[3].met);
  EXPECT_THAT(criteria[3].figures, HasSubstr("batch_1_models.json"));
  EXPECT_TRUE(criteria[4].met);
  EXPECT_THAT(criteria[4].figures, HasSubstr("1 of 1"));
  EXPECT_FALSE(criteria[5].met);
  EXPECT_THAT(criteria[5].open, ElementsAre("olmo", "esm", "dinat"));
}

TEST(Criteria, AreNotMetByNothing) {
  ReportInput input = MixedInput();
  input.jobs.clear();
  input.batches.clear();
  for (const Criterion& criterion : JudgePlan(ComputeCoverage(input), input)) {
    EXPECT_FALSE(criterion.met) << criterion.number;
  }
  input.registry.models.clear();
  for (const Criterion& criterion : JudgePlan(ComputeCoverage(input), input)) {
    EXPECT_FALSE(criterion.met) << criterion.number;
  }
}

TEST(Criteria, AQuarterOfMediumWithRealWeightsAgainstAReferenceIsEnough) {
  ReportInput input = MixedInput();
  input.jobs[0] = RealJob(input.jobs[0].job_id(), input.jobs[0].model().name(), 3600);
  v1::CaseResult& loading = *input.jobs[0].mutable_result()->mutable_case_(0);
  loading.set_evidence(v1::STRUCTURAL);
  EXPECT_FALSE(JudgePlan(ComputeCoverage(input), input)[2].met);
  loading.set_evidence(v1::GOLDEN);
  const Criterion criterion = JudgePlan(ComputeCoverage(input), input)[2];
  EXPECT_TRUE(criterion.met);  // one of four
  EXPECT_THAT(criterion.figures, HasSubstr("1 of 4 (25.0 %)"));
}

TEST(Plan, KnowsWhatIsOverdue) {
  const ReportInput input = MixedInput();
  std::vector<PlannedBatch> plan = HoldPlanAgainst(ComputeCoverage(input), TestNow());
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].progress, Progress::kOverdue);  // due 2025-04-05
  EXPECT_EQ(plan[0].days_late, 7);
  EXPECT_THAT(plan[0].missing, ElementsAre("olmo"));
  EXPECT_EQ(plan[1].progress, Progress::kOverdue);  // due 2025-04-10
  EXPECT_EQ(plan[1].days_late, 2);
  EXPECT_EQ(plan[2].progress, Progress::kOpen);  // due 2025-04-15
}

TEST(Plan, IsNotOverdueOnItsDayAndNotOnceCovered) {
  ReportInput input = MixedInput();
  const absl::Time on_its_day =
      absl::FromCivil(absl::CivilSecond(2025, 4, 10, 23, 59, 59), absl::UTCTimeZone());
  EXPECT_EQ(HoldPlanAgainst(ComputeCoverage(input), on_its_day)[1].progress, Progress::kOpen);
  EXPECT_EQ(HoldPlanAgainst(ComputeCoverage(input), on_its_day + absl::Seconds(1))[1].progress,
            Progress::kOverdue);
  input.jobs.push_back(PassedJob("job-99", "esm", 100));
  const PlannedBatch done = HoldPlanAgainst(ComputeCoverage(input), TestNow())[1];
  EXPECT_EQ(done.progress, Progress::kDone);
  EXPECT_EQ(ProgressText(done), "done 2025-04-12, 2 days late");
  // A later run does not make it later.
  input.jobs.push_back(PassedJob("job-100", "esm", 86400 * 30));
  EXPECT_EQ(ProgressText(HoldPlanAgainst(ComputeCoverage(input), TestNow())[1]),
            "done 2025-04-12, 2 days late");
}

TEST(NextModels, AreTheMissingByPriorityThenByThePlan) {
  ReportInput input = MixedInput();
  input.registry.models.insert(input.registry.models.begin(), Tracked("aya", Priority::kMedium, "speech"));
  const Coverage coverage = ComputeCoverage(input);
  std::vector<std::string> names;
  for (const NextModel& model : NextModels(coverage, 100)) names.push_back(model.name);
  EXPECT_THAT(names, ElementsAre("bert", "olmo", "esm", "dinat", "aya", "clap"));
  const std::vector<NextModel> next = NextModels(coverage, 100);
  EXPECT_TRUE(next[0].catalogued);
  EXPECT_EQ(next[3].template_name, "vit");
  EXPECT_EQ(next[3].task, "image-classification");
  EXPECT_FALSE(next[4].catalogued);  // what is usual for its architecture type
  EXPECT_EQ(next[4].template_name, "wav2vec2");
  EXPECT_EQ(NextModels(coverage, 2).size(), 2u);
}

// The file is written to be submitted: on the committed registry, catalogue and templates it must be
// accepted.
TEST(NextBatch, OfEverythingTrackedIsABatchFile) {
  ReportInput input;
  input.now = TestNow();
  ASSERT_OK_AND_ASSIGN(input.registry, LoadRegistry("models/registry.json"));
  ASSERT_OK_AND_ASSIGN(input.catalogue, generator::LoadCatalogue("models/catalogue"));
  ASSERT_OK_AND_ASSIGN(auto templates, generator::LoadTemplates("templates"));
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(input, v1::NEXT_BATCH, 1000));
  std::vector<v1::FileError> errors;
  ASSERT_OK_AND_ASSIGN(
      generator::BatchFile batch,
      generator::ParseBatchFile("next.json", text, generator::TemplateNames(templates), &errors));
  EXPECT_EQ(batch.models.size(), 198u);
}

}  // namespace
}  // namespace assay::report

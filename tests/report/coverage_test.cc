#include "coordinator/report/coverage.h"

#include "coordinator/report/criteria.h"
#include "tests/matchers.h"
#include "tests/report/fixture.h"

namespace assay::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

v1::Job With(v1::Job job, const std::function<void(v1::Job&)>& change) {
  change(job);
  return job;
}

v1::CaseResult* MockCaseOf(v1::Job& job) { return job.mutable_result()->mutable_case_(1); }
v1::CaseResult* LoadingCase(v1::Job& job) { return job.mutable_result()->mutable_case_(0); }

struct Expected {
  bool generated = false, mock_passed = false, covered = false, flaky = false;
  RealGrade real = RealGrade::kNone;
};

struct Recorded {
  const char* what;
  std::vector<v1::Job> jobs;
  Expected expected;
};

class CoverageOfOneModel : public ::testing::TestWithParam<Recorded> {};

TEST_P(CoverageOfOneModel, IsWhatItsNewestResultsShow) {
  ReportInput input;
  input.now = TestNow();
  input.registry.models = {Tracked("olmo", Priority::kMedium, "decoder_only", 1)};
  input.jobs = GetParam().jobs;
  const Coverage coverage = ComputeCoverage(input);
  ASSERT_EQ(coverage.models.size(), 1u);
  const ModelCoverage& model = coverage.models[0];
  const Expected& expected = GetParam().expected;
  EXPECT_EQ(model.generated, expected.generated);
  EXPECT_EQ(model.mock_passed, expected.mock_passed);
  EXPECT_EQ(GradeWord(model.real), GradeWord(expected.real));
  EXPECT_EQ(model.covered, expected.covered);
  EXPECT_EQ(model.flaky, expected.flaky);
  EXPECT_EQ(model.why_missing.empty(), expected.covered) << model.why_missing;
  EXPECT_EQ(coverage.total.covered.size(), expected.covered ? 1u : 0u);
  const auto in = [&](RealGrade grade) { return expected.real == grade ? 1u : 0u; };
  EXPECT_EQ(coverage.total.real_passed.size(), in(RealGrade::kReal));
  EXPECT_EQ(coverage.total.real_unverified.size(), in(RealGrade::kUnverified));
  EXPECT_EQ(coverage.total.real_structural.size(), in(RealGrade::kStructural));
  EXPECT_EQ(coverage.total.synthetic.size(), in(RealGrade::kSynthetic));
}

constexpr Expected kNothing{.generated = true};
constexpr Expected kMockCovered{.generated = true, .mock_passed = true, .covered = true};
constexpr Expected kRealCovered{
    .generated = true, .mock_passed = true, .covered = true, .real = RealGrade::kReal};

std::vector<Recorded> AllRecorded() {
  std::vector<Recorded> all;
  all.push_back({"NeverRun", {}, {}});
  all.push_back({"Passed", {PassedJob("1", "olmo", 1)}, kMockCovered});
  all.push_back({"PassedOnASimulatedDevice",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) {
                         job.mutable_result()->mutable_provenance()->mutable_device()->set_kind("simulated");
                       })},
                 kNothing});
  for (v1::Outcome outcome : {v1::FAILED, v1::CRASHED, v1::TIMED_OUT, v1::OUT_OF_MEMORY, v1::UNSUPPORTED,
                              v1::INFRASTRUCTURE_ERROR, v1::CANCELLED, v1::SKIPPED}) {
    all.push_back({v1::Outcome_Name(outcome).c_str(), {FailedJob("1", "olmo", 1, outcome)}, kNothing});
    // Not even where the mock case had passed before.
    if (outcome == v1::FAILED) continue;
    all.push_back(
        {"PassedCaseOfATestThatDidNotEndWell",
         {With(PassedJob("1", "olmo", 1), [&](v1::Job& job) { job.mutable_result()->set_outcome(outcome); })},
         kNothing});
  }
  all.push_back({"OlderPassThenNewerFailure",
                 {PassedJob("1", "olmo", 1), FailedJob("2", "olmo", 2, v1::FAILED)},
                 kNothing});
  all.push_back({"NewerFailureGivenFirst",
                 {FailedJob("2", "olmo", 2, v1::FAILED), PassedJob("1", "olmo", 1)},
                 kNothing});
  all.push_back({"PassAfterFailureAtTheSameInputsIsFlaky",
                 {FailedJob("1", "olmo", 1, v1::CRASHED), PassedJob("2", "olmo", 2)},
                 {.generated = true, .mock_passed = true, .covered = true, .flaky = true}});
  all.push_back(
      {"PassAfterFailureOfAnotherProgramIsNotFlaky",
       {With(FailedJob("1", "olmo", 1, v1::CRASHED),
             [](v1::Job& job) { job.mutable_result()->mutable_provenance()->set_program_digest("old"); }),
        PassedJob("2", "olmo", 2)},
       kMockCovered});
  all.push_back({"PassAfterALostWorkerIsNotFlaky",
                 {FailedJob("1", "olmo", 1, v1::INFRASTRUCTURE_ERROR), PassedJob("2", "olmo", 2)},
                 kMockCovered});
  all.push_back({"FlakyWithinOneJob",
                 {With(PassedJob("1", "olmo", 1), [](v1::Job& job) { job.set_flaky(true); })},
                 {.generated = true, .mock_passed = true, .covered = true, .flaky = true}});
  all.push_back({"CancelledJobTellsNothing",
                 {PassedJob("1", "olmo", 1), FailedJob("2", "olmo", 2, v1::CANCELLED)},
                 kMockCovered});
  // The worker was lost before it told its device: it may have been this one.
  all.push_back({"FailureOnAnUnknownDeviceDecides",
                 {PassedJob("1", "olmo", 1), FailedJob("2", "olmo", 2, v1::INFRASTRUCTURE_ERROR, "")},
                 kNothing});
  all.push_back({"FailureOnAnotherDeviceLeavesThisOneCovered",
                 {PassedJob("1", "olmo", 1), FailedJob("2", "olmo", 2, v1::FAILED, "cuda")},
                 kMockCovered});
  all.push_back({"UnfinishedJobTellsNothing",
                 {PassedJob("1", "olmo", 1), With(FailedJob("2", "olmo", 2, v1::FAILED),
                                                  [](v1::Job& job) { job.set_state(v1::RUNNING); })},
                 kMockCovered});
  all.push_back(
      {"PassedWithoutAProgram",
       {With(PassedJob("1", "olmo", 1),
             [](v1::Job& job) { job.mutable_result()->mutable_provenance()->clear_program_digest(); })},
       kNothing});
  all.push_back(
      {"PassedWithoutAGolden",
       {With(PassedJob("1", "olmo", 1), [](v1::Job& job) { MockCaseOf(job)->set_evidence(v1::STRUCTURAL); })},
       kNothing});
  all.push_back({"PassedWithoutChecks",
                 {With(PassedJob("1", "olmo", 1), [](v1::Job& job) { MockCaseOf(job)->clear_check(); })},
                 kNothing});
  // A worker that says PASSED is believed as far as its checks bear it out.
  all.push_back({"PassedWithACheckThatFailed",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) {
                         v1::CheckResult& check = *MockCaseOf(job)->add_check();
                         check.set_name("finite");
                         check.set_outcome(v1::FAILED);
                       })},
                 kNothing});
  all.push_back({"PassedWithAGoldenThatMeasuredNothing",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) { MockCaseOf(job)->mutable_check(0)->clear_error(); })},
                 kNothing});
  all.push_back({"PassedBeyondItsTolerance",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) { MockCaseOf(job)->mutable_check(0)->set_error(0.5); })},
                 kNothing});
  // What is right to a tenth covers no model, whether the job asked for it or its template did.
  all.push_back(
      {"PassedInHalfPrecisionOnly",
       {With(PassedJob("1", "olmo", 1), [](v1::Job& job) { job.mutable_target()->set_dtype(v1::FLOAT16); })},
       kNothing});
  all.push_back({"FailedInFloat32AndPassedInHalfPrecision",
                 {FailedJob("1", "olmo", 1, v1::FAILED),
                  With(PassedJob("2", "olmo", 2),
                       [](v1::Job& job) { job.mutable_target()->set_dtype(v1::DTYPE_BFLOAT16); })},
                 kNothing});
  all.push_back({"RanInAnotherDtypeThanItSays",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) {
                         job.mutable_target()->clear_dtype();
                         job.mutable_result()->mutable_provenance()->set_dtype(v1::DTYPE_BFLOAT16);
                       })},
                 kNothing});
  all.push_back({"PassedWithItsOnlyCasesSkipped",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) {
                         *MockCaseOf(job) =
                             MakeCase("test_model_with_mock", v1::SKIPPED, v1::MOCK, v1::GOLDEN);
                       })},
                 kNothing});
  // Weights that were to be real and were not: a fallback is no evidence of either kind.
  all.push_back({"LoadingCaseThatFellBackToMockWeights",
                 {With(PassedJob("1", "olmo", 1),
                       [](v1::Job& job) {
                         *LoadingCase(job) = MakeCase("test_model_loading", v1::PASSED, v1::MOCK, v1::GOLDEN);
                         job.mutable_result()->mutable_case_()->RemoveLast();
                       })},
                 kNothing});
  const auto real = [](const std::function<void(v1::Job&)>& change) {
    return std::vector<v1::Job>{With(RealJob("1", "olmo", 1), change)};
  };
  const auto without_mock = [](v1::Job& job) { job.mutable_result()->mutable_case_()->RemoveLast(); };
  const auto provenance = [](v1::Job& job) { return job.mutable_result()->mutable_provenance(); };
  all.push_back({"RealWeightsAgainstAReference", real([](v1::Job&) {}), kRealCovered});
  all.push_back({"RealWeightsWithoutATinyProgram",
                 real([&](v1::Job& job) {
                   without_mock(job);
                   provenance(job)->clear_program_digest();
                 }),
                 {.generated = true, .covered = true, .real = RealGrade::kReal}});
  all.push_back({"PinnedWeights", real([&](v1::Job& job) {
                   provenance(job)->set_weights_trust(v1::PINNED);
                   provenance(job)->mutable_checkpoint()->set_weights_digest(
                       provenance(job)->weights_digest());
                   provenance(job)->mutable_checkpoint()->set_config_digest(std::string(64, 'a'));
                 }),
                 kRealCovered});
  // What must never count as real, each alone with its mock case, and without it.
  struct Weaker {
    const char* what;
    RealGrade grade;
    std::function<void(v1::Job&)> change;
  };
  const Weaker kWeaker[] = {
      {"SyntheticWeights", RealGrade::kSynthetic,
       [](v1::Job& job) { LoadingCase(job)->set_weights(v1::SYNTHETIC); }},
      {"StructuralEvidence", RealGrade::kStructural,
       [](v1::Job& job) { LoadingCase(job)->set_evidence(v1::STRUCTURAL); }},
      {"NoGolden", RealGrade::kStructural,
       [](v1::Job& job) { LoadingCase(job)->set_no_golden("too large"); }},
      {"AnotherCheckThanTheGoldenMeasured", RealGrade::kStructural,
       [](v1::Job& job) { LoadingCase(job)->mutable_check(0)->set_name("batch_invariance"); }},
      {"GoldenThatMeasuredNothing", RealGrade::kStructural,
       [](v1::Job& job) { LoadingCase(job)->mutable_check(0)->clear_error(); }},
      {"GoldenBeyondItsTolerance", RealGrade::kStructural,
       [](v1::Job& job) { LoadingCase(job)->mutable_check(0)->set_error(0.5); }},
      {"NoGoldenDigest", RealGrade::kStructural,
       [&](v1::Job& job) { provenance(job)->clear_golden_digest(); }},
      {"NoProgramOfTheCheckpoint", RealGrade::kStructural,
       [&](v1::Job& job) { provenance(job)->clear_checkpoint_program_digest(); }},
      {"CheckpointOfAnotherModelType", RealGrade::kOtherModel,
       [](v1::Job& job) {
         job.mutable_ended_stage(0)->mutable_result()->mutable_export_()->set_model_type("bert");
       }},
      {"CheckpointOfUnknownModelType", RealGrade::kOtherModel,
       [](v1::Job& job) {
         job.mutable_ended_stage(0)->mutable_result()->mutable_export_()->clear_model_type();
       }},
      {"UnverifiedWeights", RealGrade::kUnverified,
       [&](v1::Job& job) { provenance(job)->set_weights_trust(v1::UNVERIFIED); }},
      {"WeightsThatNobodySpokeOf", RealGrade::kUnverified,
       [&](v1::Job& job) { provenance(job)->clear_weights_trust(); }},
      {"PinnedToOtherWeights", RealGrade::kUnverified,
       [&](v1::Job& job) {
         provenance(job)->set_weights_trust(v1::PINNED);
         provenance(job)->mutable_checkpoint()->set_weights_digest(std::string(64, '0'));
         provenance(job)->mutable_checkpoint()->set_config_digest(std::string(64, 'a'));
       }},
      {"PinnedWithoutItsConfiguration", RealGrade::kUnverified,
       [&](v1::Job& job) {
         provenance(job)->set_weights_trust(v1::PINNED);
         provenance(job)->mutable_checkpoint()->set_weights_digest(provenance(job)->weights_digest());
       }},
      {"KnownAnswerThatNoCheckCompared", RealGrade::kUnverified,
       [](v1::Job& job) { LoadingCase(job)->mutable_check()->RemoveLast(); }},
      {"NoWeightsDigest", RealGrade::kNone, [&](v1::Job& job) { provenance(job)->clear_weights_digest(); }},
      {"KnownAnswerThatFailed", RealGrade::kNone,
       [](v1::Job& job) { LoadingCase(job)->mutable_check(1)->set_outcome(v1::FAILED); }},
      {"MockWeightsInTheLoadingCase", RealGrade::kNone,
       [](v1::Job& job) { LoadingCase(job)->set_weights(v1::MOCK); }},
      {"AnotherCase", RealGrade::kNone, [](v1::Job& job) { LoadingCase(job)->set_name("test_more"); }},
  };
  for (const Weaker& weaker : kWeaker) {
    all.push_back({weaker.what,
                   real(weaker.change),
                   {.generated = true, .mock_passed = true, .covered = true, .real = weaker.grade}});
    all.push_back({weaker.what,
                   real([&](v1::Job& job) {
                     weaker.change(job);
                     without_mock(job);
                   }),
                   {.generated = true, .real = weaker.grade}});
  }
  // In half precision nothing is covered, by whatever weights.
  all.push_back({"RealWeightsInHalfPrecision", real([&](v1::Job& job) {
                   job.mutable_target()->set_dtype(v1::DTYPE_BFLOAT16);
                   provenance(job)->set_dtype(v1::DTYPE_BFLOAT16);
                 }),
                 kNothing});
  // The mock case stands, but the model does not pass.
  all.push_back({"RealWeightsFailAndMockPasses",
                 real([](v1::Job& job) {
                   LoadingCase(job)->set_outcome(v1::FAILED);
                   LoadingCase(job)->mutable_check(0)->set_outcome(v1::FAILED);
                   job.mutable_result()->set_outcome(v1::FAILED);
                 }),
                 {.generated = true, .mock_passed = true}});
  all.push_back({"RealWeightsPassAndMockFails", real([](v1::Job& job) {
                   job.mutable_result()->mutable_case_(1)->set_outcome(v1::FAILED);
                   job.mutable_result()->set_outcome(v1::FAILED);
                 }),
                 kNothing});
  // A test that loaded no checkpoint says nothing of one.
  all.push_back({"NewerPassWithoutACheckpointLeavesTheRealOne",
                 {RealJob("1", "olmo", 1), PassedJob("2", "olmo", 2)},
                 kRealCovered});
  all.push_back({"NewerFailureWithoutACheckpointTakesTheRealOneAway",
                 {RealJob("1", "olmo", 1), FailedJob("2", "olmo", 2, v1::FAILED)},
                 kNothing});
  all.push_back({"NewerRealFailureDecides",
                 {RealJob("1", "olmo", 1),
                  With(RealJob("2", "olmo", 2),
                       [](v1::Job& job) {
                         LoadingCase(job)->set_outcome(v1::FAILED);
                         job.mutable_result()->set_outcome(v1::FAILED);
                       }),
                  PassedJob("3", "olmo", 3)},
                 kMockCovered});
  // A failed export says nothing of the architecture, and everything of the checkpoint.
  all.push_back({"FailedExportAlone", {FailedExport("1", "olmo", 1, v1::UNSUPPORTED)}, {}});
  all.push_back({"FailedExportAfterAMockPass",
                 {PassedJob("1", "olmo", 1), FailedExport("2", "olmo", 2, v1::INFRASTRUCTURE_ERROR)},
                 kMockCovered});
  all.push_back({"FailedExportAfterARealPass",
                 {RealJob("1", "olmo", 1), FailedExport("2", "olmo", 2, v1::FAILED)},
                 kMockCovered});
  all.push_back({"FailedExportAfterAMockFailure",
                 {FailedJob("1", "olmo", 1, v1::CRASHED), FailedExport("2", "olmo", 2, v1::FAILED)},
                 kNothing});
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, CoverageOfOneModel, ::testing::ValuesIn(AllRecorded()), [](const auto& info) {
  std::string name = info.param.what;
  name.erase(std::remove(name.begin(), name.end(), '_'), name.end());
  return name + std::to_string(info.index);
});

TEST(Coverage, IsComputedFromNames) {
  ReportInput input = MixedInput();
  const Coverage coverage = ComputeCoverage(input);
  EXPECT_EQ(coverage.total.tracked.size(), 7u);
  EXPECT_THAT(coverage.total.covered, UnorderedElementsAre("command_r", "gptj"));
  EXPECT_THAT(coverage.total.generated, UnorderedElementsAre("command_r", "dinat", "esm", "gptj", "olmo"));
  ASSERT_EQ(coverage.untracked.size(), 1u);
  EXPECT_EQ(coverage.untracked[0].model.name, "my_own");

  // Running everything once more adds nothing.
  const std::vector<v1::Job> jobs = input.jobs;
  for (v1::Job job : jobs) {
    job.set_job_id("again-" + job.job_id());
    input.jobs.push_back(job);
  }
  EXPECT_EQ(ComputeCoverage(input).total.covered, coverage.total.covered);
}

TEST(Coverage, IsToldApartByPriorityTypeTemplateAndDevice) {
  const ReportInput input = MixedInput();
  const Coverage coverage = ComputeCoverage(input);
  auto words = [](const TallyByWord& tallies) {
    std::vector<std::string> result;
    for (const auto& [word, tally] : tallies) {
      result.push_back(word + " " + std::to_string(tally.covered.size()) + "/" +
                       std::to_string(tally.tracked.size()));
    }
    return result;
  };
  EXPECT_THAT(words(coverage.by_priority), ElementsAre("critical 1/2", "medium 1/4", "low 0/1"));
  EXPECT_THAT(words(coverage.by_arch_type),
              ElementsAre("decoder_only 2/3", "encoder_only 0/2", "multimodal 0/1", "vision 0/1"));
  EXPECT_THAT(words(coverage.by_template), ElementsAre("(none yet) 0/1", "bert 0/1", "gpt2 2/4", "vit 0/1"));
  EXPECT_THAT(words(coverage.by_device), ElementsAre("auto 0/7", "cpu 2/7"));
}

TEST(Coverage, ATrackedModelWithoutACatalogueEntryIsCoveredByCheckpointsOfItsOwnType) {
  ReportInput input;
  input.now = TestNow();
  input.registry.models = {Tracked("kosmos2", Priority::kMedium, "multimodal", 1),
                           Tracked("falcon", Priority::kMedium, "decoder_only", 1)};
  const auto of_type = [](v1::Job job, const std::string& type) {
    job.mutable_ended_stage(0)->mutable_result()->mutable_export_()->set_model_type(type);
    // Nothing of the model itself: it is in no catalogue.
    job.mutable_result()->mutable_case_()->RemoveLast();
    job.mutable_result()->mutable_provenance()->clear_program_digest();
    return job;
  };
  input.jobs = {of_type(RealJob("1", "kosmos2", 1), "kosmos-2"), of_type(RealJob("2", "falcon", 2), "bert"),
                of_type(RealJob("3", "my_tuned_one", 3), "bert")};
  const Coverage coverage = ComputeCoverage(input);
  EXPECT_THAT(coverage.total.real_passed, ElementsAre("kosmos2"));
  EXPECT_THAT(coverage.total.covered, ElementsAre("kosmos2"));
  EXPECT_THAT(coverage.Find("falcon")->why_missing, HasSubstr("its checkpoint is of model type 'bert'"));
  EXPECT_TRUE(coverage.Find("my_tuned_one")->real_passed());
}

TEST(Coverage, RealCoverageIsByPriorityAndOfTrainedVerifiedGoldensAlone) {
  const ReportInput input = CheckpointInput();
  const Coverage coverage = ComputeCoverage(input);
  EXPECT_THAT(coverage.total.real_passed, ElementsAre("bert"));
  EXPECT_THAT(coverage.total.synthetic, ElementsAre("llama"));
  EXPECT_THAT(coverage.total.real_structural, ElementsAre("albert"));
  EXPECT_THAT(coverage.total.real_unverified, ElementsAre("olmo"));
  ASSERT_EQ(coverage.by_priority.size(), 3u);
  EXPECT_THAT(coverage.by_priority[0].second.real_passed, ElementsAre("bert"));
  EXPECT_THAT(coverage.by_priority[1].second.real_passed, IsEmpty());
  EXPECT_THAT(coverage.by_priority[2].second.real_passed, IsEmpty());
  for (const auto& [device, tally] : coverage.by_device) {
    if (device == "cpu") {
      EXPECT_THAT(tally.real_passed, ElementsAre("bert"));
    } else {
      EXPECT_THAT(tally.real_passed, IsEmpty()) << device;
    }
  }
  EXPECT_EQ(coverage.Find("gptj")->why_missing, "UNSUPPORTED on auto/float32 in its export");
}

TEST(Criteria, AQuarterOfTheMediumModelsMustBeReal) {
  ReportInput input = CheckpointInput();
  const auto third = [&] { return JudgePlan(ComputeCoverage(input), input)[2]; };
  EXPECT_FALSE(third().met);
  EXPECT_THAT(third().figures, HasSubstr("0 of 4 (0.0 %)"));
  EXPECT_THAT(third().figures,
              HasSubstr("1 with unverified weights, 1 with no golden: structural checks only, "
                        "0 with synthetic weights"));
  // All of them synthetic is none of them real.
  for (const char* name : {"albert", "olmo", "esm", "gptj"}) {
    input.jobs.push_back(With(RealJob(std::string("s-") + name, name, 30),
                              [](v1::Job& job) { LoadingCase(job)->set_weights(v1::SYNTHETIC); }));
  }
  EXPECT_FALSE(third().met);
  EXPECT_THAT(third().figures, HasSubstr("4 with synthetic weights"));
  input.jobs.push_back(RealJob("r", "esm", 40));
  EXPECT_TRUE(third().met);
  EXPECT_THAT(third().figures, HasSubstr("1 of 4 (25.0 %)"));
}

TEST(Coverage, SaysWhyAModelIsMissing) {
  const ReportInput input = MixedInput();
  const Coverage coverage = ComputeCoverage(input);
  EXPECT_EQ(coverage.Find("clap")->why_missing, "no catalogue entry");
  EXPECT_EQ(coverage.Find("dinat")->why_missing, "UNSUPPORTED on cpu/float32");
  EXPECT_EQ(coverage.Find("bert")->why_missing, "INFRASTRUCTURE_ERROR on auto/float32");
  EXPECT_EQ(coverage.Find("command_r")->why_missing, "");
  EXPECT_EQ(coverage.Find("nobody"), nullptr);
}

TEST(Coverage, HalfPrecisionStandsApart) {
  ReportInput input = MixedInput();
  v1::Job half = PassedJob("job-20", "esm", 20);
  half.mutable_target()->set_dtype(v1::DTYPE_BFLOAT16);
  input.jobs.push_back(half);
  const Coverage coverage = ComputeCoverage(input);
  EXPECT_EQ(coverage.total.covered.count("esm"), 0u);
  EXPECT_THAT(coverage.Find("esm")->why_missing,
              HasSubstr("PASSED on cpu/bfloat16, but only float32 covers"));
  for (const auto& [device, tally] : coverage.by_device) {
    EXPECT_EQ(tally.covered.count("esm"), device == "cpu/bfloat16" ? 1u : 0u) << device;
  }
}

TEST(CountChecks, TellsAppliedFromPossible) {
  v1::Job job = PassedJob("1", "esm", 1);
  EXPECT_EQ(CountChecks(job, nullptr).applied, 1u);
  EXPECT_EQ(CountChecks(job, nullptr).possible, 1u);
  v1::CatalogueEntry entry;
  entry.add_not_applicable()->set_check("causality");
  EXPECT_EQ(CountChecks(job, &entry).applied, 1u);
  EXPECT_EQ(CountChecks(job, &entry).possible, 2u);
  v1::CheckResult& skipped = *job.mutable_result()->mutable_case_(1)->add_check();
  skipped.set_name("deterministic");
  skipped.set_outcome(v1::SKIPPED);
  EXPECT_EQ(CountChecks(job, &entry).applied, 1u);
  EXPECT_EQ(CountChecks(job, &entry).possible, 3u);
}

}  // namespace
}  // namespace assay::report

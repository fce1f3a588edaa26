#include "cli/output.h"

#include "cli/progress.h"
#include "cli/terminal.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

std::vector<v1::Job> Jobs(const std::vector<v1::Outcome>& outcomes) {
  std::vector<v1::Job> jobs;
  for (v1::Outcome outcome : outcomes) jobs.emplace_back().mutable_result()->set_outcome(outcome);
  return jobs;
}

TEST(ExitCodeOfJobs, TellsWhatHappened) {
  EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::PASSED, v1::PASSED})), kExitOk);
  EXPECT_EQ(ExitCodeOfJobs({}), kExitNoTests);
  EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::SKIPPED})), kExitNoTests);
  EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::PASSED, v1::SKIPPED})), kExitOk);
  for (v1::Outcome outcome : {v1::FAILED, v1::CRASHED, v1::TIMED_OUT, v1::OUT_OF_MEMORY, v1::UNSUPPORTED,
                              v1::OUTCOME_UNSPECIFIED}) {
    EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::PASSED, outcome})), kExitTestsFailed);
    EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::INFRASTRUCTURE_ERROR, outcome})), kExitTestsFailed);
  }
  EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::PASSED, v1::INFRASTRUCTURE_ERROR})), kExitInfrastructure);
  EXPECT_EQ(ExitCodeOfJobs(Jobs({v1::PASSED, v1::CANCELLED})), kExitInterrupted);
}

// Each of the two passed by its own golden's bound.
TEST(ExitCodeOfJobs, DevicesThatDifferFail) {
  std::vector<v1::Job> jobs = Jobs({v1::PASSED, v1::PASSED});
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].set_state(v1::DONE);
    jobs[i].mutable_result()->mutable_provenance()->mutable_device()->set_kind(i == 0 ? "cpu" : "cuda");
    v1::CaseResult& one = *jobs[i].mutable_result()->add_case_();
    one.set_name("test_model_with_mock");
    one.set_outcome(v1::PASSED);
    v1::OutputSummary& output = *one.add_output();
    output.set_name("logits");
    output.add_samples(1);
    output.set_allowed(0.1);
    output.set_allowed_rms(0.1);
  }
  EXPECT_EQ(ExitCodeOfJobs(jobs), kExitOk);
  v1::OutputSummary& other = *jobs[1].mutable_result()->mutable_case_(0)->mutable_output(0);
  other.set_samples(0, 1.2);
  EXPECT_EQ(ExitCodeOfJobs(jobs), kExitTestsFailed);
  other.set_not_comparable("rounding turns aten::topk");
  EXPECT_EQ(ExitCodeOfJobs(jobs), kExitOk);
}

TEST(Table, AlignsAndCleans) {
  EXPECT_EQ(Table({{"A", "B"}, {"long", "x\ny"}}), "A     B\nlong  x y\n");
  EXPECT_EQ(Table({{"\x1b[31m"}}).find('\x1b'), std::string::npos);
}

TEST(JobLine, SaysOutcomeModelTimeAndChecks) {
  v1::Job job;
  job.set_state(v1::DONE);
  job.mutable_model()->set_name("llama_3");
  job.mutable_result()->set_outcome(v1::PASSED);
  job.mutable_result()->set_seconds(0.03);
  v1::CaseResult& one = *job.mutable_result()->add_case_();
  one.add_check()->set_outcome(v1::PASSED);
  one.add_check()->set_outcome(v1::SKIPPED);
  EXPECT_THAT(JobLine(job), ::testing::MatchesRegex("PASSED +llama_3 +0\\.03 s +1 checks"));
  job.mutable_result()->set_outcome(v1::CRASHED);
  job.mutable_result()->set_message("\x1b[2J\nboom");
  EXPECT_THAT(JobLine(job), ::testing::EndsWith("\xEF\xBF\xBD[2J boom"));
}

TEST(Json, KeepsTheProtosNames) {
  v1::Batch batch;
  batch.set_batch_id("b1");
  ASSERT_OK_AND_ASSIGN(std::string json, ToJson(batch));
  EXPECT_THAT(json, ::testing::HasSubstr("\"batch_id\": \"b1\""));
  EXPECT_THAT(json, ::testing::HasSubstr("\"total\": 0"));
}

}  // namespace
}  // namespace assay::cli

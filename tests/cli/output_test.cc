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

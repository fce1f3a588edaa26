// What every Store must do with jobs that have an export before their test, run over each implementation.
#pragma once

#include <string>

#include "tests/coordinator/store_conformance.h"

namespace assay::coordinator {

using StageConformanceTest = StoreConformanceTest;

TEST_P(StageConformanceTest, AJobWithACheckpointIsExportedThenTested) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_EXPORT);
  ASSERT_OK_AND_ASSIGN(v1::Job exporting, Lease("b1.bert", "e1"));
  EXPECT_EQ(exporting.stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(exporting.attempts(0).stage(), v1::STAGE_EXPORT);
  now_ += absl::Seconds(5);
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Exported("b1.bert", 1)));
  EXPECT_TRUE(ack.counted());

  const v1::Job between = Job("b1.bert");
  EXPECT_EQ(between.state(), v1::QUEUED);
  EXPECT_EQ(between.stage(), v1::STAGE_TEST);
  EXPECT_FALSE(between.has_result());
  ASSERT_EQ(between.ended_stage_size(), 1);
  const v1::StageRecord& ended = between.ended_stage(0);
  EXPECT_EQ(ended.stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(ended.attempt(), 1);
  EXPECT_EQ(ended.worker(), "e1");
  EXPECT_EQ(ended.result().export_().program_digest(), Sha256Hex("program"));
  EXPECT_EQ(ended.log_digest(), Sha256Hex("log of the export"));
  EXPECT_EQ(ended.end_time().seconds() - ended.start_time().seconds(), 5);
  EXPECT_FALSE(Batch("b1").has_end_time());

  ASSERT_OK_AND_ASSIGN(v1::Job testing, Lease("b1.bert", "w1"));
  EXPECT_EQ(testing.attempt(), 2) << "attempts are numbered over both stages";
  EXPECT_EQ(testing.attempts(1).stage(), v1::STAGE_TEST);
  v1::AttemptResult result = ResultWithCheckpoint("b1.bert", 2, v1::PASSED);
  result.set_log_digest(Sha256Hex("log of the test"));
  ASSERT_THAT(Commit(result), IsOk());
  const v1::Job done = Job("b1.bert");
  EXPECT_EQ(done.state(), v1::DONE);
  EXPECT_EQ(done.result().outcome(), v1::PASSED);
  EXPECT_EQ(done.log_digest(), Sha256Hex("log of the test"));
  EXPECT_EQ(done.ended_stage(0).log_digest(), Sha256Hex("log of the export"));
  EXPECT_EQ(Batch("b1").counts(0).count(), 1);
  // Export started, stage changed, test started, job ended, batch ended.
  const auto events = Events("b1");
  ASSERT_THAT(Numbers(events), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(events[1].job().state(), v1::QUEUED);
  EXPECT_EQ(events[1].job().stage(), v1::STAGE_TEST);
  EXPECT_EQ(events[1].job().ended_stage_size(), 1);
}

TEST_P(StageConformanceTest, AJobWithoutACheckpointIsTestedAtOnce) {
  Submit(Submission("b1", {"bert"}));
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_TEST);
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), IsOk());
  EXPECT_EQ(Job("b1.bert").ended_stage_size(), 0);
}

TEST_P(StageConformanceTest, AnExportThatFailsEndsItsJobAndSaysSo) {
  const v1::Outcome outcomes[] = {v1::FAILED, v1::CRASHED, v1::TIMED_OUT, v1::OUT_OF_MEMORY, v1::UNSUPPORTED};
  for (v1::Outcome outcome : outcomes) {
    const std::string batch = absl::StrCat("b", outcome);
    Submit(CheckpointSubmission(batch, {"bert"}));
    ASSERT_THAT(Lease(batch + ".bert", "e1"), IsOk());
    ASSERT_THAT(Commit(Exported(batch + ".bert", 1, outcome)), IsOk());
    const v1::Job job = Job(batch + ".bert");
    EXPECT_EQ(job.state(), v1::DONE);
    EXPECT_EQ(job.stage(), v1::STAGE_EXPORT);
    EXPECT_EQ(job.ended_stage_size(), 0);
    EXPECT_EQ(job.result().outcome(), outcome);
    EXPECT_EQ(job.result().message(), "export: as the export says");
    EXPECT_EQ(job.log_digest(), Sha256Hex("log of the export"));
    EXPECT_TRUE(Batch(batch).has_end_time());
  }
}

TEST_P(StageConformanceTest, ADefaultCheckpointThatIsNotToBeHadLetsItsJobGoOn) {
  Submit(DefaultSubmission("b1", {"bert"}));
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(Job("b1.bert").default_checkpoint().id(), kCheckpoint);
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Exported("b1.bert", 1, v1::SKIPPED)));
  EXPECT_TRUE(ack.counted());
  EXPECT_EQ(Job("b1.bert").ended_stage(0).result().outcome(), v1::SKIPPED);
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  // With mock weights alone, as where nobody exports.
  ASSERT_THAT(Commit(Result("b1.bert", 2, v1::PASSED)), IsOk());
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::PASSED);
}

TEST_P(StageConformanceTest, ACheckpointThatTheBatchNamesIsNotSkipped) {
  Use(1);
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.bert", 1, v1::SKIPPED)), IsOk());
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.result().outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(job.result().message(), HasSubstr("cannot be skipped"));
}

TEST_P(StageConformanceTest, TheBatchsCheckpointGoesBeforeTheDefaultOne) {
  BatchSubmission submission = DefaultSubmission("b1", {"bert"});
  submission.jobs[0].model.mutable_checkpoint()->set_id("ada/bert");
  Submit(submission);
  EXPECT_FALSE(Job("b1.bert").has_default_checkpoint());
}

TEST_P(StageConformanceTest, AnExportIsRetriedWhereTheInfrastructureFailed) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Exported("b1.bert", 1, v1::INFRASTRUCTURE_ERROR)));
  EXPECT_FALSE(ack.counted());
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(Job("b1.bert").state(), v1::QUEUED);
  ASSERT_THAT(Lease("b1.bert", "e2"), IsOk());
  now_ += kLease;
  ASSERT_THAT(Expire(), SizeIs(1));
  ASSERT_THAT(Lease("b1.bert", "e3"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.bert", 3, v1::INFRASTRUCTURE_ERROR)), IsOk());
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.result().outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(job.result().message(), ::testing::StartsWith("export: gave up after 3 attempts"));
}

TEST_P(StageConformanceTest, WhatAnExportLostIsNotItsTestsLoss) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  for (const std::string worker : {"e1", "e2"}) {
    ASSERT_THAT(Lease("b1.bert", worker), IsOk());
    now_ += kLease;
    ASSERT_THAT(Expire(), SizeIs(1));
  }
  ASSERT_THAT(Lease("b1.bert", "e3"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.bert", 3)), IsOk());
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(10); }));
  ASSERT_THAT(queued, SizeIs(1));
  EXPECT_THAT(queued[0].tried, IsEmpty());
  EXPECT_EQ(queued[0].exported_by, "e3");
  for (const std::string worker : {"w1", "w2", "w3"}) {
    EXPECT_EQ(Job("b1.bert").state(), v1::QUEUED);
    ASSERT_THAT(Lease("b1.bert", worker), IsOk());
    now_ += kLease;
    ASSERT_THAT(Expire(), SizeIs(1));
  }
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.state(), v1::DONE);
  EXPECT_THAT(job.result().message(), ::testing::StartsWith("gave up after 3 attempts: w1 (attempt 4)"));
  EXPECT_EQ(job.ended_stage_size(), 1);
}

TEST_P(StageConformanceTest, ARepeatedExportResultGetsTheFirstAnswerAndChangesNothing) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.bert", 1)), IsOk());
  const size_t events = Events("b1").size();
  for (int i = 0; i < 2; ++i) {  // before and while the test runs
    ASSERT_OK_AND_ASSIGN(v1::ResultAck again, Commit(Exported("b1.bert", 1, v1::FAILED)));
    EXPECT_TRUE(again.counted());
    EXPECT_EQ(Job("b1.bert").ended_stage_size(), 1);
    if (i == 0) {
      EXPECT_THAT(Events("b1"), SizeIs(events));
      // Its worker, connecting again, neither keeps it nor is told to abandon it.
      ASSERT_OK_AND_ASSIGN(AdoptedAttempts adopted, Do([&](Store& s) {
                             return s.AdoptAttempts("e1", false, {Ref("b1.bert", 1)}, now_, now_ + kLease);
                           }));
      EXPECT_THAT(adopted.keep, SizeIs(0));
      EXPECT_THAT(adopted.abandon, IsEmpty());
      ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
    }
  }
  EXPECT_EQ(Job("b1.bert").state(), v1::RUNNING);
  EXPECT_EQ(Job("b1.bert").attempt(), 2);
}

TEST_P(StageConformanceTest, AStaleExportResultIsRefused) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  now_ += kLease;
  ASSERT_THAT(Expire(), SizeIs(1));
  ASSERT_THAT(Lease("b1.bert", "e2"), IsOk());
  EXPECT_THAT(Commit(Exported("b1.bert", 1)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("attempt 2 is the newest")));
  ASSERT_THAT(Commit(Exported("b1.bert", 2)), IsOk());
  // In the next stage too.
  EXPECT_THAT(Commit(Exported("b1.bert", 1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(Job("b1.bert").ended_stage(0).worker(), "e2");
}

// Its lease had run out, and it was not handed out again.
TEST_P(StageConformanceTest, AnExportThatWasGivenUpMayStillCount) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  now_ += kLease;
  ASSERT_THAT(Expire(), SizeIs(1));
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Exported("b1.bert", 1)));
  EXPECT_TRUE(ack.counted());
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_TEST);
  EXPECT_EQ(Job("b1.bert").attempts(0).outcome(), v1::PASSED);
}

TEST_P(StageConformanceTest, CancellingEndsJobsInEitherStage) {
  Submit(CheckpointSubmission("b1", {"bert", "vit", "gpt2"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_THAT(Lease("b1.vit", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.vit", 1)), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  ASSERT_OK_AND_ASSIGN(CancelledBatch cancelled, Do([&](Store& s) { return s.CancelBatch("b1", now_); }));
  ASSERT_THAT(cancelled.stopped, SizeIs(2));
  for (const std::string job : {"b1.bert", "b1.vit", "b1.gpt2"}) {
    EXPECT_EQ(Job(job).state(), v1::DONE);
    EXPECT_EQ(Job(job).result().outcome(), v1::CANCELLED);
  }
  EXPECT_EQ(Job("b1.vit").ended_stage_size(), 1);
  EXPECT_THAT(Commit(Exported("b1.bert", 1)), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(StageConformanceTest, AnExportTakesACpuSlotOfAnExporterWhateverItsTestWants) {
  BatchSubmission submission = CheckpointSubmission("b1", {"bert"});
  submission.target.set_device(v1::CUDA);
  Submit(submission);
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(10); }));
  ASSERT_THAT(queued, SizeIs(1));
  EXPECT_TRUE(queued[0].needs_exporter);
  EXPECT_EQ(queued[0].device, v1::CPU);
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_OK_AND_ASSIGN(auto running, Do([](Store& s) { return s.Running(); }));
  ASSERT_THAT(running, SizeIs(1));
  EXPECT_EQ(running[0].device, v1::CPU);
  ASSERT_THAT(Commit(Exported("b1.bert", 1)), IsOk());
  ASSERT_OK_AND_ASSIGN(queued, Do([](Store& s) { return s.Queued(10); }));
  ASSERT_THAT(queued, SizeIs(1));
  EXPECT_FALSE(queued[0].needs_exporter);
  EXPECT_EQ(queued[0].device, v1::CUDA);
}

TEST_P(StageConformanceTest, ExportsDoNotHideTestsNorTestsExports) {
  Submit(CheckpointSubmission("b1", {"m0", "m1", "m2"}));
  Submit(Submission("b2", {"m0", "m1", "m2"}));
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(1); }));
  ASSERT_THAT(queued, SizeIs(2));
  EXPECT_NE(queued[0].needs_exporter, queued[1].needs_exporter);
  // Nor after a job has gone from one to the other.
  Submit(CheckpointSubmission("b3", {"m0"}));
  ASSERT_THAT(Do([](Store& s) { return s.CancelBatch("b2", absl::UnixEpoch()); }), IsOk());
  ASSERT_THAT(Lease("b3.m0", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b3.m0", 1)), IsOk());
  ASSERT_OK_AND_ASSIGN(queued, Do([](Store& s) { return s.Queued(1); }));
  EXPECT_THAT(queued, SizeIs(2));
}

TEST_P(StageConformanceTest, TimesOfExportsAndOfTestsWithACheckpointAreKeptApart) {
  auto expected = [&](const BatchSubmission& submission) {
    Submit(submission);
    auto queued = Do([](Store& s) { return s.Queued(10); });
    EXPECT_THAT(queued, IsOkAndHolds(SizeIs(1)));
    return queued->at(0).expected_seconds;
  };
  EXPECT_EQ(expected(CheckpointSubmission("b1", {"bert"})), kUnknownSeconds);
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.bert", 1, v1::PASSED, /*seconds=*/40)), IsOk());
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(10); }));
  EXPECT_EQ(queued.at(0).expected_seconds, kUnknownSeconds) << "nobody knows what its test takes";
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  v1::AttemptResult result = ResultWithCheckpoint("b1.bert", 2, v1::PASSED);
  result.mutable_result()->set_seconds(7);
  ASSERT_THAT(Commit(result), IsOk());

  EXPECT_EQ(expected(CheckpointSubmission("b2", {"bert"})), 40);
  ASSERT_THAT(Lease("b2.bert", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b2.bert", 1)), IsOk());
  ASSERT_OK_AND_ASSIGN(queued, Do([](Store& s) { return s.Queued(10); }));
  EXPECT_EQ(queued.at(0).expected_seconds, 7);
  ASSERT_THAT(Lease("b2.bert", "w1"), IsOk());
  EXPECT_EQ(expected(Submission("b3", {"bert"})), kUnknownSeconds);
}

TEST_P(StageConformanceTest, OnlyTestsAreFlakyAndOtherWeightsAreOtherInputs) {
  auto run = [&](const std::string& batch, v1::Outcome exported, v1::Outcome tested,
                 const std::string& weights) {
    Submit(CheckpointSubmission(batch, {"bert"}));
    EXPECT_THAT(Lease(batch + ".bert", "e1"), IsOk());
    v1::AttemptResult made = Exported(batch + ".bert", 1, exported);
    // As if it had run the test.
    *made.mutable_result()->mutable_provenance() =
        ResultWithCheckpoint(batch + ".bert", 1, exported).result().provenance();
    made.mutable_result()->mutable_provenance()->set_weights_digest(weights);
    if (exported == v1::PASSED) {
      made.mutable_result()->mutable_export_()->mutable_checkpoint()->set_weights_digest(weights);
    }
    EXPECT_THAT(Commit(made), IsOk());
    if (exported != v1::PASSED) return false;
    EXPECT_THAT(Lease(batch + ".bert", "w1"), IsOk());
    v1::AttemptResult result = ResultWithCheckpoint(batch + ".bert", 2, tested);
    result.mutable_result()->mutable_provenance()->set_weights_digest(weights);
    EXPECT_THAT(Commit(result), IsOk());
    EXPECT_EQ(Job(batch + ".bert").result().outcome(), tested);
    return Job(batch + ".bert").flaky();
  };
  EXPECT_FALSE(run("b1", v1::FAILED, v1::PASSED, Sha256Hex("a")));
  EXPECT_FALSE(run("b2", v1::PASSED, v1::PASSED, Sha256Hex("a"))) << "an export's failure is no test's";
  EXPECT_FALSE(run("b3", v1::PASSED, v1::FAILED, Sha256Hex("a")));
  EXPECT_FALSE(run("b4", v1::PASSED, v1::PASSED, Sha256Hex("b")));
  EXPECT_TRUE(run("b5", v1::PASSED, v1::PASSED, Sha256Hex("a")));
}

TEST_P(StageConformanceTest, ResultsThatDoNotBearOutWhatTheySayAreTheInfrastructures) {
  Use(1);
  Submit(CheckpointSubmission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  v1::AttemptResult empty = Exported("b1.bert", 1);
  empty.mutable_result()->mutable_export_()->clear_program_digest();
  ASSERT_THAT(Commit(empty), IsOk());
  EXPECT_EQ(Job("b1.bert").state(), v1::DONE);
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(Job("b1.bert").result().message(), HasSubstr("names no program"));

  ASSERT_THAT(Lease("b1.vit", "e1"), IsOk());
  ASSERT_THAT(Commit(Exported("b1.vit", 1)), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  // It ran on another template than it was given: the digests were kept with the attempt.
  v1::AttemptResult other = ResultWithCheckpoint("b1.vit", 2, v1::PASSED);
  other.mutable_result()->mutable_provenance()->set_template_digest(Sha256Hex("another"));
  ASSERT_THAT(Commit(other), IsOk());
  EXPECT_EQ(Job("b1.vit").result().outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(Job("b1.vit").result().message(), HasSubstr(Sha256Hex("another")));
  EXPECT_THAT(Job("b1.vit").result().message(), HasSubstr(Sha256Hex("template")));
}

TEST_P(StageConformanceTest, AStageChangeThatIsTakenBackDidNotHappen) {
  Submit(CheckpointSubmission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "e1"), IsOk());
  ASSERT_THAT(store_->Begin(), IsOk());
  ASSERT_THAT(store_->CommitResult(Exported("b1.bert", 1), now_), IsOk());
  store_->Rollback();
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(Job("b1.bert").state(), v1::RUNNING);
  EXPECT_EQ(Job("b1.bert").ended_stage_size(), 0);
  ASSERT_THAT(Commit(Exported("b1.bert", 1)), IsOk());
  EXPECT_EQ(Job("b1.bert").stage(), v1::STAGE_TEST);
}

}  // namespace assay::coordinator

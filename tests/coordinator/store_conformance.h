// What every Store must do, run over each implementation.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/store/store.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {

struct StoreMaker {
  std::string name;
  // A new, empty store that gives a job `max_attempts`.
  std::function<std::unique_ptr<Store>(uint32_t max_attempts)> make;
};

class StoreConformanceTest : public ::testing::TestWithParam<StoreMaker> {
 protected:
  void SetUp() override { Use(3); }
  void Use(uint32_t max_attempts) {
    store_ = GetParam().make(max_attempts);
    ASSERT_NE(store_, nullptr);
  }

  // One operation in a transaction of its own.
  template <typename Operation>
  auto Do(Operation operation) {
    EXPECT_THAT(store_->Begin(), IsOk());
    auto result = operation(*store_);
    EXPECT_THAT(store_->Commit(), IsOk());
    return result;
  }
  v1::Batch Submit(const BatchSubmission& submission) {
    auto batch = Do([&](Store& s) { return s.SubmitBatch(submission, now_); });
    EXPECT_THAT(batch, IsOk());
    return batch.value_or(v1::Batch());
  }
  // The job as its new attempt finds it.
  absl::StatusOr<v1::Job> Lease(const std::string& job_id, const std::string& worker) {
    v1::Job leased;
    auto assigned = Do([&](Store& s) {
      return s.Lease(job_id, worker, now_, now_ + kLease, [&](const v1::Job& job) {
        leased = job;
        return Given(job);
      });
    });
    if (!assigned.ok()) return assigned.status();
    return leased;
  }
  absl::StatusOr<v1::ResultAck> Commit(const v1::AttemptResult& result) {
    return Do([&](Store& s) { return s.CommitResult(result, now_); });
  }
  std::vector<LostAttempt> Expire() {
    auto some = Do([&](Store& s) { return s.SomeLeaseRanOut(now_); });
    auto lost = Do([&](Store& s) { return s.ExpireLeases(now_); });
    EXPECT_THAT(lost, IsOk());
    EXPECT_THAT(some, IsOkAndHolds(lost.ok() && !lost->empty()));
    return lost.value_or(std::vector<LostAttempt>());
  }
  v1::Job Job(const std::string& job_id) {
    auto job = Do([&](Store& s) { return s.GetJob(job_id); });
    EXPECT_THAT(job, IsOk());
    return job.value_or(v1::Job());
  }
  v1::Batch Batch(const std::string& batch_id) {
    auto batch = Do([&](Store& s) { return s.GetBatch(batch_id); });
    EXPECT_THAT(batch, IsOk());
    return batch.value_or(v1::Batch());
  }
  std::vector<v1::BatchEvent> Events(const std::string& batch_id, uint64_t after = 0) {
    auto events = Do([&](Store& s) { return s.EventsAfter(batch_id, after, 1000); });
    EXPECT_THAT(events, IsOk());
    return events.value_or(std::vector<v1::BatchEvent>());
  }
  static std::vector<uint64_t> Numbers(const std::vector<v1::BatchEvent>& events) {
    std::vector<uint64_t> numbers;
    for (const v1::BatchEvent& event : events) numbers.push_back(event.sequence());
    return numbers;
  }

  static constexpr absl::Duration kLease = absl::Seconds(10);
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<Store> store_;
};

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_P(StoreConformanceTest, ABatchIsSplitIntoQueuedJobsInItsOrder) {
  const v1::Batch batch = Submit(Submission("b1", {"mamba", "codegen"}));
  EXPECT_EQ(batch.total(), 2);
  EXPECT_EQ(batch.done(), 0);
  EXPECT_FALSE(batch.has_end_time());
  auto jobs = Do([](Store& s) { return s.ListJobs("b1"); });
  ASSERT_THAT(jobs, IsOkAndHolds(SizeIs(2)));
  EXPECT_EQ((*jobs)[0].model().name(), "mamba");
  EXPECT_EQ((*jobs)[1].job_id(), "b1.codegen");
  EXPECT_EQ((*jobs)[1].state(), v1::QUEUED);
  EXPECT_EQ((*jobs)[1].attempt(), 0);
}

TEST_P(StoreConformanceTest, ARepeatedRequestGivesTheSameBatch) {
  Submit(Submission("b1", {"bert"}));
  BatchSubmission again = Submission("b1", {"bert"});
  again.batch_id = "b2";
  EXPECT_EQ(Submit(again).batch_id(), "b1");
  EXPECT_THAT(Do([](Store& s) { return s.GetBatch("b2"); }), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, ARequestIdForOtherContentIsRefused) {
  Submit(Submission("b1", {"bert"}));
  BatchSubmission other = Submission("b1", {"vit"});
  other.batch_id = "b2";
  other.request_digest = "another";
  EXPECT_THAT(Do([&](Store& s) { return s.SubmitBatch(other, now_); }),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_P(StoreConformanceTest, AModelIsInABatchOnce) {
  EXPECT_THAT(Do([&](Store& s) {
                return s.SubmitBatch(Submission("b1", {"bert", "vit", "bert"}), now_);
              }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bert")));
  EXPECT_THAT(Do([](Store& s) { return s.GetBatch("b1"); }), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, ABatchWithoutJobsEndsAtOnce) {
  EXPECT_TRUE(Submit(Submission("b1", {})).has_end_time());
  const auto events = Events("b1");
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_TRUE(events[0].batch().has_end_time());
}

TEST_P(StoreConformanceTest, AJobRunsOnceAtATime) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_OK_AND_ASSIGN(v1::Job job, Lease("b1.bert", "w1"));
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.state(), v1::RUNNING);
  EXPECT_THAT(Lease("b1.bert", "w2"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Lease("b1.vit", "w2"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Do([](Store& s) { return s.Queued(10); }), IsOkAndHolds(IsEmpty()));
}

TEST_P(StoreConformanceTest, ResultsAreCountedAndTheLastEndsTheBatch) {
  Submit(Submission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Result("b1.bert", 1, v1::PASSED)));
  EXPECT_TRUE(ack.counted());
  EXPECT_FALSE(Batch("b1").has_end_time());
  now_ += absl::Seconds(5);
  ASSERT_THAT(Commit(Result("b1.vit", 1, v1::FAILED)), IsOk());

  const v1::Batch batch = Batch("b1");
  EXPECT_EQ(batch.done(), 2);
  EXPECT_EQ(batch.end_time().seconds(), absl::ToUnixSeconds(now_));
  ASSERT_EQ(batch.counts_size(), 2);
  EXPECT_EQ(batch.counts(0).outcome(), v1::PASSED);
  EXPECT_EQ(batch.counts(0).count(), 1);
  EXPECT_EQ(batch.counts(1).outcome(), v1::FAILED);
  // Two started, two ended, and the batch.
  const auto events = Events("b1");
  EXPECT_THAT(Numbers(events), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_TRUE(events.back().batch().has_end_time());
  EXPECT_THAT(Numbers(Events("b1", 3)), ElementsAre(4, 5));
  EXPECT_THAT(Events("b1", 5), IsEmpty());
  EXPECT_THAT(Events("b1", ~uint64_t{0}), IsEmpty());
}

TEST_P(StoreConformanceTest, ARepeatedResultGetsTheFirstAnswerAndChangesNothing) {
  Submit(Submission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), IsOk());
  const size_t events = Events("b1").size();
  ASSERT_OK_AND_ASSIGN(v1::ResultAck again, Commit(Result("b1.bert", 1, v1::FAILED)));
  EXPECT_TRUE(again.counted());
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::PASSED);
  EXPECT_EQ(Batch("b1").done(), 1);
  EXPECT_THAT(Events("b1"), SizeIs(events));
}

TEST_P(StoreConformanceTest, AStaleResultIsRefusedWithTheReason) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  now_ += kLease;
  ASSERT_THAT(Expire(), SizeIs(1));
  ASSERT_THAT(Lease("b1.bert", "w2"), IsOk());
  EXPECT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("attempt 2 is the newest")));
  EXPECT_EQ(Job("b1.bert").state(), v1::RUNNING);
  ASSERT_THAT(Commit(Result("b1.bert", 2, v1::PASSED)), IsOk());
  EXPECT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(Batch("b1").done(), 1);
}

TEST_P(StoreConformanceTest, ResultsThatNobodyWasAskedForAreRefused) {
  Submit(Submission("b1", {"bert"}));
  EXPECT_THAT(Commit(Result("b1.bert", 0, v1::PASSED)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Commit(Result("b1.vit", 1, v1::PASSED)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, ALeaseThatRanOutDoesNotMatterWhileTheAttemptIsTheNewest) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  now_ += kLease;
  Expire();
  ASSERT_EQ(Job("b1.bert").state(), v1::QUEUED);
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Result("b1.bert", 1, v1::PASSED)));
  EXPECT_TRUE(ack.counted());
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.state(), v1::DONE);
  ASSERT_EQ(job.attempts_size(), 1);
  EXPECT_EQ(job.attempts(0).outcome(), v1::PASSED);
}

TEST_P(StoreConformanceTest, HeartbeatsKeepLeases) {
  Submit(Submission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  now_ += kLease - absl::Seconds(1);
  EXPECT_THAT(Do([&](Store& s) { return s.ExtendLeases("w1", {Ref("b1.bert", 1)}, now_ + kLease); }),
              IsOkAndHolds(IsEmpty()));
  now_ += absl::Seconds(1);
  const std::vector<LostAttempt> lost = Expire();
  ASSERT_THAT(lost, SizeIs(1));
  EXPECT_EQ(lost[0].attempt.job_id(), "b1.vit");
  EXPECT_TRUE(lost[0].requeued);
  EXPECT_EQ(Job("b1.bert").state(), v1::RUNNING);
}

TEST_P(StoreConformanceTest, AWorkerIsToldOfAttemptsThatAreNotItsOwn) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  auto others = Do([&](Store& s) {
    return s.ExtendLeases("w2", {Ref("b1.bert", 1), Ref("b9.vit", 4)}, now_ + kLease);
  });
  EXPECT_THAT(others, IsOkAndHolds(SizeIs(2)));
}

TEST_P(StoreConformanceTest, AnAttemptThatWasAnsweredIsNotAbandonedByAHeartbeatThatCrossedTheAnswer) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), IsOk());
  EXPECT_THAT(Do([&](Store& s) { return s.ExtendLeases("w1", {Ref("b1.bert", 1)}, now_); }),
              IsOkAndHolds(IsEmpty()));
}

TEST_P(StoreConformanceTest, AJobThatLosesItsWorkersEndsWithThemNamed) {
  Use(2);
  Submit(Submission("b1", {"bert"}));
  for (const std::string worker : {"w1", "w2"}) {
    ASSERT_THAT(Lease("b1.bert", worker), IsOk());
    now_ += kLease;
    ASSERT_THAT(Expire(), SizeIs(1));
  }
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.state(), v1::DONE);
  EXPECT_EQ(job.result().outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(job.result().message(), HasSubstr("w1 (attempt 1)"));
  EXPECT_THAT(job.result().message(), HasSubstr("w2 (attempt 2)"));
  EXPECT_TRUE(Batch("b1").has_end_time());
  // Too late: the job has ended and everyone was told so.
  EXPECT_THAT(Commit(Result("b1.bert", 2, v1::PASSED)), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(StoreConformanceTest, AnInfrastructureErrorIsTriedAgainABoundedNumberOfTimes) {
  Use(2);
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck first, Commit(Result("b1.bert", 1, v1::INFRASTRUCTURE_ERROR)));
  EXPECT_FALSE(first.counted());
  EXPECT_EQ(Job("b1.bert").state(), v1::QUEUED);
  // The acknowledgement was lost and the worker tries again: same answer, still queued.
  ASSERT_OK_AND_ASSIGN(v1::ResultAck again, Commit(Result("b1.bert", 1, v1::INFRASTRUCTURE_ERROR)));
  EXPECT_FALSE(again.counted());
  EXPECT_EQ(again.reason(), first.reason());
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(10); }));
  ASSERT_THAT(queued, SizeIs(1));
  EXPECT_THAT(queued[0].tried, ElementsAre("w1"));

  ASSERT_THAT(Lease("b1.bert", "w2"), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck last, Commit(Result("b1.bert", 2, v1::INFRASTRUCTURE_ERROR)));
  EXPECT_TRUE(last.counted());
  EXPECT_THAT(Job("b1.bert").result().message(), HasSubstr("w1 (attempt 1)"));
}

TEST_P(StoreConformanceTest, AnOutcomeThatNoWorkerMayDecideIsTheInfrastructures) {
  Use(1);
  Submit(Submission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::OUTCOME_UNSPECIFIED)), IsOk());
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::INFRASTRUCTURE_ERROR);
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.vit", 1, v1::CANCELLED)), IsOk());
  EXPECT_EQ(Job("b1.vit").result().outcome(), v1::INFRASTRUCTURE_ERROR);
}

TEST_P(StoreConformanceTest, CrashesAndFailuresAreResultsAndAreNotTriedAgain) {
  const std::vector<v1::Outcome> outcomes = {v1::FAILED,        v1::CRASHED,     v1::TIMED_OUT,
                                             v1::OUT_OF_MEMORY, v1::UNSUPPORTED, v1::SKIPPED};
  for (v1::Outcome outcome : outcomes) {
    const std::string batch = absl::StrCat("b", outcome);
    Submit(Submission(batch, {"bert"}));
    ASSERT_THAT(Lease(batch + ".bert", "w1"), IsOk());
    ASSERT_THAT(Commit(Result(batch + ".bert", 1, outcome)), IsOk());
    EXPECT_EQ(Job(batch + ".bert").result().outcome(), outcome);
    EXPECT_TRUE(Batch(batch).has_end_time());
  }
}

TEST_P(StoreConformanceTest, APassAfterAFailureAtTheSameInputsIsFlaky) {
  auto run = [&](const std::string& batch, v1::Outcome outcome, const std::string& test_digest) {
    Submit(Submission(batch, {"bert"}));
    EXPECT_THAT(Lease(batch + ".bert", "w1"), IsOk());
    EXPECT_THAT(Commit(Result(batch + ".bert", 1, outcome, test_digest)), IsOk());
    return Job(batch + ".bert").flaky();
  };
  EXPECT_FALSE(run("b1", v1::PASSED, "t1"));
  EXPECT_FALSE(run("b2", v1::CRASHED, "t1"));
  EXPECT_TRUE(run("b3", v1::PASSED, "t1"));
  EXPECT_FALSE(run("b4", v1::PASSED, "t2"));  // other inputs: mended, not flaky
  EXPECT_FALSE(run("b5", v1::FAILED, ""));
  EXPECT_FALSE(run("b6", v1::PASSED, ""));  // nobody knows at which inputs
}

TEST_P(StoreConformanceTest, AWorkerThatConnectsAgainKeepsWhatItRuns) {
  Submit(Submission("b1", {"bert", "vit", "gpt2"}));
  for (const std::string job : {"b1.bert", "b1.vit", "b1.gpt2"}) ASSERT_THAT(Lease(job, "w1"), IsOk());
  now_ += kLease;
  ASSERT_THAT(Expire(), SizeIs(3));
  ASSERT_THAT(Lease("b1.vit", "w2"), IsOk());
  ASSERT_OK_AND_ASSIGN(AdoptedAttempts adopted, Do([&](Store& s) {
                         return s.AdoptAttempts("w1", false,
                                                {Ref("b1.bert", 1), Ref("b1.vit", 1), Ref("b1.nothing", 1)},
                                                now_, now_ + kLease);
                       }));
  ASSERT_THAT(adopted.keep, SizeIs(1));
  EXPECT_EQ(adopted.keep[0].attempt.job_id(), "b1.bert");
  EXPECT_THAT(adopted.abandon, SizeIs(2));
  const v1::Job kept = Job("b1.bert");
  EXPECT_EQ(kept.state(), v1::RUNNING);
  EXPECT_EQ(kept.attempt(), 1);
  EXPECT_EQ(kept.attempts(0).outcome(), v1::OUTCOME_UNSPECIFIED);
  EXPECT_EQ(Job("b1.gpt2").state(), v1::QUEUED);
  // The setback was none: the job still has all its attempts.
  for (int attempt = 1; attempt <= 2; ++attempt) {
    now_ += kLease;
    Expire();
    EXPECT_EQ(Job("b1.bert").state(), v1::QUEUED);
    ASSERT_THAT(Lease("b1.bert", "w3"), IsOk());
  }
}

TEST_P(StoreConformanceTest, WhatARestartedWorkerDoesNotNameIsLostAtOnce) {
  Use(1);
  Submit(Submission("b1", {"bert", "vit"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_OK_AND_ASSIGN(AdoptedAttempts adopted, Do([&](Store& s) {
                         return s.AdoptAttempts("w1", /*restarted=*/true, {}, now_, now_ + kLease);
                       }));
  ASSERT_THAT(adopted.lost, SizeIs(1));
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::INFRASTRUCTURE_ERROR);
}

TEST_P(StoreConformanceTest, AnAssignmentThatDidNotArriveIsNotTheJobsFault) {
  Use(1);
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(
      Do([&](Store& s) { return s.AdoptAttempts("w1", /*restarted=*/false, {}, now_, now_ + kLease); }),
      IsOk());
  const v1::Job job = Job("b1.bert");
  EXPECT_EQ(job.state(), v1::QUEUED);
  EXPECT_EQ(job.attempts_size(), 0);
  ASSERT_OK_AND_ASSIGN(v1::Job again, Lease("b1.bert", "w1"));
  EXPECT_EQ(again.attempt(), 2);
}

// Told to abandon it, a worker would never hear of its result again if the next answer were lost too.
TEST_P(StoreConformanceTest, AnAttemptThatWasAnsweredIsNeitherAdoptedNorAbandoned) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::INFRASTRUCTURE_ERROR)), IsOk());
  ASSERT_OK_AND_ASSIGN(AdoptedAttempts adopted, Do([&](Store& s) {
                         return s.AdoptAttempts("w1", false, {Ref("b1.bert", 1)}, now_, now_ + kLease);
                       }));
  EXPECT_THAT(adopted.abandon, SizeIs(0));
  EXPECT_TRUE(adopted.keep.empty());
  EXPECT_EQ(Job("b1.bert").state(), v1::QUEUED);
}

TEST_P(StoreConformanceTest, CancellingEndsTheBatchAndNamesWhatIsToStop) {
  Submit(Submission("b1", {"bert", "vit", "gpt2"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w1"), IsOk());
  ASSERT_OK_AND_ASSIGN(CancelledBatch cancelled, Do([&](Store& s) { return s.CancelBatch("b1", now_); }));
  EXPECT_TRUE(cancelled.batch.cancelled());
  EXPECT_TRUE(cancelled.batch.has_end_time());
  EXPECT_EQ(cancelled.batch.done(), 3);
  ASSERT_THAT(cancelled.stopped, SizeIs(1));
  EXPECT_EQ(cancelled.stopped[0].worker, "w1");
  EXPECT_EQ(Job("b1.bert").result().outcome(), v1::PASSED);
  EXPECT_EQ(Job("b1.gpt2").result().outcome(), v1::CANCELLED);
  EXPECT_TRUE(Events("b1").back().batch().cancelled());

  const size_t events = Events("b1").size();
  ASSERT_OK_AND_ASSIGN(CancelledBatch again, Do([&](Store& s) { return s.CancelBatch("b1", now_); }));
  EXPECT_THAT(again.stopped, IsEmpty());
  EXPECT_THAT(Events("b1"), SizeIs(events));
  EXPECT_THAT(Commit(Result("b1.vit", 1, v1::PASSED)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cancelled")));
}

TEST_P(StoreConformanceTest, ABatchThatHasEndedCannotBeCancelled) {
  Submit(Submission("b1", {}));
  EXPECT_THAT(Do([&](Store& s) { return s.CancelBatch("b1", now_); }),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Do([&](Store& s) { return s.CancelBatch("b2", now_); }), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, ProgressIsAnEventOfTheNewestAttemptAlone) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  v1::CaseResult result;
  result.set_name("test_model_with_mock");
  v1::CheckResult& passed = *result.add_check();
  passed.set_outcome(v1::PASSED);
  passed.set_message("nobody needs to know");
  EXPECT_THAT(Do([&](Store& s) { return s.RecordProgress(Ref("b1.bert", 2), result, now_); }),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_THAT(Do([&](Store& s) { return s.RecordProgress(Ref("b1.bert", 1), result, now_); }), IsOk());
  const auto events = Events("b1");
  ASSERT_THAT(Numbers(events), ElementsAre(1, 2));
  EXPECT_EQ(events[1].progress().model(), "bert");
  EXPECT_EQ(events[1].progress().case_result().check(0).message(), "");
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED)), IsOk());
  EXPECT_THAT(Do([&](Store& s) { return s.RecordProgress(Ref("b1.bert", 1), result, now_); }),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(StoreConformanceTest, RecordedTimesDecideWhatIsExpected) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.bert", 1, v1::PASSED, "t1", /*seconds=*/0.25)), IsOk());
  Submit(Submission("b2", {"bert", "vit"}));
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(10); }));
  ASSERT_THAT(queued, SizeIs(2));
  EXPECT_EQ(queued[0].model, "vit");
  EXPECT_EQ(queued[0].expected_seconds, kUnknownSeconds);
  EXPECT_EQ(queued[1].expected_seconds, 0.25);
}

TEST_P(StoreConformanceTest, AJobThatHasRunSaysWhatWasPredictedOfIt) {
  for (const std::string batch : {"b1", "b2", "b3"}) {
    Submit(Submission(batch, {"bert"}));
    ASSERT_THAT(Lease(batch + ".bert", "w1"), IsOk());
    v1::AttemptResult result = Result(batch + ".bert", 1, v1::PASSED, "t1", /*seconds=*/0.25);
    result.mutable_result()->set_peak_memory_bytes(1 << 20);
    result.mutable_result()->mutable_provenance()->mutable_device()->set_kind("cpu");
    result.mutable_result()->mutable_provenance()->mutable_device()->set_name(batch == "b3" ? "Epyc"
                                                                                            : "Xeon");
    ASSERT_THAT(Commit(result), IsOk());
  }
  EXPECT_FALSE(Job("b1.bert").has_predicted()) << "nothing had run";
  EXPECT_EQ(Job("b2.bert").predicted().seconds(), 0.25);
  EXPECT_EQ(Job("b2.bert").predicted().memory_bytes(), 1 << 20);
  EXPECT_EQ(Job("b3.bert").predicted().seconds(), 0) << "on another processor";
  EXPECT_EQ(Job("b3.bert").predicted().memory_bytes(), 1 << 20);
}

TEST_P(StoreConformanceTest, EverySubmitterPriorityAndDeviceIsSeenHoweverLongTheQueuesAre) {
  for (const std::string submitter : {"ada", "", "bob"}) {
    BatchSubmission submission = Submission("b-" + submitter, {"m0", "m1", "m2", "m3"}, submitter);
    for (int i = 0; i < 2; ++i) submission.jobs[i].priority = i == 0 ? Priority::kCritical : Priority::kLow;
    Submit(submission);
  }
  ASSERT_OK_AND_ASSIGN(auto queued, Do([](Store& s) { return s.Queued(1); }));
  // Three submitters times three priorities; of the two medium ones the first.
  ASSERT_THAT(queued, SizeIs(9));
  for (const QueuedJob& job : queued) EXPECT_NE(job.model, "m3");
  ASSERT_OK_AND_ASSIGN(auto all, Do([](Store& s) { return s.Queued(100); }));
  EXPECT_THAT(all, SizeIs(12));
  EXPECT_THAT(Do([](Store& s) { return s.CountQueued(100); }), IsOkAndHolds(12));
  EXPECT_THAT(Do([](Store& s) { return s.CountQueued(5); }), IsOkAndHolds(5));
}

TEST_P(StoreConformanceTest, BatchesAreListedNewestFirstInPages) {
  for (int i = 0; i < 5; ++i) Submit(Submission(absl::StrCat("b", i), {}));
  std::vector<std::string> ids;
  uint64_t before = 0;
  int pages = 0;
  do {
    ASSERT_OK_AND_ASSIGN(BatchPage page, Do([&](Store& s) { return s.ListBatches(2, before); }));
    for (const v1::Batch& batch : page.batches) ids.push_back(batch.batch_id());
    before = page.next;
    ++pages;
  } while (before != 0);
  EXPECT_THAT(ids, ElementsAre("b4", "b3", "b2", "b1", "b0"));
  EXPECT_EQ(pages, 3);
}

TEST_P(StoreConformanceTest, ACoordinatorThatWasAwayGivesWorkersTime) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  now_ += absl::Hours(1);
  ASSERT_THAT(Do([&](Store& s) { return s.ExtendAllLeases(now_ + kLease); }), IsOk());
  EXPECT_THAT(Expire(), IsEmpty());
  now_ += kLease;
  EXPECT_THAT(Expire(), SizeIs(1));
}

TEST_P(StoreConformanceTest, AWorkerThatIsGoneKeepsItsLeasesForTheGraceAlone) {
  Submit(Submission("b1", {"bert", "vit", "gpt2"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Lease("b1.vit", "w2"), IsOk());
  const absl::Duration grace = absl::Milliseconds(500);
  ASSERT_THAT(Do([&](Store& s) { return s.ShortenLeases("w1", now_ + grace); }), IsOk());
  EXPECT_THAT(Expire(), IsEmpty());
  // It never makes a lease longer.
  ASSERT_THAT(Do([&](Store& s) { return s.ShortenLeases("w1", now_ + 2 * kLease); }), IsOk());
  now_ += grace;
  const std::vector<LostAttempt> lost = Expire();
  ASSERT_THAT(lost, SizeIs(1));
  EXPECT_EQ(lost[0].attempt.job_id(), "b1.bert");
  EXPECT_EQ(Job("b1.vit").state(), v1::RUNNING);
}

TEST_P(StoreConformanceTest, AWorkerThatComesBackWithinTheGraceKeepsItsAttempts) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Do([&](Store& s) { return s.ShortenLeases("w1", now_ + absl::Milliseconds(500)); }), IsOk());
  ASSERT_OK_AND_ASSIGN(AdoptedAttempts adopted, Do([&](Store& s) {
                         return s.AdoptAttempts("w1", false, {Ref("b1.bert", 1)}, now_, now_ + kLease);
                       }));
  EXPECT_THAT(adopted.keep, SizeIs(1));
  now_ += kLease - absl::Milliseconds(1);
  EXPECT_THAT(Expire(), IsEmpty());
}

TEST_P(StoreConformanceTest, RunningAttemptsAreCountedBySubmitter) {
  Submit(Submission("b1", {"bert", "vit"}, "ada"));
  Submit(Submission("b2", {"bert", "vit"}, "bob"));
  Submit(Submission("b3", {"bert"}, "eve"));
  for (const std::string job : {"b1.bert", "b1.vit", "b2.bert"}) ASSERT_THAT(Lease(job, "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.vit", 1, v1::PASSED)), IsOk());
  ASSERT_OK_AND_ASSIGN(auto running, Do([](Store& s) { return s.RunningBySubmitter(); }));
  EXPECT_THAT(running, ::testing::UnorderedElementsAre(::testing::Pair("ada", 1), ::testing::Pair("bob", 1)));
}

TEST_P(StoreConformanceTest, WorkersAreRemembered) {
  WorkerRecord worker;
  worker.summary.set_name("w1");
  worker.instance = "first";
  ASSERT_THAT(Do([&](Store& s) { return s.PutWorker(worker); }), IsOk());
  worker.instance = "second";
  ASSERT_THAT(Do([&](Store& s) { return s.PutWorker(worker); }), IsOk());
  ASSERT_OK_AND_ASSIGN(auto found, Do([](Store& s) { return s.FindWorker("w1"); }));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->instance, "second");
  ASSERT_OK_AND_ASSIGN(auto unknown, Do([](Store& s) { return s.FindWorker("w2"); }));
  EXPECT_FALSE(unknown.has_value());
  EXPECT_THAT(Do([](Store& s) { return s.ListWorkers(); }), IsOkAndHolds(SizeIs(1)));
}

TEST_P(StoreConformanceTest, RollbackTakesEverythingBack) {
  Submit(Submission("b1", {"bert"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  store_->TakeTouched();
  ASSERT_THAT(store_->Begin(), IsOk());
  ASSERT_THAT(store_->CommitResult(Result("b1.bert", 1, v1::FAILED), now_), IsOk());
  ASSERT_THAT(store_->SubmitBatch(Submission("b2", {"vit"}), now_), IsOk());
  store_->Rollback();
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
  EXPECT_EQ(Job("b1.bert").state(), v1::RUNNING);
  EXPECT_THAT(Events("b1"), SizeIs(1));
  EXPECT_THAT(Do([](Store& s) { return s.GetBatch("b2"); }), StatusIs(absl::StatusCode::kNotFound));
  // Nothing of it lingers: the same result counts, and is not flaky.
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, Commit(Result("b1.bert", 1, v1::PASSED)));
  EXPECT_TRUE(ack.counted());
  EXPECT_FALSE(Job("b1.bert").flaky());
  EXPECT_EQ(Submit(Submission("b2", {"vit"})).total(), 1);
}

TEST_P(StoreConformanceTest, CountsWhatWaitsAndWhatRuns) {
  const absl::Time first = now_;
  Submit(Submission("b1", {"bert", "gpt2", "vit"}));
  now_ += absl::Seconds(60);
  Submit(Submission("b2", {"t5"}));
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  ASSERT_THAT(Lease("b1.gpt2", "w1"), IsOk());
  ASSERT_THAT(Commit(Result("b1.gpt2", 1, v1::PASSED)), IsOk());
  ASSERT_OK_AND_ASSIGN(std::vector<JobCount> counts, Do([](Store& s) { return s.CountJobs(); }));
  ASSERT_THAT(counts, SizeIs(2));
  for (const JobCount& count : counts) {
    EXPECT_EQ(count.jobs, count.state == v1::QUEUED ? 2u : 1u);
    EXPECT_FALSE(count.needs_exporter);
    EXPECT_EQ(count.oldest, first);
  }
  EXPECT_NE(counts[0].state, counts[1].state);
}

TEST_P(StoreConformanceTest, TouchedBatchesAreToldOnce) {
  Submit(Submission("b1", {"bert"}));
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());  // a new batch has no event
  ASSERT_THAT(Lease("b1.bert", "w1"), IsOk());
  EXPECT_THAT(store_->TakeTouched(), ElementsAre("b1"));
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
}

}  // namespace assay::coordinator

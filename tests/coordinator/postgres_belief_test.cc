// What a store remembers of jobs that run is believed only where the database still has it so; and databases
// of earlier releases are brought forward with all that they hold.
#include <algorithm>
#include <set>

#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_schema.h"
#include "coordinator/store/postgres_store.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class BeliefTest : public ::testing::Test {
 protected:
  void SetUp() override {
    url_ = PostgresServer::Get().NewStore();
    ASSERT_OK_AND_ASSIGN(one_, OpenPostgresStore(url_, 3));
    ASSERT_OK_AND_ASSIGN(other_, OpenPostgresStore(url_, 3));
    ASSERT_THAT(
        Transact(*one_, [](Store& s) { return s.SubmitBatch(Submission("b", {"bert"}), s.Now()).status(); }),
        IsOk());
    ASSERT_THAT(Transact(*one_, [](Store& s) { return LeaseTo(s, "w1"); }), IsOk());
  }
  static absl::Status LeaseTo(Store& s, const std::string& worker) {
    return s.Lease("b.bert", worker, s.Now(), s.Now() + absl::Minutes(1), Given).status();
  }
  // Once; what is not committed is taken back.
  static absl::Status Transact(Store& store, const std::function<absl::Status(Store&)>& work) {
    absl::Status status = store.Begin();
    if (status.ok()) status = work(store);
    if (status.ok()) status = store.Commit();
    if (!status.ok()) store.Rollback();
    return status;
  }
  absl::Status LoseElsewhere() {
    return Transact(*other_, [](Store& s) -> absl::Status {
      auto lost = s.ExpireLeases(s.Now() + absl::Hours(1));
      if (!lost.ok()) return lost.status();
      return lost->size() == 1 ? absl::OkStatus() : absl::InternalError("nothing was lost");
    });
  }
  static absl::Status End(Store& s, uint64_t attempt, const std::string& worker) {
    auto ack = s.CommitResult(Result("b.bert", attempt, v1::PASSED), s.Now(), worker);
    if (!ack.ok()) return ack.status();
    return ack->counted() ? absl::OkStatus() : absl::InternalError("not counted");
  }
  v1::Job Job() {
    auto job = other_->GetJob("b.bert");
    EXPECT_THAT(job, IsOk());
    return *job;
  }

  std::string url_;
  std::unique_ptr<Store> one_, other_;
};

TEST_F(BeliefTest, WhatIsStillSoIsCountedWithoutBeingRead) {
  // Nobody reads it: with the row's content gone, a store that reads it cannot.
  ASSERT_THAT(PostgresServer::Get().Run(url_, "UPDATE assay.jobs SET job = '\\xff'"), IsOk());
  EXPECT_THAT(other_->GetJob("b.bert"), StatusIs(absl::StatusCode::kDataLoss));
  ASSERT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }), IsOk());
  EXPECT_EQ(Job().state(), v1::DONE);
  EXPECT_EQ(Job().result().outcome(), v1::PASSED);
}

TEST_F(BeliefTest, AnAttemptThatWasLostElsewhereCountsNothing) {
  ASSERT_THAT(LoseElsewhere(), IsOk());
  ASSERT_THAT(Transact(*other_, [](Store& s) { return LeaseTo(s, "w2"); }), IsOk());
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(Job().state(), v1::RUNNING);
  EXPECT_EQ(Job().attempt(), 2);
  // Run again, it is read.
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 2, "w2"); }), IsOk());
  EXPECT_EQ(Job().attempt(), 2);
  EXPECT_EQ(Job().state(), v1::DONE);
}

TEST_F(BeliefTest, ALeaseThatEndedElsewhereIsNotRenewed) {
  const auto renew = [](Store& s) -> absl::Status {
    auto others = s.ExtendLeases("w1", {Ref("b.bert", 1)}, s.Now() + absl::Minutes(2));
    if (!others.ok()) return others.status();
    return others->empty() ? absl::OkStatus() : absl::NotFoundError("not its to run");
  };
  ASSERT_THAT(Transact(*one_, renew), IsOk());
  ASSERT_THAT(Transact(*one_, renew), IsOk());  // by what it wrote itself
  ASSERT_THAT(LoseElsewhere(), IsOk());
  EXPECT_THAT(Transact(*one_, renew), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(Transact(*one_, renew), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(Job().state(), v1::QUEUED);
}

TEST_F(BeliefTest, ALeaseThatWasRenewedElsewhereIsReadAndCounted) {
  ASSERT_THAT(Transact(*other_,
                       [](Store& s) {
                         return s.ExtendLeases("w1", {Ref("b.bert", 1)}, s.Now() + absl::Minutes(2)).status();
                       }),
              IsOk());
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }), IsOk());
  EXPECT_EQ(Job().state(), v1::DONE);
}

TEST_F(BeliefTest, ANewerAttemptThanTheRememberedOneIsRead) {
  ASSERT_THAT(LoseElsewhere(), IsOk());
  ASSERT_THAT(Transact(*other_, [](Store& s) { return LeaseTo(s, "w2"); }), IsOk());
  // Its worker has come over: memory knows another attempt, and must not refuse this one.
  EXPECT_THAT(Transact(*one_, [](Store& s) { return End(s, 2, "w2"); }), IsOk());
  EXPECT_EQ(Job().state(), v1::DONE);
}

TEST_F(BeliefTest, NothingIsCommittedOnMemoryThatWasNotAskedFor) {
  EXPECT_THAT(Transact(*one_,
                       [](Store& s) {
                         Touches touches;
                         touches.attempts.push_back({Ref("b.bert", 1), "w1"});
                         return s.Take(touches);
                       }),
              StatusIs(absl::StatusCode::kAborted));
}

TEST_F(BeliefTest, AJobThatChangedSinceItWasSeenInTheQueueIsPassedOver) {
  ASSERT_THAT(LoseElsewhere(), IsOk());
  ASSERT_THAT(one_->Begin(), IsOk());
  EXPECT_THAT(one_->Queued(10), IsOkAndHolds(SizeIs(1)));
  // QUEUED as before, with another number.
  ASSERT_THAT(Transact(*other_, [](Store& s) { return LeaseTo(s, "w2"); }), IsOk());
  ASSERT_THAT(LoseElsewhere(), IsOk());
  ASSERT_THAT(one_->TakeQueued({"b.bert"}), IsOk());
  EXPECT_THAT(LeaseTo(*one_, "w1"), StatusIs(absl::StatusCode::kFailedPrecondition));
  one_->Rollback();
  EXPECT_EQ(Job().attempt(), 2);
}

// A coordinator that has heard of no other for a minute does not lock what it has seen waiting, and does not
// read a batch again that it wrote itself.
class AloneTest : public BeliefTest {
 protected:
  void SetUp() override {
    BeliefTest::SetUp();
    ASSERT_THAT(Transact(*one_,
                         [](Store& s) {
                           return s.SubmitBatch(Submission("c", {"gpt2", "vit"}), s.Now()).status();
                         }),
                IsOk());
    Silence();
  }
  // Nobody has written for long.
  void Silence() {
    ASSERT_THAT(PostgresServer::Get().Run(url_, "UPDATE assay.writers SET since = now() - interval '1 hour'"),
                IsOk());
  }
  static absl::Status StartAll(Store& s, const std::string& worker) {
    auto queued = s.Queued(10);
    if (!queued.ok()) return queued.status();
    std::vector<std::string> ids;
    for (const QueuedJob& job : *queued) ids.push_back(job.job_id);
    if (absl::Status taken = s.TakeQueued(ids); !taken.ok()) return taken;
    for (const std::string& id : ids) {
      auto started = s.Lease(id, worker, s.Now(), s.Now() + absl::Minutes(1), Given);
      if (!started.ok()) return started.status();
    }
    return absl::OkStatus();
  }
  static absl::Status EndOne(Store& s, const std::string& job, uint64_t attempt, const std::string& worker) {
    return s.CommitResult(Result(job, attempt, v1::PASSED), s.Now(), worker).status();
  }
  std::vector<std::string> Running() {
    EXPECT_THAT(other_->Begin(), IsOk());
    auto running = other_->Running();
    EXPECT_THAT(running, IsOk());
    other_->Rollback();
    std::vector<std::string> held;
    for (const RunningAttempt& attempt : *running) {
      held.push_back(
          absl::StrCat(attempt.attempt.job_id(), " ", attempt.attempt.attempt(), " ", attempt.worker));
    }
    return held;
  }
};

TEST_F(AloneTest, WhatWasSeenWaitingIsStarted) {
  ASSERT_THAT(Transact(*one_, [](Store& s) { return StartAll(s, "w1"); }), IsOk());
  EXPECT_THAT(Running(), UnorderedElementsAre("b.bert 1 w1", "c.gpt2 1 w1", "c.vit 1 w1"));
}

TEST_F(AloneTest, AJobThatSomebodyElseStartedMeanwhileIsNotStartedTwice) {
  ASSERT_THAT(one_->Begin(), IsOk());
  EXPECT_THAT(one_->Queued(10), IsOkAndHolds(SizeIs(2)));
  ASSERT_THAT(Transact(*other_, [](Store& s) { return StartAll(s, "w2"); }), IsOk());
  ASSERT_THAT(one_->TakeQueued({"c.gpt2", "c.vit"}), IsOk());
  ASSERT_THAT(one_->Lease("c.vit", "w1", one_->Now(), one_->Now() + absl::Minutes(1), Given), IsOk());
  EXPECT_THAT(one_->Commit(), StatusIs(absl::StatusCode::kAborted));
  one_->Rollback();
  EXPECT_THAT(Running(), UnorderedElementsAre("b.bert 1 w1", "c.gpt2 1 w2", "c.vit 1 w2"));
}

TEST_F(AloneTest, AJobThatWasQueuedAgainMeanwhileIsNotTakenForWhatItWas) {
  ASSERT_THAT(one_->Begin(), IsOk());
  EXPECT_THAT(one_->Queued(10), IsOkAndHolds(SizeIs(2)));
  ASSERT_THAT(Transact(*other_, [](Store& s) { return StartAll(s, "w2"); }), IsOk());
  ASSERT_THAT(
      Transact(*other_, [](Store& s) { return s.ExpireLeases(s.Now() + absl::Seconds(90)).status(); }),
      IsOk());
  EXPECT_THAT(StartAll(*one_, "w1"), IsOk());  // as it saw the queue before
  EXPECT_THAT(one_->Commit(), StatusIs(absl::StatusCode::kAborted));
  one_->Rollback();
  ASSERT_THAT(Transact(*one_, [](Store& s) { return StartAll(s, "w1"); }), IsOk());
  EXPECT_THAT(Running(), UnorderedElementsAre("b.bert 2 w1", "c.gpt2 2 w1", "c.vit 2 w1"));
}

TEST_F(AloneTest, WhatWasOnlySeenIsNotCancelledWhereItHasEndedMeanwhile) {
  ASSERT_THAT(one_->Begin(), IsOk());
  EXPECT_THAT(one_->Queued(10), IsOkAndHolds(SizeIs(2)));
  ASSERT_THAT(Transact(*other_, [](Store& s) { return StartAll(s, "w2"); }), IsOk());
  ASSERT_THAT(Transact(*other_, [](Store& s) { return EndOne(s, "c.vit", 1, "w2"); }), IsOk());
  ASSERT_THAT(one_->TakeQueued({"c.gpt2", "c.vit"}), IsOk());
  EXPECT_THAT(one_->CancelBatch("c", one_->Now()), IsOk());
  EXPECT_THAT(one_->Commit(), StatusIs(absl::StatusCode::kAborted));
  one_->Rollback();
  EXPECT_THAT(Running(), UnorderedElementsAre("b.bert 1 w1", "c.gpt2 1 w2"));
}

TEST_F(AloneTest, AStartThatIsUndoneInItsOwnTransactionLeavesTheJobWaiting) {
  ASSERT_THAT(Transact(*one_,
                       [](Store& s) -> absl::Status {
                         if (absl::Status started = StartAll(s, "w1"); !started.ok()) return started;
                         return s.ExpireLeases(s.Now() + absl::Hours(1)).status();
                       }),
              IsOk());
  EXPECT_THAT(Running(), ::testing::IsEmpty());
}

TEST_F(AloneTest, EventsAreNumberedOnWhereSomebodyElseWroteOfTheBatchMeanwhile) {
  ASSERT_THAT(Transact(*one_, [](Store& s) { return StartAll(s, "w1"); }), IsOk());
  Silence();
  ASSERT_THAT(Transact(*other_, [](Store& s) { return EndOne(s, "c.vit", 1, "w1"); }), IsOk());
  Silence();
  const auto end = [](Store& s) { return EndOne(s, "c.gpt2", 1, "w1"); };
  EXPECT_THAT(Transact(*one_, end), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(Transact(*one_, end), IsOk());
  ASSERT_THAT(other_->Begin(), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::Batch batch, other_->GetBatch("c"));
  EXPECT_EQ(batch.done(), 2u);
  EXPECT_TRUE(batch.has_end_time());
  ASSERT_OK_AND_ASSIGN(std::vector<v1::BatchEvent> events, other_->EventsAfter("c", 0, 100));
  other_->Rollback();
  ASSERT_THAT(events, SizeIs(5));  // two starts, two ends, the batch's
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), i + 1);
}

// Where much waits, the queue is read at the beginning of a transaction.
class ReadAheadTest : public BeliefTest {
 protected:
  void SetUp() override {
    BeliefTest::SetUp();
    std::vector<std::string> models;
    for (int i = 0; i < 300; ++i) models.push_back(absl::StrCat("m", 1000 + i));
    ASSERT_THAT(
        Transact(*one_, [&](Store& s) { return s.SubmitBatch(Submission("c", models), s.Now()).status(); }),
        IsOk());
    ASSERT_THAT(Transact(*one_, [](Store& s) { return s.Queued(150).status(); }), IsOk());
  }
};

TEST_F(ReadAheadTest, WhatThisTransactionQueuesIsSeen) {
  ASSERT_THAT(one_->Begin(), IsOk());
  BatchSubmission urgent = Submission("d", {"urgent"});
  urgent.jobs.front().priority = Priority::kCritical;
  ASSERT_THAT(one_->SubmitBatch(urgent, one_->Now()), IsOk());
  ASSERT_OK_AND_ASSIGN(std::vector<QueuedJob> queued, one_->Queued(150));
  EXPECT_TRUE(std::any_of(queued.begin(), queued.end(),
                          [](const QueuedJob& job) { return job.job_id == "d.urgent"; }));
  one_->Rollback();
}

TEST_F(ReadAheadTest, WhatThisTransactionTakesOutOfTheQueueIsNotSeen) {
  ASSERT_THAT(one_->Begin(), IsOk());
  ASSERT_THAT(one_->CancelBatch("c", one_->Now()), IsOk());
  EXPECT_THAT(one_->Queued(150), IsOkAndHolds(SizeIs(0)));
  one_->Rollback();
}

TEST_F(ReadAheadTest, WhatWasStartedIsNotSeenAgain) {
  std::set<std::string> started;
  for (int round = 0; round < 3; ++round) {
    ASSERT_THAT(one_->Begin(), IsOk());
    ASSERT_OK_AND_ASSIGN(std::vector<QueuedJob> queued, one_->Queued(150));
    ASSERT_GE(queued.size(), 100u);
    for (size_t i = 0; i < 100; ++i) {
      EXPECT_TRUE(started.insert(queued[i].job_id).second) << queued[i].job_id;
      ASSERT_THAT(one_->Lease(queued[i].job_id, "w1", one_->Now(), one_->Now() + absl::Minutes(1), Given),
                  IsOk());
    }
    ASSERT_THAT(one_->Commit(), IsOk());
  }
  ASSERT_THAT(one_->Begin(), IsOk());
  EXPECT_THAT(one_->Queued(150), IsOkAndHolds(SizeIs(0)));
  one_->Rollback();
}

TEST_F(ReadAheadTest, WhatIsAskedForAndNotLookedAtIsInNobodysWay) {
  ASSERT_THAT(Transact(*one_, [](Store& s) { return End(s, 1, "w1"); }), IsOk());
  EXPECT_EQ(Job().state(), v1::DONE);
  ASSERT_THAT(Transact(*one_, [](Store& s) { return s.Queued(200).status(); }), IsOk());
}

// What each table held before is in the rows that it has now, column by column.
TEST(PostgresMigrationTest, EveryReleasedSchemaComesForwardWithAllThatItHolds) {
  for (const size_t version : {3, 4, 5}) {
    SCOPED_TRACE(version);
    PostgresServer& server = PostgresServer::Get();
    const std::string url = server.NewDatabase();
    ASSERT_OK_AND_ASSIGN(auto connection, PostgresConnection::Connect(url, "test"));
    const std::vector<std::string>& steps = PostgresSchemaSteps();
    ASSERT_THAT(MigratePostgres(*connection, {steps.begin(), steps.begin() + static_cast<long>(version)}),
                IsOk());
    v1::Batch batch;
    batch.set_batch_id("b");
    batch.set_total(3);
    batch.set_done(1);
    ASSERT_THAT(connection->Read("INSERT INTO assay.batches (batch_id, request_id, request_digest,"
                                 " last_sequence, batch) VALUES ('b', 'r', 'd', 0, $1)",
                                 PostgresParameters().Bytes(batch.SerializeAsString())),
                IsOk());
    int ordinal = 0;
    for (const char* model : {"done", "queued", "running"}) {
      v1::Job job;
      job.set_job_id(absl::StrCat("b.", model));
      job.set_batch_id("b");
      job.mutable_model()->set_name(model);
      job.mutable_target()->set_device(v1::CPU);
      job.mutable_target()->set_dtype(v1::FLOAT16);
      const bool runs = job.job_id() == "b.running";
      job.set_state(job.job_id() == "b.done" ? v1::DONE : v1::QUEUED);  // of a start the columns tell
      if (job.state() == v1::DONE) *job.mutable_result() = Result("b.done", 1, v1::FAILED).result();
      PostgresParameters values;
      values.Bytes(job.job_id()).Int(ordinal++).Int(runs ? v1::RUNNING : job.state());
      values.Bytes(job.SerializeAsString()).Int(runs ? 2 : 0).Bytes(runs ? "w1" : "");
      ASSERT_THAT(
          connection->Read("INSERT INTO assay.jobs (job_id, batch_id, submitter, priority, batch_number,"
                           " ordinal, needs_exporter, device, route, state, expected_seconds, lease_until,"
                           " setbacks, assigned, job, attempt, worker, started, answered) VALUES ($1, 'b',"
                           " 'ada', 1, 1, $2, false, 1, '', $3, 7.5, now() + interval '1 hour', 1, '', $4,"
                           " $5, $6, 1700000000000000000, 0)",
                           values),
          IsOk());
    }
    ASSERT_THAT(
        connection->Execute("INSERT INTO assay.answers VALUES ('b.running', 1, false, 'queued again');"
                            "INSERT INTO assay.timings VALUES ('done', 'CPU/FLOAT16', 7.5);"
                            "INSERT INTO assay.failed_inputs VALUES ('x');"
                            "INSERT INTO assay.cordons VALUES ('w2', 'hot');"
                            "INSERT INTO assay.workers (name, instance, summary) VALUES ('w1', 'i', '');"
                            "INSERT INTO assay.tokens VALUES ('t', 'h', '');"
                            "INSERT INTO assay.audit (time, entry) VALUES (now(), '');"
                            "CREATE TABLE before (name text, held jsonb);"),
        IsOk());
    const std::vector<std::string> tables = {"batches", "jobs",    "answers", "timings", "failed_inputs",
                                             "cordons", "workers", "tokens",  "audit"};
    for (const std::string& table : tables) {
      ASSERT_THAT(connection->Execute(absl::StrCat("INSERT INTO before SELECT '", table,
                                                   "', to_jsonb(t) FROM assay.", table, " t")),
                  IsOk());
    }
    ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
    for (const std::string& table : tables) {
      EXPECT_THAT(
          connection->Execute(absl::StrCat(
              "DO $$ BEGIN ASSERT (SELECT count(*) FROM before WHERE name = '", table,
              "') > 0; ASSERT NOT EXISTS (SELECT FROM before b WHERE name = '", table,
              "' AND NOT EXISTS (SELECT FROM assay.", table, " n WHERE to_jsonb(n) @> b.held)); END $$")),
          IsOk())
          << table;
    }
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_OK_AND_ASSIGN(std::vector<v1::Job> jobs, store->ListJobs("b"));
    ASSERT_THAT(jobs, SizeIs(3));
    EXPECT_EQ(jobs[0].result().outcome(), v1::FAILED);
    EXPECT_EQ(jobs[1].state(), v1::QUEUED);
    EXPECT_EQ(jobs[2].state(), v1::RUNNING);
    EXPECT_EQ(jobs[2].worker(), "w1");
    ASSERT_OK_AND_ASSIGN(v1::ResultAck ack,
                         store->CommitResult(Result("b.running", 2, v1::PASSED), store->Now(), "w1"));
    EXPECT_TRUE(ack.counted());
    ASSERT_OK_AND_ASSIGN(std::vector<JobCount> counts, store->CountJobs());
    uint64_t waiting = 0;
    for (const JobCount& count : counts) waiting += count.state == v1::QUEUED ? count.jobs : 0;
    EXPECT_EQ(waiting, 1u);
    store->Rollback();
  }
}

}  // namespace
}  // namespace assay::coordinator

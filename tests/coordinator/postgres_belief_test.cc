// What a store remembers of jobs that run is believed only where the database still has it so; and databases
// of earlier releases are brought forward with all that they hold.
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_schema.h"
#include "coordinator/store/postgres_store.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::SizeIs;

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

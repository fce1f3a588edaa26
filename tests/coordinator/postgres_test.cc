// The conformance suite on PostgreSQL, and what only a server that can be lost does to a store.
#include "coordinator/store/postgres.h"

#include <array>
#include <cstdio>
#include <cstdlib>

#include "coordinator/store/postgres_schema.h"
#include "coordinator/store/postgres_store.h"
#include "tests/coordinator/access_conformance.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/postgres_wire.h"
#include "tests/coordinator/server_fixture.h"
#include "tests/coordinator/stage_conformance.h"
#include "tests/coordinator/store_conformance.h"

namespace assay::coordinator {
namespace {

const auto kPostgres =
    ::testing::Values(StoreMaker{"Postgres", [](uint32_t attempts) -> std::unique_ptr<Store> {
                                   auto store = OpenPostgresStore(PostgresServer::Get().NewStore(), attempts);
                                   EXPECT_THAT(store, IsOk());
                                   if (!store.ok()) return nullptr;
                                   return *std::move(store);
                                 }});
INSTANTIATE_TEST_SUITE_P(Stores, StoreConformanceTest, kPostgres,
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Stores, StageConformanceTest, kPostgres,
                         [](const auto& info) { return info.param.name; });

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
const PostgresPatience kImpatient = {absl::Milliseconds(20), absl::ZeroDuration()};

class PostgresStoreTest : public ::testing::Test {
 protected:
  // As an administrator who ends the coordinator's session, and waits until it is gone.
  void EndSessions(const std::string& url) {
    EXPECT_THAT(server_.Run(url,
                            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                            " WHERE datname = current_database() AND pid <> pg_backend_pid()"),
                IsOk());
  }
  static void Submit(Store& store, const std::string& batch) {
    ASSERT_THAT(store.Begin(), IsOk());
    ASSERT_THAT(store.SubmitBatch(Submission(batch, {"bert"}), kNow), IsOk());
    ASSERT_THAT(store.Commit(), IsOk());
  }
  // Until there is a server that lets it.
  static void BeginAtLast(Store& store) {
    absl::Status begun = store.Begin();
    while (begun.code() == absl::StatusCode::kUnavailable) begun = store.Begin();
    ASSERT_THAT(begun, IsOk());
  }

  PostgresServer& server_ = PostgresServer::Get();
};

TEST_F(PostgresStoreTest, MakesItsTablesAndRemembers) {
  const std::string url = server_.NewDatabase();
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
    Submit(*store, "b1");
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_THAT(store->Lease("b1.bert", "w1", kNow, kNow + absl::Seconds(1), Given), IsOk());
    ASSERT_THAT(store->Commit(), IsOk());
    // Not committed: as if the process had died.
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_THAT(store->CommitResult(Result("b1.bert", 1, v1::PASSED), kNow), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  ASSERT_OK_AND_ASSIGN(v1::Job job, store->GetJob("b1.bert"));
  EXPECT_EQ(job.state(), v1::RUNNING);
  EXPECT_THAT(store->EventsAfter("b1", 0, 10), IsOkAndHolds(SizeIs(1)));
}

TEST_F(PostgresStoreTest, ACoordinatorOfTheFirstReleaseHasItsDatabaseForItself) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto old, PostgresConnection::Connect(url, "old"));
  ASSERT_THAT(old->Execute("SELECT pg_advisory_lock(24947, 2)"), IsOk());
  EXPECT_THAT(OpenPostgresStore(url, 3, kImpatient),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("stop that one first")));
  old.reset();
  ASSERT_OK_AND_ASSIGN(auto first, OpenPostgresStore(url, 3));
  EXPECT_THAT(OpenPostgresStore(url, 3), IsOk()) << "newer ones share it";
}

TEST_F(PostgresStoreTest, ASessionThatEndedBetweenTransactionsIsMadeAgain) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  Submit(*store, "b1");
  EndSessions(url);
  Submit(*store, "b2");
}

TEST_F(PostgresStoreTest, ATransactionThatLosesItsConnectionFailsWhole) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->SubmitBatch(Submission("b1", {"bert"}), kNow), IsOk());
  EndSessions(url);
  EXPECT_THAT(store->GetBatch("b1"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store->GetBatch("b1"), StatusIs(absl::StatusCode::kUnavailable));
  store->Rollback();
  ASSERT_THAT(store->Begin(), IsOk());
  EXPECT_THAT(store->GetBatch("b1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store->Commit(), IsOk());
}

TEST_F(PostgresStoreTest, AWriteThatTheServerRefusesComesOutOfTheCommit) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  WorkerRecord worker;
  worker.summary.set_name(std::string("w\0rm", 4));  // no text to PostgreSQL
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->SubmitBatch(Submission("b1", {"bert"}), kNow), IsOk());
  ASSERT_THAT(store->PutWorker(worker), IsOk()) << "it was not to wait for the answer";
  EXPECT_THAT(store->Commit(), StatusIs(absl::StatusCode::kInternal));
  store->Rollback();
  EXPECT_THAT(store->GetBatch("b1"), StatusIs(absl::StatusCode::kNotFound));
  Submit(*store, "b1");
}

TEST_F(PostgresStoreTest, ATransactionInWhichSomethingFailedDoesNotCommit) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  WorkerRecord worker;
  worker.summary.set_name(std::string("w\0rm", 4));
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->PutWorker(worker), IsOk());
  EXPECT_THAT(store->ListWorkers(), StatusIs(absl::StatusCode::kInternal));
  // Its COMMIT is no error to the server, which rolls back.
  EXPECT_THAT(store->Commit(), StatusIs(absl::StatusCode::kInternal));
}

class LostCommitTest : public PostgresStoreTest {
 protected:
  // A job of b1 runs; its result waits to be committed through the wire.
  void Prepare(const PostgresPatience& patience) {
    url_ = server_.NewStore();
    const std::string database = url_.substr(url_.find("/t") + 1, url_.find('?') - url_.find("/t") - 1);
    auto store = OpenPostgresStore(server_.UrlOf(database, wire_.folder()), 3, patience);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
    Submit(*store_, "b1");
    ASSERT_THAT(store_->Begin(), IsOk());
    ASSERT_THAT(store_->Lease("b1.bert", "w1", kNow, kNow + absl::Seconds(1), Given), IsOk());
    ASSERT_THAT(store_->Commit(), IsOk());
    EXPECT_THAT(store_->TakeTouched(), ElementsAre("b1"));
    ASSERT_THAT(store_->Begin(), IsOk());
    ASSERT_THAT(store_->CommitResult(Result("b1.bert", 1, v1::PASSED), kNow), IsOk());
    // Seen in its events, all of it is written: nothing but the COMMIT itself is left for Commit to say.
    ASSERT_THAT(store_->EventsAfter("b1", 0, 10), IsOkAndHolds(SizeIs(3)));
  }
  void ExpectCountedOnce() {
    BeginAtLast(*store_);
    ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, store_->CommitResult(Result("b1.bert", 1, v1::PASSED), kNow));
    EXPECT_TRUE(ack.counted());
    ASSERT_THAT(store_->Commit(), IsOk());
    ASSERT_OK_AND_ASSIGN(v1::Batch batch, store_->GetBatch("b1"));
    EXPECT_EQ(batch.done(), 1);
    EXPECT_EQ(batch.counts(0).count(), 1);
    EXPECT_THAT(store_->EventsAfter("b1", 0, 10), IsOkAndHolds(SizeIs(3)));
  }

  PostgresWire wire_{server_.socket()};
  std::string url_;
  std::unique_ptr<Store> store_;
};

TEST_F(LostCommitTest, OneThatWasDoneAndNotAnsweredIsDone) {
  Prepare({});
  wire_.Arm(PostgresWire::Cut::kBeforeTheClient);
  ASSERT_THAT(store_->Commit(), IsOk());
  EXPECT_THAT(store_->TakeTouched(), ElementsAre("b1"));
  ExpectCountedOnce();
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
}

TEST_F(LostCommitTest, OneThatDidNotArriveIsNotDone) {
  Prepare({});
  wire_.Arm(PostgresWire::Cut::kBeforeTheServer);
  ASSERT_THAT(store_->Commit(), StatusIs(absl::StatusCode::kUnavailable));
  store_->Rollback();
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
  ASSERT_THAT(store_->Begin(), IsOk());
  EXPECT_THAT(store_->EventsAfter("b1", 0, 10), IsOkAndHolds(SizeIs(1)));
  ASSERT_THAT(store_->Commit(), IsOk());
  ExpectCountedOnce();
  EXPECT_THAT(store_->TakeTouched(), ElementsAre("b1"));
}

// Watchers wait for the batch's end: nobody else would tell them of it.
TEST_F(LostCommitTest, OneThatTurnsOutToBeDoneLaterIsToldThen) {
  Prepare(kImpatient);
  wire_.Arm(PostgresWire::Cut::kBeforeTheClient, /*closed=*/true);
  ASSERT_THAT(store_->Commit(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("repeat")));
  store_->Rollback();
  EXPECT_THAT(store_->Begin(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
  wire_.Open();
  // Taken back, a transaction tells nothing; the next one does.
  BeginAtLast(*store_);
  store_->Rollback();
  EXPECT_THAT(store_->TakeTouched(), IsEmpty());
  ExpectCountedOnce();
  EXPECT_THAT(store_->TakeTouched(), ElementsAre("b1"));
}

TEST_F(PostgresStoreTest, LeasesDoNotRunWhileTheServerIsAway) {
  const std::string url = server_.NewStore();
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  Submit(*store, "b1");
  const absl::Time until = kNow + absl::Seconds(10);
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->Lease("b1.bert", "w1", kNow, until, Given), IsOk());
  ASSERT_THAT(store->Commit(), IsOk());
  server_.Kill();
  EXPECT_THAT(store->Begin(), StatusIs(absl::StatusCode::kUnavailable));
  server_.Start();
  BeginAtLast(*store);
  // It was away for some time, and that much later the lease ends.
  EXPECT_THAT(store->ExpireLeases(until), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(store->ExpireLeases(until + absl::Hours(1)), IsOkAndHolds(SizeIs(1)));
  ASSERT_THAT(store->Commit(), IsOk());
}

TEST_F(PostgresStoreTest, RefusesASchemaThatIsNewer) {
  const std::string url = server_.NewStore();
  ASSERT_THAT(server_.Run(url, "INSERT INTO assay.schema_versions (version) VALUES (999)"), IsOk());
  EXPECT_THAT(OpenPostgresStore(url, 3), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("999")));
}

TEST_F(PostgresStoreTest, RefusesADatabaseThatCannotHoldEveryName) {
  const std::string url = server_.NewDatabase("ENCODING 'SQL_ASCII' TEMPLATE template0");
  EXPECT_THAT(OpenPostgresStore(url, 3),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("SQL_ASCII")));
}

TEST_F(PostgresStoreTest, AnOlderSchemaIsBroughtForwardWholeOrNotAtAll) {
  const std::string url = server_.NewStore();
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
    Submit(*store, "b1");
  }
  std::vector<std::string> steps = PostgresSchemaSteps();
  steps.push_back("ALTER TABLE assay.jobs ADD COLUMN pool text NOT NULL DEFAULT 'any'");
  steps.push_back("DROP TABLE assay.nothing");
  ASSERT_OK_AND_ASSIGN(auto connection, PostgresConnection::Connect(url, "test"));
  EXPECT_FALSE(MigratePostgres(*connection, steps).ok());
  EXPECT_FALSE(connection->Execute("SELECT pool FROM assay.jobs").ok());
  steps.back() = "UPDATE assay.jobs SET pool = 'gpu'";
  ASSERT_THAT(MigratePostgres(*connection, steps), IsOk());
  ASSERT_THAT(MigratePostgres(*connection, steps), IsOk()) << "once is enough";
  ASSERT_OK_AND_ASSIGN(PostgresRows rows, connection->Read("SELECT pool FROM assay.jobs"));
  ASSERT_EQ(rows.size(), 1);
  EXPECT_EQ(rows.Bytes(0, 0), "gpu");
}

// As the first release wrote it: without routes, and without what says who holds a worker.
TEST_F(PostgresStoreTest, TheFirstReleasesDatabaseIsBroughtForwardWithAllThatItHolds) {
  const std::string url = server_.NewDatabase();
  {
    ASSERT_OK_AND_ASSIGN(auto connection, PostgresConnection::Connect(url, "test"));
    ASSERT_THAT(MigratePostgres(*connection, {PostgresSchemaSteps().front()}), IsOk());
    v1::Batch batch;
    batch.set_batch_id("b1");
    batch.set_submitter("ada");
    batch.set_total(1);
    ASSERT_THAT(
        connection->Read("INSERT INTO assay.batches (batch_id, request_id, request_digest, last_sequence,"
                         " batch) VALUES ('b1', 'r', 'd', 0, $1) RETURNING number",
                         PostgresParameters().Bytes(batch.SerializeAsString())),
        IsOk());
    v1::Job job;
    job.set_job_id("b1.bert");
    job.set_batch_id("b1");
    job.mutable_model()->set_name("bert");
    job.mutable_target()->set_device(v1::CPU);
    job.mutable_target()->set_dtype(v1::FLOAT32);
    job.set_state(v1::QUEUED);
    ASSERT_THAT(
        connection->Read("INSERT INTO assay.jobs (job_id, batch_id, batch_number, ordinal, state, priority,"
                         " needs_exporter, device, submitter, expected_seconds, lease_until, setbacks,"
                         " assigned, job) VALUES ('b1.bert', 'b1', 1, 0, 1, 1, false, $1, 'ada', 3600,"
                         " '-infinity', 0, '', $2) RETURNING job_id",
                         PostgresParameters().Int(v1::CPU).Bytes(job.SerializeAsString())),
        IsOk());
    WorkerRecord worker;
    worker.summary.set_name("w1");
    ASSERT_THAT(connection->Read("INSERT INTO assay.workers (name, instance, summary) VALUES ('w1', 'i', $1)"
                                 " RETURNING name",
                                 PostgresParameters().Bytes(worker.summary.SerializeAsString())),
                IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  ASSERT_THAT(store->Begin(), IsOk());
  EXPECT_THAT(store->Queued(10), IsOkAndHolds(SizeIs(1)));
  ASSERT_OK_AND_ASSIGN(auto worker, store->FindWorker("w1"));
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->coordinator, "");
  EXPECT_EQ(worker->believed_until, absl::InfinitePast());
  ASSERT_THAT(store->Lease("b1.bert", "w1", kNow, kNow + absl::Seconds(9), Given), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, store->CommitResult(Result("b1.bert", 1, v1::PASSED), kNow));
  EXPECT_TRUE(ack.counted());
  ASSERT_THAT(store->Commit(), IsOk());
}

TEST_F(PostgresStoreTest, SaysWhatCannotBeReached) {
  EXPECT_THAT(OpenPostgresStore("postgres://assay@/no_such_database?host=" + server_.socket() + "/..", 3),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(OpenPostgresStore(server_.UrlOf("no_such_database"), 3),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no_such_database")));
}

TEST(PostgresUrlTest, IsNeverQuotedWhereItIsRefused) {
  for (const std::string url : {"mysql://ada:secret@host/name", "postgres://ada:se%zzcret@host/name",
                                "postgres://ada:secret@[::1/name", "postgres://ada:s/secret@host/name",
                                "postgres://ada:s@secret@host/name", "host=h password=secret",
                                "postgres://ada:secret@host/name?secret=1"}) {
    const absl::Status status = CheckPostgresUrl(url);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument)) << url;
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("secret")));
  }
  EXPECT_THAT(CheckPostgresUrl("postgresql://ada@h1:5432,h2:5433/name?sslmode=verify-full"), IsOk());
  EXPECT_FALSE(HasPassword("postgres://ada@host/name"));
  EXPECT_TRUE(HasPassword("postgres://ada:secret@host/name"));
  EXPECT_TRUE(HasPassword("postgres://ada@host/name?password=secret"));
}

class PostgresServerTest : public ServerTest {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = ServerTest::Options();
    options.database = url_;
    options.disconnect_grace = absl::Minutes(1);  // however long a restart takes on a busy machine
    return options;
  }
  std::string url_ = PostgresServer::Get().NewStore();
};

TEST_F(PostgresServerTest, ARestartedCoordinatorGoesOnWhereItWas) {
  v1::SubmitBatchRequest request;
  request.set_request_id("request");
  request.set_content(BatchContent({"bert", "roberta"}));
  request.mutable_target()->set_device(v1::CPU);
  v1::Batch batch;
  ASSERT_TRUE(Submit(request, &batch).ok());
  v1::Assignment first, second;
  {
    FakeWorker worker(channel_, HelloOf("w", "i", 2));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    first = *start;
    start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    second = *start;
    ASSERT_TRUE(worker.SendResult(first, v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
  }
  Restart();
  v1::Batch again;
  ASSERT_TRUE(Submit(request, &again).ok());
  EXPECT_EQ(again.batch_id(), batch.batch_id());
  EXPECT_EQ(again.done(), 1);
  FakeWorker worker(channel_, HelloOf("w", "i", 2, {second.attempt()}));
  ASSERT_TRUE(worker.SendResult(second, v1::PASSED));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  auto [events, status] = Watch(batch.batch_id(), 0);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(events, SizeIs(5));  // two started, two ended, and the batch
  EXPECT_EQ(events.back().batch().done(), 2);
  EXPECT_FALSE(std::filesystem::exists(data_dir_ / "assay.db"));
}

TEST_F(PostgresServerTest, WhileTheDatabaseIsAwayNothingIsPromised) {
  PostgresServer::Get().Kill();
  v1::SubmitBatchRequest request;
  request.set_request_id("request");
  request.set_content(BatchContent({"bert"}));
  v1::Batch batch;
  EXPECT_EQ(Submit(request, &batch).error_code(), grpc::StatusCode::UNAVAILABLE);
  PostgresServer::Get().Start();
  grpc::Status status = Submit(request, &batch);
  while (status.error_code() == grpc::StatusCode::UNAVAILABLE) status = Submit(request, &batch);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Get(batch.batch_id()).job_size(), 1);
}

TEST_F(PostgresServerTest, BlobsAreSomewhere) {
  ServerOptions options = Options();
  options.database.clear();
  options.data_dir.clear();
  options.blobs = "postgres";
  EXPECT_THAT(Server::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no database")));
  options.blobs = "/nowhere";
  EXPECT_THAT(Server::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("data folder")));
}

TEST(CoordinatorCommandTest, APasswordOnTheCommandLineIsRefusedAndNotRepeated) {
  ASSERT_NE(std::getenv("ASSAY_BUILD_DIR"), nullptr)
      << "run by ctest, or set ASSAY_BUILD_DIR to the build folder";
  const std::string command = absl::StrCat(std::getenv("ASSAY_BUILD_DIR"),
                                           "/bin/assay-coordinator --content-dir . --data-dir /nowhere"
                                           " --database postgres://ada:secret@127.0.0.1:1/x 2>&1");
  FILE* run = popen(command.c_str(), "r");
  ASSERT_NE(run, nullptr);
  std::string output;
  std::array<char, 4096> buffer;
  while (size_t got = fread(buffer.data(), 1, buffer.size(), run)) output.append(buffer.data(), got);
  EXPECT_EQ(WEXITSTATUS(pclose(run)), 2);
  EXPECT_THAT(output, HasSubstr("ASSAY_DATABASE"));
  EXPECT_THAT(output, ::testing::Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace assay::coordinator

// Backups by the commands that docs/operations.md names, taken while a coordinator serves, and what a
// coordinator makes of the state of yesterday.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "common/digest.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;

// Its exit code; `output` gets both streams.
int Shell(const std::string& command, std::string* output) {
  FILE* run = popen((command + " 2>&1").c_str(), "r");
  EXPECT_NE(run, nullptr);
  char buffer[4096];
  while (size_t got = fread(buffer, 1, sizeof(buffer), run)) output->append(buffer, got);
  return WEXITSTATUS(pclose(run));
}

std::string Coordinator() {
  const char* build = std::getenv("ASSAY_BUILD_DIR");
  EXPECT_NE(build, nullptr) << "run by ctest, or set ASSAY_BUILD_DIR to the build folder";
  return absl::StrCat(build == nullptr ? "." : build, "/bin/assay-coordinator");
}

class RestoreTest : public ServerTest {
 protected:
  // A batch of two jobs: one has ended, with a log; the other runs when `back_up` is called, and ends after
  // it.
  void LiveThrough(const std::function<void()>& back_up) {
    batch_ = Submit({"bert", "roberta"});
    FakeWorker worker(channel_, HelloOf("w", "before", 2));
    auto one = worker.AwaitStart(), two = worker.AwaitStart();
    ASSERT_TRUE(one.has_value() && two.has_value());
    ASSERT_TRUE(Upload(Sha256Hex(log_), log_.size(), log_, 100).ok());
    ASSERT_TRUE(worker.SendResult(*one, v1::PASSED, Sha256Hex(log_)));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    back_up();
    ASSERT_TRUE(worker.SendResult(*two, v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    late_ = *two;
    Submit({"vit"});  // of which yesterday knows nothing
  }
  // The server runs on the backup.
  void ExpectYesterdayGoesOn() {
    EXPECT_EQ(Get(batch_).batch().done(), 1);
    grpc::ClientContext context;
    v1::GetLogsRequest logs;
    logs.set_job_id(batch_ + ".bert");
    auto reader = batches_->GetLogs(&context, logs);
    v1::GetLogsResponse chunk;
    std::string log;
    while (reader->Read(&chunk)) log += chunk.chunk();
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(log, log_);
    // The worker has long been answered for what yesterday still runs: it names nothing, and gets it again.
    FakeWorker worker(channel_, HelloOf("w", "before", 2));
    auto again = worker.AwaitStart();
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->attempt().job_id(), late_.attempt().job_id());
    EXPECT_GT(again->attempt().attempt(), late_.attempt().attempt());
    // What was answered yesterday counts nothing now.
    ASSERT_TRUE(worker.SendResult(late_, v1::FAILED));
    auto stale = worker.AwaitAck();
    ASSERT_TRUE(stale.has_value());
    EXPECT_FALSE(stale->counted());
    ASSERT_TRUE(worker.SendResult(*again, v1::PASSED));
    auto ack = worker.AwaitAck();
    ASSERT_TRUE(ack.has_value());
    EXPECT_TRUE(ack->counted()) << ack->reason();
    auto [events, status] = Watch(batch_, 0);
    EXPECT_TRUE(status.ok()) << status.error_message();
    for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), i + 1);
    const v1::GetBatchResponse batch = Get(batch_);
    EXPECT_EQ(batch.batch().done(), 2);
    for (const v1::Job& job : batch.job()) EXPECT_EQ(job.result().outcome(), v1::PASSED);
  }

  const std::string log_ = std::string(1000, 'l');
  std::string batch_;
  v1::Assignment late_;
};

TEST_F(RestoreTest, AFolderThatWasBackedUpWhileItServedServes) {
  const std::string copy = data_dir_.string() + "-copy";
  LiveThrough([&] {
    std::string output;
    EXPECT_EQ(
        Shell(absl::StrCat(Coordinator(), " backup --data-dir ", data_dir_.string(), " ", copy), &output), 0)
        << output;
  });
  std::string output;
  EXPECT_EQ(Shell(absl::StrCat(Coordinator(), " backup --data-dir ", data_dir_.string(), " ", copy), &output),
            2);
  EXPECT_THAT(output, HasSubstr("there already"));
  server_.reset();
  std::filesystem::remove_all(data_dir_);
  std::filesystem::rename(copy, data_dir_);
  Start();
  ExpectYesterdayGoesOn();
}

TEST_F(RestoreTest, ThereIsNothingToBackUpWhereThereIsNoDatabase) {
  std::string output;
  EXPECT_EQ(Shell(absl::StrCat(Coordinator(), " backup --data-dir /nowhere /tmp/no-backup"), &output), 2);
  EXPECT_THAT(output, HasSubstr("/nowhere"));
  EXPECT_FALSE(std::filesystem::exists("/tmp/no-backup"));
}

TEST_F(RestoreTest, PruningBesideACoordinatorThatServesDropsWhatIsOldAlone) {
  FakeWorker worker(channel_, HelloOf("w", "i", 3));
  const std::string ended = Submit({"bert"});
  ASSERT_TRUE(worker.AwaitStart().has_value());
  ASSERT_TRUE(worker.SendResult(Ref(ended + ".bert", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  clock_.Advance(absl::Seconds(1));
  const std::string running = Submit({"bert", "roberta"});
  ASSERT_TRUE(worker.AwaitStart().has_value() && worker.AwaitStart().has_value());
  ASSERT_TRUE(worker.SendResult(Ref(running + ".bert", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  std::string output;
  EXPECT_EQ(Shell(absl::StrCat(Coordinator(), " prune --keep-runs 1 --content-dir . --data-dir ",
                               data_dir_.string()),
                  &output),
            0);
  EXPECT_THAT(output, HasSubstr("dropped 1 batches with 1 jobs"));
  ASSERT_TRUE(worker.SendResult(Ref(running + ".roberta", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  EXPECT_EQ(Get(running).batch().done(), 2);
  grpc::ClientContext context;
  v1::GetBatchRequest request;
  request.set_batch_id(ended);
  v1::GetBatchResponse response;
  EXPECT_EQ(batches_->GetBatch(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

class PostgresRestoreTest : public RestoreTest {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = RestoreTest::Options();
    options.data_dir.clear();
    options.database = url_;
    return options;
  }
  PostgresServer& postgres_ = PostgresServer::Get();
  std::string url_ = postgres_.NewStore();
};

TEST_F(PostgresRestoreTest, ADumpOfADatabaseThatWasInUseServes) {
  const std::string dump = absl::StrCat(::testing::TempDir(), "/", NewUuid(), ".dump");
  LiveThrough([&] {
    std::string output;
    EXPECT_EQ(Shell(absl::StrCat("pg_dump -Fc -f ", dump, " '", url_, "'"), &output), 0) << output;
  });
  server_.reset();
  url_ = postgres_.NewDatabase();
  std::string output;
  EXPECT_EQ(Shell(absl::StrCat("pg_restore --no-owner -d '", url_, "' ", dump), &output), 0) << output;
  Start();
  ExpectYesterdayGoesOn();
}

class BadDayTest : public PostgresRestoreTest {};

// As the server says it when its disk is full.
TEST_F(BadDayTest, ADatabaseThatIsFullLosesNothingThatWasAcceptedAndTakesNothingNew) {
  const std::string batch = Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  ASSERT_THAT(postgres_.Run(url_,
                            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                            " RAISE EXCEPTION 'could not extend file: No space left on device'"
                            " USING ERRCODE = '53100'; END $$;"
                            "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON assay.batches"
                            " FOR EACH ROW EXECUTE FUNCTION full_disk()"),
              IsOk());
  v1::SubmitBatchRequest request;
  request.set_request_id("request");
  request.set_content(BatchContent({"roberta"}));
  v1::Batch refused;
  const grpc::Status status = Submit(request, &refused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("No space left on device"));
  // The worker is told to come again with its result, which it keeps.
  ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Get(batch).batch().done(), 0);

  ASSERT_THAT(postgres_.Run(url_, "DROP TRIGGER full_disk ON assay.batches"), IsOk());
  FakeWorker again(channel_, HelloOf("w", "i", 1, {start->attempt()}));
  ASSERT_TRUE(again.SendResult(start->attempt(), TestResultOf(*start, v1::PASSED)));
  auto ack = again.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted()) << ack->reason();
  EXPECT_EQ(Get(batch).batch().done(), 1);
  EXPECT_TRUE(Submit(request, &refused).ok()) << "the same request, which was not accepted then";
}

}  // namespace
}  // namespace assay::coordinator

// Jobs with a checkpoint over a real channel: their export at workers labelled "exporter", then their test.
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/digest.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kPinnedInBatch[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

v1::Hello ExporterHello(const std::string& worker, const std::string& instance, uint32_t slots,
                        const std::vector<v1::AttemptRef>& attempts = {}) {
  v1::Hello hello = HelloOf(worker, instance, slots, attempts);
  hello.add_label("exporter=transformers 4.57.6");
  return hello;
}

class StageTest : public ServerTest {
 protected:
  // One job, of a checkpoint.
  std::string SubmitCheckpoint(const std::string& more = "", const std::string& revision = "main") {
    v1::SubmitBatchRequest request;
    request.set_request_id(NewUuid());
    request.set_name("test.json");
    request.set_content(absl::StrCat(R"({"encoder_only": [{"checkpoint": "acme/tiny@)", revision, R"(", )",
                                     more, R"("template": "bert", "task": "fill-mask"}]})"));
    request.mutable_target()->set_device(v1::CPU);
    v1::Batch batch;
    const grpc::Status status = ServerTest::Submit(request, &batch);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return batch.batch_id();
  }
  // What an honest exporter tells of a program and golden that it has uploaded.
  v1::TestResult Made(const v1::Assignment& given) {
    v1::TestResult result;
    result.set_outcome(v1::PASSED);
    v1::ExportResult& made = *result.mutable_export_();
    *made.mutable_checkpoint() = given.checkpoint();
    made.mutable_checkpoint()->set_commit(std::string(40, 'c'));
    made.mutable_checkpoint()->set_weights_digest(Sha256Hex("weights"));
    for (const std::string product : {"program", "golden"}) {
      EXPECT_TRUE(Upload(Sha256Hex(product), product.size(), product, 100).ok());
    }
    made.set_program_digest(Sha256Hex("program"));
    made.set_golden_digest(Sha256Hex("golden"));
    return result;
  }
  grpc::Status Logs(const std::string& job_id, v1::Stage stage, std::string* log) {
    grpc::ClientContext context;
    v1::GetLogsRequest request;
    request.set_job_id(job_id);
    request.set_stage(stage);
    auto stream = batches_->GetLogs(&context, request);
    v1::GetLogsResponse response;
    log->clear();
    while (stream->Read(&response)) *log += response.chunk();
    return stream->Finish();
  }
  // Answered in order: what was decided before is here when this returns.
  static void CatchUp(FakeWorker& worker) {
    ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
  }
};

TEST_F(StageTest, AnExportIsMadeThenItsTestIsGivenWhatItMade) {
  const std::string batch = SubmitCheckpoint();
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(exporting->checkpoint().id(), "acme/tiny");
  EXPECT_EQ(exporting->checkpoint().revision(), "main");
  EXPECT_FALSE(exporting->default_checkpoint());
  EXPECT_FALSE(exporting->has_export_());
  EXPECT_TRUE(IsDigest(exporting->template_digest()));
  std::string log;
  EXPECT_EQ(Logs(exporting->attempt().job_id(), v1::STAGE_EXPORT, &log).error_code(),
            grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(Upload(Sha256Hex("exported"), 8, "exported", 100).ok());
  const v1::TestResult made = Made(*exporting);
  ASSERT_TRUE(worker.SendResult(exporting->attempt(), made, Sha256Hex("exported")));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());

  auto testing = worker.AwaitStart();
  ASSERT_TRUE(testing.has_value());
  EXPECT_EQ(testing->stage(), v1::STAGE_TEST);
  EXPECT_EQ(testing->attempt().attempt(), 2);
  EXPECT_EQ(testing->checkpoint().commit(), std::string(40, 'c'));
  EXPECT_EQ(testing->checkpoint().weights_digest(), "") << "what was found is not what is pinned";
  EXPECT_EQ(testing->export_().SerializeAsString(), made.export_().SerializeAsString());
  EXPECT_TRUE(Logs(testing->attempt().job_id(), v1::STAGE_UNSPECIFIED, &log).ok());
  EXPECT_EQ(log, "exported");
  ASSERT_TRUE(Upload(Sha256Hex("tested"), 6, "tested", 100).ok());
  ASSERT_TRUE(worker.SendResult(*testing, v1::PASSED, Sha256Hex("tested")));
  ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  const v1::Job job = Get(batch).job(0);
  EXPECT_EQ(job.result().outcome(), v1::PASSED);
  EXPECT_EQ(job.ended_stage(0).worker(), "e");
  for (auto [stage, text] : {std::pair(v1::STAGE_UNSPECIFIED, "tested"), std::pair(v1::STAGE_TEST, "tested"),
                             std::pair(v1::STAGE_EXPORT, "exported")}) {
    EXPECT_TRUE(Logs(job.job_id(), stage, &log).ok());
    EXPECT_EQ(log, text);
  }
}

TEST_F(StageTest, AnExportWhoseProductsAreNotHereIsNotCounted) {
  const std::string batch = SubmitCheckpoint();
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  v1::TestResult made = Made(*exporting);
  made.mutable_export_()->set_golden_digest(Sha256Hex("never uploaded"));
  ASSERT_TRUE(worker.SendResult(exporting->attempt(), made));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  auto again = worker.AwaitStart();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->stage(), v1::STAGE_EXPORT);
  const v1::Job job = Get(batch).job(0);
  EXPECT_EQ(job.attempts(0).outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(job.attempts(0).message(), HasSubstr(Sha256Hex("never uploaded")));
}

TEST_F(StageTest, AnExportThatFailsIsItsJobsEnd) {
  const std::string batch = SubmitCheckpoint();
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  v1::TestResult failed;
  failed.set_outcome(v1::UNSUPPORTED);
  failed.set_message("the configuration wants code of its own");
  ASSERT_TRUE(worker.SendResult(exporting->attempt(), failed));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  auto [events, status] = Watch(batch, 0);
  EXPECT_TRUE(status.ok());
  const v1::Job job = Get(batch).job(0);
  EXPECT_EQ(job.result().outcome(), v1::UNSUPPORTED);
  EXPECT_EQ(job.result().message(), "export: the configuration wants code of its own");
}

TEST_F(StageTest, WithoutAnExporterAJobWaitsAndSaysWhyAndOthersGoOn) {
  FakeWorker plain(channel_, HelloOf("plain", "i", 2));
  ASSERT_TRUE(plain.AwaitWelcome().has_value());
  const std::string batch = SubmitCheckpoint();
  const std::string other = Submit({"bert"});
  auto start = plain.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->batch_id(), other);
  EXPECT_EQ(start->stage(), v1::STAGE_TEST) << "a default checkpoint is not tried where nobody exports";
  EXPECT_FALSE(start->has_checkpoint());
  CatchUp(plain);
  EXPECT_THAT(plain.starts(), IsEmpty());
  EXPECT_EQ(Get(batch).job(0).waiting(), "needs a worker labelled exporter; none is connected");
  FakeWorker exporter(channel_, ExporterHello("e", "i", 1));
  auto exporting = exporter.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->batch_id(), batch);
}

TEST_F(StageTest, ADefaultCheckpointIsTriedWhereSomeoneExportsAndMayBeMissing) {
  FakeWorker exporter(channel_, ExporterHello("e", "i", 1));
  ASSERT_TRUE(exporter.AwaitWelcome().has_value());
  const std::string batch = Submit({"bert"});
  auto exporting = exporter.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->stage(), v1::STAGE_EXPORT);
  EXPECT_TRUE(exporting->default_checkpoint());
  EXPECT_EQ(exporting->checkpoint().id(), "google-bert/bert-base-uncased");
  v1::TestResult skipped;
  skipped.set_outcome(v1::SKIPPED);
  skipped.set_message("NO_WEIGHTS: no such folder, and no hub is reachable");
  ASSERT_TRUE(exporter.SendResult(exporting->attempt(), skipped));
  auto testing = exporter.AwaitStart();
  ASSERT_TRUE(testing.has_value());
  EXPECT_EQ(testing->stage(), v1::STAGE_TEST);
  EXPECT_FALSE(testing->has_checkpoint());
  EXPECT_FALSE(testing->has_export_());
  ASSERT_TRUE(exporter.SendResult(*testing, v1::PASSED));
  auto [events, status] = Watch(batch, 0);
  EXPECT_TRUE(status.ok());
  const v1::Job job = Get(batch).job(0);
  EXPECT_EQ(job.result().outcome(), v1::PASSED);
  EXPECT_EQ(job.ended_stage(0).result().outcome(), v1::SKIPPED);
}

TEST_F(StageTest, EitherStageSurvivesARestartOfTheCoordinator) {
  const std::string batch = SubmitCheckpoint();
  v1::Assignment exporting, testing;
  {
    FakeWorker worker(channel_, ExporterHello("e", "i", 1));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    exporting = *start;
    server_->Shutdown();
    worker.Finish();
  }
  clock_.Advance(absl::Hours(1));
  Restart();
  {
    FakeWorker worker(channel_, ExporterHello("e", "i", 1, {exporting.attempt()}));
    ASSERT_TRUE(worker.SendResult(exporting.attempt(), Made(exporting)));
    auto ack = worker.AwaitAck();
    ASSERT_TRUE(ack.has_value());
    EXPECT_TRUE(ack->counted());
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    testing = *start;
    EXPECT_EQ(testing.stage(), v1::STAGE_TEST);
    server_->Shutdown();
    worker.Finish();
  }
  Restart();
  // Its acknowledgement was lost on the way: the export's result comes again, and changes nothing.
  FakeWorker worker(channel_, ExporterHello("e", "i", 1, {exporting.attempt(), testing.attempt()}));
  ASSERT_TRUE(worker.SendResult(exporting.attempt(), Made(exporting)));
  auto again = worker.AwaitAck();
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->counted());
  EXPECT_EQ(Get(batch).job(0).state(), v1::RUNNING);
  // What the test was given is known after the restart: other weights are noticed.
  v1::TestResult other = TestResultOf(testing, v1::PASSED);
  other.mutable_provenance()->set_golden_digest(Sha256Hex("other"));
  ASSERT_TRUE(worker.SendResult(testing.attempt(), other));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  auto third = worker.AwaitStart();
  ASSERT_TRUE(third.has_value());
  ASSERT_TRUE(worker.SendResult(*third, v1::PASSED));
  ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  EXPECT_THAT(worker.abandons(), IsEmpty());
  EXPECT_EQ(Get(batch).job(0).result().outcome(), v1::PASSED);
}

TEST_F(StageTest, AnExportOfALostExporterGoesToAnotherAndItsResultIsStale) {
  const std::string batch = SubmitCheckpoint();
  FakeWorker silent(channel_, ExporterHello("silent", "i", 1));
  auto lost = silent.AwaitStart();
  ASSERT_TRUE(lost.has_value());
  const v1::TestResult made = Made(*lost);
  clock_.Advance(kLease);
  FakeWorker other(channel_, ExporterHello("other", "i", 1));
  auto start = other.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(start->attempt().attempt(), 2);
  ASSERT_TRUE(silent.SendResult(lost->attempt(), made));
  auto ack = silent.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  EXPECT_EQ(Get(batch).job(0).ended_stage_size(), 0);
  ASSERT_TRUE(other.SendResult(start->attempt(), made));
  ack = other.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  EXPECT_EQ(Get(batch).job(0).ended_stage(0).worker(), "other");
}

TEST_F(StageTest, CancellingStopsAnExport) {
  const std::string batch = SubmitCheckpoint();
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  grpc::ClientContext context;
  v1::CancelBatchRequest request;
  request.set_batch_id(batch);
  v1::CancelBatchResponse response;
  ASSERT_TRUE(batches_->CancelBatch(&context, request, &response).ok());
  auto abandon = worker.AwaitAbandon();
  ASSERT_TRUE(abandon.has_value());
  EXPECT_EQ(abandon->job_id(), exporting->attempt().job_id());
  ASSERT_TRUE(worker.SendResult(exporting->attempt(), Made(*exporting)));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  EXPECT_EQ(Get(batch).job(0).result().outcome(), v1::CANCELLED);
}

// A content folder of its own, with an entry that knows acme/tiny.
class KnownCheckpointTest : public StageTest {
 protected:
  void SetUp() override {
    StageTest::SetUp();
    const fs::path here = fs::current_path(), models = data_dir_ / "content" / "models";
    fs::create_directories(models / "checkpoints");
    fs::create_symlink(here / "templates", data_dir_ / "content" / "templates");
    for (const char* part : {"registry.json", "catalogue", "programs"}) {
      fs::create_symlink(here / "models" / part, models / part);
    }
    entry_ = absl::StrCat("name: \"tiny\"\ncheckpoint: \"acme/tiny\"\nlicense: \"MIT\"\nsource: \"a test\"\n",
                          "weights_digest: \"", Sha256Hex("weights"), "\"\n");
    std::ofstream(models / "checkpoints" / "tiny.textproto") << entry_;
    ServerOptions options = Options();
    options.content_dir = data_dir_ / "content";
    server_.reset();
    auto server = Server::Start(options);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ =
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials());
    batches_ = v1::BatchService::NewStub(channel_);
    blobs_ = v1::BlobService::NewStub(channel_);
  }
  std::string entry_;
};

TEST_F(KnownCheckpointTest, ItsEntryAndWeightsArePartOfWhatIsGivenInBothStages) {
  SubmitCheckpoint();
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->checkpoint_entry_digest(), Sha256Hex(entry_));
  EXPECT_EQ(exporting->checkpoint().weights_digest(), Sha256Hex("weights"));
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.add_digest(exporting->checkpoint_entry_digest());
  auto stream = blobs_->Download(&context, request);
  v1::DownloadResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.chunk(), entry_);
  context.TryCancel();
  stream->Finish();
  ASSERT_TRUE(worker.SendResult(exporting->attempt(), Made(*exporting)));
  auto testing = worker.AwaitStart();
  ASSERT_TRUE(testing.has_value());
  EXPECT_EQ(testing->checkpoint_entry_digest(), Sha256Hex(entry_));
  EXPECT_EQ(testing->checkpoint().weights_digest(), Sha256Hex("weights"));
}

TEST_F(KnownCheckpointTest, WhatTheBatchPinsGoesBeforeWhatTheEntryPins) {
  SubmitCheckpoint(absl::StrCat(R"("weights_digest": ")", kPinnedInBatch, R"(", )"));
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->checkpoint().weights_digest(), kPinnedInBatch);
}

TEST_F(KnownCheckpointTest, TheEntrysPinIsOfMainAlone) {
  SubmitCheckpoint("", "v2");
  FakeWorker worker(channel_, ExporterHello("e", "i", 1));
  auto exporting = worker.AwaitStart();
  ASSERT_TRUE(exporting.has_value());
  EXPECT_EQ(exporting->checkpoint().weights_digest(), "");
}

class ArtifactKeyTest : public ServerTest {
 protected:
  grpc::Status UploadUnder(const std::string& key, const std::string& content, std::string* digest) {
    grpc::ClientContext context;
    v1::UploadResponse response;
    auto stream = blobs_->Upload(&context, &response);
    v1::UploadRequest request;
    request.set_digest(Sha256Hex(content));
    request.set_size(content.size());
    request.set_key(key);
    request.set_chunk(content);
    stream->Write(request);
    stream->WritesDone();
    grpc::Status status = stream->Finish();
    *digest = response.digest();
    return status;
  }
  grpc::Status Lookup(const std::vector<std::string>& keys, v1::LookupResponse* response) {
    grpc::ClientContext context;
    v1::LookupRequest request;
    for (const std::string& key : keys) request.add_key(key);
    return blobs_->Lookup(&context, request, response);
  }
};

TEST_F(ArtifactKeyTest, WhatWasMadeOnceIsFoundAgainAlsoAfterARestart) {
  const std::string key = Sha256Hex("key"), unknown = Sha256Hex("unknown");
  std::string digest;
  ASSERT_TRUE(UploadUnder(key, "first", &digest).ok());
  EXPECT_EQ(digest, Sha256Hex("first"));
  ASSERT_TRUE(UploadUnder(key, "second", &digest).ok());
  EXPECT_EQ(digest, Sha256Hex("first"));
  Restart();
  v1::LookupResponse found;
  ASSERT_TRUE(Lookup({key, unknown}, &found).ok());
  EXPECT_EQ(found.digest_size(), 1);
  EXPECT_EQ(found.digest().at(key), Sha256Hex("first"));
}

TEST_F(ArtifactKeyTest, RefusesKeysThatAreNoDigestsAndBindsNothingThatIsNotWhole) {
  std::string digest;
  EXPECT_EQ(UploadUnder("../key", "blob", &digest).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::LookupResponse found;
  EXPECT_EQ(Lookup({"../key"}, &found).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const std::string key = Sha256Hex("key");
  grpc::ClientContext context;
  v1::UploadResponse response;
  auto stream = blobs_->Upload(&context, &response);
  v1::UploadRequest request;
  request.set_digest(Sha256Hex("whole"));
  request.set_size(5);
  request.set_key(key);
  request.set_chunk("who");
  stream->Write(request);
  stream->WritesDone();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  ASSERT_TRUE(Lookup({key}, &found).ok());
  EXPECT_EQ(found.digest_size(), 0);
}

TEST_F(ArtifactKeyTest, ManyWhoMakeTheSameThingAtOnceAgreeOnOne) {
  const std::string key = Sha256Hex("key");
  std::vector<std::string> digests(6);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < digests.size(); ++i) {
    threads.emplace_back(
        [&, i] { EXPECT_TRUE(UploadUnder(key, absl::StrCat("made ", i), &digests[i]).ok()); });
  }
  for (std::thread& thread : threads) thread.join();
  v1::LookupResponse found;
  ASSERT_TRUE(Lookup({key}, &found).ok());
  for (const std::string& digest : digests) EXPECT_EQ(digest, found.digest().at(key));
}

}  // namespace
}  // namespace assay::coordinator

// Clients' services over a real channel.
#include "coordinator/server.h"

#include <fstream>
#include <map>
#include <thread>

#include "common/digest.h"
#include "common/file.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using BatchServiceTest = ServerTest;
using BlobServiceTest = ServerTest;

TEST_F(BatchServiceTest, TakesThePlansBatchAsItIs) {
  ASSERT_OK_AND_ASSIGN(std::string content, ReadFile("models/batches/batch_1_models.json"));
  v1::SubmitBatchRequest request;
  request.set_request_id(NewUuid());
  request.set_name("batch_1_models.json");
  request.set_content(content);
  v1::Batch batch;
  ASSERT_TRUE(Submit(request, &batch).ok());
  EXPECT_EQ(batch.total(), 10);
  const v1::GetBatchResponse got = Get(batch.batch_id());
  ASSERT_EQ(got.job_size(), 10);
  EXPECT_EQ(got.job(1).model().name(), "command_r");
  EXPECT_EQ(got.job(1).model().original_name(), "command-r");
  EXPECT_EQ(got.job(1).target().device(), v1::AUTO);
  EXPECT_EQ(got.job(1).target().dtype(), v1::FLOAT32);
  EXPECT_THAT(got.job(1).waiting(), HasSubstr("no worker is connected"));
}

TEST_F(BatchServiceTest, RefusesABadBatchWholeWithEveryError) {
  v1::SubmitBatchRequest request;
  request.set_request_id(NewUuid());
  request.set_name("bad.json");
  request.set_content(R"({"encoder_only": [{"name": "bert", "template": "nonsense", "task": "fill-mask"},)"
                      "\n"
                      R"({"name": "bert", "template": "bert", "task": "fill-mask"}]})");
  v1::Batch batch;
  const grpc::Status status = Submit(request, &batch);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::BatchRefused refused;
  ASSERT_TRUE(refused.ParseFromString(status.error_details()));
  ASSERT_EQ(refused.error_size(), 2);
  EXPECT_EQ(refused.error(0).file(), "bad.json");
  EXPECT_EQ(refused.error(0).line(), 1);
  EXPECT_EQ(refused.error(1).line(), 2);
  grpc::ClientContext context;
  v1::ListBatchesResponse list;
  ASSERT_TRUE(batches_->ListBatches(&context, {}, &list).ok());
  EXPECT_EQ(list.batch_size(), 0);
}

TEST_F(BatchServiceTest, MoreErrorsThanAStatusCarriesAreCountedAndTheFirstShown) {
  std::vector<std::string> models;
  for (int i = 0; i < 2000; ++i) models.push_back("bert");
  v1::SubmitBatchRequest request;
  request.set_request_id(NewUuid());
  request.set_name("bad.json");
  request.set_content(BatchContent(models));
  v1::Batch batch;
  const grpc::Status status = Submit(request, &batch);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  v1::BatchRefused refused;
  ASSERT_TRUE(refused.ParseFromString(status.error_details()));
  EXPECT_GT(refused.error_size(), 5);
  const std::string last = refused.error(refused.error_size() - 1).message();
  EXPECT_EQ(last, absl::StrCat("and ", 1999 - (refused.error_size() - 1), " more errors from here on"));
}

TEST_F(BatchServiceTest, ARequestMayBeRepeated) {
  v1::SubmitBatchRequest request;
  request.set_request_id("11111111-1111-4111-8111-111111111111");
  request.set_content(BatchContent({"bert"}));
  v1::Batch first, second, third;
  ASSERT_TRUE(Submit(request, &first).ok());
  Restart();
  ASSERT_TRUE(Submit(request, &second).ok());
  EXPECT_EQ(first.batch_id(), second.batch_id());
  request.set_content(BatchContent({"roberta"}));
  EXPECT_EQ(Submit(request, &third).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(BatchServiceTest, AWatcherSeesEveryEventFromAnywhereAndTheEnd) {
  const std::string batch = Submit({"bert", "roberta", "albert"});
  std::vector<v1::BatchEvent> live;
  grpc::Status live_status;
  std::thread watcher([&] { std::tie(live, live_status) = Watch(batch, 0); });
  FakeWorker worker(channel_, HelloOf("w", "i", 2));
  for (int i = 0; i < 3; ++i) {
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    EXPECT_EQ(start->batch_id(), batch);
    ASSERT_TRUE(worker.SendCase(start->attempt(), "test_model_with_mock"));
    ASSERT_TRUE(worker.SendResult(start->attempt(), i == 1 ? v1::FAILED : v1::PASSED));
    auto ack = worker.AwaitAck();
    ASSERT_TRUE(ack.has_value());
    EXPECT_TRUE(ack->counted());
  }
  watcher.join();
  EXPECT_TRUE(live_status.ok()) << live_status.error_message();
  // Started, its case, ended; three times; and the batch.
  ASSERT_THAT(live, SizeIs(10));
  EXPECT_EQ(live.back().batch().done(), 3);
  for (uint64_t after = 0; after <= 11; ++after) {
    auto [events, status] = Watch(batch, after);
    EXPECT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(events.size(), after >= 10 ? 0 : 10 - after);
    for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), after + i + 1);
  }
  EXPECT_EQ(Watch("nothing", 0).second.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(BatchServiceTest, ManyEventsComeInPagesWithoutAGap) {
  const std::string batch = Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  for (int i = 0; i < 600; ++i) ASSERT_TRUE(worker.SendCase(start->attempt(), absl::StrCat("case ", i)));
  ASSERT_TRUE(worker.SendResult(start->attempt(), v1::PASSED));
  auto [events, status] = Watch(batch, 0);
  EXPECT_TRUE(status.ok());
  ASSERT_THAT(events, SizeIs(603));
  for (size_t i = 0; i < events.size(); ++i) ASSERT_EQ(events[i].sequence(), i + 1);
  EXPECT_EQ(events[600].progress().case_result().name(), "case 599");

  // The same, for one that asks for several a message.
  v1::WatchBatchRequest request;
  request.set_batch_id(batch);
  request.set_after_sequence(1);
  request.set_grouped(true);
  grpc::ClientContext context;
  auto stream = batches_->WatchBatch(&context, request);
  size_t messages = 0, next = 1;
  for (v1::BatchEvent message; stream->Read(&message); ++messages) {
    EXPECT_EQ(message.sequence(), 0);
    for (const v1::BatchEvent& event : message.group()) {
      ASSERT_LT(next, events.size());
      EXPECT_EQ(event.SerializeAsString(), events[next++].SerializeAsString());
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(next, events.size());
  EXPECT_LE(messages, 4);
}

TEST_F(BatchServiceTest, CancellingStopsWhatRunsAndEndsTheRest) {
  const std::string batch = Submit({"bert", "roberta"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  grpc::ClientContext context;
  v1::CancelBatchRequest request;
  request.set_batch_id(batch);
  v1::CancelBatchResponse response;
  ASSERT_TRUE(batches_->CancelBatch(&context, request, &response).ok());
  EXPECT_TRUE(response.batch().has_end_time());
  auto abandon = worker.AwaitAbandon();
  ASSERT_TRUE(abandon.has_value());
  EXPECT_EQ(abandon->job_id(), start->attempt().job_id());
  // A result that crossed the cancellation.
  ASSERT_TRUE(worker.SendResult(start->attempt(), v1::PASSED));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  EXPECT_THAT(ack->reason(), HasSubstr("cancelled"));
  const v1::GetBatchResponse got = Get(batch);
  for (const v1::Job& job : got.job()) EXPECT_EQ(job.result().outcome(), v1::CANCELLED);
  auto [events, status] = Watch(batch, 0);
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(events.back().batch().cancelled());
  // The slot is free again.
  Submit({"albert"});
  EXPECT_TRUE(worker.AwaitStart().has_value());
}

TEST_F(BatchServiceTest, ListsBatchesInPages) {
  for (int i = 0; i < 3; ++i) Submit({"bert"});
  v1::ListBatchesRequest request;
  request.set_page_size(2);
  std::vector<std::string> ids;
  do {
    grpc::ClientContext context;
    v1::ListBatchesResponse page;
    ASSERT_TRUE(batches_->ListBatches(&context, request, &page).ok());
    for (const v1::Batch& batch : page.batch()) ids.push_back(batch.batch_id());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(ids, SizeIs(3));
  grpc::ClientContext context;
  v1::ListBatchesResponse page;
  request.set_page_token("no token");
  EXPECT_EQ(batches_->ListBatches(&context, request, &page).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BatchServiceTest, ReportsComeFromTheRecords) {
  const std::string batch = Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  ASSERT_TRUE(worker.SendResult(start->attempt(), v1::CRASHED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  v1::GetReportRequest request;
  request.set_format(v1::JUNIT);
  request.set_batch_id(batch);
  grpc::ClientContext context;
  v1::GetReportResponse report;
  grpc::Status status = batches_->GetReport(&context, request, &report);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(report.content(), HasSubstr("bert"));
  EXPECT_THAT(report.content(), HasSubstr("CRASHED"));
  request.set_batch_id("nothing");
  grpc::ClientContext again;
  EXPECT_EQ(batches_->GetReport(&again, request, &report).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(BlobServiceTest, GivesBackWhatItTook) {
  for (const std::string& content : {std::string(), std::string("log"), std::string(700'000, 'x')}) {
    const std::string digest = Sha256Hex(content);
    ASSERT_TRUE(Upload(digest, content.size(), content, 200'000).ok());
    ASSERT_TRUE(Upload(digest, content.size(), content, 200'000).ok()) << "again";
    grpc::ClientContext context;
    v1::DownloadRequest request;
    request.add_digest(digest);
    auto stream = blobs_->Download(&context, request);
    std::string got;
    v1::DownloadResponse response;
    for (bool first = true; stream->Read(&response); first = false) {
      EXPECT_EQ(response.digest(), first ? digest : "");
      EXPECT_LE(response.chunk().size(), 256 << 10);
      got += response.chunk();
    }
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(got, content);
  }
}

TEST_F(BlobServiceTest, RefusesWhatIsNotWhatItSays) {
  const std::string digest = Sha256Hex("right");
  EXPECT_EQ(Upload(digest, 5, "wrong", 100).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload(digest, 6, "right", 100).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload(digest, 4, "right", 100).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload("../../etc/passwd", 5, "right", 100).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload(digest, uint64_t{1} << 40, "right", 100).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.add_digest(digest);
  auto stream = blobs_->Download(&context, request);
  v1::DownloadResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  // The server cleans up when a call is over for it, which may be after the client has its answer.
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (!std::filesystem::is_empty(data_dir_ / "blobs" / "incoming") && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(data_dir_ / "blobs" / "incoming"));
}

TEST_F(BlobServiceTest, ServesWhatAnAssignmentNames) {
  Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  ASSERT_TRUE(IsDigest(start->template_digest()));
  ASSERT_TRUE(IsDigest(start->catalogue_digest()));
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.add_digest(start->template_digest());
  request.add_digest(start->catalogue_digest());
  auto stream = blobs_->Download(&context, request);
  std::map<std::string, std::string> blobs;
  std::string current;
  v1::DownloadResponse response;
  while (stream->Read(&response)) {
    if (!response.digest().empty()) current = response.digest();
    blobs[current] += response.chunk();
  }
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_THAT(blobs, SizeIs(2));
  for (const auto& [digest, content] : blobs) EXPECT_EQ(Sha256Hex(content), digest);
  EXPECT_THAT(ReadFile("models/catalogue/bert.textproto"), IsOkAndHolds(blobs[start->catalogue_digest()]));
}

TEST_F(BlobServiceTest, GivesTheLogOfTheCountedAttempt) {
  Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  auto logs = [&](std::string* log) {
    grpc::ClientContext context;
    v1::GetLogsRequest request;
    request.set_job_id(start->attempt().job_id());
    auto stream = batches_->GetLogs(&context, request);
    v1::GetLogsResponse response;
    while (stream->Read(&response)) *log += response.chunk();
    return stream->Finish();
  };
  std::string log;
  EXPECT_EQ(logs(&log).error_code(), grpc::StatusCode::NOT_FOUND);
  const std::string digest = Sha256Hex("what it said");
  ASSERT_TRUE(Upload(digest, 12, "what it said", 100).ok());
  ASSERT_TRUE(worker.SendResult(start->attempt(), v1::PASSED, digest));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  Restart();
  EXPECT_TRUE(logs(&log).ok());
  EXPECT_EQ(log, "what it said");
}

TEST_F(ServerTest, SaysThatItIsHealthy) {
  grpc::ClientContext context;
  grpc::ByteBuffer request, response;
  const grpc::internal::RpcMethod check("/grpc.health.v1.Health/Check",
                                        grpc::internal::RpcMethod::NORMAL_RPC);
  grpc::Slice empty;
  request = grpc::ByteBuffer(&empty, 1);
  grpc::Status status =
      grpc::internal::BlockingUnaryCall(channel_.get(), check, &context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  grpc::Slice bytes;
  ASSERT_TRUE(response.DumpToSingleSlice(&bytes).ok());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), std::string("\x08\x01"));  // status: SERVING
}

TEST_F(ServerTest, TellsWhatItServes) {
  grpc::CompletionQueue queue;
  auto await = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  auto call = grpc::GenericStub(channel_).PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(await());
  grpc::Slice list_services("\x3a\x01*");  // ServerReflectionRequest{list_services: "*"}
  call->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
  ASSERT_TRUE(await());
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(await());
  grpc::Slice bytes;
  ASSERT_TRUE(response.DumpToSingleSlice(&bytes).ok());
  const std::string services(bytes.begin(), bytes.end());
  for (const char* service : {"BatchService", "BlobService", "WorkerService"}) {
    EXPECT_THAT(services, HasSubstr(absl::StrCat("assay.v1.", service)));
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  await();
}

TEST_F(ServerTest, ListensBeyondLoopbackOnlyWhenToldTo) {
  ServerOptions options = Options();
  options.data_dir.clear();
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(Server::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("loopback")));
  options.listen = "nonsense";
  EXPECT_THAT(Server::Start(options), StatusIs(absl::StatusCode::kInvalidArgument));
  options.listen = "0.0.0.0:0";
  options.allow_remote = true;
  EXPECT_THAT(Server::Start(options), IsOk());
}

TEST_F(ServerTest, RefusesAFolderOrAPortThatIsInUse) {
  EXPECT_THAT(Server::Start(Options()), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("in use")));
  ServerOptions options = Options();
  options.data_dir.clear();
  options.listen = absl::StrCat("127.0.0.1:", server_->port());
  EXPECT_THAT(Server::Start(options), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, RefusesContentThatIsBroken) {
  const std::filesystem::path broken = data_dir_ / "content";
  std::filesystem::create_directories(broken / "templates");
  std::ofstream(broken / "templates" / "bert.textproto") << "name: ";
  ServerOptions options = Options();
  options.data_dir.clear();
  options.content_dir = broken;
  EXPECT_THAT(Server::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bert.textproto")));
}

}  // namespace
}  // namespace assay::coordinator

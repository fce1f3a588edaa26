// A coordinator on a port of its own with the repository's content, and clients of its services.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "common/clock.h"
#include "common/id.h"
#include "coordinator/server.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/matchers.h"

namespace assay::coordinator {

// {"encoder_only": [{"name": …, "template": "bert", "task": "fill-mask"}, …]}
inline std::string BatchContent(const std::vector<std::string>& models) {
  std::vector<std::string> entries;
  for (const std::string& model : models) {
    entries.push_back(absl::StrCat(R"({"name": ")", model, R"(", "template": "bert", "task": "fill-mask"})"));
  }
  return absl::StrCat(R"({"encoder_only": [)", absl::StrJoin(entries, ", "), "]}");
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_dir_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("coordinator-", NewUuid());
    Start();
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(data_dir_);
  }

  virtual ServerOptions Options() const {
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.content_dir = std::filesystem::current_path();
    options.data_dir = data_dir_;
    options.clock = &clock_;
    options.lease = kLease;
    options.lease_tick = absl::Milliseconds(5);
    return options;
  }
  void Start() {
    auto server = Server::Start(Options());
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ =
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials());
    batches_ = v1::BatchService::NewStub(channel_);
    blobs_ = v1::BlobService::NewStub(channel_);
  }
  void Restart() {
    server_.reset();
    Start();
  }

  grpc::Status Submit(const v1::SubmitBatchRequest& request, v1::Batch* batch) {
    grpc::ClientContext context;
    v1::SubmitBatchResponse response;
    grpc::Status status = batches_->SubmitBatch(&context, request, &response);
    *batch = response.batch();
    return status;
  }
  // The batch's id; target CPU.
  std::string Submit(const std::vector<std::string>& models) {
    v1::SubmitBatchRequest request;
    request.set_request_id(NewUuid());
    request.set_name("test.json");
    request.set_content(BatchContent(models));
    request.mutable_target()->set_device(v1::CPU);
    v1::Batch batch;
    grpc::Status status = Submit(request, &batch);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return batch.batch_id();
  }
  v1::GetBatchResponse Get(const std::string& batch_id) {
    grpc::ClientContext context;
    v1::GetBatchRequest request;
    request.set_batch_id(batch_id);
    v1::GetBatchResponse response;
    grpc::Status status = batches_->GetBatch(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  // Until the stream ends.
  std::pair<std::vector<v1::BatchEvent>, grpc::Status> Watch(const std::string& batch_id, uint64_t after) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    v1::WatchBatchRequest request;
    request.set_batch_id(batch_id);
    request.set_after_sequence(after);
    auto stream = batches_->WatchBatch(&context, request);
    std::vector<v1::BatchEvent> events;
    v1::BatchEvent event;
    while (stream->Read(&event)) events.push_back(event);
    return {events, stream->Finish()};
  }
  grpc::Status Upload(const std::string& digest, uint64_t size, const std::string& content, size_t chunk) {
    grpc::ClientContext context;
    v1::UploadResponse response;
    auto stream = blobs_->Upload(&context, &response);
    v1::UploadRequest request;
    request.set_digest(digest);
    request.set_size(size);
    size_t at = 0;
    do {
      request.set_chunk(content.substr(at, chunk));
      at += chunk;
      if (!stream->Write(request)) break;
      request.Clear();
    } while (at < content.size());
    stream->WritesDone();
    return stream->Finish();
  }

  static constexpr absl::Duration kLease = absl::Seconds(10);
  FakeClock clock_;
  std::filesystem::path data_dir_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::BatchService::Stub> batches_;
  std::unique_ptr<v1::BlobService::Stub> blobs_;
};

}  // namespace assay::coordinator

#include "coordinator/services/blob_service.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "coordinator/services/blob_stream.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

class UploadStream final : public grpc::ServerReadReactor<v1::UploadRequest> {
 public:
  UploadStream(BlobStore* blobs, CoordinatorMetrics* metrics, v1::UploadResponse* response)
      : blobs_(blobs), metrics_(metrics), response_(response) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    // The client's end of the stream and its death look the same here; only a whole blob is stored.
    if (!ok) return Finish(ToGrpc(Store()));
    if (absl::Status status = Take(); !status.ok()) return Finish(ToGrpc(status));
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  absl::Status Take() {
    if (request_.chunk().size() > kChunkBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a chunk of ", request_.chunk().size(),
                                                     " bytes; at most ", kChunkBytes, " are taken"));
    }
    if (sink_ == nullptr) {
      absl::StatusOr<std::unique_ptr<BlobSink>> sink = blobs_->Create(request_.digest(), request_.size());
      if (!sink.ok()) return sink.status();
      if (!request_.key().empty() && !IsDigest(request_.key())) {
        return absl::InvalidArgumentError(absl::StrCat("key '", request_.key(), "' is no SHA-256 digest"));
      }
      sink_ = *std::move(sink);
      digest_ = request_.digest();
      key_ = request_.key();
    }
    if (metrics_ != nullptr) metrics_->BlobReceived(request_.chunk().size());
    return sink_->Append(request_.chunk());
  }

  absl::Status Store() {
    if (sink_ == nullptr) return absl::InvalidArgumentError("an upload without a message");
    if (absl::Status status = sink_->Finish(); !status.ok() || key_.empty()) return status;
    absl::StatusOr<std::string> digest = blobs_->Bind(key_, digest_);
    if (digest.ok()) response_->set_digest(*std::move(digest));
    return digest.status();
  }

  BlobStore* const blobs_;
  CoordinatorMetrics* const metrics_;
  v1::UploadResponse* const response_;  // lives until OnDone
  std::string digest_, key_;            // as the first message said
  std::unique_ptr<BlobSink> sink_;
  v1::UploadRequest request_;
};

}  // namespace

grpc::ServerReadReactor<v1::UploadRequest>* BlobService::Upload(grpc::CallbackServerContext*,
                                                                v1::UploadResponse* response) {
  return new UploadStream(blobs_, metrics_, response);
}

grpc::ServerUnaryReactor* BlobService::Lookup(grpc::CallbackServerContext* context,
                                              const v1::LookupRequest* request,
                                              v1::LookupResponse* response) {
  auto* reactor = context->DefaultReactor();
  absl::Status status;
  for (const std::string& key : request->key()) {
    absl::StatusOr<std::optional<std::string>> digest = blobs_->Lookup(key);
    if (!digest.ok()) {
      status = digest.status();
      break;
    }
    if (*digest) (*response->mutable_digest())[key] = **digest;
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerWriteReactor<v1::DownloadResponse>* BlobService::Download(grpc::CallbackServerContext*,
                                                                      const v1::DownloadRequest* request) {
  // gRPC keeps the request until the stream is done.
  auto next_index = std::make_shared<int>(0);
  auto next = [this, request, next_index]() -> absl::StatusOr<std::shared_ptr<const BlobSource>> {
    if (*next_index == request->digest_size()) return nullptr;
    const std::string& digest = request->digest((*next_index)++);
    if (auto bytes = content_->Find(digest)) return NewMemoryBlob(std::move(bytes));
    return blobs_->Open(digest);
  };
  auto fill = [request, next_index, metrics = metrics_](bool first, uint64_t size, std::string chunk,
                                                        v1::DownloadResponse& message) {
    if (first) {
      message.set_digest(request->digest(*next_index - 1));
      message.set_size(size);
    }
    if (metrics != nullptr) metrics->BlobSent(chunk.size());
    message.set_chunk(std::move(chunk));
  };
  auto* stream = new BlobStream<v1::DownloadResponse>(next, fill);
  stream->Begin();
  return stream;
}

}  // namespace assay::coordinator

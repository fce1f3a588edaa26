#include "coordinator/services/blob_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/services/blob_stream.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

class UploadStream final : public grpc::ServerReadReactor<v1::UploadRequest> {
 public:
  explicit UploadStream(BlobStore* blobs) : blobs_(blobs) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    // The client's end of the stream and its death look the same here; only a whole blob is stored.
    if (!ok) {
      return Finish(ToGrpc(sink_ == nullptr ? absl::InvalidArgumentError("an upload without a message")
                                            : sink_->Finish()));
    }
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
      sink_ = *std::move(sink);
    }
    return sink_->Append(request_.chunk());
  }

  BlobStore* const blobs_;
  std::unique_ptr<BlobSink> sink_;
  v1::UploadRequest request_;
};

}  // namespace

grpc::ServerReadReactor<v1::UploadRequest>* BlobService::Upload(grpc::CallbackServerContext*,
                                                                v1::UploadResponse*) {
  return new UploadStream(blobs_);
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
  auto fill = [request, next_index](bool first, uint64_t size, std::string chunk,
                                    v1::DownloadResponse& message) {
    if (first) {
      message.set_digest(request->digest(*next_index - 1));
      message.set_size(size);
    }
    message.set_chunk(std::move(chunk));
  };
  auto* stream = new BlobStream<v1::DownloadResponse>(next, fill);
  stream->Begin();
  return stream;
}

}  // namespace assay::coordinator

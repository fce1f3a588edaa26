// Blobs on their way out, in chunks: for BlobService.Download and for BatchService.GetLogs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/blob_store.h"
#include "coordinator/services/grpc_status.h"
#include "grpcpp/support/server_callback.h"

namespace assay::coordinator {

inline constexpr size_t kChunkBytes = size_t{256} << 10;

// What to send: `next` opens one blob after the other and gives nullptr after the last; `fill` makes the
// message of a chunk. An empty blob has one chunk, which is empty. Deletes itself.
template <typename Message>
class BlobStream final : public grpc::ServerWriteReactor<Message> {
 public:
  using Next = std::function<absl::StatusOr<std::shared_ptr<const BlobSource>>()>;
  using Fill = std::function<void(bool first, uint64_t size, std::string chunk, Message& message)>;

  BlobStream(Next next, Fill fill) : next_(std::move(next)), fill_(std::move(fill)) {}

  // Separate from construction for streams whose blob is found later. Call once.
  void Begin() { Advance(); }
  void Fail(const absl::Status& status) { this->Finish(ToGrpc(status)); }

  void OnWriteDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the reader is gone"));
    Advance();
  }
  void OnDone() override { delete this; }

 private:
  // Runs once at a time: at the beginning, then after each write.
  void Advance() {
    const bool first = blob_ == nullptr;
    if (first) {
      absl::StatusOr<std::shared_ptr<const BlobSource>> blob = next_();
      if (!blob.ok()) return this->Finish(ToGrpc(blob.status()));
      if (*blob == nullptr) return this->Finish(grpc::Status::OK);
      blob_ = *std::move(blob);
      offset_ = 0;
    }
    absl::StatusOr<std::string> chunk = blob_->Read(offset_, kChunkBytes);
    if (!chunk.ok()) return this->Finish(ToGrpc(chunk.status()));
    const uint64_t size = blob_->size();
    offset_ += chunk->size();
    if (offset_ >= size) blob_ = nullptr;
    message_.Clear();
    fill_(first, size, *std::move(chunk), message_);
    this->StartWrite(&message_);
  }

  const Next next_;
  const Fill fill_;
  std::shared_ptr<const BlobSource> blob_;
  uint64_t offset_ = 0;
  Message message_;
};

}  // namespace assay::coordinator

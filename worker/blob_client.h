// BlobService, as a worker uses it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "worker/blob_cache.h"

namespace assay::worker {

absl::Status FromGrpc(const grpc::Status& status);

// Asks for all of them in one call. The receiver's own error, or the call's.
absl::Status DownloadBlobs(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                           const std::vector<std::string>& digests, BlobReceiver& receiver);

// Stores `content` under its SHA-256, `digest`.
absl::Status UploadBlob(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                        absl::string_view digest, absl::string_view content);

}  // namespace assay::worker

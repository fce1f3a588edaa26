// BlobService, as a worker uses it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "worker/blob_cache.h"

namespace assay::worker {

absl::Status FromGrpc(const grpc::Status& status);

// Asks for all of them in one call. The receiver's own error, or the call's.
absl::Status DownloadBlobs(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                           const std::vector<std::string>& digests, BlobReceiver& receiver);

// Stores `content` under its SHA-256, `digest`, and makes it known under `key` where that is not empty. The
// digest of the key's blob: another one where the key had a blob already.
absl::StatusOr<std::string> UploadBlob(const std::shared_ptr<grpc::Channel>& channel,
                                       grpc::ClientContext& context, absl::string_view digest,
                                       absl::string_view content, absl::string_view key = {});

// The digests of those keys that are known.
absl::StatusOr<std::map<std::string, std::string>> LookupBlobs(const std::shared_ptr<grpc::Channel>& channel,
                                                               grpc::ClientContext& context,
                                                               const std::vector<std::string>& keys);

}  // namespace assay::worker

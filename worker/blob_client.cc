#include "worker/blob_client.h"

#include <algorithm>

#include "assay/v1/coordinator.grpc.pb.h"

namespace assay::worker {
namespace {

constexpr size_t kChunkBytes = size_t{256} << 10;

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  // The codes are the same numbers.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

absl::Status DownloadBlobs(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                           const std::vector<std::string>& digests, BlobReceiver& receiver) {
  v1::DownloadRequest request;
  for (const std::string& digest : digests) request.add_digest(digest);
  auto stub = v1::BlobService::NewStub(channel);
  auto stream = stub->Download(&context, request);
  absl::Status refused;
  v1::DownloadResponse response;
  while (refused.ok() && stream->Read(&response)) {
    if (!response.digest().empty()) refused = receiver.Begin(response.digest(), response.size());
    if (refused.ok()) refused = receiver.Append(response.chunk());
  }
  if (!refused.ok()) context.TryCancel();
  const absl::Status ended = FromGrpc(stream->Finish());
  return refused.ok() ? ended : refused;
}

absl::StatusOr<std::string> UploadBlob(const std::shared_ptr<grpc::Channel>& channel,
                                       grpc::ClientContext& context, absl::string_view digest,
                                       absl::string_view content, absl::string_view key) {
  auto stub = v1::BlobService::NewStub(channel);
  v1::UploadResponse response;
  context.set_initial_metadata_corked(true);
  auto stream = stub->Upload(&context, &response);
  v1::UploadRequest request;
  request.set_digest(std::string(digest));
  request.set_size(content.size());
  request.set_key(std::string(key));
  do {
    const absl::string_view chunk = content.substr(0, kChunkBytes);
    content.remove_prefix(chunk.size());
    request.set_chunk(std::string(chunk));
    // The last message ends the stream with it.
    const bool last = content.empty();
    if (!stream->Write(request, last ? grpc::WriteOptions().set_last_message() : grpc::WriteOptions())) break;
    request.Clear();
  } while (!content.empty());
  if (absl::Status ended = FromGrpc(stream->Finish()); !ended.ok()) return ended;
  if (response.digest().empty()) return std::string(digest);  // a coordinator that does not say
  return response.digest();
}

absl::StatusOr<std::map<std::string, std::string>> LookupBlobs(const std::shared_ptr<grpc::Channel>& channel,
                                                               grpc::ClientContext& context,
                                                               const std::vector<std::string>& keys) {
  v1::LookupRequest request;
  for (const std::string& key : keys) request.add_key(key);
  v1::LookupResponse response;
  auto stub = v1::BlobService::NewStub(channel);
  if (absl::Status ended = FromGrpc(stub->Lookup(&context, request, &response)); !ended.ok()) return ended;
  return std::map<std::string, std::string>(response.digest().begin(), response.digest().end());
}

}  // namespace assay::worker

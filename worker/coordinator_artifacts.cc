#include "worker/coordinator_artifacts.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "worker/blob_client.h"

namespace assay::worker {
namespace {

// Converted weights are gigabytes.
constexpr absl::Duration kUploadLimit = absl::Hours(1);

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> CoordinatorArtifacts::Lookup(
    const std::vector<std::string>& keys) {
  std::map<std::string, std::string> digests;
  ASSAY_RETURN_IF_ERROR(Patiently([&] {
    return stream_().Call([&](const auto& channel, grpc::ClientContext& context) {
      auto found = LookupBlobs(channel, context, keys);
      if (found.ok()) digests = *std::move(found);
      return found.status();
    });
  }));
  for (const auto& [key, digest] : digests) {
    if (!IsDigest(digest)) return absl::DataLossError("a key's blob is no digest");
  }
  return digests;
}

absl::StatusOr<std::string> CoordinatorArtifacts::Upload(absl::string_view content, const std::string& key) {
  const std::string digest = Sha256Hex(content);
  std::string kept;
  ASSAY_RETURN_IF_ERROR(Patiently([&] {
    return stream_().Call(
        [&](const auto& channel, grpc::ClientContext& context) {
          auto uploaded = UploadBlob(channel, context, digest, content, key);
          if (uploaded.ok()) kept = *std::move(uploaded);
          return uploaded.status();
        },
        kUploadLimit);
  }));
  if (!IsDigest(kept)) return absl::DataLossError("an upload was answered with no digest");
  return kept;
}

absl::StatusOr<Blob> CoordinatorArtifacts::Get(const std::string& digest) {
  Blob blob;
  ASSAY_RETURN_IF_ERROR(Patiently([&] {
    auto blobs = cache_->Get({digest});
    if (blobs.ok()) blob = std::move(blobs->front());
    return blobs.status();
  }));
  return blob;
}

absl::Status CoordinatorArtifacts::Patiently(const std::function<absl::Status()>& call) {
  const absl::Time give_up = absl::Now() + patience_;
  while (true) {
    absl::Status status = call();
    if (!absl::IsUnavailable(status) || absl::Now() >= give_up) return status;
    // A connection that stands and does not serve: not as fast as one can ask.
    absl::SleepFor(std::min(absl::Milliseconds(50), patience_));
    if (!stream_().AwaitConnected(give_up)) return status;
  }
}

}  // namespace assay::worker

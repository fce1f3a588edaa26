// The coordinator's blobs, reached through whatever connection there is.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/blob_cache.h"
#include "worker/control_stream.h"
#include "worker/export_stage.h"

namespace assay::worker {

// Thread-safe. While no coordinator answers, calls wait for one up to `patience`: what took an hour to make
// is not lost to a restart.
class CoordinatorArtifacts final : public Artifacts {
 public:
  // `stream` gives the stream once calls are made; all outlive this.
  CoordinatorArtifacts(BlobCache* cache, std::function<ControlStream&()> stream, absl::Duration patience)
      : cache_(cache), stream_(std::move(stream)), patience_(patience) {}

  absl::StatusOr<std::map<std::string, std::string>> Lookup(const std::vector<std::string>& keys) override;
  absl::StatusOr<std::string> Upload(absl::string_view content, const std::string& key) override;
  absl::StatusOr<Blob> Get(const std::string& digest) override;

 private:
  absl::Status Patiently(const std::function<absl::Status()>& call);

  BlobCache* const cache_;
  const std::function<ControlStream&()> stream_;
  const absl::Duration patience_;
};

}  // namespace assay::worker

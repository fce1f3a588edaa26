// A job's export stage: from a checkpoint on this node to its program and golden, known to the coordinator by
// digest. See "The export stage" in docs/checkpoints.md.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/worker.pb.h"
#include "hub/hub.h"
#include "worker/blob_cache.h"
#include "worker/exporter.h"

namespace assay::worker {

// The coordinator's blobs, by digest and by key. Thread-safe.
class Artifacts {
 public:
  virtual ~Artifacts() = default;
  // Keys that are not known are left out.
  virtual absl::StatusOr<std::map<std::string, std::string>> Lookup(const std::vector<std::string>& keys) = 0;
  // Stores it, under `key` too where that is not empty. The digest of the key's blob: an earlier one's where
  // the key had a blob already.
  virtual absl::StatusOr<std::string> Upload(absl::string_view content, const std::string& key) = 0;
  virtual absl::StatusOr<Blob> Get(const std::string& digest) = 0;
};

// One job's.
struct ExportJob {
  v1::Assignment assignment;
  absl::StatusOr<hub::Found> found = absl::UnknownError("not looked for");  // the checkpoint
  bool offline = false;  // the hub is not asked, by this worker's configuration
  double fetch_seconds = 0;
  // Files of the assignment's blobs; empty: there is none.
  std::filesystem::path catalogue;
  std::filesystem::path entry;
  std::filesystem::path program;  // the catalogue's, of the tiny configuration
  std::string entry_model_class;  // that the checkpoint's entry asks for; empty: none
  std::function<void(absl::string_view)> log;
  std::function<bool()> cancelled;
};

// Thread-safe.
class ExportStage {
 public:
  // All of them outlive this. `scratch` is a folder of this stage's own, on the file system of the blob
  // cache.
  ExportStage(Exporter* exporter, Artifacts* artifacts, std::filesystem::path scratch)
      : exporter_(exporter), artifacts_(artifacts), scratch_(std::move(scratch)) {}

  // The stage's result; blocks for as long as it takes. What another job of the same configuration makes at
  // the moment is waited for and not made again. Python is started only where something is missing.
  v1::TestResult Run(const ExportJob& job);

 private:
  class Work;
  class KeyLock;

  Exporter* const exporter_;
  Artifacts* const artifacts_;
  const std::filesystem::path scratch_;

  absl::Mutex mutex_;
  std::set<std::string> busy_keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace assay::worker

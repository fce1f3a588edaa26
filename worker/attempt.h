// One attempt on its way through the runner. For the runner's own files.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "assay/v1/worker.pb.h"
#include "hub/hub.h"
#include "worker/attempt_runner.h"
#include "worker/blob_cache.h"
#include "worker/metrics.h"
#include "worker/prepare.h"
#include "worker/result_limits.h"
#include "worker/scratch.h"
#include "worker/spool.h"

namespace assay::worker {

// Constant once it waits for a slot, but for what is guarded by AttemptRunner::mutex_.
struct AttemptRunner::Attempt {
  AttemptKey key;
  v1::Assignment assignment;
  PreparedTest prepared;
  std::vector<Blob> blobs;
  // Of an export stage, or of a test with a checkpoint.
  absl::StatusOr<hub::Found> found = absl::UnknownError("not looked for");  // holds it in its cache
  double find_seconds = 0;
  StageClock stages;        // of whoever works on it
  ScratchFolder converted;  // of converted weights
  std::string checkpoint_dir;
  bool hub_verified = false;
  std::string entry_model_class;

  // Where its result goes if it is no attempt (RunApart); constant.
  std::function<void(v1::TestResult)> apart;

  bool fetched_ahead = false;  // guarded
  bool abandoned = false;      // guarded
  std::string id;              // guarded; with its host
  Lane* lane = nullptr;        // guarded
  LogTail log;                 // guarded

  // The file of one of its blobs; empty: it has no such blob.
  std::string PathOf(const std::string& digest) const {
    for (const Blob& blob : blobs) {
      if (!digest.empty() && blob.digest() == digest) return blob.path().string();
    }
    return "";
  }
};

// A result that has not seen a host.
v1::TestResult ResultOf(v1::Outcome outcome, std::string message);

}  // namespace assay::worker

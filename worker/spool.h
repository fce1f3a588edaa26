// Results on disk until a coordinator acknowledges them, so that they survive the end of the worker.
//
// One file an attempt:
//   assay-spool 1 <SHA-256 of what follows this line, hex> <bytes of the result>\n
//   <AttemptResult, Protobuf> <the log, as it is>
// The name is derived from the attempt and carries no meaning. A file that is not like this is moved to
// corrupt/ and logged.
#pragma once

#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/worker.pb.h"

namespace assay::worker {

// Job and number of an attempt, for use as a key.
using AttemptKey = std::pair<std::string, uint64_t>;
AttemptKey KeyOf(const v1::AttemptRef& ref);
v1::AttemptRef RefOf(const AttemptKey& key);

struct SpooledResult {
  v1::AttemptResult result;
  std::string log;
};

// Thread-safe.
class Spool {
 public:
  // Reads what an earlier process left. A result that is not acknowledged within `sync_after` is also synced,
  // to survive a power cut; one that is acknowledged sooner need not cost that.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(std::filesystem::path folder,
                                                     absl::Duration sync_after = absl::Milliseconds(100));
  ~Spool();

  // Survives the end of the process when it returns. An attempt that is there already keeps its first result.
  absl::Status Put(const SpooledResult& spooled);
  // Nothing for an attempt that is not there.
  void Drop(const AttemptKey& key);

  // NOT_FOUND; DATA_LOSS where the file has been damaged: then it is moved aside.
  absl::StatusOr<SpooledResult> Get(const AttemptKey& key);
  std::vector<AttemptKey> Keys() const;
  bool Has(const AttemptKey& key) const;
  size_t size() const;

 private:
  Spool(std::filesystem::path folder, absl::Duration sync_after)
      : folder_(std::move(folder)), sync_after_(sync_after) {}
  std::filesystem::path FileOf(const AttemptKey& key) const;
  absl::StatusOr<SpooledResult> ReadOne(const std::filesystem::path& file) const;
  void MoveAside(const std::filesystem::path& file, const absl::Status& why) const;
  absl::Status TakeOver();
  void SyncLoop();

  const std::filesystem::path folder_;
  const absl::Duration sync_after_;

  mutable absl::Mutex mutex_;
  std::map<AttemptKey, std::filesystem::path> files_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::pair<absl::Time, std::filesystem::path>> unsynced_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread syncer_;
};

}  // namespace assay::worker

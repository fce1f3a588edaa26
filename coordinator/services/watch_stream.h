// WatchBatch: the stored events of a batch, then live ones as they are committed.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "assay/v1/coordinator.pb.h"
#include "coordinator/metrics.h"
#include "coordinator/store/writer.h"
#include "grpcpp/support/server_callback.h"

namespace assay::coordinator {

class WatchStream;

// Who watches which batch. Thread-safe.
class WatchBoard {
 public:
  // Told of watchers and of what is sent to them; null: nobody is. Set before anything else is called.
  void Measure(CoordinatorMetrics* metrics) { metrics_ = metrics; }

  // These batches have new events.
  void Notify(const std::set<std::string>& batches);
  // Any batch may have.
  void NotifyAll();
  // Ends every stream with UNAVAILABLE, before a shutdown.
  void EndAll();

 private:
  friend class WatchStream;
  std::vector<std::shared_ptr<WatchStream>> Everyone();
  void Add(const std::string& batch_id, std::weak_ptr<WatchStream> watcher);
  void Remove(const std::string& batch_id, const WatchStream* watcher);

  CoordinatorMetrics* metrics_ = nullptr;
  absl::Mutex mutex_;
  std::map<std::string, std::map<const WatchStream*, std::weak_ptr<WatchStream>>> watchers_
      ABSL_GUARDED_BY(mutex_);
};

// One watcher. It reads what it has not sent yet from the store whenever it has sent all it knew of, so a
// slow client costs one page of events and nothing is missed or repeated. Owns itself until gRPC is done with
// it.
class WatchStream final : public grpc::ServerWriteReactor<v1::BatchEvent>,
                          public std::enable_shared_from_this<WatchStream> {
 public:
  // `board` and `writer` must outlive the server.
  static WatchStream* Start(WatchBoard* board, Writer* writer, const v1::WatchBatchRequest& request);

  // There may be new events.
  void Wake();
  // Finishes with UNAVAILABLE after the write that is under way.
  void End();

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Page {
    std::unique_ptr<google::protobuf::Arena> arena;  // of the messages
    std::vector<const v1::BatchEvent*> messages;  // each of one event or, where they are wanted, of a group
    uint64_t sequence = 0;                        // of the last event; 0: there is none
    bool full = false;                            // more of them may be there
    bool last = false;                            // the batch has ended, and these are its last events
  };
  static absl::StatusOr<Page> ReadPage(Store& store, const std::string& batch_id, uint64_t after,
                                       bool grouped);
  WatchStream(WatchBoard* board, Writer* writer, const v1::WatchBatchRequest& request);
  void Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(absl::StatusOr<Page> page);
  // Writes, reads or finishes: whatever is next.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishOnce(grpc::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  WatchBoard* const board_;
  Writer* const writer_;
  const std::string batch_id_;
  const bool grouped_;
  std::shared_ptr<WatchStream> self_;  // until OnDone

  absl::Mutex mutex_;
  uint64_t sequence_ ABSL_GUARDED_BY(mutex_);  // of the last event taken
  Page page_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // of page_.messages; the one before it may be being written
  bool stale_ ABSL_GUARDED_BY(mutex_) = true;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace assay::coordinator

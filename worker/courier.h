// Brings results to the coordinator: spool, then log, then result, again after every new connection, until it
// is acknowledged.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/control_stream.h"
#include "worker/spool.h"

namespace assay::worker {

// Thread-safe.
class Courier {
 public:
  // What an earlier process left in the spool is owed from the start. `spool` and `stream` outlive this;
  // `stream` is set by Start(), since the stream's owner needs the courier.
  explicit Courier(Spool* spool);
  ~Courier();  // as Stop()
  void Start(ControlStream* stream);

  // Owed from now on; returns at once. An attempt that is owed already keeps its first result.
  void Deliver(SpooledResult spooled);
  // A coordinator has welcomed this worker: everything owed is sent again.
  void SendAll();
  // Acknowledged, or not wanted any more. Nothing for an attempt that is not owed.
  void Drop(const AttemptKey& key);

  std::vector<AttemptKey> Owed() const;
  bool Owes(const AttemptKey& key) const;
  size_t owed() const;
  // True where a result was sent more than `limit` ago and nothing came back: the connection may be dead.
  bool Overdue(absl::Duration limit) const;
  // Why a result that is still owed is in memory alone; empty: the disk has all of them.
  std::string SpoolTrouble() const;
  // Tries again to write those that the disk did not take.
  void RetrySpool();
  // Until nothing is owed (true), or the deadline has passed or Stop() was called.
  bool AwaitNothingOwed(absl::Time deadline) const;
  void Stop();

 private:
  struct Debt {
    absl::Time sent = absl::InfiniteFuture();  // SteadyNow()
    bool queued = true;
    bool refused = false;                            // by the disk
    std::shared_ptr<const SpooledResult> unspooled;  // until the disk has it, or where the disk refused it
  };

  void Loop();
  // What the queue gives at once, so that several results travel in one message.
  std::vector<AttemptKey> TakeQueued() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One try; what could not be sent stays owed.
  void Carry(const std::vector<AttemptKey>& keys);
  // The result as it is sent, written to the spool and with its log uploaded; nullopt: it cannot be sent now.
  std::optional<v1::AttemptResult> Ready(const AttemptKey& key);
  // Null: it is not owed any more.
  std::shared_ptr<const SpooledResult> Spooled(const AttemptKey& key);
  void SendBatch(std::vector<v1::AttemptResult> results);

  Spool* const spool_;
  ControlStream* stream_ = nullptr;

  mutable absl::Mutex mutex_;
  std::map<AttemptKey, Debt> debts_ ABSL_GUARDED_BY(mutex_);
  std::deque<AttemptKey> queue_ ABSL_GUARDED_BY(mutex_);
  std::string spool_trouble_ ABSL_GUARDED_BY(mutex_);  // of the newest write that failed
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace assay::worker

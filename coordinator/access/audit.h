// The audit log: what changed the state of the service, and what was refused, by whom and from where.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/admin.pb.h"
#include "common/clock.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

// As much of what a caller sent as goes into an entry.
inline constexpr size_t kMaxAuditTarget = 128;

// Of what a method changes: in the transaction that changes it, so that there is neither a change that nobody
// is named for nor an entry of what was taken back. `entry`: who and what (Access::ChangeOf); the time is the
// store's. `target`: a batch, worker or token.
absl::Status RecordChange(Store& store, v1::AuditEntry entry, absl::string_view target);

// What was refused: nothing changed that an entry could be written with. Entries are written at once, without
// anybody waiting for it; where the store is away they are kept, up to a bound, and written when it is back.
// Thread-safe.
class AuditLog {
 public:
  // Refusals of the same caller, method and outcome within this time make one entry more, that says how many.
  static constexpr absl::Duration kWindow = absl::Minutes(1);
  // Different refusals told apart within a window; others are counted together.
  static constexpr size_t kMaxRefusals = 200;
  // Entries that wait for the store.
  static constexpr size_t kMaxWaiting = 10'000;

  // Both must outlive it.
  AuditLog(Writer* writer, const Clock* clock);
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // So that nobody can fill the disk: the first of its kind is written, those that follow are counted. The
  // time is set here.
  void Refused(v1::AuditEntry entry);

  // Writes what has waited, and the counts of windows that are over: to be called now and then.
  void Tick();
  // Writes everything, before the writer stops.
  void Flush();

 private:
  using Key = std::tuple<std::string, std::string, std::string>;  // who, what, outcome
  struct Window {
    absl::Time until;
    uint64_t more = 0;  // beyond the first
    v1::AuditEntry newest;
  };
  // The waiting entries, which outlive this where the writer still runs its last requests.
  struct Waiting {
    absl::Mutex mutex;
    std::deque<v1::AuditEntry> entries ABSL_GUARDED_BY(mutex);
    uint64_t dropped ABSL_GUARDED_BY(mutex) = 0;
    bool writing ABSL_GUARDED_BY(mutex) = false;
  };

  void Append(v1::AuditEntry entry);
  // One write at a time, which is followed by the next while entries wait and the store takes them.
  static void Write(Writer* writer, std::shared_ptr<Waiting> waiting);
  void CloseWindows(bool all);

  Writer* const writer_;
  const Clock* const clock_;
  const std::shared_ptr<Waiting> waiting_ = std::make_shared<Waiting>();
  absl::Mutex mutex_;
  std::map<Key, Window> windows_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace assay::coordinator

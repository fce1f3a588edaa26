// Decides what every worker should be doing. Workers say what they do and what came out; clients submit and
// cancel; time passes. Each of these becomes a request to the writer, and in the transaction that commits it
// the free slots are filled, so that a worker gets its next job with one synchronisation of the disk.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/worker.pb.h"
#include "common/clock.h"
#include "coordinator/access/audit.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/fleet.h"
#include "coordinator/job_life.h"
#include "coordinator/metrics.h"
#include "coordinator/roster.h"
#include "coordinator/schedule.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

struct BatchView {
  v1::Batch batch;
  std::vector<v1::Job> jobs;
};

// Thread-safe. Callbacks run on the writer's thread and must not wait.
class Dispatcher {
 public:
  struct Options {
    absl::Duration lease = absl::Seconds(4);
    // How long a worker whose stream has gone keeps its attempts, unless it connects again.
    absl::Duration disconnect_grace = absl::Milliseconds(500);
    uint32_t ahead_per_slot = 1;
    bool require_acceptance = false;  // as in Fleet::Options
    std::vector<WorkerView> pools;    // configured, each as one of its workers would be
    std::string name;                 // told to workers
    const Clock* clock = nullptr;     // must outlive the dispatcher, as all below
    // Of the machine that this runs on: tells when nothing was written for a while.
    const Clock* machine = &Clock::System();
    const Content* content = nullptr;
    const BlobStore* blobs = nullptr;
    CoordinatorMetrics* metrics = nullptr;  // may stay null
    // Of a store of its own, in the same database: large batches are stored by it, and it looks for leases
    // that ran out, so that results do not wait for either. Null: the dispatcher's own writer does all of it.
    Writer* aside = nullptr;
  };
  // Takes the writer's hooks. `on_events`: batches that got events, after each commit.
  Dispatcher(Writer* writer, Options options, std::function<void(const std::set<std::string>&)> on_events);

  // What a stream brings. `done` when it is committed, or was refused.
  void Connected(std::shared_ptr<WorkerLink> link, v1::Hello hello, std::function<void()> done);
  void Received(std::shared_ptr<WorkerLink> link, std::shared_ptr<v1::WorkerMessage> message,
                std::function<void()> done);
  // The stream is gone. What the worker runs stays its own until its leases run out.
  void Disconnected(std::shared_ptr<WorkerLink> link);

  // `change`: recorded with it (RecordChange).
  void Submit(BatchSubmission submission, v1::AuditEntry change,
              std::function<void(absl::StatusOr<v1::Batch>)> done);
  void Cancel(std::string batch_id, v1::AuditEntry change,
              std::function<void(absl::StatusOr<v1::Batch>)> done);
  void GetBatch(std::string batch_id, std::function<void(absl::StatusOr<BatchView>)> done);
  void ListWorkers(std::function<void(absl::StatusOr<v1::ListWorkersResponse>)> done);
  // What the store has on order of workers that are connected here is told them before long (Fleet::Orders).
  // In a transaction of the writer.
  void OrdersChanged() { orders_changed_ = true; }

  // As Writer::Ask, with the fleet: for what looks at workers and is no part of dispatching. The free slots
  // are filled afterwards.
  template <typename T>
  void AskFleet(std::function<absl::StatusOr<T>(Store&, Fleet&)> work,
                std::function<void(absl::StatusOr<T>)> done);
  const Options& options() const { return options_; }
  void ExplainJob(std::string job_id, std::function<void(absl::StatusOr<v1::ExplainJobResponse>)> done);

  // What operators see of the queue and of the workers connected here.
  void Look(std::function<void(absl::StatusOr<CoordinatorMetrics::Snapshot>)> done);

  // Ends every worker's stream, before a shutdown.
  void CloseAll(const absl::Status& status);

  // Another coordinator of the store did something to these batches; without a value, perhaps to any of them.
  void Heard(std::optional<std::set<std::string>> batches);

  // Takes back what ran out, unless nothing could be written for so long that workers' renewals may still
  // wait: then they have one lease to be heard. To be called now and then.
  void Tick();

 private:
  // Of a message that lives as long as they.
  using ReceivedResults = std::shared_ptr<const std::vector<v1::AttemptResult*>>;
  // What this transaction decided to tell a worker; sent once it is committed.
  using Outbox = std::map<std::string, v1::DesiredState>;

  absl::Status FillSlots(Store& store);
  // Takes what is on order of those that are connected here, to be told when this is committed; forgets what
  // they do already, and what was meant for a process that is gone.
  absl::Status ReadOrders(Store& store);
  // Leases what is placed, but for what another coordinator was about to start: that is told by id.
  absl::StatusOr<std::set<std::string>> Start(Store& store, const std::vector<Placement>& placements);
  void SendDecided(const std::set<std::string>& touched);
  // Tells those that run these to stop.
  template <typename Attempts>
  void Abandon(const Attempts& attempts);
  void Heartbeat(std::shared_ptr<WorkerLink> link, std::shared_ptr<const v1::Heartbeat> heartbeat,
                 std::function<void()> done);
  void Progress(std::shared_ptr<WorkerLink> link, std::shared_ptr<const v1::AttemptEvent> event,
                std::function<void()> done);
  // `together`: they came in one message, and are answered in one.
  void Results(std::shared_ptr<WorkerLink> link, ReceivedResults results, bool together,
               std::function<void()> done);
  void Acceptance(std::shared_ptr<WorkerLink> link, v1::AcceptanceReport report, std::function<void()> done);
  using BatchDone = std::function<void(absl::StatusOr<v1::Batch>)>;
  // Of models that name no checkpoint. In a transaction of the dispatcher's own writer.
  absl::StatusOr<BatchSubmission> WithDefaultCheckpoints(BatchSubmission submission, Store& store) const;
  bool HasDefaultCheckpoints(const BatchSubmission& submission) const;
  void SubmitBeside(std::shared_ptr<const BatchSubmission> resolved, v1::AuditEntry change, BatchDone done);
  v1::Assignment AssignmentOf(const v1::Job& job) const;
  // Makes it an INFRASTRUCTURE_ERROR where it names products of an export that were not uploaded.
  void CheckProducts(v1::TestResult& test) const;
  absl::Status PutWorker(Store& store, const Session& session);
  // Where its newest sweep says so.
  absl::Status CordonRejected(Store& store, const Session& session);
  absl::StatusOr<Roster> ReadRoster(Store& store) const;
  absl::StatusOr<bool> SomeoneExportsAnywhere(Store& store) const;
  void WarnOfStranded(const std::vector<QueuedJob>& queued);
  absl::Time Now() const { return options_.clock->Now(); }

  Writer* const writer_;
  const Options options_;
  const JobLife life_;
  const std::function<void(const std::set<std::string>&)> on_events_;

  // Takes back what ran out, and looks at all that others may have changed.
  void TickAll();

  std::atomic<bool> tick_waits_ = false;  // for the writer
  std::atomic<bool> look_waits_ = false;  // for options_.aside
  int ticks_ = 0;                         // of Tick's caller

  // Of the writer's thread from here on.
  Fleet fleet_;
  absl::Time believe_again_ = absl::InfinitePast();  // when to say again which workers are here
  // By the machine's clock: the last tick that was committed, and until when nothing runs out.
  absl::Time ticked_ = absl::InfiniteFuture(), nothing_ends_before_ = absl::InfinitePast();
  bool wake_ = true;                 // something changed that may let a job start
  bool orders_changed_ = true;       // they are to be read again
  std::vector<WorkerOrder> orders_;  // to be told
  std::vector<RunningAttempt> decided_;
  std::vector<JobLife::Start> starts_;  // of decided_
  Outbox outbox_;
  std::set<std::string> stranded_;  // what was warned of
};

template <typename T>
void Dispatcher::AskFleet(std::function<absl::StatusOr<T>(Store&, Fleet&)> work,
                          std::function<void(absl::StatusOr<T>)> done) {
  writer_->Ask<T>(
      [this, work = std::move(work)](Store& store) {
        wake_ = true;
        return work(store, fleet_);
      },
      std::move(done));
}

}  // namespace assay::coordinator

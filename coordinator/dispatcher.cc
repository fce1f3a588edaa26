#include "coordinator/dispatcher.h"

#include <algorithm>
#include <utility>

#include "common/build_info.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/explain.h"
#include "coordinator/explain_job.h"
#include "coordinator/roster.h"
#include "coordinator/schedule.h"
#include "coordinator/store/record_rules.h"
#include "generator/checkpoint_entry.h"

namespace assay::coordinator {
namespace {

// Looked at beyond what could be placed, as some of the first may not go to the workers that are free.
constexpr size_t kLookahead = 64;
// How often slots are offered again where other coordinators took what was to fill them.
constexpr int kRounds = 4;
// Where a look aside shows that no lease ran out, so many of them are one tick of the writer, which waits for
// the database in the middle of its work.
constexpr int kLooksPerTick = 5;
// So many jobs are worth a transaction of their own, beside those that start and end others.
constexpr size_t kLargeBatch = 256;

}  // namespace

Dispatcher::Dispatcher(Writer* writer, Options options,
                       std::function<void(const std::set<std::string>&)> on_events)
    : writer_(writer),
      options_(std::move(options)),
      life_(options_.metrics),
      on_events_(std::move(on_events)),
      fleet_({options_.ahead_per_slot, options_.require_acceptance}) {
  writer_->BeforeCommit([this](Store& store) {
    ASSAY_RETURN_IF_ERROR(ReadOrders(store));
    return FillSlots(store);
  });
  writer_->AfterCommit([this](const std::set<std::string>& touched) { SendDecided(touched); });
}

absl::Status Dispatcher::ReadOrders(Store& store) {
  if (!orders_.empty()) orders_changed_ = true;  // what was never committed was not told
  orders_.clear();
  if (!orders_changed_ || fleet_.sessions().empty()) return absl::OkStatus();
  orders_changed_ = false;
  ASSAY_ASSIGN_OR_RETURN(const std::vector<WorkerOrder> orders, store.ListOrders());
  for (const WorkerOrder& order : orders) {
    const Session* session = fleet_.Find(order.worker);
    if (session == nullptr) continue;
    if (IsFollowed(order, *session)) {
      ASSAY_RETURN_IF_ERROR(store.RemoveOrder(order.id));
    } else if (session->told.count(order.id) == 0) {
      orders_.push_back(order);
    }
  }
  return absl::OkStatus();
}

absl::Status Dispatcher::FillSlots(Store& store) {
  // Decisions that were never committed are not made.
  for (const RunningAttempt& attempt : decided_) fleet_.Free(attempt.attempt);
  if (!decided_.empty()) wake_ = true;
  decided_.clear();
  starts_.clear();
  outbox_.clear();
  if (!wake_) return absl::OkStatus();

  wake_ = false;
  std::set<std::string> elsewhere;
  for (int round = 0; round < kRounds; ++round) {
    Slots& slots = fleet_.slots();
    const size_t open = slots.free() + slots.ahead();
    if (open == 0) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(std::vector<QueuedJob> queued, store.Queued(open + kLookahead + elsewhere.size()));
    if (round == 0) WarnOfStranded(queued);
    queued.erase(std::remove_if(queued.begin(), queued.end(),
                                [&](const QueuedJob& job) { return elsewhere.count(job.job_id) > 0; }),
                 queued.end());
    if (queued.empty()) return absl::OkStatus();
    std::map<std::string, uint32_t> running;
    const bool shared = std::any_of(queued.begin(), queued.end(), [&](const QueuedJob& job) {
      return job.submitter != queued.front().submitter;
    });
    if (shared) {
      ASSAY_ASSIGN_OR_RETURN(running, store.RunningBySubmitter());
    }
    // Whether there is more to do than slots, so that some is given ahead of them.
    const size_t seen = queued.size() + elsewhere.size(), enough = open + slots.total();
    size_t waiting = seen;
    if (seen < enough) {
      ASSAY_ASSIGN_OR_RETURN(waiting, store.CountQueued(enough));
    }
    const size_t beyond = waiting - std::min(waiting, seen);
    const std::vector<Placement> placements = Schedule(queued, std::move(running), slots, beyond);
    if (placements.empty()) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(std::set<std::string> missed, Start(store, placements));
    if (missed.empty()) return absl::OkStatus();
    elsewhere.merge(missed);  // their slots are offered again
  }
  wake_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> Dispatcher::Start(Store& store,
                                                        const std::vector<Placement>& placements) {
  std::vector<std::string> job_ids;
  for (const Placement& placement : placements) job_ids.push_back(placement.job_id);
  ASSAY_RETURN_IF_ERROR(store.TakeQueued(job_ids));
  const absl::Time now = store.Now();
  std::set<std::string> missed;
  for (const Placement& placement : placements) {
    RunningAttempt attempt;
    absl::StatusOr<v1::Assignment> assignment =
        store.Lease(placement.job_id, placement.worker, now, now + options_.lease, [&](const v1::Job& job) {
          attempt.device = DeviceOf(job);
          starts_.push_back(JobLife::StartOf(job, now));
          v1::Assignment given = AssignmentOf(job);
          given.set_device_id(placement.device_id);
          given.set_memory_bytes(placement.memory);
          return given;
        });
    if (!assignment.ok()) {
      if (!IsErrorOfTheDomain(assignment.status())) return assignment.status();
      missed.insert(placement.job_id);
      continue;
    }
    attempt.attempt = assignment->attempt();
    attempt.worker = placement.worker;
    attempt.device_id = placement.device_id;
    attempt.memory = placement.memory;
    *outbox_[placement.worker].add_start() = *std::move(assignment);
    fleet_.Occupy(attempt);
    decided_.push_back(std::move(attempt));
  }
  return missed;
}

void Dispatcher::SendDecided(const std::set<std::string>& touched) {
  for (auto& [worker, desired] : outbox_) {
    // One that left between is none of ours: the lease decides.
    if (Session* session = fleet_.Find(worker)) fleet_.Send(*session, std::move(desired));
  }
  for (const WorkerOrder& order : orders_) {
    if (Session* session = fleet_.Find(order.worker)) fleet_.Tell(*session, order);
  }
  orders_.clear();
  writer_->Expect(decided_.size());  // their results
  life_.Started(starts_);
  outbox_.clear();
  decided_.clear();
  starts_.clear();
  if (!touched.empty()) on_events_(touched);
}

template <typename Attempts>
void Dispatcher::Abandon(const Attempts& attempts) {
  Outbox abandon;
  for (const auto& attempt : attempts) *abandon[attempt.worker].add_abandon() = attempt.attempt;
  for (auto& [worker, desired] : abandon) {
    if (Session* session = fleet_.Find(worker)) fleet_.Send(*session, std::move(desired));
  }
}

v1::Assignment Dispatcher::AssignmentOf(const v1::Job& job) const {
  v1::Assignment assignment;
  assignment.mutable_attempt()->set_job_id(job.job_id());
  assignment.mutable_attempt()->set_attempt(job.attempt());
  assignment.set_batch_id(job.batch_id());
  assignment.set_traceparent(JobLife::AttemptTraceparent(job));
  *assignment.mutable_model() = job.model();
  *assignment.mutable_target() = job.target();
  const JobDigests digests = options_.content->DigestsOf(job.model());
  assignment.set_template_digest(digests.template_digest);
  assignment.set_catalogue_digest(digests.catalogue_digest);
  assignment.set_program_digest(digests.program_digest);
  assignment.set_stage(StageOf(job));

  const v1::CheckpointRef* asked = AskedCheckpoint(job);
  if (asked == nullptr) return assignment;
  const v1::TestResult* exported = ExportOf(job);
  if (StageOf(job) == v1::STAGE_TEST && (exported == nullptr || exported->outcome() != v1::PASSED)) {
    return assignment;  // the default checkpoint was not to be had
  }
  v1::CheckpointRef& checkpoint = *assignment.mutable_checkpoint();
  checkpoint = *asked;
  generator::PinByEntry(options_.content->EntryOf(checkpoint.id()), checkpoint);
  assignment.set_checkpoint_entry_digest(options_.content->EntryDigestOf(checkpoint.id()));
  if (StageOf(job) == v1::STAGE_EXPORT) {
    assignment.set_default_checkpoint(job.has_default_checkpoint());
  } else {
    checkpoint.set_commit(exported->export_().checkpoint().commit());
    *assignment.mutable_export_() = exported->export_();
  }
  return assignment;
}

absl::StatusOr<Roster> Dispatcher::ReadRoster(Store& store) const {
  return coordinator::ReadRoster(store, fleet_, options_.name, options_.require_acceptance);
}

absl::StatusOr<bool> Dispatcher::SomeoneExportsAnywhere(Store& store) const {
  if (SomeoneExports(PointersTo(fleet_.slots().views()))) return true;
  ASSAY_ASSIGN_OR_RETURN(const Roster roster, ReadRoster(store));
  return SomeoneExports(PointersTo(roster.slots.views()));
}

void Dispatcher::WarnOfStranded(const std::vector<QueuedJob>& queued) {
  const auto& views = fleet_.slots().views();
  // Most often the first that is asked could take it.
  auto why_waits = [&](const Ask& ask) -> std::string {
    for (const auto& [name, view] : views) {
      if (WhyNobodyTakes(ask, {&view}, {}).empty()) return "";
    }
    return WhyNobodyTakes(ask, PointersTo(views), options_.pools);
  };
  std::map<std::tuple<v1::DeviceChoice, bool, std::string>, std::string> why;
  std::set<std::string> found;
  for (const QueuedJob& job : queued) {
    auto [reason, fresh] = why.try_emplace({job.device, job.needs_exporter, job.route});
    if (fresh) reason->second = why_waits(AskOf(job));
    if (reason->second.empty()) continue;
    found.insert(job.job_id);
    if (stranded_.count(job.job_id) == 0) spdlog::warn("job {} waits: {}", job.job_id, reason->second);
  }
  stranded_ = std::move(found);
}

absl::StatusOr<BatchSubmission> Dispatcher::WithDefaultCheckpoints(BatchSubmission submission,
                                                                   Store& store) const {
  std::optional<bool> exports;
  for (NewJob& job : submission.jobs) {
    if (job.model.has_checkpoint()) continue;
    job.default_checkpoint = options_.content->DefaultCheckpointOf(job.model.name());
    if (!job.default_checkpoint) continue;
    if (!exports) {
      ASSAY_ASSIGN_OR_RETURN(exports, SomeoneExportsAnywhere(store));
    }
    if (!*exports) job.default_checkpoint.reset();
  }
  return submission;
}

bool Dispatcher::HasDefaultCheckpoints(const BatchSubmission& submission) const {
  return std::any_of(submission.jobs.begin(), submission.jobs.end(), [&](const NewJob& job) {
    return !job.model.has_checkpoint() && options_.content->DefaultCheckpointOf(job.model.name());
  });
}

void Dispatcher::Submit(BatchSubmission submission, v1::AuditEntry change, BatchDone done) {
  auto shared = std::make_shared<const BatchSubmission>(std::move(submission));
  const size_t jobs = shared->jobs.size() * std::max<size_t>(1, shared->targets.size());
  if (options_.aside != nullptr && jobs >= kLargeBatch) {
    if (!HasDefaultCheckpoints(*shared)) return SubmitBeside(shared, std::move(change), std::move(done));
    // Who could export is known here.
    writer_->Read<BatchSubmission>(
        [this, shared](Store& store) { return WithDefaultCheckpoints(*shared, store); },
        [this, change = std::move(change), done = std::move(done)](absl::StatusOr<BatchSubmission> resolved) {
          if (!resolved.ok()) return done(resolved.status());
          SubmitBeside(std::make_shared<const BatchSubmission>(*std::move(resolved)), change, done);
        });
    return;
  }
  writer_->Ask<v1::Batch>(
      [this, shared, change = std::move(change)](Store& store) -> absl::StatusOr<v1::Batch> {
        wake_ = true;
        ASSAY_ASSIGN_OR_RETURN(const BatchSubmission resolved, WithDefaultCheckpoints(*shared, store));
        ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, store.SubmitBatch(resolved, store.Now()));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, batch.batch_id()));
        return batch;
      },
      [this, done = std::move(done)](absl::StatusOr<v1::Batch> batch) {
        // A new batch has no event yet, but others may have free slots for it.
        if (batch.ok()) on_events_({batch->batch_id()});
        done(std::move(batch));
      });
}

// To the dispatcher's own writer such a batch is one that another coordinator stored.
void Dispatcher::SubmitBeside(std::shared_ptr<const BatchSubmission> resolved, v1::AuditEntry change,
                              BatchDone done) {
  options_.aside->Ask<v1::Batch>(
      [resolved = std::move(resolved),
       change = std::move(change)](Store& store) -> absl::StatusOr<v1::Batch> {
        ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, store.SubmitBatch(*resolved, store.Now()));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, batch.batch_id()));
        return batch;
      },
      [this, done = std::move(done)](absl::StatusOr<v1::Batch> batch) {
        if (batch.ok()) {
          on_events_({batch->batch_id()});
          writer_->Ask<bool>([this](Store&) -> absl::StatusOr<bool> { return wake_ = true; },
                             [](absl::StatusOr<bool>) {});
        }
        done(std::move(batch));
      });
}

void Dispatcher::Cancel(std::string batch_id, v1::AuditEntry change,
                        std::function<void(absl::StatusOr<v1::Batch>)> done) {
  auto left = std::make_shared<std::vector<v1::Job>>();  // that this ended, where somebody wants to know
  writer_->Ask<CancelledBatch>(
      [this, batch_id, left, change = std::move(change)](Store& store) -> absl::StatusOr<CancelledBatch> {
        const absl::Time now = store.Now();
        ASSAY_ASSIGN_OR_RETURN(CancelledBatch cancelled, store.CancelBatch(batch_id, now));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, batch_id));
        left->clear();
        if (life_.WantsJobs()) {
          ASSAY_ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, store.ListJobs(batch_id));
          const google::protobuf::Timestamp just_now = ToTimestamp(now);
          for (v1::Job& job : jobs) {
            const bool ended_now =
                job.end_time().seconds() == just_now.seconds() && job.end_time().nanos() == just_now.nanos();
            if (ended_now) left->push_back(std::move(job));
          }
        }
        for (const RunningAttempt& attempt : cancelled.stopped) fleet_.Free(attempt.attempt);
        wake_ = true;
        return cancelled;
      },
      [this, left, done = std::move(done)](absl::StatusOr<CancelledBatch> cancelled) {
        if (!cancelled.ok()) return done(cancelled.status());
        life_.Cancelled(cancelled->batch, *left);
        Abandon(cancelled->stopped);
        done(std::move(cancelled->batch));
      },
      {{}, {}, {}, {batch_id}});
}

void Dispatcher::GetBatch(std::string batch_id, std::function<void(absl::StatusOr<BatchView>)> done) {
  writer_->Read<BatchView>(
      [this, batch_id = std::move(batch_id)](Store& store) -> absl::StatusOr<BatchView> {
        BatchView view;
        ASSAY_ASSIGN_OR_RETURN(view.batch, store.GetBatch(batch_id));
        ASSAY_ASSIGN_OR_RETURN(view.jobs, store.ListJobs(batch_id));
        std::optional<Roster> roster;
        for (v1::Job& job : view.jobs) {
          if (job.state() != v1::QUEUED) continue;
          const Ask ask = AskOf(job);
          if (WhyNobodyTakes(ask, PointersTo(fleet_.slots().views()), {}).empty()) continue;
          if (!roster) {
            ASSAY_ASSIGN_OR_RETURN(roster, ReadRoster(store));
          }
          job.set_waiting(WhyNobodyTakes(ask, PointersTo(roster->slots.views()), options_.pools));
        }
        return view;
      },
      std::move(done));
}

void Dispatcher::ListWorkers(std::function<void(absl::StatusOr<v1::ListWorkersResponse>)> done) {
  writer_->Read<v1::ListWorkersResponse>(
      [this](Store& store) -> absl::StatusOr<v1::ListWorkersResponse> {
        v1::ListWorkersResponse response;
        response.set_build(BuildVersion());
        *response.mutable_time() = ToTimestamp(Now());
        *response.mutable_store_time() = ToTimestamp(store.Now());
        ASSAY_ASSIGN_OR_RETURN(Roster roster, ReadRoster(store));
        const google::protobuf::Timestamp yesterday = ToTimestamp(store.Now() - absl::Hours(24));
        for (v1::WorkerSummary& worker : roster.workers) {
          if (!worker.connected() && worker.last_seen().seconds() < yesterday.seconds()) continue;
          *response.add_worker() = std::move(worker);
        }
        return response;
      },
      std::move(done));
}

void Dispatcher::Look(std::function<void(absl::StatusOr<CoordinatorMetrics::Snapshot>)> done) {
  writer_->Read<CoordinatorMetrics::Snapshot>(
      [this](Store& store) -> absl::StatusOr<CoordinatorMetrics::Snapshot> {
        CoordinatorMetrics::Snapshot snapshot;
        snapshot.now = store.Now();
        ASSAY_ASSIGN_OR_RETURN(snapshot.jobs, store.CountJobs());
        for (const auto& [name, session] : fleet_.sessions()) {
          v1::WorkerSummary& worker = snapshot.workers.emplace_back();
          worker.set_name(name);
          *worker.mutable_label() = session.hello.label();
          worker.set_draining(session.draining);
          worker.set_cordoned(session.cordoned);
        }
        return snapshot;
      },
      std::move(done));
}

void Dispatcher::ExplainJob(std::string job_id,
                            std::function<void(absl::StatusOr<v1::ExplainJobResponse>)> done) {
  writer_->Ask<v1::ExplainJobResponse>(
      [this, job_id = std::move(job_id)](Store& store) -> absl::StatusOr<v1::ExplainJobResponse> {
        ASSAY_ASSIGN_OR_RETURN(const Roster roster, ReadRoster(store));
        return coordinator::ExplainJob(store, roster, options_.pools, job_id);
      },
      std::move(done));
}

void Dispatcher::CloseAll(const absl::Status& status) {
  writer_->Ask<bool>(
      [this, status](Store&) -> absl::StatusOr<bool> {
        for (const auto& [name, session] : fleet_.sessions()) {
          fleet_.Send(*fleet_.Find(name), {});
          session.link->Close(status);
        }
        return true;
      },
      [](absl::StatusOr<bool>) {});
}

void Dispatcher::Tick() {
  if (options_.aside == nullptr || ticks_++ % kLooksPerTick == 0) return TickAll();
  if (look_waits_.exchange(true)) return;
  options_.aside->Read<bool>([](Store& store) { return store.SomeLeaseRanOut(store.Now()); },
                             [this](absl::StatusOr<bool> some) {
                               look_waits_ = false;
                               if (some.ok() && *some) TickAll();
                             });
}

void Dispatcher::TickAll() {
  if (tick_waits_.exchange(true)) return;
  using Lost = std::vector<LostAttempt>;
  auto left = std::make_shared<std::pair<std::vector<v1::Job>, absl::Time>>();
  writer_->Ask<Lost>(
      [this, left](Store& store) -> absl::StatusOr<Lost> {
        wake_ = orders_changed_ = true;
        left->first.clear();
        left->second = store.Now();
        const absl::Time now_here = options_.machine->Now();
        if (now_here - ticked_ > options_.lease / 2) nothing_ends_before_ = now_here + options_.lease;
        Lost lost;
        if (now_here >= nothing_ends_before_) {
          ASSAY_RETURN_IF_ERROR(store.ShortenAllLeases(left->second + options_.lease));
          ASSAY_ASSIGN_OR_RETURN(lost, store.ExpireLeases(left->second));
        }
        for (const LostAttempt& attempt : lost) {
          fleet_.Free(attempt.attempt);
          if (!life_.WantsJobs()) continue;
          ASSAY_ASSIGN_OR_RETURN(v1::Job job, store.GetJob(attempt.attempt.job_id()));
          left->first.push_back(std::move(job));
        }
        fleet_.Silence(Now() - options_.lease);
        ASSAY_RETURN_IF_ERROR(TakeCordons(store, fleet_));
        const absl::Time now = store.Now();
        if (!fleet_.sessions().empty() && now >= believe_again_) {
          ASSAY_RETURN_IF_ERROR(store.BelieveWorkers(options_.name, now + options_.lease));
          believe_again_ = now + options_.lease / 3;
        }
        return lost;
      },
      [this, left](absl::StatusOr<Lost> lost) {
        tick_waits_ = false;
        if (!lost.ok()) return;
        const absl::Duration silence =
            options_.machine->Now() - std::exchange(ticked_, options_.machine->Now());
        if (silence > options_.lease / 2) {
          spdlog::warn("nothing could be written for {}: no lease ends within the next {}",
                       absl::FormatDuration(silence), absl::FormatDuration(options_.lease));
        }
        life_.Lost(*lost, left->first, left->second);
        Abandon(*lost);
      });
}

void Dispatcher::Heard(std::optional<std::set<std::string>> batches) {
  using Stopped = std::vector<RunningAttempt>;
  writer_->Ask<Stopped>(
      [this, batches = std::move(batches)](Store& store) -> absl::StatusOr<Stopped> {
        wake_ = true;
        if (!batches) orders_changed_ = true;
        // What runs here of batches that were cancelled elsewhere.
        std::map<std::string, Stopped> running;
        for (const auto& [name, session] : fleet_.sessions()) {
          for (const auto& [job_id, attempt] : session.running) {
            const std::string batch = job_id.substr(0, job_id.find('.'));
            if (!batches || batches->count(batch) > 0) running[batch].push_back(attempt);
          }
        }
        Stopped stopped;
        for (auto& [batch_id, attempts] : running) {
          ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, store.GetBatch(batch_id));
          if (!batch.cancelled()) continue;
          for (const RunningAttempt& attempt : attempts) fleet_.Free(attempt.attempt);
          std::move(attempts.begin(), attempts.end(), std::back_inserter(stopped));
        }
        return stopped;
      },
      [this](absl::StatusOr<Stopped> stopped) {
        if (!stopped.ok()) return;  // it is looked at again with the next poll
        Abandon(*stopped);
      });
}

}  // namespace assay::coordinator

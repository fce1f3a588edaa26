// What a coordinator remembers: batches, jobs, attempts, events, workers. The single source of truth; all
// else that a coordinator holds can be lost without losing an accepted batch or a result.
//
// A store is a state machine in the domain's words. A job is QUEUED, RUNNING (an attempt holds its lease) or
// DONE. The attempt number is a persisted counter that only grows: it is the fence that keeps an attempt that
// was given up from counting. Times are passed in; those of leases are to be taken from Now().
//
// A job with a checkpoint goes through two stages: what its export makes is kept, and it is QUEUED again for
// its test. Attempts are numbered over both; how many may be lost is counted for each.
//
// Durability: nothing is durable, and nothing may be told to anyone, before Commit returns OK. Operations run
// between Begin and Commit; Rollback takes all of them back. An operation that returns an error of the domain
// (NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, INVALID_ARGUMENT) has changed nothing, and the transaction
// goes on. Any other error means that the transaction is to be rolled back; ABORTED, that it may then be run
// again: it was in another one's way.
//
// Not thread-safe: one thread owns a store. See writer.h for the one that shares commits between callers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "assay/v1/admin.pb.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/worker.pb.h"
#include "coordinator/report/registry.h"

namespace assay::coordinator {

using report::Priority;

// What a job that was never timed is expected to take, in seconds: it goes first, as it may be the longest.
inline constexpr double kUnknownSeconds = 3600;

struct NewJob {
  v1::ModelRef model;
  Priority priority = Priority::kMedium;
  // Tried by an export stage where the model names no checkpoint itself; unset: none is.
  std::optional<v1::CheckpointRef> default_checkpoint;
};

// The largest number of targets that a batch may have.
inline constexpr int kMaxTargets = 9;

struct BatchSubmission {
  std::string request_id;      // not empty
  std::string request_digest;  // of all that was asked: tells a repetition from a misuse of the id
  std::string batch_id;        // proposed; a repetition gets the first one's
  std::string name;
  std::string submitter;
  v1::Target target;  // device and dtype are set
  std::vector<NewJob> jobs;
  std::string traceparent;  // of its jobs; empty: they are not traced
  // Each model is run on each of these, a job each; empty: on `target` alone.
  std::vector<v1::Target> targets = {};
  std::vector<std::string> selector = {};  // labels that a worker of a test must carry
  uint64_t gpu_memory = 0;                 // bytes that each test needs of a GPU; 0: it is predicted
};

// What the scheduler needs to know of a job that waits.
struct QueuedJob {
  std::string job_id;
  std::string model;
  std::string submitter;
  Priority priority = Priority::kMedium;
  v1::DeviceChoice device = v1::AUTO;  // CPU for an export, whatever its test's will be
  bool needs_exporter = false;         // goes to workers that export alone
  std::string route;                   // what else says where it can go: RouteOf (record_rules.h)
  double expected_seconds = kUnknownSeconds;
  uint64_t order = 0;       // of submission, over all batches
  std::string exported_by;  // the worker that has its checkpoint at hand; empty: nobody in particular
  // Workers whose attempts at this stage of it were lost or failed for the infrastructure's sake.
  std::vector<std::string> tried;
};

// Jobs that are QUEUED or RUNNING, of one kind.
struct JobCount {
  v1::JobState state = v1::QUEUED;
  v1::DeviceChoice device = v1::AUTO;  // of its stage, as are the next two
  bool needs_exporter = false;
  std::string route;
  uint64_t jobs = 0;
  absl::Time oldest;                        // when the first of their batches was submitted
  v1::Dtype dtype = v1::DTYPE_UNSPECIFIED;  // of its target; of jobs of an earlier release this may be all
};

// An attempt that holds a lease.
struct RunningAttempt {
  v1::AttemptRef attempt;
  std::string worker;
  std::string submitter;
  v1::DeviceChoice device = v1::AUTO;  // of its stage
  // Where it is counted at its worker, and what it takes there (v1.Assignment).
  std::string device_id = {};
  uint64_t memory = 0;
};

// What an attempt at this job, which has just started, is given to do.
using Assign = std::function<v1::Assignment(const v1::Job& job)>;

// An attempt that was taken from its worker.
struct LostAttempt {
  v1::AttemptRef attempt;
  std::string worker;
  bool requeued = false;  // else the job has ended
};

struct CancelledBatch {
  v1::Batch batch;
  std::vector<RunningAttempt> stopped;
};

struct AdoptedAttempts {
  std::vector<RunningAttempt> keep;
  std::vector<v1::AttemptRef> abandon;
  std::vector<LostAttempt> lost;  // the store thought the worker had them, and it has not
};

// `connected` and `running_job` of the summary mean nothing here. Its coordinator is the one that holds the
// worker's stream, or held it last.
struct WorkerRecord {
  v1::WorkerSummary summary;
  std::string instance;  // new with each start of the worker
  // Which coordinator holds its stream, and until when that is believed without being said again.
  std::string coordinator = {};
  absl::Time believed_until = absl::InfinitePast();
};

// `next` is for the following page; 0: there is none.
struct BatchPage {
  std::vector<v1::Batch> batches;
  uint64_t next = 0;
};

// Of a secret that only its holder knows.
struct TokenRecord {
  v1::TokenInfo info;
  std::string hash;  // of the secret
};

// What an operator wants of a worker, and the coordinator that holds its stream has yet to see done.
struct WorkerOrder {
  std::string id;
  std::string worker;
  v1::WorkerOrders wanted;
};

// Newest first. `next` is for the following page; 0: there is none.
struct AuditPage {
  std::vector<v1::AuditEntry> entries;
  uint64_t next = 0;
};

// An attempt, as the worker that speaks of it says.
struct HeldAttempt {
  v1::AttemptRef attempt;
  std::string worker;
};

// What of the store a request is about to change.
struct Touches {
  std::vector<std::string> jobs;      // by id
  std::vector<HeldAttempt> attempts;  // their jobs, to be renewed or ended by who holds them
  std::vector<std::string> holders;   // all that these workers hold
  std::vector<std::string> batches;   // all jobs of theirs that have not ended
};

class Store {
 public:
  virtual ~Store() = default;

  virtual absl::Status Begin() = 0;
  virtual absl::Status Commit() = 0;
  virtual void Rollback() = 0;

  // Reads all of this at once, and takes it from other coordinators until the transaction ends. Needed by
  // nothing: what an operation misses it takes itself. But one round trip does for many, and takes them in an
  // order in which coordinators do not wait for each other in a circle.
  virtual absl::Status Take(const Touches& touches) = 0;

  // The store's own time, of when the transaction began: the server's where several coordinators share a
  // store, so that their clocks need not agree; else the clock that it was opened with. Within a transaction
  // alone.
  virtual absl::Time Now() = 0;

  // Creates the batch and its jobs, QUEUED in their order. A repeated request_id gives the batch of the first
  // time; ALREADY_EXISTS where its digest is another. INVALID_ARGUMENT: a model is named twice. A batch
  // without jobs ends at once.
  virtual absl::StatusOr<v1::Batch> SubmitBatch(const BatchSubmission& submission, absl::Time now) = 0;

  // Ends every job that is not DONE as CANCELLED, and the batch with them. Repeating it changes nothing.
  // NOT_FOUND; FAILED_PRECONDITION: the batch ended without having been cancelled.
  virtual absl::StatusOr<CancelledBatch> CancelBatch(absl::string_view batch_id, absl::Time now) = 0;

  // Of each (priority, exports or tests, device, route, submitter) the `limit` jobs that are expected to take
  // longest, in no particular order beyond that.
  virtual absl::StatusOr<std::vector<QueuedJob>> Queued(size_t limit) = 0;
  // How many jobs are QUEUED; `most` where there are more.
  virtual absl::StatusOr<size_t> CountQueued(size_t most) = 0;
  virtual absl::StatusOr<std::vector<RunningAttempt>> Running() = 0;
  // How many attempts hold a lease, by submitter; none: not there.
  virtual absl::StatusOr<std::map<std::string, uint32_t>> RunningBySubmitter() = 0;

  // As Take, of those of the jobs that are QUEUED and that no other coordinator is about to start. The others
  // can not be leased in this transaction.
  virtual absl::Status TakeQueued(const std::vector<std::string>& job_ids) = 0;

  // Starts the next attempt at a QUEUED job, and keeps the digests of what `assign` gives it, to be compared
  // with those that its result names. NOT_FOUND; FAILED_PRECONDITION: it is not QUEUED, or another
  // coordinator is about to start it.
  virtual absl::StatusOr<v1::Assignment> Lease(absl::string_view job_id, absl::string_view worker,
                                               absl::Time now, absl::Time until, const Assign& assign) = 0;

  // Extends the leases of the attempts that the worker names. Those that are not its to run are returned: it
  // should abandon them.
  virtual absl::StatusOr<std::vector<v1::AttemptRef>> ExtendLeases(
      absl::string_view worker, const std::vector<v1::AttemptRef>& attempts, absl::Time until) = 0;

  // A worker has connected and names everything that it runs or has a result of. The newest attempts at jobs
  // that have not ended are its to keep (also where the lease had run out, but the job was not handed out
  // again). Those whose result was answered are neither: the worker sends it again and gets the same answer.
  // The others it should abandon. Attempts that it holds here and does not name are taken from it: with
  // `restarted` (it is a new process) they count as lost, else their assignment never arrived, and they do
  // not.
  virtual absl::StatusOr<AdoptedAttempts> AdoptAttempts(absl::string_view worker, bool restarted,
                                                        const std::vector<v1::AttemptRef>& attempts,
                                                        absl::Time now, absl::Time until) = 0;

  // Takes the attempts whose lease has run out from their workers. A job is QUEUED again, or, having lost
  // max_attempts of them, DONE with INFRASTRUCTURE_ERROR and its workers named.
  virtual absl::StatusOr<std::vector<LostAttempt>> ExpireLeases(absl::Time now) = 0;
  // Whether that would take any. Changes nothing.
  virtual absl::StatusOr<bool> SomeLeaseRanOut(absl::Time now) = 0;

  // The worker's stream has gone: what it holds is taken from it at `until`, where its lease is not out
  // before, unless it connects again and is heard of.
  virtual absl::Status ShortenLeases(absl::string_view worker, absl::Time until) = 0;

  // For a coordinator that was away and heard no heartbeats: no lease ends before `until`.
  virtual absl::Status ExtendAllLeases(absl::Time until) = 0;

  // For a clock that was set back: no lease ends after `until`. Where several coordinators hold the store it
  // is the database's clock, and this does nothing.
  virtual absl::Status ShortenAllLeases(absl::Time until) = 0;

  // Of both that follow, `worker`: who says so; FAILED_PRECONDITION where the attempt is another one's.
  // Empty: it is not asked.
  //
  // Records a case result as an event. FAILED_PRECONDITION: not the newest attempt of a RUNNING job.
  virtual absl::Status RecordProgress(const v1::AttemptRef& attempt, const v1::CaseResult& result,
                                      absl::Time now, absl::string_view worker = {}) = 0;

  // Counts the result, once. A repetition gets the first answer. The result of an export that lets its job go
  // on (PASSED; SKIPPED, of a default checkpoint) is counted, and the job QUEUED for its test; any other ends
  // it. A result that does not bear out what it says (evidence.h) is an INFRASTRUCTURE_ERROR. An
  // INFRASTRUCTURE_ERROR is answered with counted = false and the job is QUEUED again, until max_attempts of
  // the stage were used up. A lease that has run out does not matter while the attempt is the newest and its
  // job has not ended. NOT_FOUND: no such job. FAILED_PRECONDITION, with the reason: a newer attempt runs, or
  // the job has ended.
  virtual absl::StatusOr<v1::ResultAck> CommitResult(const v1::AttemptResult& result, absl::Time now,
                                                     absl::string_view worker = {}) = 0;

  virtual absl::StatusOr<v1::Batch> GetBatch(absl::string_view batch_id) = 0;
  // Newest first. `before`: the `next` of the page before, 0 for the first.
  virtual absl::StatusOr<BatchPage> ListBatches(size_t page_size, uint64_t before) = 0;
  virtual absl::StatusOr<v1::Job> GetJob(absl::string_view job_id) = 0;
  // In the batch's order. An unknown batch has none.
  virtual absl::StatusOr<std::vector<v1::Job>> ListJobs(absl::string_view batch_id) = 0;

  // Appends to `events` those with a greater sequence number, in order, at most `limit`. They may be on an
  // arena.
  virtual absl::Status ReadEventsAfter(absl::string_view batch_id, uint64_t sequence, size_t limit,
                                       google::protobuf::RepeatedPtrField<v1::BatchEvent>& events) = 0;
  absl::StatusOr<std::vector<v1::BatchEvent>> EventsAfter(absl::string_view batch_id, uint64_t sequence,
                                                          size_t limit) {
    google::protobuf::RepeatedPtrField<v1::BatchEvent> events;
    absl::Status read = ReadEventsAfter(batch_id, sequence, limit, events);
    if (!read.ok()) return read;
    return std::vector<v1::BatchEvent>(events.begin(), events.end());
  }

  // By summary.name().
  virtual absl::Status PutWorker(const WorkerRecord& worker) = 0;
  virtual absl::StatusOr<std::optional<WorkerRecord>> FindWorker(absl::string_view name) = 0;
  // In the order of their names.
  virtual absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() = 0;

  // Of all workers that this coordinator holds.
  virtual absl::Status BelieveWorkers(absl::string_view coordinator, absl::Time until) = 0;

  // A cordoned worker takes nothing new. It need not have been seen yet. The newest reason stays.
  virtual absl::Status PutCordon(absl::string_view worker, absl::string_view reason) = 0;
  // False: it was not cordoned.
  virtual absl::StatusOr<bool> RemoveCordon(absl::string_view worker) = 0;
  // Reasons by worker.
  virtual absl::StatusOr<std::map<std::string, std::string>> ListCordons() = 0;

  // Never changed once it is there.
  virtual absl::Status AddOrder(const WorkerOrder& order) = 0;
  // Repeating it changes nothing.
  virtual absl::Status RemoveOrder(absl::string_view id) = 0;
  // In the order of their ids.
  virtual absl::StatusOr<std::vector<WorkerOrder>> ListOrders() = 0;

  // ALREADY_EXISTS: a token with this id or hash.
  virtual absl::Status AddToken(const TokenRecord& token) = 0;
  virtual absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) = 0;
  // In the order of their ids.
  virtual absl::StatusOr<std::vector<TokenRecord>> ListTokens() = 0;
  // Repeating it changes nothing. NOT_FOUND.
  virtual absl::StatusOr<v1::TokenInfo> RevokeToken(absl::string_view id, absl::Time now) = 0;
  // Once, whoever else tries at the same time. NOT_FOUND; FAILED_PRECONDITION: it was redeemed. Whether it
  // has expired or was revoked is the caller's to look at.
  virtual absl::StatusOr<v1::TokenInfo> RedeemToken(absl::string_view hash, absl::Time now) = 0;

  virtual absl::Status AddAudit(const v1::AuditEntry& entry) = 0;
  // `before`: the `next` of the page before, 0 for the first.
  virtual absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) = 0;

  // Forgets a batch that has ended, with its jobs, events and answers. NOT_FOUND; FAILED_PRECONDITION: it has
  // not ended.
  virtual absl::Status DropBatch(absl::string_view batch_id) = 0;
  // Forgets a worker that is not cordoned, and what was ordered of it; one that is, or is not known, stays as
  // it is.
  virtual absl::Status DropWorker(absl::string_view name) = 0;
  // Repeating it changes nothing.
  virtual absl::Status DropToken(absl::string_view id) = 0;
  // Forgets the entries from before then.
  virtual absl::Status DropAudit(absl::Time before) = 0;

  // How many jobs wait or run, for whoever looks after the service. Reads all of them: not for decisions.
  virtual absl::StatusOr<std::vector<JobCount>> CountJobs() = 0;

  // Batches that got events since it was last called.
  virtual std::set<std::string> TakeTouched() = 0;
};

}  // namespace assay::coordinator

// The rules of the store, written once over plain records. What remains for an implementation (the medium) is
// to keep the records and to find them again.
//
// A transaction is a unit of work. Records are read once and changed in memory; what changed is written in
// bulk, the jobs when something asks the medium for them, at the latest by Commit, and the batches last: only
// then do their events get numbers. On a medium that other coordinators write to as well (kShared), jobs are
// locked when they are read to be changed, in the order of their ids or, where others may hold them for long,
// with these skipped; batches are locked last, in the order of their ids. What one transaction sees of a
// batch it does not keep for the next. On a medium that nobody else writes to (kAlone) the records of all
// jobs that have not ended stay in memory. On a shared one RUNNING jobs are remembered, so that the end or
// renewal of an attempt need not read its job: the write asks whether the job is still as it was, and where
// it is not all is taken back, forgotten, and done again on what is read. Nothing is decided on memory alone.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/store/event_group.h"
#include "coordinator/store/expectation.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

struct BatchRecord {
  v1::Batch batch;
  uint64_t number = 0;  // of submission, from 1; 0: not stored yet
  std::string request_id;
  std::string request_digest;
  uint64_t last_sequence = 0;
  uint64_t stored_sequence = 0;  // last_sequence as the medium has it
};

struct JobRecord {
  v1::Job job;
  std::string submitter;
  Priority priority = Priority::kMedium;
  uint64_t batch_number = 0;
  uint32_t ordinal = 0;  // in its batch
  double expected_seconds = kUnknownSeconds;
  absl::Time lease_until = absl::InfinitePast();  // while RUNNING
  uint32_t setbacks = 0;  // attempts at its stage lost or failed for the infrastructure's sake
  // Digests and checkpoint that the newest attempt was given; without an attempt number where nobody knows
  // (it started before this was recorded). Cleared when its stage ends.
  v1::Assignment assigned;
  uint64_t answered =
      0;  // the attempt whose result ended the job; 0: none did, or its answer has its own record
};

// The answer that was given to a result.
struct AnswerRecord {
  bool counted = false;
  std::string reason;
};

// What of a job's record is to be written. Each includes those before it.
enum class JobChange {
  kNone,
  kLease,    // lease_until
  kStarted,  // a QUEUED job has become RUNNING, by StartAttempt and nothing else
  kWhole,
  kNew,
};

class LiveIndex;

class RecordStore : public Store {
 public:
  enum class Sharing { kAlone, kShared };

  // max_attempts: from 1.
  RecordStore(Sharing sharing, uint32_t max_attempts);
  ~RecordStore() override;

  absl::Status Begin() final;
  absl::Status Commit() final;
  void Rollback() final;
  absl::Status Take(const Touches& touches) final;

  absl::StatusOr<v1::Batch> SubmitBatch(const BatchSubmission& submission, absl::Time now) final;
  absl::StatusOr<CancelledBatch> CancelBatch(absl::string_view batch_id, absl::Time now) final;
  absl::StatusOr<std::vector<QueuedJob>> Queued(size_t limit) final;
  absl::StatusOr<size_t> CountQueued(size_t most) final;
  absl::StatusOr<std::vector<RunningAttempt>> Running() final;
  absl::StatusOr<std::map<std::string, uint32_t>> RunningBySubmitter() final;
  absl::Status TakeQueued(const std::vector<std::string>& job_ids) final;
  absl::StatusOr<v1::Assignment> Lease(absl::string_view job_id, absl::string_view worker, absl::Time now,
                                       absl::Time until, const Assign& assign) final;
  absl::StatusOr<std::vector<v1::AttemptRef>> ExtendLeases(absl::string_view worker,
                                                           const std::vector<v1::AttemptRef>& attempts,
                                                           absl::Time until) final;
  absl::StatusOr<AdoptedAttempts> AdoptAttempts(absl::string_view worker, bool restarted,
                                                const std::vector<v1::AttemptRef>& attempts, absl::Time now,
                                                absl::Time until) final;
  absl::StatusOr<std::vector<LostAttempt>> ExpireLeases(absl::Time now) final;
  absl::StatusOr<bool> SomeLeaseRanOut(absl::Time now) final;
  absl::Status ShortenLeases(absl::string_view worker, absl::Time until) final;
  absl::Status ExtendAllLeases(absl::Time until) final;
  absl::Status ShortenAllLeases(absl::Time until) final;
  absl::Status RecordProgress(const v1::AttemptRef& attempt, const v1::CaseResult& result, absl::Time now,
                              absl::string_view worker) final;
  absl::StatusOr<v1::ResultAck> CommitResult(const v1::AttemptResult& result, absl::Time now,
                                             absl::string_view worker) final;
  absl::Status DropBatch(absl::string_view batch_id) final;
  absl::StatusOr<v1::Batch> GetBatch(absl::string_view batch_id) final;
  absl::StatusOr<BatchPage> ListBatches(size_t page_size, uint64_t before) final;
  absl::StatusOr<v1::Job> GetJob(absl::string_view job_id) final;
  absl::StatusOr<std::vector<v1::Job>> ListJobs(absl::string_view batch_id) final;
  absl::Status ReadEventsAfter(absl::string_view batch_id, uint64_t sequence, size_t limit,
                               google::protobuf::RepeatedPtrField<v1::BatchEvent>& events) final;
  absl::StatusOr<v1::TokenInfo> RevokeToken(absl::string_view id, absl::Time now) final;
  absl::StatusOr<v1::TokenInfo> RedeemToken(absl::string_view hash, absl::Time now) final;
  std::set<std::string> TakeTouched() final;

 protected:
  using FiguresByModel = std::map<std::string, Figures>;

  // Who held a RUNNING job when this store last saw it.
  struct Belief {
    uint64_t attempt = 0;
    absl::Time lease_until;
  };
  struct JobWrite {
    const JobRecord* record;
    JobChange change;
    // kShared: the record was remembered, not read. ABORTED where the job does not run with this attempt and
    // lease any more.
    std::optional<Belief> belief;
    // kShared, of a start: the row is not locked. Where its version is another one by now, ABORTED. Else
    // empty.
    absl::string_view version;
  };
  struct QueuedRecord {
    JobRecord record;
    std::string version;  // another one whenever the record was written; never empty
  };
  struct QueueHead {
    std::vector<QueuedRecord> records;
    size_t waits = 0;  // at least so many were QUEUED
  };
  // Events of one batch; `sequence` is the last one's.
  struct EventRow {
    std::string batch_id;
    uint64_t sequence = 0;
    std::string bytes;
    bool grouped = true;  // else one BatchEvent, as they were written first
  };

  // The medium. Errors are its own alone, or ABORTED: it took the transaction back for another one's sake,
  // and it may be run again. Reads see what was written in the transaction.
  virtual absl::Status BeginMedium() = 0;
  virtual absl::Status CommitMedium() = 0;
  virtual void RollbackMedium() = 0;

  // Those of the jobs that exist, locked in the order of their ids where the medium is shared. kAlone: asked
  // of `touches.jobs` alone.
  virtual absl::StatusOr<std::vector<JobRecord>> LockJobs(const Touches& touches) = 0;
  // What a medium of the other kind is never asked.
  // kShared: those of them that are QUEUED (LockUnchanged: and as they were read), or RUNNING with a lease
  // that ends at `now` or before, and not locked by another; then they are locked.
  virtual absl::StatusOr<std::vector<std::string>> LockUnchanged(
      const std::vector<const QueuedRecord*>& jobs);
  virtual absl::StatusOr<std::vector<JobRecord>> LockQueued(const std::vector<std::string>& job_ids);
  virtual absl::StatusOr<std::vector<JobRecord>> LockExpired(absl::Time now);
  virtual absl::StatusOr<bool> HasExpired(absl::Time now);
  virtual absl::StatusOr<QueueHead> ReadQueued(size_t limit);
  // kShared: as the queue was when the transaction began, where the medium has read so much of it ahead.
  virtual absl::StatusOr<std::optional<QueueHead>> QueuedAtBegin(size_t limit);
  // kShared: whether others have written lately. Where not, what was read or written before is taken to be so
  // still; what is written on it is written only where it is so (JobWrite, WriteBatches).
  virtual bool OthersWrite() { return true; }
  virtual absl::StatusOr<size_t> ReadQueuedCount(size_t most);
  virtual absl::StatusOr<std::map<std::string, uint32_t>> ReadRunningBySubmitter();
  virtual absl::StatusOr<std::vector<JobRecord>> ReadRunning();
  // kAlone: batches that have not ended.
  virtual absl::StatusOr<std::vector<BatchRecord>> ReadLiveBatches();

  // Without locks.
  virtual absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::vector<std::string>& job_ids) = 0;
  virtual absl::StatusOr<std::vector<JobRecord>> JobsOf(
      absl::string_view batch_id) = 0;  // in the batch's order
  virtual absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) = 0;
  virtual absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) = 0;
  virtual absl::StatusOr<BatchPage> ReadBatches(size_t page_size, uint64_t before) = 0;

  virtual absl::Status WriteJobs(const std::vector<JobWrite>& jobs) = 0;  // in the order of their ids
  // Gives record.number. False: another has the batch's id or request, and nothing was changed.
  virtual absl::StatusOr<bool> InsertBatch(BatchRecord& record) = 0;
  // Locked in the order of their ids where the medium is shared.
  virtual absl::StatusOr<std::vector<BatchRecord>> LockBatches(const std::vector<std::string>& batch_ids) = 0;
  // kShared: ABORTED where one's last_sequence is not its stored_sequence any more.
  virtual absl::Status WriteBatches(const std::vector<const BatchRecord*>& batches,
                                    const std::vector<EventRow>& events) = 0;
  // Rows whose `sequence` is greater, in order, at most `limit`.
  virtual absl::StatusOr<std::vector<EventRow>> ReadEvents(absl::string_view batch_id, uint64_t sequence,
                                                           size_t limit) = 0;
  virtual absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) = 0;
  virtual absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) = 0;
  // All that is known of each of them; what nothing is known of is not in the answer.
  virtual absl::StatusOr<FiguresByModel> ReadFigures(const std::vector<std::string>& models) = 0;
  // Those that have changed.
  virtual absl::Status WriteFigures(const FiguresByModel& figures) = 0;
  // Digests of inputs at which some attempt failed.
  virtual absl::StatusOr<std::set<std::string>> ReadFailed(const std::vector<std::string>& digests) = 0;
  virtual absl::Status WriteFailed(const std::set<std::string>& digests) = 0;
  // Whether there are any. kShared: when the transaction began, at least.
  virtual absl::StatusOr<bool> HasFailed() { return true; }

  // With all that belongs to it.
  virtual absl::Status EraseBatch(absl::string_view batch_id) = 0;

  // By id or by hash, whichever is not empty; nobody else changes it before this transaction ends.
  virtual absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id,
                                                               absl::string_view hash) = 0;
  // Of a token that is there.
  virtual absl::Status PutToken(const TokenRecord& token) = 0;

  // CountJobs, where this is alone.
  absl::StatusOr<std::vector<JobCount>> CountLive();
  // Adds to what TakeTouched tells.
  void Touch(const std::set<std::string>& batches) { touched_.insert(batches.begin(), batches.end()); }

 private:
  struct Entry {
    JobRecord record;
    JobChange change = JobChange::kNone;
    std::optional<Belief> belief;  // remembered, and not written since
    std::string version;           // seen in the queue, and neither locked nor written since
  };
  // What this transaction does to a batch.
  struct BatchWork {
    EventGroupWriter events;
    std::vector<v1::Outcome> ended;
    bool cancelled = false;
    absl::Time now;  // of the last change
  };

  bool alone() const { return sharing_ == Sharing::kAlone; }
  // kAlone: all that is live is in memory from here on.
  absl::Status Load();
  void Forget();
  // Of jobs that ended in the transaction that was just committed.
  void KeepEnded();
  // What is known of it already stays.
  Entry& Keep(JobRecord record);
  // Takes what is remembered of its job where that is this very attempt, RUNNING and the worker's; it has to
  // be written then, which shows whether it is still so. False: the job is to be read.
  bool Believe(const v1::AttemptRef& attempt, absl::string_view worker);
  // As FindJob, of the job of an attempt that is going to be ended or renewed where it is the worker's.
  absl::StatusOr<Entry*> FindHeld(const v1::AttemptRef& attempt, absl::string_view worker);
  void Remember();
  // To be changed; nullptr: there is no such job.
  absl::StatusOr<Entry*> FindJob(absl::string_view job_id);
  // Only to be looked at.
  absl::StatusOr<std::optional<JobRecord>> PeekJob(absl::string_view job_id);
  // To be changed, in the order of their ids.
  absl::StatusOr<std::vector<Entry*>> HeldBy(const std::string& worker);
  static void SortById(std::vector<Entry*>& entries);

  void Changed(Entry& entry, JobChange change);
  // The job has changed its state: an event, and where it is DONE it is counted.
  void StateChanged(Entry& entry, JobChange change, absl::Time now);
  // Writes what has changed of jobs (see above), so that the medium's own reads see it.
  absl::Status FlushJobs();
  // And all else; batches last.
  absl::Status Flush();
  absl::Status FlushBatches();
  // Of jobs that ended in this transaction: whether they are flaky, and what that says of later ones.
  absl::Status Learn();

  // As the batch will be when this transaction is committed; its sequence number is not moved.
  absl::StatusOr<std::optional<BatchRecord>> PeekBatch(absl::string_view batch_id);
  // True: the batch has ended by it.
  static bool Apply(const BatchWork& work, BatchRecord& record);
  absl::StatusOr<std::optional<AnswerRecord>> AnswerTo(const v1::AttemptRef& attempt,
                                                       const JobRecord& record);
  // Sets what the jobs' stages are expected to take.
  absl::Status Expect(const std::vector<JobRecord*>& records);
  // Makes figures_ hold what is known of the models; with `fresh`, as of now also where others may have
  // changed it.
  absl::Status KnowFigures(const std::set<std::string>& models, bool fresh);
  // From the result that the job's stage ends with.
  absl::Status LearnFigures(const v1::TestResult& result, v1::Job& job);
  LostAttempt LoseAttempt(Entry& entry, absl::string_view why, bool counts, absl::Time now);

  const Sharing sharing_;
  const uint32_t max_attempts_;
  std::set<std::string> touched_;

  // Of the transaction, and where the store is alone of all that is live.
  bool loaded_ = false;
  std::unordered_map<std::string, std::unique_ptr<Entry>> jobs_;
  std::unordered_map<std::string, std::unique_ptr<BatchRecord>> batches_;  // kAlone alone
  std::unique_ptr<LiveIndex> live_;                                        // kAlone alone

  // Of the transaction.
  std::set<std::string> absent_;                               // jobs that were looked for in vain
  std::set<std::string> skipped_;                              // that TakeQueued did not get
  std::set<std::string> held_by_;                              // workers whose attempts were taken
  std::unordered_map<std::string, QueuedRecord> seen_queued_;  // by ReadQueued, and not changed here since
  bool queue_is_as_begun_ = true;                              // but for what was leased, and fresh_
  std::vector<Entry*> fresh_;                                  // jobs that were submitted
  size_t waits_ = 0;                                           // at least so many were QUEUED
  std::vector<Entry*> changed_;
  std::vector<Entry*> ended_;          // not yet learned from
  std::vector<std::string> passing_;   // DONE jobs in memory, to be dropped when it is committed
  std::vector<std::string> finished_;  // batches
  std::map<std::string, BatchWork> work_;
  std::map<std::pair<std::string, uint64_t>, AnswerRecord> answers_;
  FiguresByModel learned_;  // to be written
  absl::flat_hash_map<std::string, Figures>
      figures_;                     // known of models, of this transaction and those before it
  std::optional<bool> has_failed_;  // what HasFailed said; kShared: of the transaction

  // Jobs that ended lately, for those who watch them: they do not change any more. The oldest are forgotten.
  std::unordered_map<std::string, v1::Job> recently_ended_;
  std::deque<std::string> ended_order_;
  // kShared: RUNNING jobs as this store last saw or wrote them, so that most need not be read again.
  std::unordered_map<std::string, JobRecord> remembered_;
  // kShared: batches as this store last read and wrote them, for as long as nobody else writes.
  std::map<std::string, BatchRecord> remembered_batches_;
  // kShared: what the transaction before left behind. It is destroyed while the medium works.
  std::unordered_map<std::string, std::unique_ptr<Entry>> litter_;
  // kAlone: renewals, which are not written, of what ran before a transaction was taken back.
  std::unordered_map<std::string, absl::Time> renewed_;
};

}  // namespace assay::coordinator

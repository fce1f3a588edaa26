// RecordStore's unit of work: what is read, kept and written, and when. The rules are in record_store.cc.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/store/live_index.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {
namespace {

// Of models and targets that are kept in memory.
constexpr size_t kMaxTimings = 100'000;
// Of jobs that ended lately.
constexpr size_t kMaxRecentlyEnded = 1024;
// RUNNING jobs that are remembered.
constexpr size_t kMaxRemembered = 50'000;
// Batches that are.
constexpr size_t kMaxRememberedBatches = 1000;

}  // namespace

RecordStore::RecordStore(Sharing sharing, uint32_t max_attempts)
    : sharing_(sharing), max_attempts_(max_attempts), live_(std::make_unique<LiveIndex>()) {}

RecordStore::~RecordStore() = default;

absl::Status RecordStore::Begin() {
  ASSAY_RETURN_IF_ERROR(BeginMedium());
  return Load();
}

absl::Status RecordStore::Commit() {
  ASSAY_RETURN_IF_ERROR(Flush());
  litter_.clear();
  for (const auto& [job_id, entry] : jobs_) {
    if (entry->belief) return absl::AbortedError("store: a job was remembered and not written");
  }
  ASSAY_RETURN_IF_ERROR(CommitMedium());
  renewed_.clear();
  KeepEnded();
  if (!alone()) {
    Remember();
    litter_.swap(jobs_);
    Forget();
    return absl::OkStatus();
  }
  for (const std::string& batch_id : finished_) batches_.erase(batch_id);
  passing_.clear();
  finished_.clear();
  ended_.clear();
  absent_.clear();
  if (figures_.size() > kMaxTimings) figures_.clear();
  return absl::OkStatus();
}

void RecordStore::KeepEnded() {
  for (const std::string& job_id : passing_) {
    auto found = jobs_.find(job_id);
    if (found == jobs_.end() || found->second->record.job.state() != v1::DONE) continue;
    v1::Job& job = found->second->record.job;
    // What is alone drops its record next.
    if (recently_ended_.try_emplace(job_id, std::move(job)).second) ended_order_.push_back(job_id);
    if (alone()) jobs_.erase(found);
  }
  while (ended_order_.size() > kMaxRecentlyEnded) {
    recently_ended_.erase(ended_order_.front());
    ended_order_.pop_front();
  }
}

// All of them are locked, or were written: they are so until another transaction.
void RecordStore::Remember() {
  if (remembered_.size() > kMaxRemembered) remembered_.clear();  // of jobs that ended elsewhere
  for (auto& [job_id, entry] : jobs_) {
    if (entry->record.job.state() == v1::RUNNING) {
      remembered_.insert_or_assign(job_id, std::move(entry->record));
    } else {
      remembered_.erase(job_id);
    }
  }
}

void RecordStore::Rollback() {
  if (alone()) {
    for (const JobRecord* record : live_->Running()) renewed_[record->job.job_id()] = record->lease_until;
  }
  Forget();
  figures_.clear();
  remembered_.clear();
  remembered_batches_.clear();
  has_failed_.reset();
  touched_.clear();
  RollbackMedium();
}

void RecordStore::Forget() {
  live_->Clear();
  jobs_.clear();
  batches_.clear();
  absent_.clear();
  skipped_.clear();
  held_by_.clear();
  seen_queued_.clear();
  queue_is_as_begun_ = true;
  fresh_.clear();
  waits_ = 0;
  changed_.clear();
  ended_.clear();
  passing_.clear();
  finished_.clear();
  work_.clear();
  answers_.clear();
  learned_.clear();
  if (!alone()) has_failed_.reset();  // others write to it, too
  loaded_ = false;
  if (figures_.size() > kMaxTimings) figures_.clear();
}

absl::Status RecordStore::Load() {
  if (!alone() || loaded_) return absl::OkStatus();
  ASSAY_ASSIGN_OR_RETURN(std::vector<BatchRecord> live, ReadLiveBatches());
  for (BatchRecord& batch : live) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs, JobsOf(batch.batch.batch_id()));
    for (JobRecord& job : jobs) {
      if (job.job.state() == v1::DONE) continue;
      auto renewed = renewed_.find(job.job.job_id());
      if (renewed != renewed_.end()) job.lease_until = std::max(job.lease_until, renewed->second);
      Keep(std::move(job));
    }
    const std::string id = batch.batch.batch_id();
    batches_[id] = std::make_unique<BatchRecord>(std::move(batch));
  }
  loaded_ = true;
  return absl::OkStatus();
}

RecordStore::Entry& RecordStore::Keep(JobRecord record) {
  std::unique_ptr<Entry>& entry = jobs_[record.job.job_id()];
  const bool unchecked = entry != nullptr && (entry->belief || !entry->version.empty());
  if (unchecked && entry->change == JobChange::kNone) entry = nullptr;
  if (entry != nullptr) return *entry;  // with what was changed of it
  entry = std::make_unique<Entry>();
  entry->record = std::move(record);
  if (!alone()) return *entry;
  if (entry->record.job.state() == v1::DONE) {
    passing_.push_back(entry->record.job.job_id());
  } else {
    live_->Update(entry->record);
  }
  return *entry;
}

absl::Status RecordStore::Take(const Touches& touches) {
  if (alone()) return absl::OkStatus();
  Touches missing;
  for (const std::string& job_id : touches.jobs) {
    if (jobs_.count(job_id) == 0 && absent_.count(job_id) == 0) missing.jobs.push_back(job_id);
  }
  for (const std::string& holder : touches.holders) {
    if (held_by_.insert(holder).second) missing.holders.push_back(holder);
  }
  missing.batches = touches.batches;
  std::set<absl::string_view> asked(missing.jobs.begin(), missing.jobs.end());
  for (const HeldAttempt& held : touches.attempts) {
    const std::string& job_id = held.attempt.job_id();
    if (jobs_.count(job_id) > 0 || absent_.count(job_id) > 0 || !asked.insert(job_id).second) continue;
    if (!Believe(held.attempt, held.worker)) missing.jobs.push_back(job_id);
  }
  if (!missing.jobs.empty() || !missing.holders.empty() || !missing.batches.empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> taken, LockJobs(missing));
    for (JobRecord& record : taken) Keep(std::move(record));
    for (const std::string& job_id : missing.jobs) {
      if (jobs_.count(job_id) == 0) absent_.insert(job_id);
    }
  }
  // What the end of an attempt teaches is added to what is known of its model: read at once for all of them.
  std::set<std::string> models;
  for (const HeldAttempt& held : touches.attempts) {
    auto found = jobs_.find(held.attempt.job_id());
    if (found != jobs_.end()) models.insert(found->second->record.job.model().name());
  }
  return KnowFigures(models, /*fresh=*/false);
}

bool RecordStore::Believe(const v1::AttemptRef& attempt, absl::string_view worker) {
  auto found = remembered_.find(attempt.job_id());
  if (found == remembered_.end()) return false;
  JobRecord& record = found->second;
  const bool same = IsNewest(record, attempt) && record.job.worker() == worker;
  if (same) {
    const Belief belief{record.job.attempt(), record.lease_until};
    Keep(std::move(record)).belief = belief;
  }
  remembered_.erase(found);
  return same;
}

absl::StatusOr<RecordStore::Entry*> RecordStore::FindHeld(const v1::AttemptRef& attempt,
                                                          absl::string_view worker) {
  if (!alone() && jobs_.count(attempt.job_id()) == 0 && absent_.count(attempt.job_id()) == 0) {
    Believe(attempt, worker);
  }
  return FindJob(attempt.job_id());
}

absl::Status RecordStore::TakeQueued(const std::vector<std::string>& job_ids) {
  if (alone()) return absl::OkStatus();
  std::vector<std::string> missing;
  std::vector<const QueuedRecord*> seen;
  for (const std::string& job_id : job_ids) {
    if (jobs_.count(job_id) > 0) continue;
    auto known = seen_queued_.find(job_id);
    if (known == seen_queued_.end()) {
      missing.push_back(job_id);
    } else {
      seen.push_back(&known->second);
    }
  }
  if (!seen.empty() && !OthersWrite()) {
    for (const QueuedRecord* queued : seen) {
      auto& row = seen_queued_.at(queued->record.job.job_id());
      Keep(std::move(row.record)).version = std::move(row.version);
    }
    seen_queued_.clear();
  } else if (!seen.empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<std::string> locked, LockUnchanged(seen));
    for (const QueuedRecord* queued : seen) skipped_.insert(queued->record.job.job_id());
    for (const std::string& job_id : locked) {
      skipped_.erase(job_id);
      Keep(std::move(seen_queued_.at(job_id).record));
    }
    seen_queued_.clear();
  }
  if (!missing.empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> taken, LockQueued(missing));
    for (JobRecord& record : taken) Keep(std::move(record));
    for (const std::string& job_id : missing) {
      if (jobs_.count(job_id) == 0) skipped_.insert(job_id);
    }
  }
  return FlushJobs();  // the medium writes what has ended while the caller starts what it has got
}

absl::StatusOr<RecordStore::Entry*> RecordStore::FindJob(absl::string_view job_id) {
  ASSAY_RETURN_IF_ERROR(Load());
  const std::string id(job_id);
  if (auto found = jobs_.find(id); found != jobs_.end()) {
    Entry& entry = *found->second;
    if (entry.version.empty()) return &entry;
    // Seen in the queue alone: to be changed otherwise than by a start, it has to be ours first.
    if (entry.change != JobChange::kNone) {
      ASSAY_RETURN_IF_ERROR(FlushJobs());
      return &entry;
    }
    jobs_.erase(found);
  }
  if (absent_.count(id) > 0) return nullptr;
  Touches one;
  one.jobs.push_back(id);
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> taken, LockJobs(one));
  if (!taken.empty()) return &Keep(std::move(taken.front()));
  absent_.insert(id);
  return nullptr;
}

absl::StatusOr<std::optional<JobRecord>> RecordStore::PeekJob(absl::string_view job_id) {
  const std::string id(job_id);
  if (auto found = jobs_.find(id); found != jobs_.end()) return found->second->record;
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> read, ReadJobs({id}));
  if (read.empty()) return std::nullopt;
  return std::move(read.front());
}

absl::StatusOr<std::vector<RecordStore::Entry*>> RecordStore::HeldBy(const std::string& worker) {
  std::vector<Entry*> held;
  if (alone()) {
    ASSAY_RETURN_IF_ERROR(Load());
    for (const JobRecord* record : live_->HeldBy(worker)) {
      held.push_back(jobs_.at(record->job.job_id()).get());
    }
    return held;
  }
  Touches touches;
  touches.holders.push_back(worker);
  ASSAY_RETURN_IF_ERROR(Take(touches));
  for (const auto& [job_id, entry] : jobs_) {
    if (entry->record.job.state() == v1::RUNNING && entry->record.job.worker() == worker) {
      held.push_back(entry.get());
    }
  }
  SortById(held);
  return held;
}

void RecordStore::SortById(std::vector<Entry*>& entries) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->record.job.job_id() < b->record.job.job_id(); });
}

void RecordStore::Changed(Entry& entry, JobChange change) {
  // Nobody else looks at leases, and a coordinator that starts gives all of them time (ExtendAllLeases).
  if (alone() && change == JobChange::kLease) return;
  if (entry.change == JobChange::kNone) changed_.push_back(&entry);
  entry.change = std::max(entry.change, change);
  const v1::JobState state = entry.record.job.state();
  const bool kept_out_of_it = state == v1::DONE ? entry.belief.has_value()
                                                : state == v1::RUNNING && entry.change <= JobChange::kStarted;
  if (change == JobChange::kNew) {
    fresh_.push_back(&entry);
  } else if (!kept_out_of_it) {
    queue_is_as_begun_ = false;
  }
  if (state != v1::DONE || !kept_out_of_it) waits_ = 0;
}

void RecordStore::StateChanged(Entry& entry, JobChange change, absl::Time now) {
  Changed(entry, change);
  const v1::Job& job = entry.record.job;
  if (alone()) live_->Update(entry.record);
  BatchWork& work = work_[job.batch_id()];
  work.now = now;
  if (job.state() == v1::DONE) {
    ended_.push_back(&entry);
    passing_.push_back(job.job_id());
    work.ended.push_back(job.result().outcome());
    work.events.Ended(job, now);
  } else if (job.state() == v1::RUNNING && job.attempts_size() == 1 && job.ended_stage().empty() &&
             change == JobChange::kStarted) {
    work.events.Started(job, now);
  } else {
    v1::BatchEvent event;
    *event.mutable_time() = ToTimestamp(now);
    *event.mutable_job() = job;
    TrimForEvent(*event.mutable_job());
    work.events.Add(event);
  }
}

absl::Status RecordStore::FlushJobs() {
  if (changed_.empty()) return absl::OkStatus();
  ASSAY_RETURN_IF_ERROR(Learn());
  if (alone()) {
    // Nobody waits for a row here: as they lie.
    std::sort(changed_.begin(), changed_.end(), [](const Entry* a, const Entry* b) {
      return std::tie(a->record.batch_number, a->record.ordinal) <
             std::tie(b->record.batch_number, b->record.ordinal);
    });
  } else {
    SortById(changed_);
  }
  std::vector<JobWrite> writes;
  writes.reserve(changed_.size());
  for (Entry* entry : changed_) {
    if (!entry->version.empty() && entry->change != JobChange::kStarted) {
      return absl::AbortedError("store: a job was seen in the queue alone, and is to be changed");
    }
  }
  for (Entry* entry : changed_)
    writes.push_back({&entry->record, std::exchange(entry->change, JobChange::kNone),
                      std::exchange(entry->belief, std::nullopt), entry->version});
  absl::Status written = WriteJobs(writes);
  for (Entry* entry : changed_) entry->version.clear();
  changed_.clear();
  return written;
}

absl::Status RecordStore::Learn() {
  if (ended_.empty()) return absl::OkStatus();
  // Most often nothing has failed that what passed could have failed at before.
  if (!has_failed_) {
    ASSAY_ASSIGN_OR_RETURN(has_failed_, HasFailed());
  }
  const bool fails = std::any_of(ended_.begin(), ended_.end(), [](const Entry* entry) {
    return IsFailureOfTheModel(entry->record.job.result().outcome());
  });
  if (!*has_failed_ && !fails) {
    ended_.clear();
    return absl::OkStatus();
  }
  std::vector<std::pair<Entry*, std::string>> learned;
  std::vector<std::string> digests;
  for (Entry* entry : std::exchange(ended_, {})) {
    const v1::Outcome outcome = entry->record.job.result().outcome();
    if (outcome != v1::PASSED && !IsFailureOfTheModel(outcome)) continue;
    std::string digest = InputsDigest(entry->record);
    if (digest.empty()) continue;
    if (outcome == v1::PASSED) digests.push_back(digest);
    learned.emplace_back(entry, std::move(digest));
  }
  std::set<std::string> failed, news;
  if (!digests.empty()) {
    ASSAY_ASSIGN_OR_RETURN(failed, ReadFailed(digests));
  }
  for (auto& [entry, digest] : learned) {
    v1::Job& job = entry->record.job;
    if (job.result().outcome() == v1::PASSED) {
      job.set_flaky(failed.count(digest) > 0);
    } else {
      has_failed_ = true;
      failed.insert(digest);
      news.insert(std::move(digest));
    }
  }
  return news.empty() ? absl::OkStatus() : WriteFailed(news);
}

bool RecordStore::Apply(const BatchWork& work, BatchRecord& record) {
  v1::Batch& batch = record.batch;
  if (work.cancelled) batch.set_cancelled(true);
  batch.set_done(batch.done() + static_cast<uint32_t>(work.ended.size()));
  for (v1::Outcome outcome : work.ended) Count(batch, outcome);
  if (batch.has_end_time() || batch.done() != batch.total()) return false;
  *batch.mutable_end_time() = ToTimestamp(work.now);
  return true;
}

absl::StatusOr<std::optional<BatchRecord>> RecordStore::PeekBatch(absl::string_view batch_id) {
  const std::string id(batch_id);
  std::optional<BatchRecord> record;
  if (auto known = batches_.find(id); known != batches_.end()) {
    record = *known->second;
  } else {
    ASSAY_ASSIGN_OR_RETURN(record, FindBatch(id));
  }
  if (auto work = work_.find(id); record && work != work_.end()) Apply(work->second, *record);
  return record;
}

absl::Status RecordStore::Flush() {
  ASSAY_RETURN_IF_ERROR(FlushJobs());
  if (!learned_.empty()) ASSAY_RETURN_IF_ERROR(WriteFigures(std::exchange(learned_, {})));
  for (const auto& [attempt, answer] : std::exchange(answers_, {})) {
    v1::AttemptRef ref;
    ref.set_job_id(attempt.first);
    ref.set_attempt(attempt.second);
    ASSAY_RETURN_IF_ERROR(PutAnswer(ref, answer));
  }
  return work_.empty() ? absl::OkStatus() : FlushBatches();
}

absl::Status RecordStore::FlushBatches() {
  std::vector<std::string> missing;
  const bool believe = !alone() && !OthersWrite();
  for (const auto& [batch_id, work] : work_) {
    if (batches_.count(batch_id) > 0 || (believe && remembered_batches_.count(batch_id) > 0)) continue;
    missing.push_back(batch_id);
  }
  // kAlone: of one that ended, and is written again.
  std::map<std::string, BatchRecord> ended;
  std::map<std::string, BatchRecord>& locked = alone() ? ended : remembered_batches_;
  if (!missing.empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<BatchRecord> records, LockBatches(missing));
    for (BatchRecord& record : records) {
      const std::string id = record.batch.batch_id();
      locked.insert_or_assign(id, std::move(record));
    }
  }
  std::vector<const BatchRecord*> batches;
  std::vector<EventRow> rows;
  for (auto& [batch_id, work] : work_) {
    auto known = batches_.find(batch_id);
    auto read = locked.find(batch_id);
    if (known == batches_.end() && read == locked.end()) {
      return absl::DataLossError(absl::StrCat("store: jobs of a batch '", batch_id, "' that is not there"));
    }
    BatchRecord& record = known != batches_.end() ? *known->second : read->second;
    if (Apply(work, record)) {
      v1::BatchEvent event;
      *event.mutable_time() = ToTimestamp(work.now);
      *event.mutable_batch() = record.batch;
      work.events.Add(event);
    }
    if (alone() && record.batch.has_end_time()) finished_.push_back(batch_id);
    if (work.events.size() > 0) {
      record.last_sequence += work.events.size();
      rows.push_back({batch_id, record.last_sequence, work.events.bytes(), /*grouped=*/true});
      touched_.insert(batch_id);
    }
    batches.push_back(&record);
  }
  absl::Status written = WriteBatches(batches, rows);
  for (auto& [batch_id, work] : work_) {
    auto read = remembered_batches_.find(batch_id);
    if (read == remembered_batches_.end()) continue;
    read->second.stored_sequence = read->second.last_sequence;
    if (read->second.batch.has_end_time()) remembered_batches_.erase(read);
  }
  if (remembered_batches_.size() > kMaxRememberedBatches) remembered_batches_.clear();
  work_.clear();
  return written;
}

std::set<std::string> RecordStore::TakeTouched() { return std::exchange(touched_, {}); }

}  // namespace assay::coordinator

#include "coordinator/store/record_store.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/needs.h"
#include "coordinator/store/evidence.h"
#include "coordinator/store/live_index.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

bool IsHeldBy(const JobRecord& record, absl::string_view worker) {
  return worker.empty() || record.job.worker() == worker;
}

// So many changed jobs are worth a statement of their own: a shared medium writes them while the next change.
constexpr size_t kWorthWriting = 128;

absl::StatusOr<v1::Batch> FirstAnswer(const BatchSubmission& submission, BatchRecord known) {
  if (known.request_digest == submission.request_digest) return std::move(known.batch);
  return absl::AlreadyExistsError(
      absl::StrCat("request_id '", submission.request_id, "' was used for another batch: use a new one"));
}

}  // namespace

absl::StatusOr<v1::Batch> RecordStore::SubmitBatch(const BatchSubmission& submission, absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> known, FindBatchByRequest(submission.request_id));
  if (known) return FirstAnswer(submission, *std::move(known));
  std::set<absl::string_view> names;
  for (const NewJob& job : submission.jobs) {
    if (!names.insert(job.model.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat("model '", job.model.name(), "' is in the batch twice"));
    }
  }
  BatchRecord record;
  record.request_id = submission.request_id;
  record.request_digest = submission.request_digest;
  record.batch.set_batch_id(submission.batch_id);
  record.batch.set_name(submission.name);
  record.batch.set_submitter(submission.submitter);
  *record.batch.mutable_create_time() = ToTimestamp(now);
  const std::vector<v1::Target> targets =
      submission.targets.empty() ? std::vector<v1::Target>{submission.target} : submission.targets;
  *record.batch.mutable_target() = {targets.begin(), targets.end()};
  *record.batch.mutable_selector() = {submission.selector.begin(), submission.selector.end()};
  record.batch.set_total(static_cast<uint32_t>(submission.jobs.size() * targets.size()));
  ASSAY_ASSIGN_OR_RETURN(bool inserted, InsertBatch(record));
  if (!inserted) {
    // Another coordinator was asked the same, at the same time.
    ASSAY_ASSIGN_OR_RETURN(known, FindBatchByRequest(submission.request_id));
    if (known) return FirstAnswer(submission, *std::move(known));
    return absl::UnavailableError("batch id taken: try again");
  }
  std::vector<JobRecord> jobs;
  jobs.reserve(submission.jobs.size() * targets.size());
  std::vector<JobRecord*> fresh;
  for (const NewJob& job : submission.jobs) {
    for (const v1::Target& target : targets) {
      jobs.push_back(NewJobRecord(record, job, target, static_cast<uint32_t>(jobs.size()), now));
      jobs.back().job.set_traceparent(submission.traceparent);
      fresh.push_back(&jobs.back());
      if (target.device() != v1::CPU) {
        jobs.back().job.mutable_needs()->set_gpu_memory_bytes(submission.gpu_memory);
      }
    }
  }
  ASSAY_RETURN_IF_ERROR(Expect(fresh));
  for (JobRecord& job : jobs) Changed(Keep(std::move(job)), JobChange::kNew);
  if (!alone()) ASSAY_RETURN_IF_ERROR(FlushJobs());  // they are written while others are dealt with
  v1::Batch batch = record.batch;
  if (jobs.empty()) work_[submission.batch_id].now = now;  // ends at once
  if (alone()) {
    batches_[submission.batch_id] = std::make_unique<BatchRecord>(std::move(record));
  } else {
    remembered_batches_.insert_or_assign(submission.batch_id, std::move(record));
  }
  if (!jobs.empty()) return batch;
  ASSAY_ASSIGN_OR_RETURN(known, PeekBatch(submission.batch_id));
  return known ? std::move(known->batch) : std::move(batch);
}

absl::StatusOr<CancelledBatch> RecordStore::CancelBatch(absl::string_view batch_id, absl::Time now) {
  ASSAY_RETURN_IF_ERROR(Load());
  Touches touches;
  touches.batches.emplace_back(batch_id);
  ASSAY_RETURN_IF_ERROR(Take(touches));
  // Nobody but us can end it now: all its jobs that have not ended are taken. Its row is not, as batches come
  // last.
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> batch, PeekBatch(batch_id));
  if (!batch) return NoBatch(batch_id);
  CancelledBatch cancelled;
  if (batch->batch.cancelled()) {
    cancelled.batch = std::move(batch->batch);
    return cancelled;
  }
  if (batch->batch.has_end_time()) {
    return absl::FailedPreconditionError(absl::StrCat("batch '", batch_id, "' has ended"));
  }
  std::vector<Entry*> live;
  for (const auto& [job_id, entry] : jobs_) {
    const v1::Job& job = entry->record.job;
    if (job.batch_id() == batch_id && job.state() != v1::DONE) live.push_back(entry.get());
  }
  std::sort(live.begin(), live.end(),
            [](const Entry* a, const Entry* b) { return a->record.ordinal < b->record.ordinal; });
  BatchWork& work = work_[std::string(batch_id)];
  work.cancelled = true;
  work.now = now;
  for (Entry* entry : live) {
    JobRecord& record = entry->record;
    if (record.job.state() == v1::RUNNING) {
      cancelled.stopped.push_back(RunningAttemptOf(record));
      EndAttempt(record, v1::CANCELLED, "the batch was cancelled");
    }
    v1::TestResult result;
    result.set_outcome(v1::CANCELLED);
    result.set_message("the batch was cancelled");
    EndJob(record, std::move(result), now);
    StateChanged(*entry, JobChange::kWhole, now);
  }
  ASSAY_ASSIGN_OR_RETURN(batch, PeekBatch(batch_id));
  if (batch) cancelled.batch = std::move(batch->batch);
  return cancelled;
}

absl::StatusOr<v1::Assignment> RecordStore::Lease(absl::string_view job_id, absl::string_view worker,
                                                  absl::Time now, absl::Time until, const Assign& assign) {
  ASSAY_RETURN_IF_ERROR(Load());
  const std::string id(job_id);
  Entry* entry = nullptr;
  if (alone()) {
    ASSAY_ASSIGN_OR_RETURN(entry, FindJob(id));
    if (entry == nullptr) return NoJob(job_id);
  } else {
    if (jobs_.count(id) == 0 && skipped_.count(id) == 0) ASSAY_RETURN_IF_ERROR(TakeQueued({id}));
    auto taken = jobs_.find(id);
    if (taken == jobs_.end()) {
      ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> exists, PeekJob(id));
      if (!exists) return NoJob(job_id);
      return absl::FailedPreconditionError(absl::StrCat("job '", job_id, "' is not queued any more"));
    }
    entry = taken->second.get();
  }
  JobRecord& record = entry->record;
  if (record.job.state() != v1::QUEUED) {
    return absl::FailedPreconditionError(absl::StrCat("job '", job_id, "' is not queued"));
  }
  StartAttempt(record, worker, now, until);
  v1::Assignment assignment = assign(record.job);
  record.assigned = assignment;
  *record.assigned.mutable_attempt() = RefOf(record);
  record.assigned.clear_batch_id();  // the job has these itself
  record.assigned.clear_model();
  record.assigned.clear_target();
  StateChanged(*entry, JobChange::kStarted, now);
  if (!alone() && changed_.size() >= kWorthWriting) ASSAY_RETURN_IF_ERROR(FlushJobs());
  return assignment;
}

absl::StatusOr<std::vector<v1::AttemptRef>> RecordStore::ExtendLeases(
    absl::string_view worker, const std::vector<v1::AttemptRef>& attempts, absl::Time until) {
  std::vector<v1::AttemptRef> others;
  for (const v1::AttemptRef& attempt : attempts) {
    ASSAY_ASSIGN_OR_RETURN(Entry * entry, FindHeld(attempt, worker));
    if (entry == nullptr) {
      others.push_back(attempt);
      continue;
    }
    JobRecord& record = entry->record;
    if (IsNewest(record, attempt) && record.job.state() == v1::RUNNING && record.job.worker() == worker) {
      record.lease_until = std::max(record.lease_until, until);
      Changed(*entry, JobChange::kLease);
      continue;
    }
    // Answered already: the answer is on its way, and says what to do.
    ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, AnswerTo(attempt, record));
    if (!answer) others.push_back(attempt);
  }
  return others;
}

absl::StatusOr<AdoptedAttempts> RecordStore::AdoptAttempts(absl::string_view worker, bool restarted,
                                                           const std::vector<v1::AttemptRef>& attempts,
                                                           absl::Time now, absl::Time until) {
  Touches touches;
  for (const v1::AttemptRef& attempt : attempts) touches.jobs.push_back(attempt.job_id());
  touches.holders.emplace_back(worker);
  ASSAY_RETURN_IF_ERROR(Take(touches));
  AdoptedAttempts adopted;
  std::set<std::pair<std::string, uint64_t>> named;
  for (const v1::AttemptRef& attempt : attempts) {
    if (!named.emplace(attempt.job_id(), attempt.attempt()).second) continue;
    ASSAY_ASSIGN_OR_RETURN(Entry * entry, FindJob(attempt.job_id()));
    if (entry == nullptr) {
      adopted.abandon.push_back(attempt);
      continue;
    }
    JobRecord& record = entry->record;
    ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, AnswerTo(attempt, record));
    if (answer) continue;
    if (!IsNewest(record, attempt) || record.job.state() == v1::DONE || record.job.worker() != worker) {
      adopted.abandon.push_back(attempt);
      continue;
    }
    record.lease_until = std::max(record.lease_until, until);
    if (record.job.state() == v1::QUEUED) {
      ResumeAttempt(record);
      StateChanged(*entry, JobChange::kWhole, now);
    } else {
      Changed(*entry, JobChange::kLease);
    }
    adopted.keep.push_back(RunningAttemptOf(record));
  }
  ASSAY_ASSIGN_OR_RETURN(std::vector<Entry*> held, HeldBy(std::string(worker)));
  for (Entry* entry : held) {
    if (named.count({entry->record.job.job_id(), entry->record.job.attempt()}) > 0) continue;
    adopted.lost.push_back(LoseAttempt(*entry,
                                       restarted ? "it was restarted" : "the assignment did not arrive",
                                       /*counts=*/restarted, now));
  }
  return adopted;
}

absl::StatusOr<std::vector<LostAttempt>> RecordStore::ExpireLeases(absl::Time now) {
  ASSAY_RETURN_IF_ERROR(Load());
  if (!alone()) {
    ASSAY_RETURN_IF_ERROR(FlushJobs());  // what was started on what was only seen is checked by being written
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> expired, LockExpired(now));
    for (JobRecord& record : expired) Keep(std::move(record));
  }
  std::vector<Entry*> expired;
  auto look = [&](Entry& entry) {
    if (entry.record.job.state() == v1::RUNNING && entry.record.lease_until <= now) expired.push_back(&entry);
  };
  if (alone()) {
    for (const JobRecord* record : live_->Running()) look(*jobs_.at(record->job.job_id()));
  } else {
    for (const auto& [job_id, entry] : jobs_) look(*entry);
    SortById(expired);
  }
  std::vector<LostAttempt> lost;
  for (Entry* entry : expired) lost.push_back(LoseAttempt(*entry, "its lease ran out", /*counts=*/true, now));
  return lost;
}

LostAttempt RecordStore::LoseAttempt(Entry& entry, absl::string_view why, bool counts, absl::Time now) {
  JobRecord& record = entry.record;
  LostAttempt lost;
  lost.attempt = RefOf(record);
  lost.worker = record.job.worker();
  if (counts) {
    ++record.setbacks;
    EndAttempt(record, v1::INFRASTRUCTURE_ERROR,
               absl::StrCat("worker '", record.job.worker(), "' was lost: ", why));
  } else {
    // It never ran: the number is used up, but there is nothing to tell.
    record.job.mutable_attempts()->RemoveLast();
  }
  lost.requeued = record.setbacks < max_attempts_;
  if (lost.requeued) {
    record.job.set_state(v1::QUEUED);
  } else {
    v1::TestResult result;
    result.set_outcome(v1::INFRASTRUCTURE_ERROR);
    result.set_message(SetbackMessage(record));
    EndJob(record, std::move(result), now);
  }
  StateChanged(entry, JobChange::kWhole, now);
  return lost;
}

absl::Status RecordStore::ShortenLeases(absl::string_view worker, absl::Time until) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<Entry*> held, HeldBy(std::string(worker)));
  for (Entry* entry : held) {
    if (entry->record.lease_until <= until) continue;
    entry->record.lease_until = until;
    Changed(*entry, JobChange::kLease);
  }
  return absl::OkStatus();
}

absl::Status RecordStore::ShortenAllLeases(absl::Time until) {
  if (!alone()) return absl::OkStatus();
  ASSAY_RETURN_IF_ERROR(Load());
  for (const JobRecord* record : live_->Running()) {
    if (record->lease_until <= until) continue;
    Entry& entry = *jobs_.at(record->job.job_id());
    entry.record.lease_until = until;
    Changed(entry, JobChange::kLease);
  }
  return absl::OkStatus();
}

absl::Status RecordStore::ExtendAllLeases(absl::Time until) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<RunningAttempt> running, Running());
  Touches touches;
  for (const RunningAttempt& attempt : running) touches.jobs.push_back(attempt.attempt.job_id());
  ASSAY_RETURN_IF_ERROR(Take(touches));
  for (const RunningAttempt& attempt : running) {
    ASSAY_ASSIGN_OR_RETURN(Entry * entry, FindJob(attempt.attempt.job_id()));
    if (entry == nullptr || entry->record.job.state() != v1::RUNNING) continue;
    entry->record.lease_until = std::max(entry->record.lease_until, until);
    Changed(*entry, JobChange::kLease);
  }
  return absl::OkStatus();
}

absl::Status RecordStore::RecordProgress(const v1::AttemptRef& attempt, const v1::CaseResult& result,
                                         absl::Time now, absl::string_view worker) {
  ASSAY_ASSIGN_OR_RETURN(Entry * entry, FindJob(attempt.job_id()));
  if (entry == nullptr || entry->record.job.state() != v1::RUNNING || !IsNewest(entry->record, attempt) ||
      !IsHeldBy(entry->record, worker)) {
    return absl::FailedPreconditionError(absl::StrCat("attempt ", attempt.attempt(), " at job '",
                                                      attempt.job_id(), "' is not the one that runs"));
  }
  const v1::Job& job = entry->record.job;
  v1::BatchEvent event;
  *event.mutable_time() = ToTimestamp(now);
  v1::JobProgress& progress = *event.mutable_progress();
  progress.set_job_id(attempt.job_id());
  progress.set_attempt(attempt.attempt());
  progress.set_model(job.model().name());
  *progress.mutable_case_result() = result;
  TrimForEvent(*progress.mutable_case_result());
  BatchWork& work = work_[job.batch_id()];
  work.now = now;
  work.events.Add(event);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<AnswerRecord>> RecordStore::AnswerTo(const v1::AttemptRef& attempt,
                                                                  const JobRecord& record) {
  if (attempt.attempt() == 0 || attempt.attempt() > record.job.attempt()) return std::nullopt;
  if (attempt.attempt() == record.answered) return AnswerRecord{/*counted=*/true, ""};
  // Answered, it would not run.
  if (IsNewest(record, attempt) && record.job.state() == v1::RUNNING) return std::nullopt;
  auto pending = answers_.find({attempt.job_id(), attempt.attempt()});
  if (pending != answers_.end()) return pending->second;
  return FindAnswer(attempt);
}

absl::StatusOr<v1::ResultAck> RecordStore::CommitResult(const v1::AttemptResult& result, absl::Time now,
                                                        absl::string_view worker) {
  const v1::AttemptRef& attempt = result.attempt();
  ASSAY_ASSIGN_OR_RETURN(Entry * entry, FindHeld(attempt, worker));
  if (entry == nullptr) return NoJob(attempt.job_id());
  JobRecord& record = entry->record;
  ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, AnswerTo(attempt, record));
  if (answer) return AckOf(attempt, *answer);
  if (IsNewest(record, attempt) && !IsHeldBy(record, worker)) {
    return absl::FailedPreconditionError(
        absl::StrCat("attempt ", attempt.attempt(), " is not worker '", worker, "'s"));
  }
  if (record.job.state() == v1::DONE) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the job has ended: ",
        record.job.result().message().empty() ? "its result is counted" : record.job.result().message()));
  }
  if (!IsNewest(record, attempt)) {
    return absl::FailedPreconditionError(absl::StrCat("attempt ", record.job.attempt(), " is the newest"));
  }

  if (record.job.state() == v1::QUEUED) ResumeAttempt(record);
  v1::TestResult counted = Examined(record, result.result());
  EndAttempt(record, counted.outcome(), counted.message());
  answer.emplace();
  if (counted.outcome() == v1::INFRASTRUCTURE_ERROR && ++record.setbacks < max_attempts_) {
    record.job.set_state(v1::QUEUED);
    answer->reason = "the infrastructure failed: the job is queued again";
  } else {
    answer->counted = true;
    ASSAY_RETURN_IF_ERROR(LearnFigures(counted, record.job));
    if (LetsGoOn(record.job, counted.outcome())) {
      EndStage(record, std::move(counted), result.log_digest(), now);
      ASSAY_RETURN_IF_ERROR(Expect({&record}));
    } else {
      if (counted.outcome() == v1::INFRASTRUCTURE_ERROR) counted.set_message(SetbackMessage(record));
      record.job.set_log_digest(result.log_digest());
      EndJob(record, std::move(counted), now);
      record.answered = attempt.attempt();
    }
  }
  if (record.job.state() != v1::DONE) answers_[{attempt.job_id(), attempt.attempt()}] = *answer;
  StateChanged(*entry, JobChange::kWhole, now);
  if (!alone() && changed_.size() >= kWorthWriting) ASSAY_RETURN_IF_ERROR(FlushJobs());
  return AckOf(attempt, *answer);
}

absl::Status RecordStore::Expect(const std::vector<JobRecord*>& records) {
  std::set<std::string> models;
  for (const JobRecord* record : records) models.insert(record->job.model().name());
  ASSAY_RETURN_IF_ERROR(KnowFigures(models, /*fresh=*/true));
  for (JobRecord* record : records) {
    const Figures& figures = figures_[record->job.model().name()];
    record->expected_seconds = ExpectedSeconds(record->job, figures);
    PredictNeeds(figures, record->job);
  }
  return absl::OkStatus();
}

absl::Status RecordStore::KnowFigures(const std::set<std::string>& models, bool fresh) {
  std::vector<std::string> unknown;
  for (const std::string& model : models) {
    if (figures_.count(model) == 0 || (fresh && !alone())) unknown.push_back(model);
  }
  if (unknown.empty()) return absl::OkStatus();
  ASSAY_ASSIGN_OR_RETURN(FiguresByModel read, ReadFigures(unknown));
  for (const std::string& model : unknown) {
    Figures& figures = figures_[model] = std::move(read[model]);
    // What this transaction has seen itself is newer than what the medium has.
    auto learned = learned_.find(model);
    if (learned == learned_.end()) continue;
    for (const auto& [key, value] : learned->second) figures[key] = value;
  }
  return absl::OkStatus();
}

absl::Status RecordStore::LearnFigures(const v1::TestResult& result, v1::Job& job) {
  const std::string& model = job.model().name();
  ASSAY_RETURN_IF_ERROR(KnowFigures({model}, /*fresh=*/false));
  Figures& figures = figures_[model];
  if (v1::Prediction prediction = PredictionOf(job, result, figures); prediction.ByteSizeLong() > 0) {
    *job.mutable_predicted() = std::move(prediction);
  }
  const Figures learned = Learned(job, result, figures);
  if (learned.empty()) return absl::OkStatus();
  Figures& to_write = learned_[model];
  for (const auto& [key, value] : learned) figures[key] = to_write[key] = value;
  return absl::OkStatus();
}

absl::StatusOr<v1::TokenInfo> RecordStore::RevokeToken(absl::string_view id, absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<TokenRecord> token, LockToken(id, ""));
  if (!token) return absl::NotFoundError(absl::StrCat("no token '", id, "'"));
  if (token->info.has_revoke_time()) return std::move(token->info);
  *token->info.mutable_revoke_time() = ToTimestamp(now);
  ASSAY_RETURN_IF_ERROR(PutToken(*token));
  return std::move(token->info);
}

absl::StatusOr<v1::TokenInfo> RecordStore::RedeemToken(absl::string_view hash, absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<TokenRecord> token, LockToken("", hash));
  if (!token) return absl::NotFoundError("no such token");
  if (token->info.has_redeem_time()) {
    return absl::FailedPreconditionError(absl::StrCat("token '", token->info.id(), "' was redeemed"));
  }
  *token->info.mutable_redeem_time() = ToTimestamp(now);
  ASSAY_RETURN_IF_ERROR(PutToken(*token));
  return std::move(token->info);
}

absl::Status RecordStore::DropBatch(absl::string_view batch_id) {
  ASSAY_RETURN_IF_ERROR(Flush());
  ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, GetBatch(batch_id));
  if (!batch.has_end_time()) {
    return absl::FailedPreconditionError(absl::StrCat("batch '", batch_id, "' has not ended"));
  }
  // Nothing of it is in memory longer than until this transaction ends.
  return EraseBatch(batch_id);
}

}  // namespace assay::coordinator

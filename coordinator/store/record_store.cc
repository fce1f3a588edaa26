#include "coordinator/store/record_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "coordinator/store/evidence.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {

class RecordStore::BatchEdit {
 public:
  static absl::StatusOr<BatchEdit> Open(RecordStore& store, absl::string_view batch_id, absl::Time now) {
    ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> record, store.FindBatch(batch_id));
    if (!record) return absl::NotFoundError(absl::StrCat("no batch '", batch_id, "'"));
    return BatchEdit(store, *std::move(record), now);
  }
  BatchEdit(RecordStore& store, BatchRecord record, absl::Time now)
      : store_(&store), record_(std::move(record)), now_(now) {}

  BatchRecord& record() { return record_; }

  // The job has changed its state. One that is DONE is counted.
  void JobChanged(const JobRecord& job) {
    if (job.job.state() == v1::DONE) {
      record_.batch.set_done(record_.batch.done() + 1);
      Count(record_.batch, job.job.result().outcome());
    }
    *NewEvent().mutable_job() = ForEvent(job.job);
  }
  void Progressed(v1::JobProgress progress) { *NewEvent().mutable_progress() = std::move(progress); }

  absl::Status Save() {
    v1::Batch& batch = record_.batch;
    if (!batch.has_end_time() && batch.done() == batch.total()) {
      *batch.mutable_end_time() = ToTimestamp(now_);
      *NewEvent().mutable_batch() = batch;
    }
    for (const v1::BatchEvent& event : events_) {
      ASSAY_RETURN_IF_ERROR(store_->PutEvent(batch.batch_id(), event));
    }
    if (!events_.empty()) store_->touched_.insert(batch.batch_id());
    return store_->PutBatch(record_);
  }

 private:
  v1::BatchEvent& NewEvent() {
    v1::BatchEvent& event = events_.emplace_back();
    event.set_sequence(++record_.last_sequence);
    *event.mutable_time() = ToTimestamp(now_);
    return event;
  }

  RecordStore* store_;
  BatchRecord record_;
  absl::Time now_;
  std::vector<v1::BatchEvent> events_;
};

std::set<std::string> RecordStore::TakeTouched() { return std::exchange(touched_, {}); }

absl::StatusOr<v1::Batch> RecordStore::SubmitBatch(const BatchSubmission& submission, absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> known, FindBatchByRequest(submission.request_id));
  if (known) {
    if (known->request_digest == submission.request_digest) return known->batch;
    return absl::AlreadyExistsError(
        absl::StrCat("request_id '", submission.request_id, "' was used for another batch: use a new one"));
  }
  std::set<absl::string_view> names;
  for (const NewJob& job : submission.jobs) {
    if (!names.insert(job.model.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat("model '", job.model.name(), "' is in the batch twice"));
    }
  }
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> same_id, FindBatch(submission.batch_id));
  if (same_id) return absl::UnavailableError("batch id taken: try again");

  BatchRecord record;
  record.request_id = submission.request_id;
  record.request_digest = submission.request_digest;
  record.batch.set_batch_id(submission.batch_id);
  record.batch.set_name(submission.name);
  record.batch.set_submitter(submission.submitter);
  *record.batch.mutable_create_time() = ToTimestamp(now);
  record.batch.set_total(static_cast<uint32_t>(submission.jobs.size()));
  ASSAY_RETURN_IF_ERROR(PutBatch(record));
  uint32_t ordinal = 0;
  for (const NewJob& job : submission.jobs) {
    JobRecord fresh = NewJobRecord(record, job, submission.target, ordinal++, now);
    ASSAY_ASSIGN_OR_RETURN(fresh.expected_seconds, ExpectedSeconds(fresh.job));
    ASSAY_RETURN_IF_ERROR(PutJob(fresh));
  }
  BatchEdit edit(*this, std::move(record), now);
  ASSAY_RETURN_IF_ERROR(edit.Save());
  return edit.record().batch;
}

absl::StatusOr<CancelledBatch> RecordStore::CancelBatch(absl::string_view batch_id, absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, batch_id, now));
  if (edit.record().batch.cancelled()) return CancelledBatch{edit.record().batch, {}};
  if (edit.record().batch.has_end_time()) {
    return absl::FailedPreconditionError(absl::StrCat("batch '", batch_id, "' has ended"));
  }
  CancelledBatch cancelled;
  edit.record().batch.set_cancelled(true);
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs, JobsOf(batch_id));
  for (JobRecord& record : jobs) {
    if (record.job.state() == v1::DONE) continue;
    if (record.job.state() == v1::RUNNING) {
      cancelled.stopped.push_back(RunningAttemptOf(record));
      EndAttempt(record, v1::CANCELLED, "the batch was cancelled");
    }
    v1::TestResult result;
    result.set_outcome(v1::CANCELLED);
    result.set_message("the batch was cancelled");
    EndJob(record, std::move(result), now);
    ASSAY_RETURN_IF_ERROR(PutJob(record));
    edit.JobChanged(record);
  }
  ASSAY_RETURN_IF_ERROR(edit.Save());
  cancelled.batch = edit.record().batch;
  return cancelled;
}

absl::StatusOr<v1::Assignment> RecordStore::Lease(absl::string_view job_id, absl::string_view worker,
                                                  absl::Time now, absl::Time until, const Assign& assign) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(job_id));
  if (!record) return absl::NotFoundError(absl::StrCat("no job '", job_id, "'"));
  if (record->job.state() != v1::QUEUED) {
    return absl::FailedPreconditionError(absl::StrCat("job '", job_id, "' is not queued"));
  }
  StartAttempt(*record, worker, now, until);
  v1::Assignment assignment = assign(record->job);
  record->assigned = assignment;
  *record->assigned.mutable_attempt() = RefOf(*record);
  record->assigned.clear_batch_id();  // the job has these itself
  record->assigned.clear_model();
  record->assigned.clear_target();
  ASSAY_RETURN_IF_ERROR(PutJob(*record));
  ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, record->job.batch_id(), now));
  edit.JobChanged(*record);
  ASSAY_RETURN_IF_ERROR(edit.Save());
  return assignment;
}

absl::StatusOr<std::vector<v1::AttemptRef>> RecordStore::ExtendLeases(
    absl::string_view worker, const std::vector<v1::AttemptRef>& attempts, absl::Time until) {
  std::vector<v1::AttemptRef> others;
  for (const v1::AttemptRef& attempt : attempts) {
    ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(attempt.job_id()));
    if (record && IsNewest(*record, attempt) && record->job.state() == v1::RUNNING &&
        record->job.worker() == worker) {
      record->lease_until = std::max(record->lease_until, until);
      ASSAY_RETURN_IF_ERROR(PutJob(*record));
      continue;
    }
    // Answered already: the answer is on its way, and says what to do.
    ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, FindAnswer(attempt));
    if (!answer) others.push_back(attempt);
  }
  return others;
}

absl::StatusOr<AdoptedAttempts> RecordStore::AdoptAttempts(absl::string_view worker, bool restarted,
                                                           const std::vector<v1::AttemptRef>& attempts,
                                                           absl::Time now, absl::Time until) {
  AdoptedAttempts adopted;
  std::set<std::pair<std::string, uint64_t>> named;
  for (const v1::AttemptRef& attempt : attempts) {
    if (!named.emplace(attempt.job_id(), attempt.attempt()).second) continue;
    ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, FindAnswer(attempt));
    if (answer) continue;
    ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(attempt.job_id()));
    if (!record || !IsNewest(*record, attempt) || record->job.state() == v1::DONE ||
        record->job.worker() != worker) {
      adopted.abandon.push_back(attempt);
      continue;
    }
    const bool was_queued = record->job.state() == v1::QUEUED;
    if (was_queued) ResumeAttempt(*record);
    record->lease_until = std::max(record->lease_until, until);
    ASSAY_RETURN_IF_ERROR(PutJob(*record));
    if (was_queued) {
      ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, record->job.batch_id(), now));
      edit.JobChanged(*record);
      ASSAY_RETURN_IF_ERROR(edit.Save());
    }
    adopted.keep.push_back(RunningAttemptOf(*record));
  }
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  for (JobRecord& record : running) {
    if (record.job.worker() != worker || named.count({record.job.job_id(), record.job.attempt()}) > 0)
      continue;
    ASSAY_ASSIGN_OR_RETURN(
        LostAttempt lost,
        LoseAttempt(std::move(record), restarted ? "it was restarted" : "the assignment did not arrive",
                    /*counts=*/restarted, now));
    adopted.lost.push_back(std::move(lost));
  }
  return adopted;
}

absl::StatusOr<std::vector<LostAttempt>> RecordStore::ExpireLeases(absl::Time now) {
  std::vector<LostAttempt> lost;
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  for (JobRecord& record : running) {
    if (record.lease_until > now) continue;
    ASSAY_ASSIGN_OR_RETURN(LostAttempt one,
                           LoseAttempt(std::move(record), "its lease ran out", /*counts=*/true, now));
    lost.push_back(std::move(one));
  }
  return lost;
}

absl::StatusOr<LostAttempt> RecordStore::LoseAttempt(JobRecord record, absl::string_view why, bool counts,
                                                     absl::Time now) {
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
  ASSAY_RETURN_IF_ERROR(PutJob(record));
  ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, record.job.batch_id(), now));
  edit.JobChanged(record);
  ASSAY_RETURN_IF_ERROR(edit.Save());
  return lost;
}

absl::Status RecordStore::ShortenLeases(absl::string_view worker, absl::Time until) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  for (JobRecord& record : running) {
    if (record.job.worker() != worker || record.lease_until <= until) continue;
    record.lease_until = until;
    ASSAY_RETURN_IF_ERROR(PutJob(record));
  }
  return absl::OkStatus();
}

absl::Status RecordStore::ExtendAllLeases(absl::Time until) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  for (JobRecord& record : running) {
    record.lease_until = std::max(record.lease_until, until);
    ASSAY_RETURN_IF_ERROR(PutJob(record));
  }
  return absl::OkStatus();
}

absl::Status RecordStore::RecordProgress(const v1::AttemptRef& attempt, const v1::CaseResult& result,
                                         absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(attempt.job_id()));
  if (!record || record->job.state() != v1::RUNNING || !IsNewest(*record, attempt)) {
    return absl::FailedPreconditionError(absl::StrCat("attempt ", attempt.attempt(), " at job '",
                                                      attempt.job_id(), "' is not the one that runs"));
  }
  ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, record->job.batch_id(), now));
  v1::JobProgress progress;
  progress.set_job_id(attempt.job_id());
  progress.set_attempt(attempt.attempt());
  progress.set_model(record->job.model().name());
  *progress.mutable_case_result() = ForEvent(result);
  edit.Progressed(std::move(progress));
  return edit.Save();
}

absl::StatusOr<v1::ResultAck> RecordStore::CommitResult(const v1::AttemptResult& result, absl::Time now) {
  const v1::AttemptRef& attempt = result.attempt();
  ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(attempt.job_id()));
  if (!record) return absl::NotFoundError(absl::StrCat("no job '", attempt.job_id(), "'"));
  ASSAY_ASSIGN_OR_RETURN(std::optional<AnswerRecord> answer, FindAnswer(attempt));
  if (answer) return AckOf(attempt, *answer);
  if (record->job.state() == v1::DONE) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the job has ended: ",
        record->job.result().message().empty() ? "its result is counted" : record->job.result().message()));
  }
  if (!IsNewest(*record, attempt)) {
    return absl::FailedPreconditionError(absl::StrCat("attempt ", record->job.attempt(), " is the newest"));
  }

  if (record->job.state() == v1::QUEUED) ResumeAttempt(*record);
  v1::TestResult counted = Examined(*record, result.result());
  EndAttempt(*record, counted.outcome(), counted.message());
  answer.emplace();
  if (counted.outcome() == v1::INFRASTRUCTURE_ERROR && ++record->setbacks < max_attempts_) {
    record->job.set_state(v1::QUEUED);
    answer->reason = "the infrastructure failed: the job is queued again";
  } else {
    answer->counted = true;
    ASSAY_RETURN_IF_ERROR(
        PutSeconds(record->job.model().name(), TimingKey(record->job), std::max(0.0, counted.seconds())));
    if (LetsGoOn(record->job, counted.outcome())) {
      EndStage(*record, std::move(counted), result.log_digest(), now);
      ASSAY_ASSIGN_OR_RETURN(record->expected_seconds, ExpectedSeconds(record->job));
    } else {
      if (counted.outcome() == v1::INFRASTRUCTURE_ERROR) counted.set_message(SetbackMessage(*record));
      record->job.set_log_digest(result.log_digest());
      EndJob(*record, std::move(counted), now);
      ASSAY_RETURN_IF_ERROR(Learn(*record));
    }
  }
  ASSAY_RETURN_IF_ERROR(PutAnswer(attempt, *answer));
  ASSAY_RETURN_IF_ERROR(PutJob(*record));
  ASSAY_ASSIGN_OR_RETURN(BatchEdit edit, BatchEdit::Open(*this, record->job.batch_id(), now));
  edit.JobChanged(*record);
  ASSAY_RETURN_IF_ERROR(edit.Save());
  return AckOf(attempt, *answer);
}

absl::Status RecordStore::Learn(JobRecord& record) {
  const std::string inputs = InputsDigest(record);
  if (inputs.empty()) return absl::OkStatus();
  if (record.job.result().outcome() == v1::PASSED) {
    ASSAY_ASSIGN_OR_RETURN(bool failed_before, HasFailed(inputs));
    record.job.set_flaky(failed_before);
  } else if (IsFailureOfTheModel(record.job.result().outcome())) {
    return PutFailed(inputs);
  }
  return absl::OkStatus();
}

absl::StatusOr<double> RecordStore::ExpectedSeconds(const v1::Job& job) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<double> seconds, FindSeconds(job.model().name(), TimingKey(job)));
  return seconds.value_or(kUnknownSeconds);
}

absl::StatusOr<std::vector<RunningAttempt>> RecordStore::Running() {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  std::vector<RunningAttempt> attempts;
  attempts.reserve(running.size());
  for (const JobRecord& record : running) attempts.push_back(RunningAttemptOf(record));
  return attempts;
}

absl::StatusOr<std::map<std::string, uint32_t>> RecordStore::RunningBySubmitter() {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, RunningJobs());
  std::map<std::string, uint32_t> counts;
  for (const JobRecord& record : running) ++counts[record.submitter];
  return counts;
}

absl::StatusOr<v1::Batch> RecordStore::GetBatch(absl::string_view batch_id) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> record, FindBatch(batch_id));
  if (!record) return absl::NotFoundError(absl::StrCat("no batch '", batch_id, "'"));
  return std::move(record->batch);
}

absl::StatusOr<v1::Job> RecordStore::GetJob(absl::string_view job_id) {
  ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, FindJob(job_id));
  if (!record) return absl::NotFoundError(absl::StrCat("no job '", job_id, "'"));
  return std::move(record->job);
}

absl::StatusOr<std::vector<v1::Job>> RecordStore::ListJobs(absl::string_view batch_id) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> records, JobsOf(batch_id));
  std::vector<v1::Job> jobs;
  jobs.reserve(records.size());
  for (JobRecord& record : records) jobs.push_back(std::move(record.job));
  return jobs;
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
  ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, GetBatch(batch_id));
  if (!batch.has_end_time()) {
    return absl::FailedPreconditionError(absl::StrCat("batch '", batch_id, "' has not ended"));
  }
  return EraseBatch(batch_id);
}

}  // namespace assay::coordinator

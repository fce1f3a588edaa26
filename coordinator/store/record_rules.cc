#include "coordinator/store/record_rules.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "coordinator/needs.h"

namespace assay::coordinator {
namespace {

bool IsOfStage(const v1::AttemptSummary& attempt, const v1::Job& job) {
  return (attempt.stage() == v1::STAGE_EXPORT) == (StageOf(job) == v1::STAGE_EXPORT);
}

void AddAttempt(v1::Job& job) {
  v1::AttemptSummary& summary = *job.add_attempts();
  summary.set_stage(StageOf(job));
  summary.set_attempt(job.attempt());
  summary.set_worker(job.worker());
}

}  // namespace

v1::Stage StageOf(const v1::Job& job) {
  return job.stage() == v1::STAGE_EXPORT ? v1::STAGE_EXPORT : v1::STAGE_TEST;
}

v1::Stage FirstStageOf(const v1::Job& job) {
  return AskedCheckpoint(job) == nullptr ? v1::STAGE_TEST : v1::STAGE_EXPORT;
}

v1::DeviceChoice DeviceOf(const v1::Job& job) {
  return StageOf(job) == v1::STAGE_EXPORT ? v1::CPU : job.target().device();
}

std::string RouteOf(const v1::Job& job) { return RouteOf(RequirementOf(job)); }

const v1::CheckpointRef* AskedCheckpoint(const v1::Job& job) {
  if (job.model().has_checkpoint()) return &job.model().checkpoint();
  return job.has_default_checkpoint() ? &job.default_checkpoint() : nullptr;
}

const v1::TestResult* ExportOf(const v1::Job& job) {
  for (const v1::StageRecord& ended : job.ended_stage()) {
    if (ended.stage() == v1::STAGE_EXPORT) return &ended.result();
  }
  return nullptr;
}

v1::AttemptRef RefOf(const JobRecord& record) {
  v1::AttemptRef ref;
  ref.set_job_id(record.job.job_id());
  ref.set_attempt(record.job.attempt());
  return ref;
}

RunningAttempt RunningAttemptOf(const JobRecord& record) {
  return {RefOf(record),        record.job.worker(),         record.submitter,
          DeviceOf(record.job), record.assigned.device_id(), record.assigned.memory_bytes()};
}

QueuedJob QueuedJobOf(const v1::Job& job, absl::string_view submitter, Priority priority,
                      double expected_seconds, uint64_t batch_number, uint32_t ordinal) {
  QueuedJob queued;
  queued.job_id = job.job_id();
  queued.model = job.model().name();
  queued.submitter = std::string(submitter);
  queued.priority = priority;
  queued.device = DeviceOf(job);
  queued.needs_exporter = StageOf(job) == v1::STAGE_EXPORT;
  queued.route = RouteOf(job);
  queued.expected_seconds = expected_seconds;
  queued.order = (batch_number << 32) | ordinal;
  for (const v1::StageRecord& ended : job.ended_stage()) {
    if (ended.result().outcome() == v1::PASSED) queued.exported_by = ended.worker();
  }
  for (const v1::AttemptSummary& attempt : job.attempts()) {
    if (attempt.outcome() == v1::INFRASTRUCTURE_ERROR && IsOfStage(attempt, job)) {
      queued.tried.push_back(attempt.worker());
    }
  }
  return queued;
}

v1::ResultAck AckOf(const v1::AttemptRef& attempt, const AnswerRecord& answer) {
  v1::ResultAck ack;
  *ack.mutable_attempt() = attempt;
  ack.set_counted(answer.counted);
  ack.set_reason(answer.reason);
  return ack;
}

bool IsNewest(const JobRecord& record, const v1::AttemptRef& attempt) {
  return attempt.attempt() != 0 && record.job.attempt() == attempt.attempt();
}

std::string TargetWord(const v1::Target& target) {
  std::string dtype = v1::Dtype_Name(target.dtype());
  if (dtype.rfind("DTYPE_", 0) == 0) dtype.erase(0, 6);
  return absl::AsciiStrToLower(absl::StrCat(v1::DeviceChoice_Name(target.device()), "-", dtype));
}

JobRecord NewJobRecord(const BatchRecord& batch, const NewJob& job, const v1::Target& target,
                       uint32_t ordinal, absl::Time now) {
  JobRecord fresh;
  fresh.job.set_job_id(absl::StrCat(batch.batch.batch_id(), ".", job.model.name()));
  if (batch.batch.target_size() > 1)
    fresh.job.set_job_id(absl::StrCat(fresh.job.job_id(), ".", TargetWord(target)));
  *fresh.job.mutable_needs()->mutable_selector() = batch.batch.selector();
  fresh.job.set_batch_id(batch.batch.batch_id());
  *fresh.job.mutable_model() = job.model;
  if (job.default_checkpoint && !job.model.has_checkpoint()) {
    *fresh.job.mutable_default_checkpoint() = *job.default_checkpoint;
  }
  *fresh.job.mutable_target() = target;
  fresh.job.set_state(v1::QUEUED);
  fresh.job.set_stage(FirstStageOf(fresh.job));
  *fresh.job.mutable_create_time() = ToTimestamp(now);
  fresh.submitter = batch.batch.submitter();
  fresh.priority = job.priority;
  fresh.batch_number = batch.number;
  fresh.ordinal = ordinal;
  return fresh;
}

void BeginAttempt(v1::Job& job, uint64_t attempt, absl::string_view worker, absl::Time now) {
  job.set_state(v1::RUNNING);
  job.set_attempt(attempt);
  job.set_worker(std::string(worker));
  *job.mutable_start_time() = ToTimestamp(now);
  AddAttempt(job);
}

void StartAttempt(JobRecord& record, absl::string_view worker, absl::Time now, absl::Time until) {
  BeginAttempt(record.job, record.job.attempt() + 1, worker, now);
  record.lease_until = until;
}

void CatchUp(JobRecord& record, uint64_t attempt, absl::string_view worker, absl::Time started) {
  if (attempt > record.job.attempt()) BeginAttempt(record.job, attempt, worker, started);
}

void ResumeAttempt(JobRecord& record) {
  record.job.set_state(v1::RUNNING);
  v1::AttemptSummary* last =
      record.job.attempts().empty() ? nullptr : record.job.mutable_attempts(record.job.attempts_size() - 1);
  if (last == nullptr || last->attempt() != record.job.attempt()) {  // taken back as undelivered
    AddAttempt(record.job);
    return;
  }
  if (last->outcome() == v1::OUTCOME_UNSPECIFIED) return;
  last->clear_outcome();
  last->clear_message();
  --record.setbacks;
}

void EndAttempt(JobRecord& record, v1::Outcome outcome, absl::string_view message) {
  v1::AttemptSummary& summary = *record.job.mutable_attempts(record.job.attempts_size() - 1);
  summary.set_outcome(outcome);
  summary.set_message(std::string(message));
}

bool LetsGoOn(const v1::Job& job, v1::Outcome outcome) {
  if (StageOf(job) != v1::STAGE_EXPORT) return false;
  return outcome == v1::PASSED || (outcome == v1::SKIPPED && job.has_default_checkpoint());
}

void EndStage(JobRecord& record, v1::TestResult result, absl::string_view log_digest, absl::Time now) {
  v1::StageRecord& ended = *record.job.add_ended_stage();
  ended.set_stage(StageOf(record.job));
  ended.set_attempt(record.job.attempt());
  ended.set_worker(record.job.worker());
  *ended.mutable_start_time() = record.job.start_time();
  *ended.mutable_end_time() = ToTimestamp(now);
  *ended.mutable_result() = std::move(result);
  ended.set_log_digest(std::string(log_digest));
  record.job.set_stage(v1::STAGE_TEST);
  record.job.set_state(v1::QUEUED);
  record.setbacks = 0;
  record.assigned.Clear();
}

void EndJob(JobRecord& record, v1::TestResult result, absl::Time now) {
  if (StageOf(record.job) == v1::STAGE_EXPORT && result.outcome() != v1::CANCELLED) {
    result.set_message(absl::StrCat(
        "export: ", result.message().empty() ? v1::Outcome_Name(result.outcome()) : result.message()));
  }
  *record.job.mutable_result() = std::move(result);
  record.assigned.Clear();
  record.job.set_state(v1::DONE);
  *record.job.mutable_end_time() = ToTimestamp(now);
}

void Count(v1::Batch& batch, v1::Outcome outcome) {
  for (v1::OutcomeCount& count : *batch.mutable_counts()) {
    if (count.outcome() == outcome) {
      count.set_count(count.count() + 1);
      return;
    }
  }
  v1::OutcomeCount& count = *batch.add_counts();
  count.set_outcome(outcome);
  count.set_count(1);
  std::sort(batch.mutable_counts()->begin(), batch.mutable_counts()->end(),
            [](const v1::OutcomeCount& a, const v1::OutcomeCount& b) { return a.outcome() < b.outcome(); });
}

void TrimForEvent(v1::CaseResult& result) {
  for (v1::CheckResult& check : *result.mutable_check()) {
    if (check.outcome() == v1::PASSED) check.clear_message();
  }
}

void TrimForEvent(v1::Job& job) {
  if (job.state() != v1::DONE) job.clear_result();
  if (!job.has_result()) return;
  for (v1::CaseResult& one : *job.mutable_result()->mutable_case_()) TrimForEvent(one);
}

bool IsFailureOfTheModel(v1::Outcome outcome) {
  return outcome == v1::FAILED || outcome == v1::CRASHED || outcome == v1::TIMED_OUT ||
         outcome == v1::OUT_OF_MEMORY;
}

std::string InputsDigest(const JobRecord& record) {
  if (StageOf(record.job) == v1::STAGE_EXPORT) return "";  // it ran no test
  v1::Provenance inputs = record.job.result().provenance();
  if (inputs.test_digest().empty()) return "";
  inputs.clear_worker();
  Sha256 digest;
  for (const std::string& part :
       {record.job.model().name(), TargetKey(record.job.target()), inputs.SerializeAsString()}) {
    digest.Update(absl::StrCat(part.size(), ":"));
    digest.Update(part);
  }
  return digest.FinishHex();
}

std::string SetbackMessage(const JobRecord& record) {
  std::vector<std::string> parts;
  for (const v1::AttemptSummary& attempt : record.job.attempts()) {
    if (!IsOfStage(attempt, record.job)) continue;
    parts.push_back(
        absl::StrCat(attempt.worker(), " (attempt ", attempt.attempt(), "): ", attempt.message()));
  }
  return absl::StrCat("gave up after ", parts.size(),
                      parts.size() == 1 ? " attempt: " : " attempts: ", absl::StrJoin(parts, "; "));
}

std::string TargetKey(const v1::Target& target) {
  return absl::StrCat(v1::DeviceChoice_Name(target.device()), "/", v1::Dtype_Name(target.dtype()));
}

absl::Status NoJob(absl::string_view job_id) {
  return absl::NotFoundError(absl::StrCat("no job '", job_id, "'"));
}

absl::Status NoBatch(absl::string_view batch_id) {
  return absl::NotFoundError(absl::StrCat("no batch '", batch_id, "'"));
}

}  // namespace assay::coordinator

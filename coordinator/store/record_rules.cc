#include "coordinator/store/record_rules.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"

namespace assay::coordinator {

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp stamp;
  const int64_t seconds = absl::ToUnixSeconds(time);  // rounds down
  stamp.set_seconds(seconds);
  stamp.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return stamp;
}

v1::AttemptRef RefOf(const JobRecord& record) {
  v1::AttemptRef ref;
  ref.set_job_id(record.job.job_id());
  ref.set_attempt(record.job.attempt());
  return ref;
}

RunningAttempt RunningAttemptOf(const JobRecord& record) {
  return {RefOf(record), record.job.worker(), record.submitter, record.job.target().device()};
}

QueuedJob QueuedJobOf(const v1::Job& job, absl::string_view submitter, Priority priority,
                      double expected_seconds, uint64_t batch_number, uint32_t ordinal) {
  QueuedJob queued;
  queued.job_id = job.job_id();
  queued.model = job.model().name();
  queued.submitter = std::string(submitter);
  queued.priority = priority;
  queued.device = job.target().device();
  queued.expected_seconds = expected_seconds;
  queued.order = (batch_number << 32) | ordinal;
  for (const v1::AttemptSummary& attempt : job.attempts()) {
    if (attempt.outcome() == v1::INFRASTRUCTURE_ERROR) queued.tried.push_back(attempt.worker());
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

void StartAttempt(JobRecord& record, absl::string_view worker, absl::Time now, absl::Time until) {
  record.job.set_state(v1::RUNNING);
  record.job.set_attempt(record.job.attempt() + 1);
  record.job.set_worker(std::string(worker));
  *record.job.mutable_start_time() = ToTimestamp(now);
  v1::AttemptSummary& summary = *record.job.add_attempts();
  summary.set_attempt(record.job.attempt());
  summary.set_worker(std::string(worker));
  record.lease_until = until;
}

void ResumeAttempt(JobRecord& record) {
  record.job.set_state(v1::RUNNING);
  v1::AttemptSummary* last =
      record.job.attempts().empty() ? nullptr : record.job.mutable_attempts(record.job.attempts_size() - 1);
  if (last == nullptr || last->attempt() != record.job.attempt()) {  // taken back as undelivered
    last = record.job.add_attempts();
    last->set_attempt(record.job.attempt());
    last->set_worker(record.job.worker());
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

void EndJob(JobRecord& record, absl::Time now) {
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

v1::CaseResult ForEvent(v1::CaseResult result) {
  for (v1::CheckResult& check : *result.mutable_check()) {
    if (check.outcome() == v1::PASSED) check.clear_message();
  }
  return result;
}

v1::Job ForEvent(v1::Job job) {
  for (v1::CaseResult& one : *job.mutable_result()->mutable_case_()) one = ForEvent(std::move(one));
  if (job.state() != v1::DONE) job.clear_result();
  return job;
}

v1::TestResult WithDefiniteOutcome(v1::TestResult result) {
  if (result.outcome() == v1::OUTCOME_UNSPECIFIED || result.outcome() == v1::CANCELLED ||
      !v1::Outcome_IsValid(result.outcome())) {
    result.set_message(absl::StrCat("the worker gave no outcome of its own (",
                                    static_cast<int>(result.outcome()), ")",
                                    result.message().empty() ? "" : ": ", result.message()));
    result.set_outcome(v1::INFRASTRUCTURE_ERROR);
  }
  return result;
}

bool IsFailureOfTheModel(v1::Outcome outcome) {
  return outcome == v1::FAILED || outcome == v1::CRASHED || outcome == v1::TIMED_OUT ||
         outcome == v1::OUT_OF_MEMORY;
}

std::string InputsDigest(const JobRecord& record) {
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
    parts.push_back(
        absl::StrCat(attempt.worker(), " (attempt ", attempt.attempt(), "): ", attempt.message()));
  }
  return absl::StrCat("gave up after ", parts.size(),
                      parts.size() == 1 ? " attempt: " : " attempts: ", absl::StrJoin(parts, "; "));
}

std::string TargetKey(const v1::Target& target) {
  return absl::StrCat(v1::DeviceChoice_Name(target.device()), "/", v1::Dtype_Name(target.dtype()));
}

}  // namespace assay::coordinator

// Pure rules of how a job's record changes. The store applies them within its transactions.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/store/record_store.h"
#include "google/protobuf/timestamp.pb.h"

namespace assay::coordinator {

google::protobuf::Timestamp ToTimestamp(absl::Time time);

v1::AttemptRef RefOf(const JobRecord& record);
RunningAttempt RunningAttemptOf(const JobRecord& record);
QueuedJob QueuedJobOf(const v1::Job& job, absl::string_view submitter, Priority priority,
                      double expected_seconds, uint64_t batch_number, uint32_t ordinal);
v1::ResultAck AckOf(const v1::AttemptRef& attempt, const AnswerRecord& answer);

// True for the job's newest attempt. An attempt 0 is none.
bool IsNewest(const JobRecord& record, const v1::AttemptRef& attempt);

// QUEUED to RUNNING, with the next attempt number.
void StartAttempt(JobRecord& record, absl::string_view worker, absl::Time now, absl::Time until);
// The newest attempt, given up for lost and not handed out again, turns out to be alive: RUNNING, and the
// setback is taken back.
void ResumeAttempt(JobRecord& record);
// Writes down how the newest attempt ended.
void EndAttempt(JobRecord& record, v1::Outcome outcome, absl::string_view message);
// DONE, with the result that the record has.
void EndJob(JobRecord& record, absl::Time now);

void Count(v1::Batch& batch, v1::Outcome outcome);

// Without what would fill a stream for nothing: the messages of checks that passed.
v1::CaseResult ForEvent(v1::CaseResult result);
v1::Job ForEvent(v1::Job job);

// An outcome that no worker may decide (none, CANCELLED) is the infrastructure's error.
v1::TestResult WithDefiniteOutcome(v1::TestResult result);

// FAILED, CRASHED, TIMED_OUT, OUT_OF_MEMORY.
bool IsFailureOfTheModel(v1::Outcome outcome);

// Names all that a result depends on, so that two results with the same digest are comparable; empty where
// the provenance does not tell.
std::string InputsDigest(const JobRecord& record);

// "gave up after 3 attempts: a (attempt 1): …; b (attempt 2): …".
std::string SetbackMessage(const JobRecord& record);

// "cuda/FLOAT32": what recorded times are kept under, beside the model.
std::string TargetKey(const v1::Target& target);

}  // namespace assay::coordinator

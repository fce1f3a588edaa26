// Pure rules of how a job's record changes. The store applies them within its transactions.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/timestamp.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {

// The stage that the job is in, or ended in: STAGE_TEST also for jobs of before there were stages.
v1::Stage StageOf(const v1::Job& job);
// Of a job that is new.
v1::Stage FirstStageOf(const v1::Job& job);
// What the job's stage takes slots of.
v1::DeviceChoice DeviceOf(const v1::Job& job);
// The canonical form of what says where a job can go beyond its device and whether it exports: jobs of one
// route can go to the same workers.
std::string RouteOf(const v1::Job& job);
// The checkpoint that the job's export stage looks for; nullptr: it has none.
const v1::CheckpointRef* AskedCheckpoint(const v1::Job& job);
// The counted result of the job's export stage; nullptr: there was none, or it is not over.
const v1::TestResult* ExportOf(const v1::Job& job);

v1::AttemptRef RefOf(const JobRecord& record);
RunningAttempt RunningAttemptOf(const JobRecord& record);
QueuedJob QueuedJobOf(const v1::Job& job, absl::string_view submitter, Priority priority,
                      double expected_seconds, uint64_t batch_number, uint32_t ordinal);
v1::ResultAck AckOf(const v1::AttemptRef& attempt, const AnswerRecord& answer);

// True for the job's newest attempt. An attempt 0 is none.
bool IsNewest(const JobRecord& record, const v1::AttemptRef& attempt);

// "cuda-bfloat16".
std::string TargetWord(const v1::Target& target);

// A job as it was submitted, QUEUED for its first stage. Its expected time and predicted needs are not known
// here. Its id is "<batch>.<model>", and where the batch has several targets
// "<batch>.<model>.<device>-<dtype>".
JobRecord NewJobRecord(const BatchRecord& batch, const NewJob& job, const v1::Target& target,
                       uint32_t ordinal, absl::Time now);

// RUNNING, with this attempt.
void BeginAttempt(v1::Job& job, uint64_t attempt, absl::string_view worker, absl::Time now);
// QUEUED to RUNNING, with the next attempt number.
void StartAttempt(JobRecord& record, absl::string_view worker, absl::Time now, absl::Time until);
// As StartAttempt, of a record that was written down before its newest attempt started: that attempt's own
// columns tell the rest (JobChange::kStarted). Nothing happens where the record knows of it.
void CatchUp(JobRecord& record, uint64_t attempt, absl::string_view worker, absl::Time started);
// The newest attempt, given up for lost and not handed out again, turns out to be alive: RUNNING, and the
// setback is taken back.
void ResumeAttempt(JobRecord& record);
// Writes down how the newest attempt ended.
void EndAttempt(JobRecord& record, v1::Outcome outcome, absl::string_view message);
// The stage's result lets the job go on: it is kept, and the job QUEUED for its test with all its attempts.
void EndStage(JobRecord& record, v1::TestResult result, absl::string_view log_digest, absl::Time now);
// DONE, with this result. One that ended in its export says so.
void EndJob(JobRecord& record, v1::TestResult result, absl::Time now);
// True for a result of an export stage that is not the job's end.
bool LetsGoOn(const v1::Job& job, v1::Outcome outcome);

void Count(v1::Batch& batch, v1::Outcome outcome);

// Without what would fill a stream for nothing: the messages of checks that passed.
void TrimForEvent(v1::CaseResult& result);
void TrimForEvent(v1::Job& job);

// FAILED, CRASHED, TIMED_OUT, OUT_OF_MEMORY.
bool IsFailureOfTheModel(v1::Outcome outcome);

// Names all that a result depends on, so that two results with the same digest are comparable; empty where
// the provenance does not tell.
std::string InputsDigest(const JobRecord& record);

// "gave up after 3 attempts: a (attempt 1): …; b (attempt 2): …". Of the job's stage alone.
std::string SetbackMessage(const JobRecord& record);

std::string TargetKey(const v1::Target& target);  // "CUDA/FLOAT32"

// NOT_FOUND.
absl::Status NoJob(absl::string_view job_id);
absl::Status NoBatch(absl::string_view batch_id);

}  // namespace assay::coordinator

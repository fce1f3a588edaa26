#include "coordinator/job_life.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/timestamp.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

constexpr char kService[] = "assay-coordinator";
// A clock that is further off than messages take is wrong. Nothing is decided by it, but logs and traces are
// misleading.
constexpr absl::Duration kClockTolerance = absl::Seconds(5);

std::string BatchOf(const std::string& job_id) { return job_id.substr(0, job_id.find('.')); }

std::optional<TraceContext> JobSpan(const v1::Job& job) {
  std::optional<TraceContext> parent = TraceContext::Parse(job.traceparent());
  if (!parent) return std::nullopt;
  return parent->Derived(job.job_id());
}

TraceContext AttemptSpan(const TraceContext& job_span, uint64_t attempt) {
  return job_span.Derived(absl::StrCat("attempt ", attempt));
}

std::vector<std::pair<std::string, std::string>> AttributesOf(const v1::Job& job) {
  return {{"assay.batch", job.batch_id()},
          {"assay.job", job.job_id()},
          {"assay.model", job.model().name()},
          {"assay.device", v1::DeviceChoice_Name(job.target().device())},
          {"assay.dtype", v1::Dtype_Name(job.target().dtype())}};
}

// When it began to wait for this attempt; nullopt: it is not known.
std::optional<absl::Time> QueuedSince(const v1::Job& job, uint64_t attempt) {
  if (attempt == 1) return TimeOf(job.create_time());
  for (const v1::StageRecord& ended : job.ended_stage()) {
    if (ended.attempt() + 1 == attempt) return TimeOf(ended.end_time());
  }
  return std::nullopt;
}

// Of the job's newest attempt, which has just ended.
void TraceAttempt(const v1::Job& job, const std::string& error, absl::Time now) {
  const std::optional<TraceContext> job_span = JobSpan(job);
  if (!job_span || !job_span->sampled || !job.has_start_time()) return;
  const absl::Time start = TimeOf(job.start_time());
  Tracer& tracer = Tracer::Global();
  if (const std::optional<absl::Time> since = QueuedSince(job, job.attempt())) {
    Span queued;
    queued.context = job_span->Derived(absl::StrCat("queued ", job.attempt()));
    queued.parent = job_span->span;
    queued.service = kService;
    queued.name = "queued";
    queued.start = *since;
    queued.end = start;
    queued.attributes = AttributesOf(job);
    tracer.Record(std::move(queued));
  }
  Span span;
  span.context = AttemptSpan(*job_span, job.attempt());
  span.parent = job_span->span;
  span.service = kService;
  span.name = absl::StrCat("attempt ", job.attempt());
  span.start = start;
  span.end = now;
  span.attributes = AttributesOf(job);
  span.attributes.emplace_back("assay.worker", job.worker());
  span.error = error;
  tracer.Record(std::move(span));
}

// Of a job that has ended.
void TraceJob(const v1::Job& job) {
  const std::optional<TraceContext> job_span = JobSpan(job);
  if (!job_span || !job_span->sampled || job.state() != v1::DONE) return;
  Span span;
  span.context = *job_span;
  span.parent = TraceContext::Parse(job.traceparent())->span;
  span.service = kService;
  span.name = absl::StrCat("job ", job.model().name());
  span.start = TimeOf(job.create_time());
  span.end = TimeOf(job.end_time());
  span.attributes = AttributesOf(job);
  span.attributes.emplace_back("assay.outcome", v1::Outcome_Name(job.result().outcome()));
  const bool fine = job.result().outcome() == v1::PASSED || job.result().outcome() == v1::SKIPPED;
  if (!fine)
    span.error = absl::StrCat(v1::Outcome_Name(job.result().outcome()), ": ", job.result().message());
  Tracer::Global().Record(std::move(span));
}

}  // namespace

JobLife::Start JobLife::StartOf(const v1::Job& job, absl::Time now) {
  Start start;
  start.attempt.set_job_id(job.job_id());
  start.attempt.set_attempt(job.attempt());
  start.worker = job.worker();
  start.stage = StageOf(job);
  if (const std::optional<absl::Time> since = QueuedSince(job, job.attempt())) start.waited = now - *since;
  return start;
}

void JobLife::Started(const std::vector<Start>& starts) const {
  for (const Start& start : starts) {
    if (metrics_ != nullptr && start.waited) metrics_->JobAssigned(start.stage, *start.waited);
    if (!spdlog::should_log(spdlog::level::debug)) continue;
    LogWith(spdlog::level::debug,
            {{"batch", BatchOf(start.attempt.job_id())},
             {"job", start.attempt.job_id()},
             {"attempt", absl::StrCat(start.attempt.attempt())},
             {"worker", start.worker}},
            "attempt assigned");
  }
}

void JobLife::Answered(const v1::AttemptResult& result, const absl::StatusOr<v1::ResultAck>& ack,
                       const v1::Job* job, absl::Time now) const {
  const v1::Outcome outcome = result.result().outcome();
  const bool counted = ack.ok() && ack->counted();
  if (metrics_ != nullptr) metrics_->ResultAnswered(outcome, counted);
  // What passed is in the store; what did not is what logs are searched for.
  const auto level = counted && (outcome == v1::PASSED || outcome == v1::SKIPPED) ? spdlog::level::debug
                                                                                  : spdlog::level::info;
  if (spdlog::should_log(level)) {
    const std::string reason(!ack.ok() ? std::string(ack.status().message()) : ack->reason());
    LogWith(level,
            {{"batch", BatchOf(result.attempt().job_id())},
             {"job", result.attempt().job_id()},
             {"attempt", absl::StrCat(result.attempt().attempt())},
             {"worker", result.result().provenance().worker()},
             {"outcome", v1::Outcome_Name(outcome)},
             {"reason", counted ? "" : reason}},
            "{}", counted ? "result counted" : "result not counted");
  }
  if (job == nullptr || !ack.ok() || job->attempt() != result.attempt().attempt()) return;
  const bool fine = outcome == v1::PASSED || outcome == v1::SKIPPED;
  TraceAttempt(*job, fine ? "" : absl::StrCat(v1::Outcome_Name(outcome), ": ", result.result().message()),
               now);
  TraceJob(*job);
}

void JobLife::Lost(const std::vector<LostAttempt>& lost, const std::vector<v1::Job>& jobs,
                   absl::Time now) const {
  if (metrics_ != nullptr && !lost.empty()) metrics_->LeasesExpired(lost.size());
  for (const LostAttempt& attempt : lost) {
    LogWith(spdlog::level::warn,
            {{"batch", BatchOf(attempt.attempt.job_id())},
             {"job", attempt.attempt.job_id()},
             {"attempt", absl::StrCat(attempt.attempt.attempt())},
             {"worker", attempt.worker}},
            "its worker was lost: the job {}", attempt.requeued ? "is queued again" : "has ended");
  }
  for (const v1::Job& job : jobs) {
    TraceAttempt(job, "its worker was lost", now);
    TraceJob(job);
  }
}

void JobLife::Cancelled(const v1::Batch& batch, const std::vector<v1::Job>& jobs) const {
  LogWith(spdlog::level::info, {{"batch", batch.batch_id()}}, "batch cancelled");
  for (const v1::Job& job : jobs) {
    TraceJob(job);
  }
}

void JobLife::WorkerConnected(const v1::Hello& hello, bool again, const AdoptedAttempts& attempts,
                              absl::Time now) const {
  LogWith(spdlog::level::info, {{"worker", hello.worker()}, {"build", hello.build()}},
          "worker connected ({}): keeps {} attempts, abandons {}, lost {}", again ? "again" : "new instance",
          attempts.keep.size(), attempts.abandon.size(), attempts.lost.size());
  if (!hello.has_time()) return;
  const absl::Duration ahead = TimeOf(hello.time()) - now;
  if (ahead <= kClockTolerance && ahead >= -kClockTolerance) return;
  LogWith(spdlog::level::warn, {{"worker", hello.worker()}},
          "the worker's clock is {} {} this coordinator's: see to time synchronisation on both (leases do not"
          " depend on it; times in logs and traces do)",
          absl::FormatDuration(absl::AbsDuration(ahead)),
          ahead > absl::ZeroDuration() ? "ahead of" : "behind");
}

std::string JobLife::AttemptTraceparent(const v1::Job& job) {
  if (!Tracer::Global().on()) return job.traceparent();
  const std::optional<TraceContext> job_span = JobSpan(job);
  return job_span ? AttemptSpan(*job_span, job.attempt()).Traceparent() : "";
}

SubmitTrace::SubmitTrace(absl::string_view traceparent)
    : start_(absl::Now()), parent_(TraceContext::Parse(traceparent)) {
  if (Tracer::Global().on()) {
    own_ = parent_ ? parent_->Child() : Tracer::Global().Begin();
    traceparent_ = own_->Traceparent();
  } else if (parent_) {
    traceparent_ = std::string(traceparent);
  }
}

void SubmitTrace::Ended(const absl::StatusOr<v1::Batch>& batch) const {
  if (batch.ok()) {
    LogWith(spdlog::level::info, {{"batch", batch->batch_id()}, {"submitter", batch->submitter()}},
            "batch accepted: {} jobs", batch->total());
  }
  if (!own_) return;
  Span span;
  span.context = *own_;
  if (parent_) span.parent = parent_->span;
  span.service = kService;
  span.name = "SubmitBatch";
  span.kind = SpanKind::kServer;
  span.start = start_;
  span.end = absl::Now();
  if (batch.ok()) {
    span.attributes = {{"assay.batch", batch->batch_id()}, {"assay.jobs", absl::StrCat(batch->total())}};
  } else {
    span.error = std::string(batch.status().message());
  }
  Tracer::Global().Record(std::move(span));
}

}  // namespace assay::coordinator

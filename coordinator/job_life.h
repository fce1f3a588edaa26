// What operators get to know of jobs: each step of a job's life as metrics, log lines with its fields, and
// spans.
//
// Spans of a job, below the one that its traceparent names: `job MODEL` over all of its life, and below it
// `queued` and `attempt N` of each stage; the worker's spans lie below the attempt's. A coordinator keeps
// none of them open: their ids follow from the job's id and the attempt's number, so that any coordinator can
// tell of their end.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/worker.pb.h"
#include "common/trace.h"
#include "coordinator/metrics.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// Thread-safe; nothing waits.
class JobLife {
 public:
  // metrics: may be null; else outlives it.
  explicit JobLife(CoordinatorMetrics* metrics) : metrics_(metrics) {}

  // A job that `assign` (store.h) gets, for the metrics of its assignment once that is committed.
  struct Start {
    v1::AttemptRef attempt;
    std::string worker;
    v1::Stage stage = v1::STAGE_TEST;
    // Since it was submitted, or its stage before ended; none where an attempt was lost meanwhile.
    std::optional<absl::Duration> waited;
  };
  static Start StartOf(const v1::Job& job, absl::Time now);
  void Started(const std::vector<Start>& starts) const;

  // Whether `Answered` has use for the job itself; reading it costs.
  bool WantsJobs() const { return Tracer::Global().on(); }
  // `job`: as the result left it; null where it was not read.
  void Answered(const v1::AttemptResult& result, const absl::StatusOr<v1::ResultAck>& ack, const v1::Job* job,
                absl::Time now) const;
  // `jobs`: as the loss left them, in the same order; empty where they were not read.
  void Lost(const std::vector<LostAttempt>& lost, const std::vector<v1::Job>& jobs, absl::Time now) const;
  // `jobs`: those that it ended; empty where they were not read.
  void Cancelled(const v1::Batch& batch, const std::vector<v1::Job>& jobs) const;
  void WorkerConnected(const v1::Hello& hello, bool again, const AdoptedAttempts& attempts,
                       absl::Time now) const;

  // The attempt's span, for its assignment; the job's own where nothing is told of attempts here. Empty: not
  // traced.
  static std::string AttemptTraceparent(const v1::Job& job);

 private:
  CoordinatorMetrics* const metrics_;
};

// The span of a submission. It belongs to the client's trace, or begins one.
class SubmitTrace {
 public:
  explicit SubmitTrace(absl::string_view traceparent);
  // For the batch's jobs; what the client sent, where nothing is told of here.
  const std::string& traceparent() const { return traceparent_; }
  void Ended(const absl::StatusOr<v1::Batch>& batch) const;

 private:
  const absl::Time start_;
  std::optional<TraceContext> parent_;
  std::optional<TraceContext> own_;
  std::string traceparent_;
};

}  // namespace assay::coordinator

// What the runs of a model so far let one expect of its next one: its time, and the memory that it takes.
// Pure and thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "assay/v1/batch.pb.h"
#include "assay/v1/result.pb.h"

namespace assay::coordinator {

// What is known of one model, by key (seconds; bytes): of exports and tests, each target, each checkpoint and
// each kind of device apart.
using Figures = std::map<std::string, double>;

// Below this nobody counts what tests take of a node's memory: each amount of its own would be a route of its
// own, and a node has far more.
inline constexpr uint64_t kCountedMemory = uint64_t{256} << 20;

// Of the job's stage, on its target, whatever device serves it: what orders the queue. kUnknownSeconds where
// it was never timed.
double ExpectedSeconds(const v1::Job& job, const Figures& figures);

// Sets what the job's stage is predicted to need, where nobody stated it: of a GPU what its tensors took with
// the driver's context, of a node what its test host took; of a checkpoint that was never run on a CPU, what
// its export expects. What was predicted for the stage before says nothing of this one.
void PredictNeeds(const Figures& figures, v1::Job& job);

// What was to be expected of a test that has run, on the kind of device that it ran on. Empty for an export.
v1::Prediction PredictionOf(const v1::Job& job, const v1::TestResult& result, const Figures& figures);

// What a stage's result teaches: the figures that change by it, with their new values. A time is a mean in
// which the newest run counts a third, as times scatter; memory rises at once and falls slowly. What moves a
// figure by less than a tenth changes nothing: rows that all coordinators write make them wait for each
// other.
Figures Learned(const v1::Job& job, const v1::TestResult& result, const Figures& figures);

}  // namespace assay::coordinator

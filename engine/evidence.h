// Whether a pass of this program would say anything about this model.
#pragma once

#include "absl/status/status.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// INVALID_ARGUMENT where the test's own program is another model's, or another class's than the test names. A
// program that was exported for a checkpoint serves every model of its configuration: what ties it to the
// test is its digest.
absl::Status ValidateModel(const v1::ModelTest& test, const v1::Program& program);

// INVALID_ARGUMENT where a run could agree with the golden and yet prove nothing of the model:
// - the golden has no floating point output, or one that is empty, constant, NaN or infinite, so that a dead
//   model would agree with it;
// - the golden calls more of an output rounding (`max_rounding_share` of its largest number, from
//   engine/tolerance.h) than any float32 run has, or more of it legitimate at a narrower dtype than
//   kMaxHalfUnits, so that everything would agree;
// - a floating point output is computed from no input or from no weight.
// `program` has passed ValidateProgram; `golden` is of it. Where the golden has inputs only, the program
// alone is judged: whoever compares with such a golden must refuse.
absl::Status ValidateEvidence(const v1::Program& program, const v1::Golden& golden,
                              double max_rounding_share);

}  // namespace assay::engine

// Checks of a case's weights, with nothing to compare them with but themselves.
#pragma once

#include "absl/status/statusor.h"
#include "engine/checks.h"
#include "engine/finding.h"

namespace assay::engine {

// No weight lost its use: some output depends on every parameter, but for poolers and what stands for hidden
// places in pre-training, and on each or none of the buffers that differ in a number of their name alone.
// Judged by the graph; no run is made.
Finding CheckWeightInfluence(const v1::Check::WeightInfluence& check, const v1::Program& program);

// Weights that differ in a number of their name alone, and have one shape, are all zero, all constant or
// neither; and no parameter lies on the grid of 255 levels that rounding a tensor to 8 bits leaves.
// INVALID_ARGUMENT: the case does not know its weights. Throws c10::Error where LibTorch does.
absl::StatusOr<Finding> CheckWeightsAlike(const v1::Check::WeightsAlike& check, const BoundCase& bound);

// What the plan runs with is, bit for bit, what the mock rules or the checkpoint give when they are read
// again. INVALID_ARGUMENT: the case does not know where its weights come from. Throws
// c10::Error where LibTorch does.
absl::StatusOr<Finding> CheckWeightsIntact(const BoundCase& bound);

}  // namespace assay::engine

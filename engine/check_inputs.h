// Checks that alter a case's inputs and state what must follow, whatever the numbers are.
#pragma once

#include "absl/status/statusor.h"
#include "engine/checks.h"
#include "engine/finding.h"

namespace assay::engine {

// Every input, changed alone, moves some output: tokens and numbers all of them, a mask in its second half,
// other indexes in reverse. One that cannot be changed (an index alone) is left as it is, and noted. Throws
// c10::Error where LibTorch does; so do the others.
absl::StatusOr<Finding> CheckEveryInput(const v1::Check::EveryInput& check, const BoundCase& bound);

// Two tokens that differ change places: the output is not what it was, not even with those two rows
// exchanged. INVALID_ARGUMENT: the input is not [batch, sequence] of tokens, or has no two that differ.
absl::StatusOr<Finding> CheckPositionSensitivity(const v1::Check::PositionSensitivity& check,
                                                 const BoundCase& bound);

// The batch's rows in reverse give every output with a batch dimension in reverse, within `tolerance`.
// Has nothing to say (Finding::nothing) without a batch of at least two rows.
absl::StatusOr<Finding> CheckBatchOrder(const v1::Check::BatchOrder& check, const BoundCase& bound);

}  // namespace assay::engine

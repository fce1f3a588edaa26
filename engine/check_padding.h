// A padded row beside the row alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checks.h"

namespace assay::engine {

// What the program gives for inputs that end `masked` positions earlier.
struct ShorterRun {
  std::vector<at::Tensor> outputs;  // in the program's order
  std::string nothing;              // why there is no such run; else empty
};

// Runs the variant dynamic_shapes on the case's inputs without the last `masked` positions of `mask` (an
// input's index, [batch, sequence]) and of whatever is as long as it in each shape that the variant has a
// golden of. Nothing is run where the program has no such variant of several lengths, nor in another dtype
// than float32: what rounding decides there is known for the golden's inputs alone. Errors as Plan::Run.
absl::StatusOr<ShorterRun> RunShorter(const BoundCase& bound, int mask, int64_t masked);

}  // namespace assay::engine

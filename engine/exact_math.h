// That float32 means float32, and that sums of half precision numbers are kept in float32.
#pragma once

#include "absl/status/status.h"

namespace assay::engine {

// Turns off whatever trades accuracy for speed behind a dtype's back, for the whole process: TensorFloat-32
// (10 bits of mantissa) in cuBLAS, cuDNN and oneDNN, sums of partial products in half precision, float16
// accumulators. Then reads every switch back: UNAVAILABLE (the machine is at fault, not the model) names the
// one that did not stay off, or the environment variable that overrides it. Call it before every test: a
// program's operators cannot turn them on, but whoever embeds the engine could.
absl::Status DemandExactMath();

}  // namespace assay::engine

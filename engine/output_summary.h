// What a case's run computed, in a few numbers: enough to hold it against the same run on another device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/tensors.h"

namespace assay::engine {

// One per output of the program, in its order. `golden` is of the program; its outputs may be empty, and then
// the allowed errors are those of the dtype's constants, relative to the output itself. INVALID_ARGUMENT
// where the outputs are not as many as the program says.
absl::StatusOr<std::vector<v1::OutputSummary>> SummarizeOutputs(const v1::Manifest& manifest,
                                                                const v1::Golden& golden,
                                                                const Placement& placement,
                                                                const std::vector<at::Tensor>& outputs);

}  // namespace assay::engine

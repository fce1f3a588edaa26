// Where a run left the golden: the first operator whose numbers are not those of its trace.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/plan.h"

namespace assay::engine {

// `golden` is of the graph that the plan runs. Runs the bound plan once more on the golden's inputs and
// compares every traced value in the order of the run; stops at the first that differs. nullopt: every traced
// value agrees within what rounding may do, so that the fault lies in a value that is not traced, or is too
// small to show in a trace. A run that fails gives its error.
//
// A value may differ by `share` of the largest magnitude among itself and the values it was computed from:
// where large numbers cancel, what is left carries their rounding. docs/tolerances.md has the figures.
absl::StatusOr<std::optional<v1::Divergence>> FirstDivergence(const v1::Graph& graph,
                                                              const v1::Golden& golden, const Plan& plan,
                                                              absl::Span<const at::Tensor> inputs,
                                                              double share);

// The share for this process: small on the kind of CPU that the golden was recorded on, where eager and
// engine agree to the bit or nearly; larger on others.
double DivergenceShare(const v1::Golden& golden, const Placement& placement);

// "DEFAULT", "AVX2", "AVX512": the kind of kernels that LibTorch chose for this CPU.
std::string CpuCapability();

}  // namespace assay::engine

// Where a run left what it should be, what the values there were, and whether weights or computation are at
// fault. docs/diagnosis.md says how it is found.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/checks.h"
#include "engine/plan.h"
#include "engine/verdict.h"

namespace assay::engine {

// `golden` is of the graph that the plan runs. Runs the bound plan on the golden's inputs, twice, and
// compares every traced value. The divergence has its operator, the statistics of what it read and gave, the
// growth of the error, and suspects; no verdict. nullopt: every traced value agrees within what rounding may
// do, so that the fault lies in a value that is not traced, or is too small to show in a trace. A run that
// fails gives its error.
//
// The operator is the first whose value differs by more than `share` (docs/tolerances.md) or, where the
// machine gives the golden's numbers to the bit up to one value, everything beyond comes from that one, and
// it is an ancestor of the first: that one.
absl::StatusOr<std::optional<v1::Divergence>> FirstDivergence(const v1::Graph& graph,
                                                              const v1::Golden& golden, const Plan& plan,
                                                              absl::Span<const at::Tensor> inputs,
                                                              double share);

// The whole diagnosis of a numeric check that failed: against the golden's trace; where that tells nothing,
// the first operator that is not finite; where there is no trace, or none that differs, a float32 run on the
// CPU (of a run on another device or in another dtype), or a second run. With the verdict (engine/verdict.h).
// nullopt: nothing was found to differ.
absl::StatusOr<std::optional<v1::Divergence>> Diagnose(const v1::Check& check, const BoundCase& bound);

// Where the run differs from the trace of the golden, if that is of these weights: for whoever goes on from
// there (engine/reduce.h). Points into `bound.golden`. nullopt: nowhere, or there is no such trace.
absl::StatusOr<std::optional<Suspicion>> Suspect(const BoundCase& bound);

// The share for this process: small on the kind of CPU that the golden was recorded on, where eager and
// engine agree to the bit or nearly; larger on others.
double DivergenceShare(const v1::Golden& golden, const Placement& placement);

// "DEFAULT", "AVX2", "AVX512": the kind of kernels that LibTorch chose for this CPU.
std::string CpuCapability();

}  // namespace assay::engine

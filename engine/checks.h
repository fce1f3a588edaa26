// The checks of a case: each asks one thing of a model, by the golden's inputs or an altered copy of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/plan.h"
#include "engine/weights.h"

namespace assay::engine {

// A case as its checks see it: the model with its weights, and one run of it that they share.
struct BoundCase {
  const v1::Program& program;
  // Of `program`; its outputs are empty where eager could not run the checkpoint.
  const v1::Golden& golden;
  const Plan& plan;  // bound
  v1::WeightsKind weights = v1::WEIGHTS_KIND_UNSPECIFIED;
  uint64_t seed = 0;                       // of mock weights
  const std::vector<at::Tensor>& inputs;   // the golden's, on the placement
  const std::vector<at::Tensor>& outputs;  // of `inputs`
  // The golden of the very checkpoint whose weights are bound; null where the golden is the program's own, of
  // mock weights.
  const v1::CheckpointGolden* checkpoint = nullptr;
  // How the checkpoint was loaded; null with mock weights.
  const v1::LoadReport* load = nullptr;
  // What the plan is bound to; null: not known, and then no check can change a weight.
  const Weights* tensors = nullptr;
  // Reads the weights again, from where they came; empty: not known.
  std::function<absl::StatusOr<Weights>()> reload = nullptr;
};

// FAILED where the check does not hold or cannot be applied to this program: never a silent pass. SKIPPED
// where the checkpoint's golden has nothing for it (answers). UNSUPPORTED where rounding to the dtype alone
// may have done it (LegitimateError.not_comparable). A run that fails on the way gives its own outcome
// (OUT_OF_MEMORY, UNSUPPORTED, FAILED). No exceptions.
v1::CheckResult RunCheck(const v1::Check& check, const BoundCase& bound);

// RESOURCE_EXHAUSTED: OUT_OF_MEMORY. UNIMPLEMENTED: UNSUPPORTED. CANCELLED: CANCELLED. UNAVAILABLE:
// INFRASTRUCTURE_ERROR. Else FAILED.
v1::Outcome OutcomeOf(const absl::Status& status);

}  // namespace assay::engine

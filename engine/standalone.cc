#include "engine/standalone.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/checks.h"
#include "engine/diagnosis.h"
#include "engine/output_summary.h"
#include "engine/plan.h"
#include "engine/weights.h"

namespace assay::engine {

absl::StatusOr<v1::CaseResult> RunStandalone(const v1::Program& program, const Placement& placement) {
  if (!program.has_golden() || program.golden().outputs().empty()) {
    return absl::InvalidArgumentError("the program has no golden to be held against");
  }
  const v1::Manifest& manifest = program.manifest();
  ASSAY_ASSIGN_OR_RETURN(const Weights weights, MockWeights(manifest, manifest.mock_seed()));
  ASSAY_ASSIGN_OR_RETURN(const std::unique_ptr<Plan> plan, Plan::Build(program, placement));
  ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> inputs, GoldenInputs(program));
  for (at::Tensor& input : inputs) input = Place(input, placement);
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan->Run(inputs));
  const BoundCase bound{program, program.golden(), *plan, v1::MOCK, manifest.mock_seed(), inputs, outputs};
  v1::CaseResult result;
  result.set_name("program");
  result.set_weights(v1::MOCK);
  ASSAY_ASSIGN_OR_RETURN(const std::vector<v1::OutputSummary> summaries,
                         SummarizeOutputs(manifest, program.golden(), placement, outputs));
  result.mutable_output()->Assign(summaries.begin(), summaries.end());
  v1::Check check;
  check.set_name("golden");
  check.mutable_golden();
  v1::CheckResult checked = RunCheck(check, bound);
  result.set_outcome(checked.outcome());
  result.set_message(checked.message());
  if (checked.outcome() != v1::PASSED && !program.golden().trace().empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::optional<v1::Divergence> found, Diagnose(check, bound));
    if (found) *result.mutable_divergence() = *std::move(found);
  }
  *result.add_check() = std::move(checked);
  return result;
}

}  // namespace assay::engine

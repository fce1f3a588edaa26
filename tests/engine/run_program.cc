#include "tests/engine/run_program.h"

#include "engine/weights.h"

namespace assay::engine {

absl::StatusOr<std::vector<at::Tensor>> RunProgram(const v1::Program& program,
                                                   const std::vector<at::Tensor>& inputs, Observer* observer,
                                                   const Placement& placement) {
  auto plan = Plan::Build(program, placement);
  if (!plan.ok()) return plan.status();
  auto weights = MockWeights(program.manifest(), 1);
  if (!weights.ok()) return weights.status();
  const absl::Status bound = (*plan)->Bind(*weights);
  if (!bound.ok()) return bound;
  return (*plan)->Run(inputs, observer);
}

}  // namespace assay::engine

// Variants of a program: further graphs over the same weights (docs/variants.md).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "engine/checks.h"
#include "engine/finding.h"
#include "engine/plan.h"

namespace assay::engine {

// The program's variant of that name, if it is there. Else null, and `finding` has nothing to check, with its
// reason: NOT_APPLICABLE, or MISSING_VARIANT (of a program without that variant, too). INVALID_ARGUMENT: it
// is there twice, or both there and not.
absl::StatusOr<const v1::Variant*> FindVariant(const v1::Program& program, absl::string_view name,
                                               Finding& finding);

// A part of a variant as a program of its own, ready to run with the case's weights. No error is the
// machine's but OUT_OF_MEMORY.
struct VariantPlan {
  std::string name;     // the VariantProgram's
  v1::Program program;  // the main manifest, with the part's inputs and outputs
  std::unique_ptr<Plan> plan;
};
// `name`: the VariantProgram's. INVALID_ARGUMENT: the variant has none of that name, or it is no program.
// Otherwise as Plan::Build and Plan::Bind.
absl::StatusOr<VariantPlan> BuildVariant(const v1::Variant& variant, absl::string_view name,
                                         const BoundCase& bound);

// True if a node of the graph runs the operator, e.g. "aten::mm".
bool Runs(const v1::Graph& graph, absl::string_view op);

// The inputs of a golden of another shape, placed. `program` is what they are for.
absl::StatusOr<std::vector<at::Tensor>> ShapedInputs(const v1::Program& program,
                                                     const v1::ShapedGolden& golden,
                                                     const Placement& placement);

}  // namespace assay::engine

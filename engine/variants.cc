#include "engine/variants.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/tensors.h"
#include "engine/validate.h"

namespace assay::engine {

absl::StatusOr<const v1::Variant*> FindVariant(const v1::Program& program, absl::string_view name,
                                               Finding& finding) {
  const v1::Variant* found = nullptr;
  for (const v1::Variant& variant : program.variant()) {
    if (variant.name() != name) continue;
    if (found != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("the program has the variant ", name, " twice"));
    }
    found = &variant;
  }
  if (found == nullptr) {
    finding.nothing = absl::StrCat("the program was exported without the variant ", name);
    finding.reason = "MISSING_VARIANT";
    return nullptr;
  }
  const bool there = found->program_size() > 0 || found->generated_size() > 0 || found->golden_size() > 0;
  const int said =
      (there ? 1 : 0) + (found->not_applicable().empty() ? 0 : 1) + (found->missing().empty() ? 0 : 1);
  if (said != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the variant ", name, " must be there, not applicable or missing: it is ", said, " of these"));
  }
  if (there) return found;
  finding.nothing = found->not_applicable().empty() ? found->missing() : found->not_applicable();
  finding.reason = found->not_applicable().empty() ? "MISSING_VARIANT" : "NOT_APPLICABLE";
  return nullptr;
}

absl::StatusOr<VariantPlan> BuildVariant(const v1::Variant& variant, absl::string_view name,
                                         const BoundCase& bound) {
  const auto part = std::find_if(variant.program().begin(), variant.program().end(),
                                 [&](const v1::VariantProgram& one) { return one.name() == name; });
  if (part == variant.program().end()) {
    return absl::InvalidArgumentError(absl::StrCat("variant ", variant.name(), " has no program ", name));
  }
  if (bound.tensors == nullptr) {
    return absl::InvalidArgumentError("the weights of the case are not known: no variant can run with them");
  }
  VariantPlan made;
  made.name = std::string(name);
  made.program.set_format(bound.program.format());
  *made.program.mutable_manifest() = bound.program.manifest();
  *made.program.mutable_manifest()->mutable_inputs() = part->inputs();
  *made.program.mutable_manifest()->mutable_outputs() = part->outputs();
  *made.program.mutable_graph() = part->graph();
  *made.program.mutable_constants() = part->constants();
  const absl::Status valid = ValidateProgram(made.program);
  if (!valid.ok()) {
    return absl::Status(valid.code(), absl::StrCat("variant program ", name, ": ", valid.message()));
  }
  ASSAY_ASSIGN_OR_RETURN(made.plan, Plan::Build(made.program, bound.plan.placement()));
  ASSAY_RETURN_IF_ERROR(made.plan->Bind(*bound.tensors));
  return made;
}

bool Runs(const v1::Graph& graph, absl::string_view op) {
  return std::any_of(graph.nodes().begin(), graph.nodes().end(), [&](const v1::Node& node) {
    return graph.operators(static_cast<int>(node.op())).name() == op;
  });
}

absl::StatusOr<std::vector<at::Tensor>> ShapedInputs(const v1::Program& program,
                                                     const v1::ShapedGolden& golden,
                                                     const Placement& placement) {
  v1::Manifest manifest;
  v1::Golden inputs;
  manifest.set_mock_seed(golden.seed());
  *inputs.mutable_inputs() = golden.inputs();
  if (golden.shape_size() != program.manifest().inputs_size() ||
      golden.inputs_size() != golden.shape_size()) {
    return absl::InvalidArgumentError(absl::StrCat("the golden has ", golden.inputs_size(), " inputs of ",
                                                   golden.shape_size(), " shapes, the program ",
                                                   program.manifest().inputs_size()));
  }
  for (int i = 0; i < golden.shape_size(); ++i) {
    const v1::Tensor& shape = golden.shape(i);
    if (shape.name() != program.manifest().inputs(i).name() || golden.inputs(i).name() != shape.name()) {
      return absl::InvalidArgumentError(absl::StrCat("golden input ", shape.name(), " stands where ",
                                                     program.manifest().inputs(i).name(), " should"));
    }
    v1::InputSpec& spec = *manifest.add_inputs();
    spec.set_name(shape.name());
    spec.set_dtype(shape.dtype());
    *spec.mutable_shape() = shape.shape();
  }
  // The sizes are a file's: judged before anything is allocated.
  v1::Program judged;
  *judged.mutable_manifest() = manifest;
  ASSAY_RETURN_IF_ERROR(ValidateGolden(judged, inputs, GoldenForm::kMayHaveInputsOnly));
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> made, GoldenInputs(manifest, inputs));
  for (at::Tensor& input : made) input = Place(input, placement);
  return made;
}

}  // namespace assay::engine

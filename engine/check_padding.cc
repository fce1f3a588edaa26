#include "engine/check_padding.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/finding.h"
#include "engine/variants.h"

namespace assay::engine {
namespace {

// Whether dimension `dim` of input `input` has the mask's length in the program itself and in every shape of
// the variant's goldens.
bool IsTheLength(const v1::Variant& variant, const BoundCase& bound, int mask, int input, int64_t dim) {
  if (bound.inputs[static_cast<size_t>(input)].size(dim) != bound.inputs[static_cast<size_t>(mask)].size(1)) {
    return false;
  }
  for (const v1::ShapedGolden& golden : variant.golden()) {
    if (golden.shape(input).shape(static_cast<int>(dim)) != golden.shape(mask).shape(1)) return false;
  }
  return true;
}

// Every shape has every input in the main program's rank, so that they can be asked for any dimension.
bool HasEveryInput(const v1::ShapedGolden& golden, const BoundCase& bound) {
  if (golden.shape_size() != static_cast<int>(bound.inputs.size())) return false;
  for (int i = 0; i < golden.shape_size(); ++i) {
    if (golden.shape(i).shape_size() != bound.inputs[static_cast<size_t>(i)].dim()) return false;
  }
  return true;
}

bool HasSeveralLengths(const v1::Variant& variant, int mask) {
  for (const v1::ShapedGolden& golden : variant.golden()) {
    if (golden.shape(mask).shape(1) != variant.golden(0).shape(mask).shape(1)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<ShorterRun> RunShorter(const BoundCase& bound, int mask, int64_t masked) {
  ShorterRun run;
  Finding none;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "dynamic_shapes", none));
  if (variant == nullptr || variant->program_size() == 0 || bound.tensors == nullptr) {
    run.nothing = "the program has no variant of other lengths";
    return run;
  }
  if (bound.plan.placement().dtype != at::ScalarType::Float) {
    run.nothing = "at this dtype rounding decides on inputs of other shapes";
    return run;
  }
  for (const v1::ShapedGolden& golden : variant->golden()) {
    if (!HasEveryInput(golden, bound))
      return absl::InvalidArgumentError("a golden of another shape has other inputs than the program");
  }
  if (!HasSeveralLengths(*variant, mask)) {
    run.nothing = "the variant dynamic_shapes has one length of the mask";
    return run;
  }
  ASSAY_ASSIGN_OR_RETURN(const VariantPlan dynamic, BuildVariant(*variant, "dynamic", bound));
  std::vector<at::Tensor> inputs = bound.inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor whole = inputs[i];
    for (int64_t d = 0; d < whole.dim(); ++d) {
      if (!IsTheLength(*variant, bound, mask, static_cast<int>(i), d)) continue;
      inputs[i] = inputs[i].narrow(d, 0, whole.size(d) - masked).contiguous();
    }
  }
  absl::StatusOr<std::vector<at::Tensor>> outputs = dynamic.plan->Run(inputs);
  if (!outputs.ok()) {
    return absl::Status(outputs.status().code(),
                        absl::StrCat("without what is masked: ", outputs.status().message()));
  }
  if (outputs->size() != static_cast<size_t>(bound.program.manifest().outputs_size())) {
    return absl::InvalidArgumentError("the variant dynamic_shapes has other outputs than the program");
  }
  run.outputs = *std::move(outputs);
  return run;
}

}  // namespace assay::engine

#include "engine/check_inputs.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/flip.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/alter.h"
#include "engine/numbered_names.h"
#include "engine/tensors.h"
#include "engine/tolerance.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

using Tensors = std::vector<at::Tensor>;

// True where the tensors differ by more than rounding may make them, in float32 whatever the dtype: both are
// of one device and dtype.
absl::StatusOr<bool> Moves(const at::Tensor& a, const at::Tensor& b, const Placement& placement) {
  if (a.sizes() != b.sizes()) return true;
  ASSAY_ASSIGN_OR_RETURN(const Factors factors, FactorsFor({}, Placement{placement.device}));
  ASSAY_ASSIGN_OR_RETURN(const Difference difference, Compare(a, b));
  return difference.error > (b.is_floating_point() ? Allowed(factors, b, 0) : 0);
}

// Undefined where there is nothing to change it to.
absl::StatusOr<at::Tensor> Changed(const at::Tensor& input, const v1::InputSpec& spec) {
  if (input.is_floating_point() || spec.has_id_low()) return ChangeAll(input, spec);
  const at::Tensor numbers = ToNumbers(input);
  const double* data = numbers.const_data_ptr<double>();
  bool mask = numbers.numel() > 1;
  for (int64_t i = 0; i < numbers.numel(); ++i) mask &= data[i] == 1;
  at::Tensor changed = input.clone();
  if (mask) {
    int64_t dim = input.dim() - 1;
    while (dim > 0 && input.size(dim) == 1) --dim;
    const int64_t half = input.size(dim) / 2;
    changed.narrow(dim, input.size(dim) - half, half).fill_(0);
  } else if (input.dim() > 0) {
    // Along the sequence: what one place holds (the corners of a box) stays in order.
    changed = at::flip(input, {input.dim() > 2 && input.size(1) > 1 ? 1 : input.dim() - 1});
  }
  return at::equal(changed, input) ? at::Tensor() : changed;
}

}  // namespace

absl::StatusOr<Finding> CheckEveryInput(const v1::Check::EveryInput& check, const BoundCase& bound) {
  const v1::Manifest& manifest = bound.program.manifest();
  Finding finding;
  bool changed = false;
  for (int i = 0; i < manifest.inputs_size(); ++i) {
    const v1::InputSpec& spec = manifest.inputs(i);
    if (IsExempt(check.except(), spec.name())) continue;
    Tensors inputs = bound.inputs;
    ASSAY_ASSIGN_OR_RETURN(inputs[static_cast<size_t>(i)], Changed(inputs[static_cast<size_t>(i)], spec));
    if (!inputs[static_cast<size_t>(i)].defined()) {
      finding.note =
          absl::StrCat("input '", spec.name(), "' was left as it is: there is nothing to change it to");
      continue;
    }
    changed = true;
    ASSAY_ASSIGN_OR_RETURN(const Tensors outputs, bound.plan.Run(inputs));
    bool any = false;
    for (size_t k = 0; k < outputs.size() && k < bound.outputs.size() && !any; ++k) {
      ASSAY_ASSIGN_OR_RETURN(any, Moves(outputs[k], bound.outputs[k], bound.plan.placement()));
    }
    if (!any) finding.Break(absl::StrCat("no output moves with input '", spec.name(), "'"));
  }
  if (!changed) finding.nothing = "no input can be changed";
  return finding;
}

absl::StatusOr<Finding> CheckPositionSensitivity(const v1::Check::PositionSensitivity& check,
                                                 const BoundCase& bound) {
  const v1::Manifest& manifest = bound.program.manifest();
  ASSAY_ASSIGN_OR_RETURN(const int input, FindInput(manifest, "input", check.input()));
  ASSAY_ASSIGN_OR_RETURN(const int output, FindOutput(manifest, "output", check.output()));
  const at::Tensor& tokens = bound.inputs[static_cast<size_t>(input)];
  const at::Tensor& before = bound.outputs[static_cast<size_t>(output)];
  const v1::InputSpec& spec = manifest.inputs(input);
  if (tokens.dim() != 2 || tokens.scalar_type() != at::kLong || !spec.has_id_low()) {
    return absl::InvalidArgumentError(
        absl::StrCat("input '", check.input(), "' is not [batch, sequence] of tokens"));
  }
  // A first and a last place whose tokens differ and are no placeholders, in the first row.
  const at::Tensor row = tokens.narrow(0, 0, 1).to(at::kCPU).contiguous();
  const auto* data = row.const_data_ptr<int64_t>();
  const auto fit = [&](int64_t token) { return token >= spec.id_low() && token < spec.id_high(); };
  int64_t first = 0, last = tokens.size(1) - 1;
  while (first < last && !fit(data[first])) ++first;
  while (last > first && (!fit(data[last]) || data[last] == data[first])) --last;
  if (first >= last) return absl::InvalidArgumentError("no two tokens of the first row differ");
  const auto exchange = [&](const at::Tensor& tensor) {
    at::Tensor exchanged = tensor.clone();
    exchanged.narrow(1, first, 1).copy_(tensor.narrow(1, last, 1));
    exchanged.narrow(1, last, 1).copy_(tensor.narrow(1, first, 1));
    return exchanged;
  };
  Tensors inputs = bound.inputs;
  inputs[static_cast<size_t>(input)] = exchange(tokens);
  ASSAY_ASSIGN_OR_RETURN(const Tensors outputs, bound.plan.Run(inputs));
  const at::Tensor& after = outputs[static_cast<size_t>(output)];
  const bool rows = before.dim() >= 2 && before.size(0) == tokens.size(0) && before.size(1) == tokens.size(1);
  const at::Tensor blind = rows ? exchange(before) : before;
  // Of the first row alone: in others the two tokens may be the same.
  const bool batched = before.dim() > 0 && before.size(0) == tokens.size(0) && after.sizes() == blind.sizes();
  ASSAY_ASSIGN_OR_RETURN(const bool moves,
                         batched ? Moves(after.narrow(0, 0, 1), blind.narrow(0, 0, 1), bound.plan.placement())
                                 : Moves(after, blind, bound.plan.placement()));
  Finding finding;
  if (!moves) {
    finding.Break(absl::StrCat("output '", check.output(), "' does not tell the order of tokens ", first,
                               " and ", last));
  }
  return finding;
}

absl::StatusOr<Finding> CheckBatchOrder(const v1::Check::BatchOrder& check, const BoundCase& bound) {
  const v1::Manifest& manifest = bound.program.manifest();
  Tensors reversed = bound.inputs;
  int64_t batch = 0;
  for (int i = 0; i < manifest.inputs_size(); ++i) {
    if (!manifest.inputs(i).has_batch_dim()) continue;
    at::Tensor& input = reversed[static_cast<size_t>(i)];
    batch = input.size(manifest.inputs(i).batch_dim());
    input = at::flip(input, {manifest.inputs(i).batch_dim()});
  }
  Finding finding;
  if (batch < 2) {
    finding.nothing = "the program's batch dimension is fixed, or its batch has one row";
    return finding;
  }
  ASSAY_ASSIGN_OR_RETURN(const Tensors outputs, bound.plan.Run(reversed));
  bool compared = false;
  for (int i = 0; i < manifest.outputs_size() && static_cast<size_t>(i) < outputs.size(); ++i) {
    if (!manifest.outputs(i).has_batch_dim()) continue;
    compared = true;
    const at::Tensor& before = bound.outputs[static_cast<size_t>(i)];
    const v1::GoldenOutput* golden = i < bound.golden.outputs_size() ? &bound.golden.outputs(i) : nullptr;
    const at::Tensor back = at::flip(outputs[static_cast<size_t>(i)], {manifest.outputs(i).batch_dim()});
    ASSAY_ASSIGN_OR_RETURN(const Bound allowed,
                           BoundFor(check.tolerance(), bound.plan.placement(), golden, before));
    const auto difference = Compare(back, before);
    if (!difference.ok()) {
      finding.Break(
          absl::StrCat("output '", manifest.outputs(i).name(), "': ", difference.status().message()));
      continue;
    }
    finding.Measure(difference->error, allowed.max);
    if (difference->error <= allowed.max) continue;
    std::string what = absl::StrFormat("output '%s' with the batch in reverse: off by %.3g, allowed %.3g",
                                       manifest.outputs(i).name(), difference->error, allowed.max);
    if (allowed.not_comparable.empty()) {
      finding.Break(std::move(what));
    } else {
      finding.BreakWithoutProof(
          absl::StrCat(what, "; not comparable at this dtype: ", allowed.not_comparable));
    }
  }
  if (!compared) finding.nothing = "no output of the program has a batch dimension";
  return finding;
}

}  // namespace assay::engine

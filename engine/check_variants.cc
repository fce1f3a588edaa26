#include "engine/check_variants.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/decoder.h"
#include "engine/tensors.h"
#include "engine/tolerance.h"
#include "engine/variants.h"

namespace assay::engine {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr char kSdpaOperator[] = "aten::scaled_dot_product_attention";
// What transformers' generate wrote: less would be another test than docs/variants.md says.
constexpr int kGenerated = 8;
// "Several" decode steps, each on what the one before gave.
constexpr int64_t kLeastSteps = 2;

const v1::GoldenOutput* GoldenOf(const BoundCase& bound, int output) {
  return output < bound.golden.outputs_size() ? &bound.golden.outputs(output) : nullptr;
}

// Breaks the finding where `error` is not within the bound; NaN is not.
void Judge(double error, const Bound& allowed, const std::string& what, Finding& finding) {
  finding.Measure(error, allowed.max);
  if (error <= allowed.max) return;
  std::string message = absl::StrFormat("%s: off by %.3g, allowed %.3g", what, error, allowed.max);
  if (allowed.not_comparable.empty()) {
    finding.Break(std::move(message));
  } else {
    finding.BreakWithoutProof(
        absl::StrCat(message, "; not comparable at this dtype: ", allowed.not_comparable));
  }
}

absl::Status Near(const at::Tensor& found, const at::Tensor& expected, int output, const v1::Tolerance& asked,
                  const std::string& what, const BoundCase& bound, Finding& finding) {
  ASSAY_ASSIGN_OR_RETURN(const Bound allowed,
                         BoundFor(asked, bound.plan.placement(), GoldenOf(bound, output), expected));
  const auto difference = Compare(found, expected);
  if (!difference.ok()) {
    finding.Break(absl::StrCat(what, ": ", difference.status().message()));
    return absl::OkStatus();
  }
  Judge(difference->error, allowed, what, finding);
  return absl::OkStatus();
}

// Goldens of variants were recorded with the program's own mock weights.
absl::Status DemandMockWeights(const BoundCase& bound) {
  if (bound.weights == v1::MOCK && bound.seed == bound.program.manifest().mock_seed())
    return absl::OkStatus();
  return absl::InvalidArgumentError("the variant was recorded with mock weights, which this case has not");
}

std::string ShapeKey(const v1::ShapedGolden& golden) {
  return absl::StrJoin(golden.shape(), ";", [](std::string* out, const v1::Tensor& one) {
    absl::StrAppend(out, absl::StrJoin(one.shape(), ","));
  });
}

// One output against its sample. `what` names output and shape.
absl::Status CompareSample(const at::Tensor& found, const v1::OutputSample& sample, int output,
                           const v1::Tolerance& asked, const std::string& what, const BoundCase& bound,
                           Finding& finding) {
  if (!std::equal(sample.shape().begin(), sample.shape().end(), found.sizes().begin(), found.sizes().end())) {
    finding.Break(absl::StrCat(what, ": shape [", absl::StrJoin(found.sizes(), ", "), "] instead of [",
                               absl::StrJoin(sample.shape(), ", "), "]"));
    return absl::OkStatus();
  }
  const int64_t count = sample.samples_size();
  if (count < 2 || count > found.numel() ||
      std::all_of(sample.samples().begin(), sample.samples().end(),
                  [&](float one) { return one == sample.samples(0); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": its golden has ", count, " samples, too few or all the same"));
  }
  // Bounds follow the size of the output's largest number, wherever it is.
  const at::Tensor largest = at::full({1}, sample.abs_max(), found.options().device(at::kCPU));
  ASSAY_ASSIGN_OR_RETURN(const Bound allowed,
                         BoundFor(asked, bound.plan.placement(), GoldenOf(bound, output), largest));
  const at::Tensor numbers = ToNumbers(found);
  const double* data = numbers.const_data_ptr<double>();
  double worst = 0, sum = 0, squares = 0;
  for (int64_t k = 0; k < count; ++k) {
    const double error =
        std::abs(data[(2 * k + 1) * found.numel() / (2 * count)] - sample.samples(static_cast<int>(k)));
    if (!(error <= worst)) worst = error;  // NaN stays
    if (std::isnan(worst)) break;
  }
  for (int64_t i = 0; i < found.numel(); ++i) {
    sum += data[i];
    squares += data[i] * data[i];
  }
  const auto n = static_cast<double>(found.numel());
  Judge(worst, allowed, what, finding);
  // A mean of differences, and a difference of norms, are never more than the largest difference.
  Judge(std::abs(sum / n - sample.mean()), allowed, absl::StrCat(what, ", its mean"), finding);
  Judge(std::abs(std::sqrt(squares / n) - sample.rms()), allowed, absl::StrCat(what, ", its mean square"),
        finding);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Finding> CheckSdpa(const v1::Check::Sdpa& check, const BoundCase& bound) {
  Finding finding;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "sdpa", finding));
  if (variant == nullptr) return finding;
  ASSAY_ASSIGN_OR_RETURN(const VariantPlan sdpa, BuildVariant(*variant, "sdpa", bound));
  if (!Runs(sdpa.program.graph(), kSdpaOperator)) {
    return absl::InvalidArgumentError("the sdpa program has no sdpa attention");
  }
  if (Runs(bound.program.graph(), kSdpaOperator)) {
    return absl::InvalidArgumentError(
        "the main program has sdpa attention itself: nothing would be compared");
  }
  ASSAY_ASSIGN_OR_RETURN(const Tensors outputs, sdpa.plan->Run(bound.inputs));
  if (outputs.size() != bound.outputs.size()) {
    finding.Break(absl::StrCat(outputs.size(), " outputs instead of ", bound.outputs.size()));
    return finding;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int output = static_cast<int>(i);
    const std::string what =
        absl::StrCat("output '", bound.program.manifest().outputs(output).name(), "' with sdpa attention");
    ASSAY_RETURN_IF_ERROR(
        Near(outputs[i], bound.outputs[i], output, check.tolerance(), what, bound, finding));
  }
  return finding;
}

absl::StatusOr<Finding> CheckKvCache(const v1::Check::KvCache& check, const BoundCase& bound) {
  Finding finding;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "kv_cache", finding));
  if (variant == nullptr) return finding;
  ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*variant, bound));
  const at::Tensor& tokens = bound.inputs[static_cast<size_t>(decoder.tokens())];
  const at::Tensor& whole = bound.outputs[static_cast<size_t>(decoder.output())];
  const int64_t steps = tokens.size(1) - decoder.prompt();
  if (steps < kLeastSteps || whole.dim() != 3 || whole.size(1) <= steps) {
    return absl::InvalidArgumentError(absl::StrCat(steps, " steps over an output of ", whole.dim(),
                                                   " dimensions: at least ", kLeastSteps,
                                                   " over [batch, positions, vocabulary] say something"));
  }
  ASSAY_RETURN_IF_ERROR(
      decoder.Run([&](uint32_t step, const at::Tensor& logits) -> absl::StatusOr<at::Tensor> {
        const std::string what =
            step == 0 ? std::string("prefill, against the prompt without a cache")
                      : absl::StrCat("decode step ", step, ", against its token without a cache");
        ASSAY_RETURN_IF_ERROR(Near(logits, whole.select(1, whole.size(1) - 1 - steps + step),
                                   decoder.output(), check.tolerance(), what, bound, finding));
        if (step == steps) return at::Tensor();
        return tokens.narrow(1, decoder.prompt() + step, 1).contiguous();
      }));
  return finding;
}

absl::StatusOr<Finding> CheckGenerate(const BoundCase& bound) {
  Finding finding;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "generate", finding));
  if (variant == nullptr) return finding;
  ASSAY_RETURN_IF_ERROR(DemandMockWeights(bound));
  if (bound.plan.placement().dtype != at::ScalarType::Float) {
    finding.nothing = "at this dtype rounding decides between tokens: greedy decoding is compared in float32";
    finding.reason = "NOT_COMPARABLE";
    return finding;
  }
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* cache, FindVariant(bound.program, "kv_cache", finding));
  if (cache == nullptr)
    return absl::InvalidArgumentError("the program has the variant generate without kv_cache");
  ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*cache, bound));
  const int64_t batch = bound.inputs[static_cast<size_t>(decoder.tokens())].size(0);
  if (variant->generated_size() != batch) {
    return absl::InvalidArgumentError(
        absl::StrCat(variant->generated_size(), " rows were recorded, the batch has ", batch));
  }
  for (const v1::Generated& row : variant->generated()) {
    if (row.token_size() != kGenerated || row.largest_size() != kGenerated ||
        row.runner_up_size() != kGenerated) {
      return absl::InvalidArgumentError(absl::StrCat(row.token_size(), " tokens were recorded with ",
                                                     row.largest_size(), " numbers, not ", kGenerated));
    }
  }
  ASSAY_RETURN_IF_ERROR(decoder.Run([&](uint32_t step,
                                        const at::Tensor& logits) -> absl::StatusOr<at::Tensor> {
    const at::Tensor numbers = ToNumbers(logits);
    const int64_t words = numbers.size(1);
    if (words < 2) return absl::InvalidArgumentError("a vocabulary of fewer than two tokens");
    at::Tensor chosen = at::full({batch, 1}, 0, at::TensorOptions().dtype(at::kLong));
    for (int64_t r = 0; r < batch; ++r) {
      const double* row = numbers.const_data_ptr<double>() + r * words;
      const v1::Generated& recorded = variant->generated(static_cast<int>(r));
      const int at = static_cast<int>(step);
      const int64_t best = std::max_element(row, row + words) - row;
      double second = -INFINITY;
      for (int64_t w = 0; w < words; ++w) {
        if (w != best) second = std::max(second, row[w]);
      }
      chosen.mutable_data_ptr<int64_t>()[r] = best;
      const std::string what = absl::StrCat("token ", step, " of row ", r);
      if (best != recorded.token(at)) {
        finding.Break(absl::StrFormat("%s is %d instead of %d, which transformers' generate wrote", what,
                                      best, recorded.token(at)));
        return at::Tensor();  // all that follows follows from it
      }
      ASSAY_ASSIGN_OR_RETURN(
          const Bound allowed,
          BoundFor({}, bound.plan.placement(), GoldenOf(bound, decoder.output()), logits.select(0, r)));
      Judge(std::abs(row[best] - recorded.largest(at)), allowed, absl::StrCat(what, ", its logit"), finding);
      Judge(std::abs(second - recorded.runner_up(at)), allowed,
            absl::StrCat(what, ", the second largest logit"), finding);
    }
    return step + 1 == kGenerated ? at::Tensor() : chosen;
  }));
  return finding;
}

absl::StatusOr<Finding> CheckDynamicShapes(const v1::Check::DynamicShapes& check, const BoundCase& bound) {
  Finding finding;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "dynamic_shapes", finding));
  if (variant == nullptr) return finding;
  ASSAY_RETURN_IF_ERROR(DemandMockWeights(bound));
  if (bound.plan.placement().dtype != at::ScalarType::Float) {
    finding.nothing =
        "what rounding may do at this dtype is known for the golden's inputs alone, and these are others";
    finding.reason = "NOT_COMPARABLE";
    return finding;
  }
  const bool own = variant->program_size() > 0;
  VariantPlan dynamic;
  if (own) {
    ASSAY_ASSIGN_OR_RETURN(dynamic, BuildVariant(*variant, "dynamic", bound));
  }
  const v1::Program& program = own ? dynamic.program : bound.program;
  const Plan& plan = own ? *dynamic.plan : bound.plan;
  std::set<std::string> shapes;
  for (const v1::ShapedGolden& golden : variant->golden()) {
    const std::string shape = ShapeKey(golden);
    if (!shapes.insert(shape).second) return absl::InvalidArgumentError("two goldens have the same shapes");
    ASSAY_ASSIGN_OR_RETURN(const Tensors inputs, ShapedInputs(program, golden, bound.plan.placement()));
    absl::StatusOr<Tensors> outputs = plan.Run(inputs);
    if (!outputs.ok()) {
      return absl::Status(outputs.status().code(),
                          absl::StrCat("with inputs of [", shape, "]: ", outputs.status().message()));
    }
    const auto& specs = bound.program.manifest().outputs();
    if (outputs->size() != static_cast<size_t>(specs.size()) || golden.outputs_size() != specs.size()) {
      return absl::InvalidArgumentError(absl::StrCat(outputs->size(), " outputs against ",
                                                     golden.outputs_size(), " of the golden and ",
                                                     specs.size(), " of the program"));
    }
    for (int i = 0; i < specs.size(); ++i) {
      const std::string what = absl::StrCat("output '", specs[i].name(), "' with inputs of [", shape, "]");
      if (golden.outputs(i).name() != specs[i].name()) {
        return absl::InvalidArgumentError(absl::StrCat(what, ": the golden has ", golden.outputs(i).name()));
      }
      ASSAY_RETURN_IF_ERROR(CompareSample((*outputs)[static_cast<size_t>(i)], golden.outputs(i), i,
                                          check.tolerance(), what, bound, finding));
    }
  }
  finding.note = variant->partial();
  if (shapes.size() < 2) return absl::InvalidArgumentError("one shape is not several");
  return finding;
}

}  // namespace assay::engine

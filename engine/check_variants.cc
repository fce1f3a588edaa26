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

namespace {

// Every row of a decoding with the cache, forced on by the main input's tokens, against its positions in the
// main program's output. A model that sees no later token gives there what it gives for the row alone.
absl::Status CompareCached(const Decoder& decoder, const std::string& rows, const v1::Tolerance& asked,
                           const BoundCase& bound, Finding& finding) {
  const at::Tensor& tokens = bound.inputs[static_cast<size_t>(decoder.tokens())];
  const at::Tensor& whole = bound.outputs[static_cast<size_t>(decoder.output())];
  const int64_t behind = tokens.size(1) - decoder.prompt();
  int64_t steps = 0;
  for (int64_t r = 0; r < decoder.batch(); ++r) steps = std::max(steps, decoder.following(r));
  // Pictures may stand before the tokens, so that positions are counted from the end.
  const int64_t last = whole.dim() == 3 ? whole.size(1) - 1 - behind : -1;
  for (int64_t r = 0; r < decoder.batch(); ++r) {
    if (steps < kLeastSteps || last < decoder.padding(r)) {
      return absl::InvalidArgumentError(absl::StrCat(steps, " steps over an output of ", whole.dim(),
                                                     " dimensions: at least ", kLeastSteps,
                                                     " over [batch, positions, vocabulary] say something"));
    }
  }
  return decoder.Run([&](uint32_t step, const at::Tensor& logits) -> absl::StatusOr<at::Tensor> {
    const std::string what =
        step == 0 ? absl::StrCat("prefill", rows, ", against the prompt without a cache")
                  : absl::StrCat("decode step ", step, rows, ", against its token without a cache");
    for (int64_t r = 0; r < decoder.batch(); ++r) {
      if (step > decoder.following(r)) continue;
      ASSAY_RETURN_IF_ERROR(
          Near(logits.select(0, r), whole.select(0, r).select(0, last - decoder.padding(r) + step),
               decoder.output(), asked, absl::StrCat("row ", r, ", ", what), bound, finding));
    }
    return step == steps ? at::Tensor() : decoder.Following(step);
  });
}

// The variant's programs with the checkpoint's own prompts, which are of different lengths.
absl::StatusOr<const v1::Decoding*> CheckpointDecoding(const BoundCase& bound, Finding& finding) {
  const v1::CheckpointGolden& golden = *bound.checkpoint;
  if (golden.decoding().row_size() > 0) return &golden.decoding();
  finding.nothing = golden.no_decoding().empty() ? "the checkpoint's golden was recorded without decoding"
                                                 : golden.no_decoding();
  finding.reason = "MISSING_VARIANT";
  return nullptr;
}

}  // namespace

absl::StatusOr<Finding> CheckKvCache(const v1::Check::KvCache& check, const BoundCase& bound) {
  Finding finding;
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, "kv_cache", finding));
  if (variant == nullptr) return finding;
  if (bound.checkpoint != nullptr) {
    ASSAY_ASSIGN_OR_RETURN(const v1::Decoding* decoding, CheckpointDecoding(bound, finding));
    if (decoding == nullptr) return finding;
    ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*variant, *decoding, bound));
    ASSAY_RETURN_IF_ERROR(
        CompareCached(decoder, " of prompts padded on the left", check.tolerance(), bound, finding));
    return finding;
  }
  ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*variant, variant->decoding(), bound));
  ASSAY_RETURN_IF_ERROR(CompareCached(decoder, "", check.tolerance(), bound, finding));
  if (!variant->has_left_padded()) {
    if (!variant->no_left_padding().empty()) {
      finding.note = absl::StrCat("without rows padded on the left: ", variant->no_left_padding());
    }
    return finding;
  }
  ASSAY_ASSIGN_OR_RETURN(const Decoder padded, Decoder::Make(*variant, variant->left_padded(), bound));
  std::set<int64_t> lengths;
  for (int64_t r = 0; r < padded.batch(); ++r) lengths.insert(padded.padding(r));
  if (lengths.size() < 2) return absl::InvalidArgumentError("rows padded on the left are all of one length");
  ASSAY_RETURN_IF_ERROR(
      CompareCached(padded, " of rows padded on the left", check.tolerance(), bound, finding));
  return finding;
}

namespace {

// One row's step of greedy decoding against what transformers' generate wrote: the token to go on with, or -1
// where it is another one.
absl::StatusOr<int64_t> JudgeToken(const double* row, int64_t words, const v1::Generated& recorded, int at,
                                   const Bound& allowed, const std::string& what, Finding& finding) {
  if (words < 2) return absl::InvalidArgumentError("a vocabulary of fewer than two tokens");
  const int64_t wanted = recorded.token(at);
  if (wanted < 0 || wanted >= words) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is ", wanted, " of ", words));
  }
  const int64_t best = std::max_element(row, row + words) - row;
  // Where generate's own two best are as good as equal, rounding may exchange them; its numbers must still be
  // ours.
  const bool tie = recorded.largest(at) - recorded.runner_up(at) <= allowed.max;
  if (best != wanted && !tie) {
    finding.Break(
        absl::StrFormat("%s is %d instead of %d, which transformers' generate wrote", what, best, wanted));
    return -1;
  }
  double second = -INFINITY;
  for (int64_t w = 0; w < words; ++w) {
    if (w != wanted) second = std::max(second, row[w]);
  }
  Judge(std::abs(row[wanted] - recorded.largest(at)), allowed, absl::StrCat(what, ", its logit"), finding);
  Judge(std::abs(second - recorded.runner_up(at)), allowed, absl::StrCat(what, ", the second largest logit"),
        finding);
  return wanted;
}

// As many numbers as tokens; of a catalogue's program exactly as many as docs/variants.md says.
absl::Status CheckGenerated(const google::protobuf::RepeatedPtrField<v1::Generated>& rows, int64_t batch,
                            bool checkpoint) {
  if (rows.size() != batch) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows.size(), " rows were recorded, the batch has ", batch));
  }
  int most = 0;
  for (const v1::Generated& row : rows) {
    most = std::max(most, row.token_size());
    if ((!checkpoint && row.token_size() != kGenerated) || row.token_size() > kGenerated ||
        row.largest_size() != row.token_size() || row.runner_up_size() != row.token_size()) {
      return absl::InvalidArgumentError(absl::StrCat(row.token_size(), " tokens were recorded with ",
                                                     row.largest_size(), " numbers, not ", kGenerated));
    }
  }
  if (most < kLeastSteps) return absl::InvalidArgumentError("no row has two tokens that generate wrote");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Finding> CheckGenerate(const BoundCase& bound) {
  Finding finding;
  const bool checkpoint = bound.checkpoint != nullptr;
  // A checkpoint's program has the programs; what was written, its golden.
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant,
                         FindVariant(bound.program, checkpoint ? "kv_cache" : "generate", finding));
  if (variant == nullptr) return finding;
  if (!checkpoint && bound.weights != v1::MOCK) {
    finding.nothing = "no golden of these weights says what generate writes with them";
    finding.reason = "MISSING_VARIANT";
    return finding;
  }
  if (!checkpoint) ASSAY_RETURN_IF_ERROR(DemandMockWeights(bound));
  const v1::Variant* programs = variant;
  if (variant->program_size() == 0) {
    ASSAY_ASSIGN_OR_RETURN(programs, FindVariant(bound.program, "kv_cache", finding));
    if (programs == nullptr)
      return absl::InvalidArgumentError("the program has the variant generate without kv_cache");
  }
  const v1::Decoding* decoding = &programs->decoding();
  if (checkpoint) {
    ASSAY_ASSIGN_OR_RETURN(decoding, CheckpointDecoding(bound, finding));
    if (decoding == nullptr) return finding;
  }
  if (bound.plan.placement().dtype != at::ScalarType::Float) {
    finding.nothing = "at this dtype rounding decides between tokens: greedy decoding is compared in float32";
    finding.reason = "NOT_COMPARABLE";
    return finding;
  }
  ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*programs, *decoding, bound));
  const auto& rows = checkpoint ? bound.checkpoint->generated() : variant->generated();
  ASSAY_RETURN_IF_ERROR(CheckGenerated(rows, decoder.batch(), checkpoint));
  int steps = 0;
  for (const v1::Generated& row : rows) steps = std::max(steps, row.token_size());
  ASSAY_RETURN_IF_ERROR(decoder.Run([&](uint32_t step,
                                        const at::Tensor& logits) -> absl::StatusOr<at::Tensor> {
    const at::Tensor numbers = ToNumbers(logits);
    const int64_t words = numbers.size(1);
    const int at = static_cast<int>(step);
    at::Tensor chosen = at::full({decoder.batch(), 1}, 0, at::TensorOptions().dtype(at::kLong));
    for (int64_t r = 0; r < decoder.batch(); ++r) {
      const v1::Generated& recorded = rows[static_cast<int>(r)];
      if (at >= recorded.token_size()) continue;  // this row has come to its end
      ASSAY_ASSIGN_OR_RETURN(
          const Bound allowed,
          BoundFor({}, bound.plan.placement(), GoldenOf(bound, decoder.output()), logits.select(0, r)));
      const std::string what = absl::StrCat("token ", step, " of row ", r);
      ASSAY_ASSIGN_OR_RETURN(const int64_t token, JudgeToken(numbers.const_data_ptr<double>() + r * words,
                                                             words, recorded, at, allowed, what, finding));
      if (token < 0) return at::Tensor();  // all that follows follows from it
      chosen.mutable_data_ptr<int64_t>()[r] = token;
    }
    return at + 1 == steps ? at::Tensor() : chosen;
  }));
  return finding;
}

absl::Status ForEachVariantPart(
    const v1::Check& check, const BoundCase& bound,
    const std::function<absl::StatusOr<bool>(const std::string& name, const BoundCase& part)>& see) {
  Finding none;
  const std::string name = check.has_sdpa()       ? "sdpa"
                           : check.has_kv_cache() ? "kv_cache"
                           : check.has_generate() ? "generate"
                                                  : "dynamic_shapes";
  ASSAY_ASSIGN_OR_RETURN(const v1::Variant* variant, FindVariant(bound.program, name, none));
  if (variant != nullptr && variant->program_size() == 0 && check.has_generate()) {
    ASSAY_ASSIGN_OR_RETURN(variant, FindVariant(bound.program, "kv_cache", none));
  }
  if (variant == nullptr || variant->program_size() == 0) return absl::OkStatus();
  const auto show = [&](const VariantPlan& plan, const Tensors& inputs) -> absl::StatusOr<bool> {
    v1::Golden golden;
    golden.set_cpu_capability(bound.golden.cpu_capability());
    const std::string& part = plan.name;
    for (const v1::VariantProgram& one : variant->program()) {
      // What was traced is eager's run with mock weights: another checkpoint has no such record.
      if (one.name() == part && bound.checkpoint == nullptr) *golden.mutable_trace() = one.trace();
    }
    const Tensors no_outputs;
    BoundCase made{plan.program, golden, *plan.plan, bound.weights, bound.seed, inputs, no_outputs};
    made.tensors = bound.tensors;
    made.reload = bound.reload;
    return see(part, made);
  };
  if (check.has_kv_cache() || check.has_generate()) {
    ASSAY_ASSIGN_OR_RETURN(const Decoder decoder, Decoder::Make(*variant, variant->decoding(), bound));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<Decoder::Part> parts, decoder.Parts());
    for (const Decoder::Part& part : parts) {
      ASSAY_ASSIGN_OR_RETURN(const bool more, show(*part.plan, part.inputs));
      if (!more || variant->program_size() == 1) break;  // one program is traced on the prompt
    }
    return absl::OkStatus();
  }
  const bool sdpa = check.has_sdpa();
  ASSAY_ASSIGN_OR_RETURN(const VariantPlan plan, BuildVariant(*variant, sdpa ? "sdpa" : "dynamic", bound));
  Tensors inputs = bound.inputs;
  if (!sdpa) {
    if (variant->golden_size() == 0) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(inputs, ShapedInputs(plan.program, variant->golden(0), bound.plan.placement()));
  }
  return show(plan, inputs).status();
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

#include "engine/checks.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/alter.h"
#include "engine/check_answers.h"
#include "engine/check_configuration.h"
#include "engine/check_idioms.h"
#include "engine/check_inputs.h"
#include "engine/check_layers.h"
#include "engine/check_padding.h"
#include "engine/check_variants.h"
#include "engine/check_weights.h"
#include "engine/finding.h"
#include "engine/tensors.h"
#include "engine/tolerance.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr char kOldGolden[] =
    "the golden does not say what error is legitimate at this dtype: judged by a constant of the dtype, "
    "which "
    "is coarser; export it again";

// One check at work. Names were validated before.
class Check {
 public:
  Check(const v1::Check& check, const BoundCase& bound)
      : check_(check), bound_(bound), manifest_(bound.program.manifest()) {}

  absl::StatusOr<Finding> Run() {
    if (LeftToTheGolden()) {
      Finding finding;
      finding.nothing = "left to this checkpoint's golden";
      return finding;
    }
    switch (check_.kind_case()) {
      case v1::Check::kGolden:
        return Golden(check_.golden());
      case v1::Check::kShapes:
        return Shapes();
      case v1::Check::kFinite:
        return Finite();
      case v1::Check::kNotConstant:
        return NotConstant();
      case v1::Check::kDeterministic:
        return Deterministic();
      case v1::Check::kCausality:
        return Causality(check_.causality());
      case v1::Check::kPaddingInvariance:
        return PaddingInvariance(check_.padding_invariance());
      case v1::Check::kBatchInvariance:
        return BatchInvariance(check_.batch_invariance());
      case v1::Check::kEncoderInfluence:
        return Influence(check_.encoder_influence().input(), check_.encoder_influence().output());
      case v1::Check::kInputInfluence:
        return Influence(check_.input_influence().input(), check_.input_influence().output());
      case v1::Check::kBoxRange:
        return BoxRange(check_.box_range().output());
      case v1::Check::kSimilaritySymmetry:
        return SimilaritySymmetry(check_.similarity_symmetry());
      case v1::Check::kWeightsBound:
        return WeightsBound();
      case v1::Check::kWeightsSound:
        return WeightsSound();
      case v1::Check::kAnswers:
        return CheckAnswers(check_.answers(), bound_);
      case v1::Check::kRepeatedLayers:
        return CheckRepeatedLayers(check_.repeated_layers(), bound_.program);
      case v1::Check::kConfiguration:
        return CheckConfiguration(check_.configuration(), bound_.program);
      case v1::Check::kIdioms:
        return CheckIdioms(check_.idioms(), bound_.program);
      case v1::Check::kWeightInfluence:
        return CheckWeightInfluence(check_.weight_influence(), bound_.program);
      case v1::Check::kWeightsAlike:
        return CheckWeightsAlike(check_.weights_alike(), bound_);
      case v1::Check::kWeightsIntact:
        return CheckWeightsIntact(bound_);
      case v1::Check::kEveryInput:
        return CheckEveryInput(check_.every_input(), bound_);
      case v1::Check::kPositionSensitivity:
        return CheckPositionSensitivity(check_.position_sensitivity(), bound_);
      case v1::Check::kBatchOrder:
        return CheckBatchOrder(check_.batch_order(), bound_);
      case v1::Check::kSdpa:
        return CheckSdpa(check_.sdpa(), bound_);
      case v1::Check::kKvCache:
        return CheckKvCache(check_.kv_cache(), bound_);
      case v1::Check::kGenerate:
        return CheckGenerate(bound_);
      case v1::Check::kDynamicShapes:
        return CheckDynamicShapes(check_.dynamic_shapes(), bound_);
      case v1::Check::KIND_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError("a kind of check that this engine does not know");
  }

 private:
  // What is likely of a model's form was learnt from the catalogue's programs. A checkpoint of full size may
  // well be otherwise (the strides of MobileNet's layers): where its own golden can be asked, likelihood is
  // not.
  bool LeftToTheGolden() const {
    if (bound_.checkpoint == nullptr || bound_.golden.outputs_size() == 0) return false;
    return check_.has_repeated_layers() || check_.has_configuration() || check_.has_weight_influence() ||
           check_.has_weights_alike() || check_.has_idioms();
  }

  int InputIndex(const std::string& name) const { return *FindInput(manifest_, "input", name); }
  int OutputIndex(const std::string& name) const { return *FindOutput(manifest_, "output", name); }
  const v1::InputSpec& Spec(int input) const { return manifest_.inputs(input); }
  std::string OutputName(int output) const {
    return absl::StrCat("'", manifest_.outputs(output).name(), "'");
  }
  // Null where no reference ran.
  const v1::GoldenOutput* GoldenOf(int output) const {
    return output < bound_.golden.outputs_size() ? &bound_.golden.outputs(output) : nullptr;
  }

  absl::StatusOr<Tensors> RunWith(int input, at::Tensor value) const {
    Tensors inputs = bound_.inputs;
    inputs[static_cast<size_t>(input)] = std::move(value);
    return bound_.plan.Run(inputs);
  }

  // Compares one output (or a part of it) with what it should be.
  absl::Status Near(const at::Tensor& a, const at::Tensor& b, int output, const v1::Tolerance& asked,
                    absl::string_view where, Finding& finding) const {
    ASSAY_ASSIGN_OR_RETURN(const Bound bound, BoundFor(asked, bound_.plan.placement(), GoldenOf(output), b));
    return Near(a, b, output, bound, where, finding).status();
  }

  absl::StatusOr<Difference> Near(const at::Tensor& a, const at::Tensor& b, int output, const Bound& bound,
                                  absl::string_view where, Finding& finding) const {
    auto difference = Compare(a, b);
    if (!difference.ok()) {
      finding.Break(absl::StrCat("output ", OutputName(output), where, ": ", difference.status().message()));
      return Difference{};
    }
    finding.Measure(difference->error, bound.max);
    if (!(difference->error <= bound.max)) {
      Beyond(bound,
             absl::StrFormat("output %s%s: %s; off by %.3g, allowed %.3g", OutputName(output), where,
                             Describe(*difference, b.sizes()), difference->error, bound.max),
             finding);
    }
    return *difference;
  }

  // A NaN or an infinity where the reference has none is no rounding: checks for it are `finite`'s.
  static void Beyond(const Bound& bound, std::string what, Finding& finding) {
    if (bound.not_comparable.empty()) {
      finding.Break(std::move(what));
    } else {
      finding.BreakWithoutProof(absl::StrCat(what, "; not comparable at this dtype: ", bound.not_comparable));
    }
  }

  absl::StatusOr<Finding> Golden(const v1::Check::Golden& golden) {
    if (bound_.golden.outputs().empty()) {
      return absl::InvalidArgumentError("there is no golden: its inputs alone can be compared with nothing");
    }
    if (bound_.checkpoint == nullptr && bound_.weights != v1::MOCK) {
      return absl::InvalidArgumentError("the golden was recorded with mock weights, which this case has not");
    }
    if (bound_.checkpoint == nullptr && bound_.seed != manifest_.mock_seed()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the golden was recorded with seed ", manifest_.mock_seed(), ", this test has seed ", bound_.seed));
    }
    ASSAY_ASSIGN_OR_RETURN(Tensors expected, GoldenOutputs(bound_.golden));
    Finding finding;
    if (expected.size() != bound_.outputs.size()) {
      finding.Break(absl::StrCat(bound_.outputs.size(), " outputs instead of ", expected.size()));
      return finding;
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      const int output = static_cast<int>(i);
      ASSAY_ASSIGN_OR_RETURN(const Bound bound, BoundFor(golden.tolerance(), bound_.plan.placement(),
                                                         GoldenOf(output), expected[i]));
      ASSAY_ASSIGN_OR_RETURN(const Difference difference,
                             Near(bound_.outputs[i], expected[i], output, bound, "", finding));
      if (bound.derived && expected[i].is_floating_point()) {
        finding.MeasureRms(difference.rms, bound.rms);
        if (!(difference.rms <= bound.rms)) {
          Beyond(bound,
                 absl::StrFormat("output %s: off by %.3g in the mean square, allowed %.3g",
                                 OutputName(output), difference.rms, bound.rms),
                 finding);
        }
      } else if (!bound.derived && !golden.tolerance().has_scale() && !golden.tolerance().has_rounding()) {
        finding.note = kOldGolden;
      }
    }
    return finding;
  }

  absl::StatusOr<Finding> Shapes() {
    Finding finding;
    const auto& expected = manifest_.outputs();  // the golden's are the same
    if (static_cast<size_t>(expected.size()) != bound_.outputs.size()) {
      finding.Break(absl::StrCat(bound_.outputs.size(), " outputs instead of ", expected.size()));
      return finding;
    }
    for (int i = 0; i < expected.size(); ++i) {
      const at::Tensor& output = bound_.outputs[static_cast<size_t>(i)];
      const auto& shape = expected[i].shape();
      if (!std::equal(shape.begin(), shape.end(), output.sizes().begin(), output.sizes().end())) {
        finding.Break(absl::StrCat("output ", OutputName(i), " has shape [",
                                   absl::StrJoin(output.sizes(), ", "), "] instead of [",
                                   absl::StrJoin(shape, ", "), "]"));
      }
      ASSAY_ASSIGN_OR_RETURN(at::ScalarType dtype, TorchDtype(expected[i].dtype()));
      if (dtype == at::ScalarType::Float) dtype = bound_.plan.placement().dtype;
      if (output.scalar_type() != dtype) {
        finding.Break(absl::StrCat("output ", OutputName(i), " is ", c10::toString(output.scalar_type()),
                                   " instead of ", c10::toString(dtype)));
      }
    }
    return finding;
  }

  // Calls `see(output index, numbers, count)` for every floating point output; an error where there is none.
  template <typename See>
  absl::Status ForFloatingPoint(See see) const {
    bool any = false;
    for (size_t i = 0; i < bound_.outputs.size(); ++i) {
      if (!bound_.outputs[i].is_floating_point()) continue;
      any = true;
      at::Tensor numbers = ToNumbers(bound_.outputs[i]);
      see(static_cast<int>(i), numbers.const_data_ptr<double>(), numbers.numel());
    }
    return any ? absl::OkStatus() : absl::InvalidArgumentError("the model has no floating point output");
  }

  absl::StatusOr<Finding> Finite() {
    Finding finding;
    ASSAY_RETURN_IF_ERROR(ForFloatingPoint([&](int output, const double* data, int64_t count) {
      int64_t bad = std::count_if(data, data + count, [](double x) { return !std::isfinite(x); });
      if (bad > 0) {
        finding.Break(absl::StrCat("output ", OutputName(output), " holds NaN or Inf at ", bad, " of ", count,
                                   " places"));
      }
    }));
    return finding;
  }

  absl::StatusOr<Finding> NotConstant() {
    Finding finding;
    ASSAY_RETURN_IF_ERROR(ForFloatingPoint([&](int output, const double* data, int64_t count) {
      bool varies = std::any_of(data, data + count, [&](double x) { return x != data[0]; });
      if (varies) return;
      finding.Break(count == 0 ? absl::StrCat("output ", OutputName(output), " is empty")
                               : absl::StrCat("output ", OutputName(output), " is ", data[0], " everywhere"));
    }));
    return finding;
  }

  absl::StatusOr<Finding> Deterministic() {
    ASSAY_ASSIGN_OR_RETURN(Tensors again, bound_.plan.Run(bound_.inputs));
    Finding finding;
    if (again.size() != bound_.outputs.size()) {
      finding.Break(absl::StrCat(again.size(), " outputs, then ", bound_.outputs.size()));
      return finding;
    }
    for (size_t i = 0; i < again.size(); ++i) {
      if (bound_.plan.placement().device.is_cuda()) {
        ASSAY_RETURN_IF_ERROR(Near(again[i], bound_.outputs[i], static_cast<int>(i), v1::Tolerance(),
                                   " of a second run", finding));
        continue;
      }
      at::Tensor a = again[i].contiguous(), b = bound_.outputs[i].contiguous();
      bool same = a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
                  (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
      if (same) continue;
      auto difference = Compare(a, b);
      finding.Break(absl::StrCat(
          "output ", OutputName(static_cast<int>(i)), " of a second run: ",
          difference.ok() ? Describe(*difference, b.sizes()) : std::string(difference.status().message())));
      if (difference.ok()) finding.Measure(difference->error, 0);
    }
    return finding;
  }

  absl::StatusOr<Finding> Causality(const v1::Check::Causality& causality) {
    Finding finding;
    ASSAY_RETURN_IF_ERROR(CausalityAt(causality, causality.position(), finding));
    for (const int position : causality.further_position()) {
      ASSAY_RETURN_IF_ERROR(CausalityAt(causality, position, finding));
    }
    return finding;
  }

  absl::Status CausalityAt(const v1::Check::Causality& causality, int32_t position, Finding& finding) {
    int input = InputIndex(causality.input());
    int output = OutputIndex(causality.output());
    const at::Tensor& value = bound_.inputs[static_cast<size_t>(input)];
    const at::Tensor& before = bound_.outputs[static_cast<size_t>(output)];
    if (value.dim() < 2 || before.dim() < 2) {
      return absl::InvalidArgumentError("input and output must be [batch, sequence, …]");
    }
    // A place counted from the end is the same token where the output has more rows in front (image tokens).
    auto place = [&](int64_t length) { return position < 0 ? length + position : position; };
    int64_t changed = place(value.size(1)), row = place(before.size(1));
    if (changed < 0 || changed >= value.size(1) || row < 1 || row >= before.size(1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "position ", position, " leaves no row before it, or none from it on: ", causality.input(), " has ",
          value.size(1), " positions, ", causality.output(), " ", before.size(1)));
    }
    ASSAY_ASSIGN_OR_RETURN(at::Tensor altered, ChangePositions(value, Spec(input), changed, changed + 1));
    ASSAY_ASSIGN_OR_RETURN(Tensors outputs, RunWith(input, std::move(altered)));
    const at::Tensor& after = outputs[static_cast<size_t>(output)];
    if (after.sizes() != before.sizes()) {
      finding.Break(absl::StrCat("output ", OutputName(output), " changed its shape"));
      return absl::OkStatus();
    }
    ASSAY_RETURN_IF_ERROR(Near(after.narrow(1, 0, row), before.narrow(1, 0, row), output,
                               causality.tolerance(), absl::StrCat(" before the changed token at ", row),
                               finding));
    int64_t rest = before.size(1) - row;
    for (int64_t i = row; causality.each_row_moves() && i < before.size(1); ++i) {
      ASSAY_RETURN_IF_ERROR(Moved(after.narrow(1, i, 1), before.narrow(1, i, 1), output,
                                  absl::StrCat("at ", i, " with the token at ", row), finding));
    }
    return Moved(after.narrow(1, row, rest), before.narrow(1, row, rest), output,
                 absl::StrCat("from the changed token at ", row, " on"), finding);
  }

  // Breaks the finding unless a differs from b by more than what could be noise. Both come from this device
  // and dtype, so that the coarseness of a short dtype is no noise: float32's bound serves all.
  absl::Status Moved(const at::Tensor& a, const at::Tensor& b, int output, absl::string_view where,
                     Finding& finding) const {
    ASSAY_ASSIGN_OR_RETURN(const Factors factors, FactorsFor({}, Placement{bound_.plan.placement().device}));
    ASSAY_ASSIGN_OR_RETURN(const Difference difference, Compare(a, b));
    const v1::GoldenOutput* golden = GoldenOf(output);
    const double rounding = golden != nullptr ? golden->float64_error() : 0;
    const double noise = b.is_floating_point() ? Allowed(factors, b, rounding) : 0;
    if (difference.error > noise && std::isfinite(difference.error)) return absl::OkStatus();
    finding.Break(
        absl::StrFormat("output %s does not move %s: it differs by %.3g, which is no more than noise",
                        OutputName(output), where, difference.error));
    return absl::OkStatus();
  }

  absl::StatusOr<Finding> PaddingInvariance(const v1::Check::PaddingInvariance& padding) {
    int input = InputIndex(padding.input());
    int mask = InputIndex(padding.mask());
    int output = OutputIndex(padding.output());
    int64_t masked = padding.masked();
    const bool left = padding.left();
    ASSAY_ASSIGN_OR_RETURN(at::Tensor shorter, (left ? MaskBeginning : MaskEnd)(
                                                   bound_.inputs[static_cast<size_t>(mask)], masked));
    const at::Tensor& value = bound_.inputs[static_cast<size_t>(input)];
    int64_t length = shorter.size(1);
    if (value.dim() < 2 || value.size(1) != length) {
      return absl::InvalidArgumentError(
          absl::StrCat("input '", padding.input(), "' is not as long as the mask"));
    }
    ASSAY_ASSIGN_OR_RETURN(at::Tensor altered, ChangePositions(value, Spec(input), left ? 0 : length - masked,
                                                               left ? masked : length));
    Tensors inputs = bound_.inputs;
    inputs[static_cast<size_t>(mask)] = shorter;
    ASSAY_ASSIGN_OR_RETURN(Tensors masked_run, bound_.plan.Run(inputs));
    inputs[static_cast<size_t>(input)] = altered;
    ASSAY_ASSIGN_OR_RETURN(Tensors altered_run, bound_.plan.Run(inputs));
    at::Tensor before = masked_run[static_cast<size_t>(output)];
    at::Tensor after = altered_run[static_cast<size_t>(output)];
    if (padding.output_has_sequence()) {
      if (before.dim() < 2 || before.size(1) != length) {
        return absl::InvalidArgumentError(
            absl::StrCat("output '", padding.output(), "' is not as long as the mask"));
      }
      before = before.narrow(1, left ? masked : 0, length - masked);
      after = after.narrow(1, left ? masked : 0, length - masked);
    }
    Finding finding;
    ASSAY_RETURN_IF_ERROR(
        Near(after, before, output, padding.tolerance(), " after a change of what is masked", finding));
    // Padding on the left moves positions: there the row alone is run with the positions that its masks give
    // it, which is what kv_cache does. One vector a row may be taken from the last place, whatever the mask
    // says.
    if (left) return finding;
    ShorterRun alone;
    if (!padding.output_has_sequence() && before.dim() < 3) {
      alone.nothing = "the output is one vector a row";
    } else {
      ASSAY_ASSIGN_OR_RETURN(alone, RunShorter(bound_, mask, masked));
    }
    finding.note =
        alone.nothing.empty() ? "" : absl::StrCat("not held against the rows alone: ", alone.nothing);
    if (!alone.nothing.empty()) return finding;
    // Texts are padded with no token that a model looks for: some take their output from where one stands.
    ASSAY_ASSIGN_OR_RETURN(inputs[static_cast<size_t>(input)],
                           PadPositions(value, Spec(input), length - masked, length));
    ASSAY_ASSIGN_OR_RETURN(const Tensors padded_run, bound_.plan.Run(inputs));
    at::Tensor padded = padded_run[static_cast<size_t>(output)];
    if (padding.output_has_sequence()) padded = padded.narrow(1, 0, length - masked);
    ASSAY_RETURN_IF_ERROR(Near(padded, alone.outputs[static_cast<size_t>(output)], output,
                               padding.tolerance(), " padded, beside the same without padding", finding));
    return finding;
  }

  absl::StatusOr<Finding> BatchInvariance(const v1::Check::BatchInvariance& invariance) {
    int64_t row = invariance.row();
    int64_t batch = 0;
    Tensors alone = bound_.inputs;
    for (int i = 0; i < manifest_.inputs_size(); ++i) {
      if (!Spec(i).has_batch_dim()) continue;
      at::Tensor& input = alone[static_cast<size_t>(i)];
      batch = input.size(Spec(i).batch_dim());
      if (row >= batch) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", row, ": the golden's batch has ", batch, " rows"));
      }
      input = input.narrow(Spec(i).batch_dim(), row, 1).contiguous();
    }
    if (batch < 2)
      return absl::InvalidArgumentError("the program's batch dimension is fixed, or its batch has one row");
    ASSAY_ASSIGN_OR_RETURN(Tensors outputs, bound_.plan.Run(alone));
    Finding finding;
    bool compared = false;
    for (int i = 0; i < manifest_.outputs_size(); ++i) {
      if (!manifest_.outputs(i).has_batch_dim()) continue;
      const at::Tensor& single = outputs[static_cast<size_t>(i)];
      at::Tensor expected = bound_.outputs[static_cast<size_t>(i)];
      // Similarities have the batch in two dimensions: whatever shrank with the batch is narrowed to the row.
      int64_t batch_dim = manifest_.outputs(i).batch_dim();
      if (single.dim() == expected.dim()) {
        for (int64_t d = 0; d < expected.dim(); ++d) {
          bool shrank = expected.size(d) == batch && single.size(d) == 1;
          if (d == batch_dim || shrank) expected = expected.narrow(d, row, 1);
        }
      }
      compared = true;
      ASSAY_RETURN_IF_ERROR(Near(single, expected, i, invariance.tolerance(),
                                 absl::StrCat(" of row ", row, " alone"), finding));
    }
    if (!compared) return absl::InvalidArgumentError("no output of the program has a batch dimension");
    return finding;
  }

  absl::StatusOr<Finding> Influence(const std::string& input_name, const std::string& output_name) {
    int input = InputIndex(input_name);
    int output = OutputIndex(output_name);
    ASSAY_ASSIGN_OR_RETURN(at::Tensor altered,
                           ChangeAll(bound_.inputs[static_cast<size_t>(input)], Spec(input)));
    ASSAY_ASSIGN_OR_RETURN(Tensors outputs, RunWith(input, std::move(altered)));
    Finding finding;
    ASSAY_RETURN_IF_ERROR(Moved(outputs[static_cast<size_t>(output)],
                                bound_.outputs[static_cast<size_t>(output)], output,
                                absl::StrCat("with '", input_name, "'"), finding));
    return finding;
  }

  absl::StatusOr<Finding> BoxRange(const std::string& name) {
    int output = OutputIndex(name);
    at::Tensor boxes = bound_.outputs[static_cast<size_t>(output)];
    if (boxes.dim() < 1 || boxes.size(-1) != 4 || boxes.numel() == 0) {
      return absl::InvalidArgumentError(absl::StrCat("output '", name, "' has no boxes of four numbers"));
    }
    at::Tensor numbers = ToNumbers(boxes);
    const double* data = numbers.const_data_ptr<double>();
    Finding finding;
    double worst = 0;
    for (int64_t i = 0; i < numbers.numel(); ++i) {
      double outside = std::max({0.0, -data[i], data[i] - 1});
      if (std::isnan(data[i])) outside = std::numeric_limits<double>::infinity();
      worst = std::max(worst, outside);
      if (outside > 0) {
        finding.Break(absl::StrFormat("box %d of output '%s' has the coordinate %.9g, outside [0, 1]", i / 4,
                                      name, data[i]));
      }
    }
    finding.Measure(worst, 0);
    return finding;
  }

  absl::StatusOr<Finding> SimilaritySymmetry(const v1::Check::SimilaritySymmetry& symmetry) {
    int first = OutputIndex(symmetry.first());
    int second = OutputIndex(symmetry.second());
    const at::Tensor& a = bound_.outputs[static_cast<size_t>(first)];
    const at::Tensor& b = bound_.outputs[static_cast<size_t>(second)];
    if (a.dim() != 2 || b.dim() != 2) return absl::InvalidArgumentError("both outputs must be matrices");
    Finding finding;
    ASSAY_RETURN_IF_ERROR(Near(a, b.t(), second, symmetry.tolerance(),
                               absl::StrCat(" as the transpose of '", symmetry.first(), "'"), finding));
    return finding;
  }

  absl::StatusOr<Finding> WeightsBound() {
    if (bound_.load == nullptr) return absl::InvalidArgumentError("mock weights come from no checkpoint");
    Finding finding;
    // A program without weights has none to bind, which is no success.
    if (manifest_.weights_size() == 0) finding.Break("the program has no weights");
    const v1::LoadReport& load = *bound_.load;
    if (load.missing_count() > 0 || load.mismatched_count() > 0 ||
        load.bound() != static_cast<uint32_t>(manifest_.weights_size())) {
      finding.Break(absl::StrCat(load.bound(), " of ", manifest_.weights_size(), " weights are bound; ",
                                 load.missing_count(), " are missing, ", load.mismatched_count(),
                                 " do not agree in shape or dtype"));
    }
    return finding;
  }

  absl::StatusOr<Finding> WeightsSound() {
    if (bound_.load == nullptr) return absl::InvalidArgumentError("mock weights come from no checkpoint");
    Finding finding;
    if (bound_.load->defect_count() > 0) {
      finding.Break(absl::StrCat(bound_.load->defect_count(), " of the checkpoint's tensors: ",
                                 absl::StrJoin(bound_.load->defect(), "; ")));
    }
    return finding;
  }

  const v1::Check& check_;
  const BoundCase& bound_;
  const v1::Manifest& manifest_;
};

}  // namespace

v1::Outcome OutcomeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return v1::PASSED;
    case absl::StatusCode::kResourceExhausted:
      return v1::OUT_OF_MEMORY;
    case absl::StatusCode::kUnimplemented:
      return v1::UNSUPPORTED;
    case absl::StatusCode::kCancelled:
      return v1::CANCELLED;
    case absl::StatusCode::kUnavailable:
      return v1::INFRASTRUCTURE_ERROR;
    default:
      return v1::FAILED;
  }
}

v1::CheckResult RunCheck(const v1::Check& check, const BoundCase& bound) {
  v1::CheckResult result;
  result.set_name(check.name());
  auto finding = [&]() -> absl::StatusOr<Finding> {
    try {
      c10::InferenceMode inference;
      ASSAY_RETURN_IF_ERROR(ValidateCheck(check, bound.program.manifest()));
      return Check(check, bound).Run();
    } catch (const c10::OutOfMemoryError& error) {
      return absl::ResourceExhaustedError(error.what_without_backtrace());
    } catch (const c10::Error& error) {
      return absl::InternalError(error.what_without_backtrace());
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("an allocation was refused");
    }
  }();
  if (!finding.ok()) {
    result.set_outcome(OutcomeOf(finding.status()));
    result.set_message(std::string(finding.status().message()));
    return result;
  }
  if (!finding->nothing.empty()) {
    result.set_outcome(v1::SKIPPED);
    result.set_message(finding->nothing);
    result.set_reason(finding->reason);
    return result;
  }
  result.set_outcome(finding->held ? v1::PASSED : finding->not_comparable ? v1::UNSUPPORTED : v1::FAILED);
  result.set_message(finding->message);
  if (finding->measured) {
    result.set_error(finding->error);
    result.set_tolerance(finding->tolerance);
  }
  if (finding->rms_measured) {
    result.set_rms_error(finding->rms_error);
    result.set_rms_tolerance(finding->rms_tolerance);
  }
  result.set_note(finding->note);
  return result;
}

}  // namespace assay::engine

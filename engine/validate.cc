#include "engine/validate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace assay::engine {
namespace {

using google::protobuf::RepeatedPtrField;

// Names end up in errors and reports.
constexpr size_t kMaxName = 1000;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Elements of a tensor of known dtype.
absl::StatusOr<int64_t> CountOf(absl::string_view what, v1::ScalarType dtype,
                                const google::protobuf::RepeatedField<int64_t>& shape) {
  if (ItemSize(dtype) == 0) return Invalid(what, ": unknown dtype number ", static_cast<int>(dtype));
  return ElementCount(what, shape);
}

absl::Status CheckData(absl::string_view what, v1::ScalarType dtype, int64_t count, absl::string_view data) {
  // At most 2^40 elements of 8 bytes, so this cannot overflow.
  const size_t expected = static_cast<size_t>(count) * ItemSize(dtype);
  if (data.size() != expected) {
    return Invalid(what, ": ", data.size(), " bytes of data, but its shape and dtype need ", expected);
  }
  // Any other byte as a C++ bool would be undefined behaviour in the kernels.
  if (dtype == v1::BOOL && !std::all_of(data.begin(), data.end(), [](char c) { return c == 0 || c == 1; })) {
    return Invalid(what, ": a bool that is neither 0 nor 1");
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(absl::string_view what, const v1::Tensor& tensor) {
  ASSAY_ASSIGN_OR_RETURN(const int64_t count, CountOf(what, tensor.dtype(), tensor.shape()));
  return CheckData(what, tensor.dtype(), count, tensor.data());
}

// Smallest and largest value that a dtype holds; floating point dtypes have no limits here.
std::pair<double, double> RangeOf(v1::ScalarType dtype) {
  switch (dtype) {
    case v1::BYTE:
      return {0, 255};
    case v1::CHAR:
      return {-128, 127};
    case v1::SHORT:
      return {-32768, 32767};
    case v1::INT:
      return {-2147483648.0, 2147483647.0};
    case v1::LONG:
      // The largest double below 2^63: the cast to int64 must be defined.
      return {-9223372036854775808.0, 9223372036854774784.0};
    case v1::BOOL:
      return {0, 1};
    default:
      return {-std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  }
}

absl::Status CheckInRange(absl::string_view what, v1::ScalarType dtype, double value) {
  const auto [low, high] = RangeOf(dtype);
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN as well
  return Invalid(what, ": the mock rule gives ", value, ", which ", DtypeName(dtype), " does not hold");
}

absl::Status CheckRule(absl::string_view what, const v1::MockRule& rule, v1::ScalarType dtype,
                       const google::protobuf::RepeatedField<int64_t>& shape) {
  ASSAY_ASSIGN_OR_RETURN(const int64_t count, CountOf(what, dtype, shape));
  switch (rule.kind_case()) {
    case v1::MockRule::kNormal:
      if (!IsFloatingPoint(dtype)) return Invalid(what, ": a normal mock rule for ", DtypeName(dtype));
      if (!std::isfinite(rule.normal().std()) || rule.normal().std() < 0 ||
          !std::isfinite(rule.normal().mean())) {
        return Invalid(what, ": a normal mock rule with mean ", rule.normal().mean(), " and std ",
                       rule.normal().std());
      }
      return absl::OkStatus();
    case v1::MockRule::kUniform: {
      if (!IsFloatingPoint(dtype)) return Invalid(what, ": a uniform mock rule for ", DtypeName(dtype));
      const auto& uniform = rule.uniform();
      if (!std::isfinite(uniform.low()) || !std::isfinite(uniform.high()) ||
          !(uniform.low() < uniform.high())) {
        return Invalid(what, ": a uniform mock rule in [", uniform.low(), ", ", uniform.high(), ")");
      }
      return absl::OkStatus();
    }
    case v1::MockRule::kConstant:
      return CheckInRange(what, dtype, rule.constant());
    case v1::MockRule::kLiteral:
      return CheckData(absl::StrCat(what, ", literal mock rule"), dtype, count, rule.literal());
    case v1::MockRule::kIntRange: {
      const auto& range = rule.int_range();
      if (range.low() >= range.high()) {
        return Invalid(what, ": an integer mock rule in [", range.low(), ", ", range.high(), ")");
      }
      ASSAY_RETURN_IF_ERROR(CheckInRange(what, dtype, static_cast<double>(range.low())));
      return CheckInRange(what, dtype, static_cast<double>(range.high()) - 1);
    }
    case v1::MockRule::kRamp: {
      const int64_t length = shape.empty() ? 1 : shape.Get(shape.size() - 1);
      const double last =
          rule.ramp().start() + rule.ramp().step() * static_cast<double>(length > 0 ? length - 1 : 0);
      ASSAY_RETURN_IF_ERROR(CheckInRange(what, dtype, rule.ramp().start()));
      return CheckInRange(what, dtype, last);
    }
    case v1::MockRule::KIND_NOT_SET:
      return Invalid(what, ": no mock rule");
  }
  return Invalid(what, ": no mock rule");
}

absl::Status CheckName(absl::string_view kind, const std::string& name,
                       absl::flat_hash_set<absl::string_view>& seen) {
  if (name.empty()) return Invalid(kind, " without a name");
  if (name.size() > kMaxName) return Invalid(kind, " with a name of ", name.size(), " bytes");
  if (!seen.insert(name).second) return Invalid(kind, " ", name, " is there twice");
  return absl::OkStatus();
}

template <typename Spec>
absl::Status CheckSpec(absl::string_view what, const Spec& spec) {
  ASSAY_RETURN_IF_ERROR(CountOf(what, spec.dtype(), spec.shape()).status());
  if (spec.has_batch_dim() && (spec.batch_dim() < 0 || spec.batch_dim() >= spec.shape_size())) {
    return Invalid(what, ": batch_dim ", spec.batch_dim(), " of ", spec.shape_size(), " dimensions");
  }
  return absl::OkStatus();
}

absl::Status CheckManifest(const v1::Manifest& manifest) {
  absl::flat_hash_set<absl::string_view> weights, inputs, outputs;
  for (const v1::WeightSpec& weight : manifest.weights()) {
    ASSAY_RETURN_IF_ERROR(CheckName("weight", weight.name(), weights));
    const std::string what = absl::StrCat("weight ", weight.name());
    ASSAY_RETURN_IF_ERROR(CheckRule(what, weight.mock(), weight.dtype(), weight.shape()));
    if (weight.requires_grad() && !IsFloatingPoint(weight.dtype())) {
      return Invalid(what, ": requires_grad for ", DtypeName(weight.dtype()));
    }
  }
  for (const v1::InputSpec& input : manifest.inputs()) {
    ASSAY_RETURN_IF_ERROR(CheckName("input", input.name(), inputs));
    const std::string what = absl::StrCat("input ", input.name());
    ASSAY_RETURN_IF_ERROR(CheckSpec(what, input));
    if (input.has_id_low() != input.has_id_high() ||
        (input.has_id_low() && input.id_low() >= input.id_high())) {
      return Invalid(what, ": token ids in [", input.id_low(), ", ", input.id_high(), ")");
    }
    for (const int32_t dim : input.dynamic_dim()) {
      if (dim < 0 || dim >= input.shape_size()) {
        return Invalid(what, ": dynamic_dim ", dim, " of ", input.shape_size(), " dimensions");
      }
    }
  }
  for (const v1::OutputSpec& output : manifest.outputs()) {
    ASSAY_RETURN_IF_ERROR(CheckName("output", output.name(), outputs));
    ASSAY_RETURN_IF_ERROR(CheckSpec(absl::StrCat("output ", output.name()), output));
  }
  if (manifest.outputs().empty()) return Invalid("the program has no outputs");
  absl::flat_hash_set<absl::string_view> aliases;
  for (const v1::TiedWeight& tied : manifest.tied()) {
    ASSAY_RETURN_IF_ERROR(CheckName("tied weight", tied.alias(), aliases));
    if (!weights.contains(tied.weight())) {
      return Invalid("tied weight ", tied.alias(), " names ", tied.weight(), ", which is no weight");
    }
    if (weights.contains(tied.alias())) return Invalid("tied weight ", tied.alias(), " is a weight itself");
  }
  return absl::OkStatus();
}

// One a dtype, with errors that are errors. What is too much is ValidateEvidence's to say.
absl::Status CheckLegitimate(absl::string_view what, const v1::GoldenOutput& output) {
  absl::flat_hash_set<int> seen;
  for (const v1::LegitimateError& error : output.legitimate()) {
    if (error.dtype() != v1::FLOAT && error.dtype() != v1::BFLOAT16 && error.dtype() != v1::HALF) {
      return Invalid(what, ": a legitimate error in ", DtypeName(error.dtype()));
    }
    if (!seen.insert(error.dtype()).second) {
      return Invalid(what, ": two legitimate errors in ", DtypeName(error.dtype()));
    }
    // Written so that NaN is refused. The mean of squares is never above the largest, but for its last bits.
    const bool sound = error.rms() >= 0 && error.max() >= 0 && error.rms() <= error.max() * (1 + 1e-9) &&
                       std::isfinite(error.max());
    if (!sound) {
      return Invalid(what, ": a legitimate error in ", DtypeName(error.dtype()), " of ", error.max(),
                     " at most and ", error.rms(), " in the mean square");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateGolden(const v1::Program& program, const v1::Golden& golden, GoldenForm form) {
  const v1::Manifest& manifest = program.manifest();
  if (golden.inputs_size() != manifest.inputs_size()) {
    return Invalid("the golden has ", golden.inputs_size(), " inputs, the program ", manifest.inputs_size());
  }
  for (int i = 0; i < golden.inputs_size(); ++i) {
    const v1::GoldenInput& input = golden.inputs(i);
    const v1::InputSpec& spec = manifest.inputs(i);
    const std::string what = absl::StrCat("golden input ", input.name());
    if (input.name() != spec.name()) return Invalid(what, " stands where ", spec.name(), " should");
    if (input.source_case() == v1::GoldenInput::kRule) {
      ASSAY_RETURN_IF_ERROR(CheckRule(what, input.rule(), spec.dtype(), spec.shape()));
    } else if (input.source_case() == v1::GoldenInput::kData) {
      ASSAY_ASSIGN_OR_RETURN(const int64_t count, CountOf(what, spec.dtype(), spec.shape()));
      ASSAY_RETURN_IF_ERROR(CheckData(what, spec.dtype(), count, input.data()));
    } else {
      return Invalid(what, ": neither data nor rule");
    }
  }
  if (form == GoldenForm::kMayHaveInputsOnly && golden.outputs().empty()) {
    if (golden.trace().empty()) return absl::OkStatus();
    return Invalid("the golden has a trace, and no outputs");
  }
  if (golden.outputs_size() != manifest.outputs_size()) {
    return Invalid("the golden has ", golden.outputs_size(), " outputs, the program ",
                   manifest.outputs_size());
  }
  for (int i = 0; i < golden.outputs_size(); ++i) {
    const v1::OutputSpec& spec = manifest.outputs(i);
    const v1::GoldenOutput& output = golden.outputs(i);
    const std::string what = absl::StrCat("golden output ", spec.name());
    ASSAY_RETURN_IF_ERROR(CheckTensor(what, output.tensor()));
    if (output.tensor().dtype() != spec.dtype() ||
        absl::StrJoin(output.tensor().shape(), ",") != absl::StrJoin(spec.shape(), ",")) {
      return Invalid(what, ": its shape or dtype is not the manifest's");
    }
    if (output.has_float64_error() &&
        !(output.float64_error() >= 0 && std::isfinite(output.float64_error()))) {
      return Invalid(what, ": float64_error ", output.float64_error());
    }
    ASSAY_RETURN_IF_ERROR(CheckLegitimate(what, output));
  }
  for (const v1::NodeTrace& trace : golden.trace()) {
    if (trace.node() >= static_cast<uint32_t>(program.graph().nodes_size())) {
      return Invalid("the golden's trace names node ", trace.node(), " of ", program.graph().nodes_size());
    }
    const v1::Node& node = program.graph().nodes(static_cast<int>(trace.node()));
    if (trace.output() >= static_cast<uint32_t>(node.outputs_size())) {
      return Invalid("the golden's trace names output ", trace.output(), " of node ", node.name(),
                     ", which has ", node.outputs_size());
    }
    if (static_cast<uint64_t>(trace.samples_size()) != std::min<uint64_t>(4, trace.numel())) {
      return Invalid("the golden's trace of node ", node.name(), " has ", trace.samples_size(),
                     " samples of ", trace.numel(), " elements");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateProgram(const v1::Program& program) {
  if (program.format() != 1) {
    return absl::UnimplementedError(
        absl::StrCat("program format ", program.format(), ": this build reads format 1"));
  }
  ASSAY_RETURN_IF_ERROR(CheckManifest(program.manifest()));
  absl::flat_hash_set<absl::string_view> constants;
  for (const v1::Tensor& constant : program.constants()) {
    ASSAY_RETURN_IF_ERROR(CheckName("constant", constant.name(), constants));
    ASSAY_RETURN_IF_ERROR(CheckTensor(absl::StrCat("constant ", constant.name()), constant));
  }
  ASSAY_RETURN_IF_ERROR(ValidateGraph(program));
  // A program that was exported for a checkpoint has none: the checkpoint's golden is a file of its own.
  if (!program.has_golden()) return absl::OkStatus();
  return ValidateGolden(program, program.golden(), GoldenForm::kComplete);
}

}  // namespace assay::engine

#include "engine/evidence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/graph_values.h"
#include "engine/tolerance.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The largest legitimate error that a golden may name, in its largest number.
double MostShare(v1::ScalarType dtype, double max_share) {
  if (dtype == v1::BFLOAT16) return kMaxHalfUnits * UnitRoundoff(at::ScalarType::BFloat16);
  return dtype == v1::HALF ? kMaxHalfUnits * UnitRoundoff(at::ScalarType::Half) : max_share;
}

absl::Status CheckLegitimate(const v1::OutputSpec& spec, const v1::GoldenOutput& output, double largest,
                             double max_share) {
  for (const v1::LegitimateError& error : output.legitimate()) {
    const double most = MostShare(error.dtype(), max_share) * largest;
    // The mean square is never more than the largest, so that this bounds both.
    if (!(error.max() <= most)) {
      return Invalid("golden output ", spec.name(), ": it calls an error of ", error.max(), " in ",
                     DtypeName(error.dtype()), " legitimate, of at most ", most,
                     ": faults would pass for rounding");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const v1::OutputSpec& spec, const v1::GoldenOutput& output, double max_share) {
  // Goldens are recorded in float32; in another dtype there would be no tolerance for them either.
  if (spec.dtype() != v1::FLOAT) {
    return Invalid("golden output ", spec.name(), ": ", DtypeName(spec.dtype()), " instead of float32");
  }
  std::vector<float> numbers(output.tensor().data().size() / sizeof(float));
  if (!numbers.empty())
    std::memcpy(numbers.data(), output.tensor().data().data(), output.tensor().data().size());
  float largest = 0;
  for (const float number : numbers) {
    if (!std::isfinite(number)) return Invalid("golden output ", spec.name(), " has NaN or infinite values");
    largest = std::max(largest, std::abs(number));
  }
  if (std::all_of(numbers.begin(), numbers.end(), [&](float number) { return number == numbers[0]; })) {
    return Invalid("golden output ", spec.name(), " is ", numbers.empty() ? "empty" : "constant",
                   ": a dead model would agree with it");
  }
  if (output.float64_error() > max_share * largest) {
    return Invalid("golden output ", spec.name(), ": float64_error ", output.float64_error(), " of at most ",
                   max_share * largest, ": no float32 run is rounded so much");
  }
  return CheckLegitimate(spec, output, largest, max_share);
}

// What a value was computed from.
struct Sources {
  bool input = false;
  bool weight = false;
};

std::vector<Sources> FindSources(const v1::Graph& graph) {
  std::vector<Sources> sources(graph.value_count());
  for (const v1::GraphInput& input : graph.inputs()) {
    sources[input.value()] = {input.kind() == v1::GraphInput::USER_INPUT,
                              input.kind() == v1::GraphInput::WEIGHT};
  }
  for (const v1::Node& node : graph.nodes()) {
    Sources from;
    for (const v1::NamedArgument& argument : node.arguments()) {
      ForValues(argument.value(), [&](uint32_t value) {
        from.input |= sources[value].input;
        from.weight |= sources[value].weight;
      });
    }
    for (const uint32_t value : node.outputs()) sources[value] = from;
  }
  return sources;
}

}  // namespace

absl::Status ValidateModel(const v1::ModelTest& test, const v1::Program& program) {
  const v1::Manifest& manifest = program.manifest();
  if (manifest.model() != test.name()) {
    return Invalid("the program is of model '", manifest.model(), "', the test of '", test.name(), "'");
  }
  if (!test.model_class().empty() && manifest.architecture() != test.model_class()) {
    return Invalid("the program is of class '", manifest.architecture(), "', the test of '",
                   test.model_class(), "'");
  }
  return absl::OkStatus();
}

absl::Status ValidateEvidence(const v1::Program& program, const v1::Golden& golden,
                              double max_rounding_share) {
  const v1::Manifest& manifest = program.manifest();
  const std::vector<Sources> sources = FindSources(program.graph());
  bool any = false;
  for (int i = 0; i < manifest.outputs_size(); ++i) {
    const v1::OutputSpec& spec = manifest.outputs(i);
    if (!IsFloatingPoint(spec.dtype())) continue;
    any = true;
    if (!golden.outputs().empty())
      ASSAY_RETURN_IF_ERROR(CheckOutput(spec, golden.outputs(i), max_rounding_share));
    Sources from;
    ForValues(program.graph().outputs(i), [&](uint32_t value) { from = sources[value]; });
    if (!from.input || !from.weight) {
      return Invalid("output ", spec.name(), " is computed from no ", from.input ? "weight" : "input",
                     " of the model");
    }
  }
  if (!any) return Invalid("the program has no floating point output, so nothing of it can be measured");
  return absl::OkStatus();
}

}  // namespace assay::engine

#include "engine/diagnosis.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

// Numbers beyond this stand for "minus infinity" in masks: they say nothing about the size of the rest.
constexpr double kMaskMagnitude = 1e30;

// Calls `use` with the number of every value that a node reads.
template <typename Use>
void ForValues(const v1::Node& node, Use use) {
  for (const v1::NamedArgument& named : node.arguments()) {
    const v1::Argument& argument = named.value();
    switch (argument.kind_case()) {
      case v1::Argument::kValue:
        use(argument.value());
        break;
      case v1::Argument::kValues:
        for (uint32_t value : argument.values().values()) use(value);
        break;
      case v1::Argument::kOptionalValues:
        for (uint32_t value : argument.optional_values().values_plus_one()) {
          if (value > 0) use(value - 1);
        }
        break;
      default:
        break;
    }
  }
}

class TraceComparison final : public Observer {
 public:
  TraceComparison(const v1::Graph& graph, const v1::Golden& golden, double share)
      : graph_(graph), share_(share) {
    for (const v1::NodeTrace& trace : golden.trace()) {
      traces_[{trace.node(), trace.output()}] = &trace;
    }
    magnitude_.resize(graph.value_count(), 0);
  }

  bool ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool) override {
    const v1::Node& node = graph_.nodes(static_cast<int>(place.index));
    double inputs = 0;
    ForValues(node, [&](uint32_t number) {
      if (number < magnitude_.size()) inputs = std::max(inputs, magnitude_[number]);
    });
    auto known = traces_.find({place.index, output});
    double& magnitude = magnitude_[node.outputs(static_cast<int>(output))];
    if (known == traces_.end()) {
      magnitude = inputs;  // a view holds its base's numbers
      return true;
    }
    const v1::NodeTrace& trace = *known->second;
    magnitude = Magnitude(trace);
    if (!value.defined()) return true;
    double scale = std::max(magnitude, inputs);
    std::string detail;
    double error = Differs(trace, value, scale, detail);
    if (detail.empty()) return true;
    divergence_.emplace();
    divergence_->set_node(std::string(place.name));
    divergence_->set_op(std::string(place.op));
    divergence_->set_module(std::string(place.module));
    divergence_->set_error(error);
    divergence_->set_detail(std::move(detail));
    return false;
  }

  const std::optional<v1::Divergence>& divergence() const { return divergence_; }

 private:
  static double Magnitude(const v1::NodeTrace& trace) {
    if (std::isfinite(trace.abs_max()) && trace.abs_max() < kMaskMagnitude) return trace.abs_max();
    double largest = 0;
    for (float sample : trace.samples()) {
      if (std::isfinite(sample) && std::abs(sample) < kMaskMagnitude) {
        largest = std::max(largest, static_cast<double>(std::abs(sample)));
      }
    }
    return largest;
  }

  // The largest difference; `detail` stays empty where it is within what rounding may do.
  double Differs(const v1::NodeTrace& trace, const at::Tensor& value, double scale,
                 std::string& detail) const {
    at::Tensor numbers = ToNumbers(value);
    const auto numel = static_cast<uint64_t>(numbers.numel());
    if (numel != trace.numel()) {
      detail = absl::StrCat(numel, " elements instead of ", trace.numel());
      return std::numeric_limits<double>::infinity();
    }
    const double* data = numbers.const_data_ptr<double>();
    double sum = 0, abs_max = 0;
    bool nan = false;
    for (uint64_t i = 0; i < numel; ++i) {
      sum += data[i];
      abs_max = std::max(abs_max, std::abs(data[i]));
      nan |= std::isnan(data[i]);
    }
    if (nan) abs_max = std::numeric_limits<double>::quiet_NaN();
    // An integer is right or wrong; a float has the rounding of its own float32 form in the trace besides.
    double allowed = value.is_floating_point() ? share_ * scale : 0;
    double worst = 0;
    auto compare = [&](absl::string_view what, double found, double expected) {
      float rounded = static_cast<float>(found);
      if (rounded == static_cast<float>(expected) || (std::isnan(found) && std::isnan(expected))) return;
      double error = std::abs(found - expected);
      if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
      // Sums that reach a mask's magnitude carry its rounding.
      double bound = allowed;
      if (std::abs(expected) >= kMaskMagnitude) bound = std::max(bound, 1e-6 * std::abs(expected));
      bound = std::max(bound, 2e-7 * std::abs(expected));
      if (error > bound && error > worst) {
        worst = error;
        detail = absl::StrFormat("%s is %.9g instead of %.9g (largest magnitude %.3g)", what, found, expected,
                                 scale);
      }
    };
    size_t count = static_cast<size_t>(trace.samples_size());
    for (size_t k = 0; k < count; ++k) {
      uint64_t position = (2 * k + 1) * numel / (2 * count);
      compare(absl::StrCat("element ", position), data[position], trace.samples(static_cast<int>(k)));
    }
    compare("the largest magnitude", abs_max, trace.abs_max());
    if (numel > 0) compare("the mean", sum / static_cast<double>(numel), trace.mean());
    return worst;
  }

  const v1::Graph& graph_;
  const double share_;
  absl::flat_hash_map<std::pair<uint32_t, uint32_t>, const v1::NodeTrace*> traces_;
  std::vector<double> magnitude_;  // by value number, as the golden had it
  std::optional<v1::Divergence> divergence_;
};

}  // namespace

std::string CpuCapability() { return at::get_cpu_capability(); }

double DivergenceShare(const v1::Golden& golden, const Placement& placement) {
  if (placement.dtype != at::ScalarType::Float) return placement.dtype == at::ScalarType::Half ? 5e-3 : 4e-2;
  if (placement.device.is_cuda()) return 1e-4;
  return golden.cpu_capability() == CpuCapability() ? 1e-6 : 5e-6;
}

absl::StatusOr<std::optional<v1::Divergence>> FirstDivergence(const v1::Graph& graph,
                                                              const v1::Golden& golden, const Plan& plan,
                                                              absl::Span<const at::Tensor> inputs,
                                                              double share) {
  try {
    TraceComparison comparison(graph, golden, share);
    absl::Status status = plan.Run(inputs, &comparison).status();
    if (comparison.divergence()) return comparison.divergence();
    ASSAY_RETURN_IF_ERROR(status);
    return std::nullopt;
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
}

}  // namespace assay::engine

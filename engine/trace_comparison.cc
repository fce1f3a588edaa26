#include "engine/trace_comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/graph_values.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

// Numbers beyond this stand for "minus infinity" in masks: they say nothing about the size of the rest.
constexpr double kMaskMagnitude = 1e30;

double Magnitude(const v1::NodeTrace& trace) {
  if (std::isfinite(trace.abs_max()) && trace.abs_max() < kMaskMagnitude) return trace.abs_max();
  double largest = 0;
  for (float sample : trace.samples()) {
    if (std::isfinite(sample) && std::abs(sample) < kMaskMagnitude) {
      largest = std::max(largest, static_cast<double>(std::abs(sample)));
    }
  }
  return largest;
}

}  // namespace

TraceComparison::TraceComparison(const v1::Graph& graph, const v1::Golden& golden, double share)
    : graph_(graph), share_(share) {
  for (const v1::NodeTrace& trace : golden.trace()) traces_[{trace.node(), trace.output()}] = &trace;
  magnitude_.resize(graph.value_count(), 0);
}

const v1::NodeTrace* TraceComparison::TraceOf(uint32_t node, uint32_t output) const {
  const auto found = traces_.find({node, output});
  return found == traces_.end() ? nullptr : found->second;
}

bool TraceComparison::ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool) {
  const v1::Node& node = graph_.nodes(static_cast<int>(place.index));
  double inputs = 0;
  ForValues(node, [&](uint32_t number) {
    if (number < magnitude_.size()) inputs = std::max(inputs, magnitude_[number]);
  });
  double& magnitude = magnitude_[node.outputs(static_cast<int>(output))];
  const v1::NodeTrace* trace = TraceOf(place.index, output);
  if (trace == nullptr) {
    magnitude = inputs;  // a view holds its base's numbers
    return true;
  }
  magnitude = Magnitude(*trace);
  TracedValue made;
  made.node = place.index;
  made.output = output;
  made.scale = std::max(magnitude, inputs);
  Compare(*trace, value, made);
  values_.push_back(std::move(made));
  return true;
}

void TraceComparison::Compare(const v1::NodeTrace& trace, const at::Tensor& value, TracedValue& made) const {
  const at::Tensor numbers = ToNumbers(value);
  const auto numel = static_cast<uint64_t>(numbers.numel());
  // An integer is right or wrong.
  made.bound = value.is_floating_point() ? share_ * made.scale : 0;
  if (numel != trace.numel()) {
    made.error = std::numeric_limits<double>::infinity();
    made.exact = false;
    made.beyond = true;
    made.detail = absl::StrCat(numel, " elements instead of ", trace.numel());
    return;
  }
  const double* data = numbers.const_data_ptr<double>();
  double sum = 0, abs_max = 0, abs_sum = 0;
  bool nan = false;
  for (uint64_t i = 0; i < numel; ++i) {
    sum += data[i];
    abs_sum += std::abs(data[i]);
    abs_max = std::max(abs_max, std::abs(data[i]));
    nan |= std::isnan(data[i]);
  }
  if (nan) abs_max = std::numeric_limits<double>::quiet_NaN();
  struct {
    double error = 0, found = 0, expected = 0;
    int64_t element = 0;  // -1: the largest magnitude, -2: the mean
  } worst;
  auto compare = [&](int64_t element, double found, double expected, double of_summing) {
    const float rounded = static_cast<float>(found);
    if (rounded == static_cast<float>(expected) || (std::isnan(found) && std::isnan(expected))) return;
    double error = std::abs(found - expected);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (!(error <= of_summing)) made.exact = false;
    made.error = std::max(made.error, error);
    // The rounding of the trace's own float32 form; and sums that reach a mask's magnitude carry its
    // rounding.
    double bound = std::max(made.bound, 2e-7 * std::abs(expected));
    if (std::abs(expected) >= kMaskMagnitude) bound = std::max(bound, 1e-6 * std::abs(expected));
    if (error > bound && error > worst.error) worst = {error, found, expected, element};
  };
  const auto count = static_cast<uint64_t>(trace.samples_size());
  for (uint64_t k = 0; k < count; ++k) {
    const uint64_t position = (2 * k + 1) * numel / (2 * count);
    compare(static_cast<int64_t>(position), data[position], trace.samples(static_cast<int>(k)), 0);
  }
  compare(-1, abs_max, trace.abs_max(), 0);
  // Who recorded the trace may have added in another order, and rounded the mean to float32.
  if (numel > 0) {
    const double mean = sum / static_cast<double>(numel);
    compare(-2, mean, trace.mean(), 1.3e-7 * std::abs(mean) + 1e-14 * abs_sum / static_cast<double>(numel));
  }
  made.beyond = worst.error > 0;
  if (!made.beyond) return;
  const std::string what = worst.element == -1   ? "the largest magnitude"
                           : worst.element == -2 ? "the mean"
                                                 : absl::StrCat("element ", worst.element);
  made.detail = absl::StrFormat("%s is %.9g instead of %.9g (largest magnitude %.3g)", what, worst.found,
                                worst.expected, made.scale);
}

}  // namespace assay::engine

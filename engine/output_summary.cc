#include "engine/output_summary.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

constexpr uint64_t kSamples = 16;

v1::OutputSummary Summarize(const at::Tensor& output) {
  v1::OutputSummary summary;
  for (const int64_t size : output.sizes()) summary.add_shape(size);
  summary.set_discrete(!output.is_floating_point());
  const at::Tensor numbers = ToNumbers(output);
  const double* data = numbers.const_data_ptr<double>();
  const auto count = static_cast<uint64_t>(numbers.numel());
  double sum = 0, squares = 0, largest = 0;
  bool nan = false;
  for (uint64_t i = 0; i < count; ++i) {
    sum += data[i];
    squares += data[i] * data[i];
    largest = std::max(largest, std::abs(data[i]));
    nan |= std::isnan(data[i]);
  }
  summary.set_mean(count == 0 ? 0 : sum / static_cast<double>(count));
  summary.set_norm(std::sqrt(squares));
  summary.set_abs_max(nan ? std::nan("") : largest);
  const uint64_t samples = std::min(kSamples, count);
  for (uint64_t k = 0; k < samples; ++k) summary.add_samples(data[(2 * k + 1) * count / (2 * samples)]);
  return summary;
}

}  // namespace

absl::StatusOr<std::vector<v1::OutputSummary>> SummarizeOutputs(const v1::Manifest& manifest,
                                                                const v1::Golden& golden,
                                                                const Placement& placement,
                                                                const std::vector<at::Tensor>& outputs) {
  if (outputs.size() != static_cast<size_t>(manifest.outputs_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(outputs.size(), " outputs instead of ", manifest.outputs_size()));
  }
  std::vector<v1::OutputSummary> summaries;
  for (int i = 0; i < manifest.outputs_size(); ++i) {
    const at::Tensor& output = outputs[static_cast<size_t>(i)];
    const v1::GoldenOutput* reference = i < golden.outputs_size() ? &golden.outputs(i) : nullptr;
    ASSAY_ASSIGN_OR_RETURN(const Bound bound, BoundFor({}, placement, reference, output));
    v1::OutputSummary summary = Summarize(output);
    summary.set_name(manifest.outputs(i).name());
    summary.set_allowed(bound.max);
    // What bounds every number bounds their mean square.
    summary.set_allowed_rms(std::min(bound.rms, bound.max));
    summary.set_not_comparable(bound.not_comparable);
    summaries.push_back(std::move(summary));
  }
  return summaries;
}

}  // namespace assay::engine

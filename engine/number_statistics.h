// What a tensor's numbers are like, said in a message: ValueStatistics of a diagnosis, RecordedValue of a
// recording.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/tolerance.h"

namespace assay::engine {

// Sets dtype, shape, how many numbers are NaN or Inf, mean, standard deviation and range of the others, and
// adds `samples` numbers (all, where there are no more) at even distances. Throws what ATen throws.
template <typename Message>
void SetNumberStatistics(const at::Tensor& value, int64_t samples, Message& made) {
  made.set_dtype(c10::toString(value.scalar_type()));
  made.mutable_shape()->Assign(value.sizes().begin(), value.sizes().end());
  const at::Tensor numbers = ToNumbers(value);
  const double* data = numbers.const_data_ptr<double>();
  const int64_t numel = numbers.numel();
  double sum = 0, low = 0, high = 0;
  int64_t finite = 0;
  for (int64_t i = 0; i < numel; ++i) {
    if (std::isnan(data[i])) made.set_nan(made.nan() + 1);
    if (std::isinf(data[i])) made.set_inf(made.inf() + 1);
    if (!std::isfinite(data[i])) continue;
    low = finite == 0 ? data[i] : std::min(low, data[i]);
    high = finite == 0 ? data[i] : std::max(high, data[i]);
    sum += data[i];
    ++finite;
  }
  const double mean = finite > 0 ? sum / static_cast<double>(finite) : 0;
  double squares = 0;
  for (int64_t i = 0; i < numel; ++i) {
    if (std::isfinite(data[i])) squares += (data[i] - mean) * (data[i] - mean);
  }
  made.set_mean(mean);
  made.set_std(finite > 0 ? std::sqrt(squares / static_cast<double>(finite)) : 0);
  made.set_min(low);
  made.set_max(high);
  const int64_t count = std::min(samples, numel);
  for (int64_t k = 0; k < count; ++k) made.add_samples(data[(2 * k + 1) * numel / (2 * count)]);
}

}  // namespace assay::engine

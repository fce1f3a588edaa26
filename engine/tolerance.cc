#include "engine/tolerance.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace assay::engine {
namespace {

bool IsHalf(const Placement& placement) {
  return placement.dtype == at::ScalarType::BFloat16 || placement.dtype == at::ScalarType::Half;
}

Factors Defaults(const Placement& placement) {
  if (placement.dtype == at::ScalarType::BFloat16) return {8e-2, 0};
  if (placement.dtype == at::ScalarType::Half) return {1e-2, 0};
  if (placement.device.is_cuda()) return {1e-4, 16};
  return {5e-6, 4};
}

}  // namespace

absl::StatusOr<Factors> FactorsFor(const v1::Tolerance& asked, const Placement& placement) {
  Factors factors = Defaults(placement);
  if (asked.has_scale()) factors.scale = asked.scale();
  if (asked.has_rounding()) factors.rounding = asked.rounding();
  // Written so that NaN is refused.
  const double most = IsHalf(placement) ? kMaxHalfScale : kMaxScale;
  if (!(factors.scale >= 0 && factors.scale <= most)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tolerance.scale is ", factors.scale, ", must be 0 to ", most));
  }
  if (!(factors.rounding >= 0 && factors.rounding <= kMaxRoundingFactor)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tolerance.rounding is ", factors.rounding, ", must be 0 to ", kMaxRoundingFactor));
  }
  return factors;
}

at::Tensor ToNumbers(const at::Tensor& tensor) {
  return tensor.to(at::TensorOptions(at::kCPU).dtype(at::kDouble)).contiguous();
}

double Allowed(const Factors& factors, const at::Tensor& b, double float64_error) {
  at::Tensor numbers = ToNumbers(b);
  const double* data = numbers.const_data_ptr<double>();
  double largest = 0;
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    if (std::isfinite(data[i])) largest = std::max(largest, std::abs(data[i]));
  }
  return factors.scale * largest + factors.rounding * float64_error;
}

absl::StatusOr<Difference> Compare(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) {
    return absl::InvalidArgumentError(absl::StrCat("shape [", absl::StrJoin(a.sizes(), ", "),
                                                   "] instead of [", absl::StrJoin(b.sizes(), ", "), "]"));
  }
  at::Tensor left = ToNumbers(a), right = ToNumbers(b);
  const double* x = left.const_data_ptr<double>();
  const double* y = right.const_data_ptr<double>();
  Difference worst;
  for (int64_t i = 0; i < left.numel(); ++i) {
    if (x[i] == y[i]) continue;  // equal infinities too
    double error = std::abs(x[i] - y[i]);
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    if (error > worst.error) worst = {error, i, x[i], y[i]};
  }
  return worst;
}

std::string Describe(const Difference& difference, at::IntArrayRef shape) {
  if (difference.at < 0) return "no difference";
  std::vector<int64_t> place(shape.size());
  int64_t rest = difference.at;
  for (size_t d = shape.size(); d-- > 0;) {
    place[d] = rest % shape[d];
    rest /= shape[d];
  }
  return absl::StrFormat("%.9g instead of %.9g at [%s]", difference.a, difference.b,
                         absl::StrJoin(place, ", "));
}

}  // namespace assay::engine

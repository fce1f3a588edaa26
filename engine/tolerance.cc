#include "engine/tolerance.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

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

// What a right run may be off by, in legitimate errors (docs/tolerances.md, "The rule"): of one number, which
// is the largest of thousands and so the less certain, and of the mean square of all of them. CUDA's kernels
// add up in other orders and have other exponentials; none was measured yet.
struct Room {
  double max, rms;
};
Room RoomFor(const at::Device& device) { return device.is_cuda() ? Room{5, 4} : Room{2.5, 2}; }

// A legitimate error is the worst of a few runs of as many numbers as the output has. Of an output of four
// numbers that says little: the next run is beyond it more often, and further, than where thousands were
// seen. By how much more room such an output needs, errors taken as normal: the largest that one run shows
// but once in a thousand, over the smallest that the runs before may all have stayed below, once in a
// thousand, too.
constexpr double kSeldom = 1e-3;
constexpr double kRuns = 8;        // the exporter's, of a model with mock weights
constexpr double kUsual = 1024;    // numbers of the outputs by which Room was found: most have no fewer
constexpr double kZ = 3.0902;      // of a standard normal, exceeded by kSeldom
constexpr double kZOfRuns = -0.2;  // below which all of kRuns stay by kSeldom

// erf(x / sqrt(2))^count == probability, the largest magnitude of `count` standard normal numbers.
double LargestOf(double count, double probability) {
  double low = 0, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (count * std::log(std::erf(middle / std::sqrt(2.0))) < std::log(probability) ? low : high) = middle;
  }
  return low;
}

double LargestOverSeen(double count) {
  return LargestOf(count, 1 - kSeldom) / LargestOf(kRuns * count, kSeldom);
}

// Of the mean square, whose distribution is chi-squared (Wilson and Hilferty's approximation).
double SquaresOverSeen(double count) {
  const auto quantile = [&](double z) {
    const double part = 2 / (9 * count);
    return std::pow(1 - part + z * std::sqrt(part), 3);
  };
  return std::sqrt(quantile(kZ) / quantile(kZOfRuns));
}

Room WideFor(int64_t numbers, Room room) {
  const double count = std::clamp<double>(static_cast<double>(numbers), 2, kUsual);
  room.max *= LargestOverSeen(count) / LargestOverSeen(kUsual);
  room.rms *= SquaresOverSeen(count) / SquaresOverSeen(kUsual);
  return room;
}

int64_t NumbersOf(const v1::GoldenOutput& golden) {
  if (!golden.has_tensor()) return static_cast<int64_t>(kUsual);
  int64_t count = 1;
  for (const int64_t size : golden.tensor().shape()) count *= size;
  return count;
}

const v1::LegitimateError* Legitimate(const v1::GoldenOutput& golden, v1::ScalarType dtype) {
  for (const v1::LegitimateError& error : golden.legitimate()) {
    if (error.dtype() == dtype) return &error;
  }
  return nullptr;
}

v1::ScalarType ProtoDtype(at::ScalarType dtype) {
  if (dtype == at::ScalarType::BFloat16) return v1::BFLOAT16;
  return dtype == at::ScalarType::Half ? v1::HALF : v1::FLOAT;
}

// Of the finite numbers.
struct Magnitude {
  double largest = 0;
  double rms = 0;
};
Magnitude MagnitudeOf(const at::Tensor& tensor) {
  at::Tensor numbers = ToNumbers(tensor);
  const double* data = numbers.const_data_ptr<double>();
  Magnitude magnitude;
  double squares = 0;
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    if (!std::isfinite(data[i])) continue;
    magnitude.largest = std::max(magnitude.largest, std::abs(data[i]));
    squares += data[i] * data[i];
  }
  if (numbers.numel() > 0) magnitude.rms = std::sqrt(squares / static_cast<double>(numbers.numel()));
  return magnitude;
}

}  // namespace

double UnitRoundoff(at::ScalarType dtype) {
  if (dtype == at::ScalarType::BFloat16) return 0x1p-8;
  return dtype == at::ScalarType::Half ? 0x1p-11 : 0x1p-24;
}

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
  return factors.scale * MagnitudeOf(b).largest + factors.rounding * float64_error;
}

// Between two runs of a model without a golden, in the factors: twice the most that a tracked program took,
// which is mobilenet_v2. Most take less than half of the factors themselves (docs/tolerances.md).
constexpr double kUnknownModel = 9;

absl::StatusOr<Bound> BoundFor(const v1::Tolerance& asked, const Placement& placement,
                               const v1::GoldenOutput* golden, const at::Tensor& b) {
  ASSAY_ASSIGN_OR_RETURN(const Factors factors, FactorsFor(asked, placement));
  Bound bound;
  if (!b.is_floating_point()) {
    bound.derived = true;
    bound.rms = 0;
    return bound;
  }
  const v1::LegitimateError* own = nullptr;
  const v1::LegitimateError* reference = nullptr;
  if (golden != nullptr && !asked.has_scale() && !asked.has_rounding()) {
    own = Legitimate(*golden, ProtoDtype(placement.dtype));
    reference = Legitimate(*golden, v1::FLOAT);
  }
  if (own == nullptr || reference == nullptr) {
    bound.max = Allowed(factors, b, golden != nullptr ? golden->float64_error() : 0);
    // How much this model amplifies rounding is not known at all.
    if (golden == nullptr && !asked.has_scale()) bound.max *= kUnknownModel;
    return bound;
  }
  // Both lie so far from the truth, and the output is rounded once in any case.
  const Room room = WideFor(NumbersOf(*golden), RoomFor(placement.device));
  const double unit = UnitRoundoff(placement.dtype);
  const Magnitude magnitude = MagnitudeOf(b);
  bound.derived = true;
  bound.max = room.max * (std::max(own->max(), unit * magnitude.largest) + reference->max());
  bound.rms = room.rms * (std::max(own->rms(), unit * magnitude.rms) + reference->rms());
  bound.not_comparable = own->not_comparable();
  return bound;
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
  double squares = 0;
  for (int64_t i = 0; i < left.numel(); ++i) {
    if (x[i] == y[i]) continue;  // equal infinities too
    double error = std::abs(x[i] - y[i]);
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    squares += error * error;
    if (error > worst.error) worst = {error, 0, i, x[i], y[i]};
  }
  if (left.numel() > 0) worst.rms = std::sqrt(squares / static_cast<double>(left.numel()));
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

// How far two runs of the same model may lie apart. docs/tolerances.md says where formula and factors come
// from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/tensors.h"

namespace assay::engine {

// Bounds of what a test or a program may ask for: beyond them a fault would pass for rounding. Half precision
// has a coarser mantissa, so that its scale may be larger.
inline constexpr double kMaxScale = 1e-3;
inline constexpr double kMaxHalfScale = 0.1;
inline constexpr double kMaxRoundingFactor = 64;
// Of a golden's float64_error, and of its legitimate error in float32, in max|b|: twice the largest of any
// program but mobilenet_v2, which just fits (docs/tolerances.md).
inline constexpr double kMaxRoundingShare = 2e-5;
// Likewise of a trained checkpoint's golden, whose weights amplify rounding more than mock ones do: nine
// times the largest measured.
inline constexpr double kMaxTrainedRoundingShare = 1e-4;
// The most that a golden may call legitimate in half precision: units of roundoff of max|b|. The exporter
// calls a golden beyond it not comparable (exporter/assay_exporter/rounding.py).
inline constexpr double kMaxHalfUnits = 32;

// Half a unit in the last place of a number near 1: what rounding to the dtype moves it by at most. Float,
// BFloat16 and Half only.
double UnitRoundoff(at::ScalarType dtype);

// The two factors of a tolerance that a test names, or that serves where the golden does not say what error
// is legitimate: |a - b| <= scale * max|b| + rounding * float64_error(b). What the test leaves open is filled
// with the placement's defaults. INVALID_ARGUMENT for a factor that is negative, not finite or beyond its
// bound.
struct Factors {
  double scale = 0;
  double rounding = 0;
};
absl::StatusOr<Factors> FactorsFor(const v1::Tolerance& asked, const Placement& placement);

// What is allowed between a value and the reference `b` by these factors. float64_error: how much of b is
// rounding, 0 where not known. Infinities in b do not count for max|b|: they are compared exactly.
double Allowed(const Factors& factors, const at::Tensor& b, double float64_error);

// What is allowed between an output and its reference.
struct Bound {
  double max = 0;  // of one number
  double rms =
      std::numeric_limits<double>::infinity();  // of the root of the mean square of all; inf: unbounded
  // Follows from what the golden says is legitimate at this dtype; else from constants (FactorsFor).
  bool derived = false;
  std::string not_comparable;  // LegitimateError.not_comparable: beyond the bound is no proof of a fault
};
// The bound of an output. `golden`: of this output, null where there is none. `b`: the reference, the
// golden's tensor or, for an invariance, the run that is compared with (of which it may be a part: then `rms`
// does not apply). A test that names a factor gets the factors; so does a golden without legitimate errors.
// Integers and bools allow nothing.
absl::StatusOr<Bound> BoundFor(const v1::Tolerance& asked, const Placement& placement,
                               const v1::GoldenOutput* golden, const at::Tensor& b);

// Difference of two tensors of one shape.
struct Difference {
  double error = 0;  // largest |a - b|; infinite where one is NaN, or an infinity meets another number
  double rms = 0;    // root of the mean square of a - b; infinite likewise
  int64_t at = -1;   // row-major position of it; -1: none differ
  double a = 0;
  double b = 0;
};
// INVALID_ARGUMENT where shapes differ. Any dtype and device; integers and bools are compared as numbers.
absl::StatusOr<Difference> Compare(const at::Tensor& a, const at::Tensor& b);

// "0.5 instead of 0.25 at [0, 3]" for a row-major position in `shape`.
std::string Describe(const Difference& difference, at::IntArrayRef shape);

// The tensor's numbers in float64, dense and row-major on the CPU.
at::Tensor ToNumbers(const at::Tensor& tensor);

}  // namespace assay::engine

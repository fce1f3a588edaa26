// How far two runs of the same model may lie apart: |a - b| <= scale * max|b| + rounding * float64_error(b),
// per output. docs/tolerances.md says where the constants come from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/test.pb.h"
#include "engine/tensors.h"

namespace assay::engine {

// Bounds of what a test or a program may ask for: beyond them a fault would pass for rounding. Half precision
// has a coarser mantissa, so that its scale may be larger.
inline constexpr double kMaxScale = 1e-3;
inline constexpr double kMaxHalfScale = 0.1;
inline constexpr double kMaxRoundingFactor = 64;
// Of a golden's float64_error in max|b|: nearly ten times the largest of any program (docs/tolerances.md).
inline constexpr double kMaxRoundingShare = 2e-5;
// Likewise of a trained checkpoint's golden, whose weights amplify rounding more than mock ones do: nine
// times the largest measured.
inline constexpr double kMaxTrainedRoundingShare = 1e-4;

// The two factors, with what the test leaves open filled from the placement's defaults. INVALID_ARGUMENT for
// a factor that is negative, not finite or beyond its bound.
struct Factors {
  double scale = 0;
  double rounding = 0;
};
absl::StatusOr<Factors> FactorsFor(const v1::Tolerance& asked, const Placement& placement);

// What is allowed between a value and the reference `b`. float64_error: how much of b is rounding, 0 where
// not known. Infinities in b do not count for max|b|: they are compared exactly.
double Allowed(const Factors& factors, const at::Tensor& b, double float64_error);

// Largest difference of two tensors of one shape.
struct Difference {
  double error = 0;  // largest |a - b|; infinite where one is NaN, or an infinity meets another number
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

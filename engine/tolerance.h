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

// The two factors, with what the test leaves open filled from the placement's defaults. INVALID_ARGUMENT for
// a factor that is negative or not finite.
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

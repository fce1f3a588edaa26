// Mock values: a function of name, seed, rule and index, the same bits on every machine and in Python.
// The arithmetic is in docs/program_format.md. No LibTorch in this header. Pure and thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// Fills `out`, which has room for product(shape) elements of `dtype`, row-major. `name` is the weight's or
// the golden input's. The shape matters only to ramps. INVALID_ARGUMENT: a rule that does not fit the dtype.
absl::Status FillMock(absl::string_view name, uint64_t seed, const v1::MockRule& rule, v1::ScalarType dtype,
                      absl::Span<const int64_t> shape, void* out);

// Exposed for tests: key of (name, seed), and the i-th 64-bit word of a tensor.
uint64_t MockKey(absl::string_view name, uint64_t seed);
uint64_t MockWord(uint64_t key, uint64_t i);

}  // namespace assay::engine

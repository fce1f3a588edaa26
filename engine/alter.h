// Altered copies of a model's inputs: what the checks compare a run with.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// A copy in which positions [first, last) of dimension 1 ([batch, sequence, …]) have other values. Token ids
// move to the next id of [id_low, id_high) and ids outside (special tokens, image placeholders) stay, unless
// there are no others: such positions are padding, and become id_low. Floating point values get noise of
// their own size. INVALID_ARGUMENT where nothing can be changed: no such dimension, integers without a range
// of ids.
absl::StatusOr<at::Tensor> ChangePositions(const at::Tensor& input, const v1::InputSpec& spec, int64_t first,
                                           int64_t last);

// Likewise, every value.
absl::StatusOr<at::Tensor> ChangeAll(const at::Tensor& input, const v1::InputSpec& spec);

// A copy in which positions [first, last) hold padding: ids the lowest of [id_low, id_high), whatever stood
// there; floating point values zero. Errors as ChangePositions.
absl::StatusOr<at::Tensor> PadPositions(const at::Tensor& input, const v1::InputSpec& spec, int64_t first,
                                        int64_t last);

// A copy of `mask` [batch, sequence] in which the last `masked` positions are zero.
absl::StatusOr<at::Tensor> MaskEnd(const at::Tensor& mask, int64_t masked);

// Likewise, the first `masked`.
absl::StatusOr<at::Tensor> MaskBeginning(const at::Tensor& mask, int64_t masked);

}  // namespace assay::engine

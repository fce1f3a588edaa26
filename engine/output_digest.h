// An output, bit for bit, as one digest.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace assay::engine {

// SHA-256 of its dtype, shape and values in order, wherever it lies. Equal exactly where all of these are,
// bit for bit: -0 is not 0, and NaN with the same bits is the same.
std::string DigestOf(const at::Tensor& tensor);

}  // namespace assay::engine

// Elements out of the bytes of a checkpoint. Pure, safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "checkpoint/tensor.h"

namespace assay::checkpoint {

struct BlockSize {
  size_t elements;
  size_t bytes;
};

// Of a block of an encoding; kPlain has blocks of one element, of ItemSize bytes.
BlockSize BlockOf(Encoding encoding, v1::ScalarType dtype);

// True where Decode gives the tensor's elements as float32: float32, float16, bfloat16 and GGUF's blocks.
bool DecodesToFloat(const CheckpointTensor& tensor);

// Elements [first, first + count) of such a tensor as float32. Both are whole numbers of blocks. float16 and
// bfloat16 widen exactly; blocks give what the gguf package's dequantisation gives, bit for bit.
void Decode(const CheckpointTensor& tensor, size_t first, size_t count, float* out);

}  // namespace assay::checkpoint

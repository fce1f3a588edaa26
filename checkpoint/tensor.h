// One tensor as a checkpoint holds it. No LibTorch here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "assay/v1/program.pb.h"

namespace assay::checkpoint {

// How the bytes of a tensor stand for its elements: kPlain is one element after the other in `dtype`; the
// rest are GGUF's blocks (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), which give float32.
enum class Encoding { kPlain, kQ4_0, kQ4_1, kQ8_0, kQ4_K, kQ6_K };

// How a GGUF tensor differs from the weight of the library's class, where writers of GGUF turn it about.
enum class Relayout {
  kNone,
  kRope,         // pairs of rotary rows lie side by side instead of half a head apart
  kTranspose,    // two dimensions, swapped
  kSubtractOne,  // a norm's weight, stored with one added
};

// A tensor in a mapping that `owner` keeps alive.
struct CheckpointTensor {
  v1::ScalarType dtype = v1::SCALAR_TYPE_UNSPECIFIED;  // unspecified: a dtype that programs do not have
  std::string dtype_name;                              // as the file says, e.g. "F32", "Q4_1"
  Encoding encoding = Encoding::kPlain;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> data;  // little endian, row-major
  std::shared_ptr<const void> owner;
  // Of a GGUF tensor: the name and form that the library's class has it in; empty: no such name is known.
  std::string library_name;
  Relayout relayout = Relayout::kNone;
  int64_t rope_heads = 0;  // of kRope
};

using Tensors = std::map<std::string, CheckpointTensor>;

}  // namespace assay::checkpoint

#include "checkpoint/decode.h"

#include <cstring>

#include "common/dtype.h"

namespace assay::checkpoint {
namespace {

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

uint16_t HalfAt(const uint8_t* bytes) { return static_cast<uint16_t>(bytes[0] | bytes[1] << 8); }

// IEEE 754 binary16 to binary32, exact; without branches, so that the loop over it becomes vector code.
float Widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t rest = half & 0x7fff;
  // Exponent and mantissa in place, then the bias put right by an exact multiplication, which also makes
  // subnormal numbers normal ones.
  const uint32_t finite = BitsOf(FloatOf(rest << 13) * FloatOf(0x77800000));  // 2^112
  const uint32_t infinite = rest << 13 | 0x7f800000;
  return FloatOf(sign | (rest >= 0x7c00 ? infinite : finite));
}

float HalfFloat(const uint8_t* bytes) { return Widen(HalfAt(bytes)); }

// The layouts of blocks are those of ggml (ggml-common.h, block_q4_0 and so on); the order of the arithmetic
// is that of gguf-py's quants.py, on which the last bit depends.
void DecodeQ4_0(const uint8_t* block, float* out) {
  const float scale = HalfFloat(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((block[2 + i] & 15) - 8);
    out[16 + i] = scale * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

void DecodeQ4_1(const uint8_t* block, float* out) {
  const float scale = HalfFloat(block), least = HalfFloat(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(block[4 + i] & 15) + least;
    out[16 + i] = scale * static_cast<float>(block[4 + i] >> 4) + least;
  }
}

void DecodeQ8_0(const uint8_t* block, float* out) {
  const float scale = HalfFloat(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
}

void DecodeQ4_K(const uint8_t* block, float* out) {
  const float scale = HalfFloat(block), least_scale = HalfFloat(block + 2);
  const uint8_t* packed = block + 4;  // eight scales and eight minima of six bits in twelve bytes
  const uint8_t* quants = block + 16;
  for (int part = 0; part < 8; ++part) {
    int factor, least_factor;
    if (part < 4) {
      factor = packed[part] & 63;
      least_factor = packed[part + 4] & 63;
    } else {
      factor = (packed[part + 4] & 15) | (packed[part - 4] >> 2 & 48);
      least_factor = packed[part + 4] >> 4 | (packed[part] >> 2 & 48);
    }
    const float step = scale * static_cast<float>(factor);
    const float least = least_scale * static_cast<float>(least_factor);
    const uint8_t* from = quants + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[part * 32 + i] = step * static_cast<float>(from[i] >> shift & 15) - least;
    }
  }
}

void DecodeQ6_K(const uint8_t* block, float* out) {
  const uint8_t* low = block;
  const uint8_t* high = block + 128;
  const uint8_t* factors = block + 192;
  const float scale = HalfFloat(block + 208);
  for (int part = 0; part < 8; ++part) {
    const int half = part / 4, quarter = part % 4;
    const uint8_t* from = low + half * 64 + quarter % 2 * 32;
    const int shift = quarter / 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int quant = (from[i] >> shift & 15) | (high[half * 32 + i] >> (2 * quarter) & 3) << 4;
      const float step = scale * static_cast<float>(static_cast<int8_t>(factors[part * 2 + i / 16]));
      out[part * 32 + i] = step * static_cast<float>(quant - 32);
    }
  }
}

template <typename DecodeBlock>
void DecodeBlocks(const uint8_t* from, size_t blocks, BlockSize size, DecodeBlock decode, float* out) {
  for (size_t i = 0; i < blocks; ++i) decode(from + i * size.bytes, out + i * size.elements);
}

}  // namespace

BlockSize BlockOf(Encoding encoding, v1::ScalarType dtype) {
  switch (encoding) {
    case Encoding::kQ4_0:
      return {32, 18};
    case Encoding::kQ4_1:
      return {32, 20};
    case Encoding::kQ8_0:
      return {32, 34};
    case Encoding::kQ4_K:
      return {256, 144};
    case Encoding::kQ6_K:
      return {256, 210};
    case Encoding::kPlain:
      break;
  }
  return {1, ItemSize(dtype)};
}

bool DecodesToFloat(const CheckpointTensor& tensor) {
  return tensor.encoding != Encoding::kPlain || tensor.dtype == v1::FLOAT || tensor.dtype == v1::HALF ||
         tensor.dtype == v1::BFLOAT16;
}

void Decode(const CheckpointTensor& tensor, size_t first, size_t count, float* out) {
  const BlockSize size = BlockOf(tensor.encoding, tensor.dtype);
  const uint8_t* from = tensor.data.data() + first / size.elements * size.bytes;
  const size_t blocks = count / size.elements;
  if (count == 0) return;
  switch (tensor.encoding) {
    case Encoding::kQ4_0:
      return DecodeBlocks(from, blocks, size, DecodeQ4_0, out);
    case Encoding::kQ4_1:
      return DecodeBlocks(from, blocks, size, DecodeQ4_1, out);
    case Encoding::kQ8_0:
      return DecodeBlocks(from, blocks, size, DecodeQ8_0, out);
    case Encoding::kQ4_K:
      return DecodeBlocks(from, blocks, size, DecodeQ4_K, out);
    case Encoding::kQ6_K:
      return DecodeBlocks(from, blocks, size, DecodeQ6_K, out);
    case Encoding::kPlain:
      break;
  }
  if (tensor.dtype == v1::FLOAT) {
    std::memcpy(out, from, count * sizeof(float));
  } else if (tensor.dtype == v1::HALF) {
    for (size_t i = 0; i < count; ++i) out[i] = Widen(HalfAt(from + 2 * i));
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = FloatOf(static_cast<uint32_t>(HalfAt(from + 2 * i)) << 16);
  }
}

}  // namespace assay::checkpoint

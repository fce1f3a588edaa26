#include "engine/mock.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

// The finaliser of splitmix64.
inline uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline uint64_t Word(uint64_t key, uint64_t i) { return Mix(key + (i + 1) * kGolden); }

// The hot loops exist once for each kind of CPU: the 64-bit products want AVX-512's. Only integers,
// conversions and single float32 operations, so that the bits are the same in all. Sanitizers run before such
// a choice can be made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define ASSAY_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ASSAY_EACH_CPU
#endif

// Elements [first, first + n) of a normal tensor.
ASSAY_EACH_CPU void NormalFloats(uint64_t key, size_t first, size_t n, float scale, float mean, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const uint64_t z = Word(key, first + i);
    const int32_t sum = static_cast<int32_t>(z & 0xffff) + static_cast<int32_t>((z >> 16) & 0xffff) +
                        static_cast<int32_t>((z >> 32) & 0xffff) + static_cast<int32_t>(z >> 48) - 131070;
    out[i] = static_cast<float>(sum) * scale;
  }
  // Apart, so that the sign of a zero is not touched by an addition of zero.
  if (mean != 0.0f) {
    for (size_t i = 0; i < n; ++i) out[i] += mean;
  }
}

// Elements [first, first + n) of a uniform tensor; `first` is even.
ASSAY_EACH_CPU void UniformFloats(uint64_t key, size_t first, size_t n, float step, float low, float* out) {
  for (size_t i = 0; i < n / 2; ++i) {
    const uint64_t z = Word(key, first / 2 + i);
    // At most 2^24 - 1, so the conversions are exact.
    out[2 * i] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(z) >> 8)) * step + low;
    out[2 * i + 1] = static_cast<float>(static_cast<int32_t>(z >> 40)) * step + low;
  }
  if (n % 2 == 1) {
    const uint64_t z = Word(key, (first + n) / 2);
    out[n - 1] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(z) >> 8)) * step + low;
  }
}

// Calls make(first, count, floats) for piece after piece of n elements and casts each to T.
template <typename T, typename Make>
void InPieces(size_t n, T* out, const Make& make) {
  if constexpr (std::is_same_v<T, float>) {
    make(0, n, out);
  } else {
    constexpr size_t kPiece = 1024;
    float piece[kPiece];
    for (size_t first = 0; first < n; first += kPiece) {
      const size_t count = std::min(kPiece, n - first);
      make(first, count, piece);
      for (size_t i = 0; i < count; ++i) out[first + i] = static_cast<T>(piece[i]);
    }
  }
}

template <typename T>
void Normal(const v1::MockRule::Normal& rule, uint64_t key, size_t n, T* out) {
  const float scale = rule.std() * 2.6428996e-05f;
  InPieces(n, out, [&](size_t first, size_t count, float* floats) {
    NormalFloats(key, first, count, scale, rule.mean(), floats);
  });
}

template <typename T>
void Uniform(const v1::MockRule::Uniform& rule, uint64_t key, size_t n, T* out) {
  const float step =
      static_cast<float>((static_cast<double>(rule.high()) - static_cast<double>(rule.low())) * 0x1p-24);
  InPieces(n, out, [&](size_t first, size_t count, float* floats) {
    UniformFloats(key, first, count, step, rule.low(), floats);
  });
}

// To half precision through float32, the way of the library and of numpy; elsewhere directly.
template <typename T, typename From>
T Cast(From value) {
  if constexpr (std::is_same_v<T, c10::Half> || std::is_same_v<T, c10::BFloat16>) {
    return static_cast<T>(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

template <typename T>
void IntRange(const v1::MockRule::IntRange& rule, uint64_t key, size_t n, T* out) {
  const uint64_t low = static_cast<uint64_t>(rule.low());
  const uint64_t width = static_cast<uint64_t>(rule.high()) - low;
  for (size_t i = 0; i < n; ++i) out[i] = Cast<T>(static_cast<int64_t>(low + Word(key, i) % width));
}

template <typename T>
void Ramp(const v1::MockRule::Ramp& rule, size_t length, size_t n, T* out) {
  for (size_t i = 0; i < n; ++i) {
    out[i] = Cast<T>(rule.start() + rule.step() * static_cast<double>(i % length));
  }
}

template <typename T>
absl::Status Fill(const v1::MockRule& rule, uint64_t key, size_t n, size_t last_size, T* out) {
  constexpr bool kFloating = !std::is_integral_v<T>;
  switch (rule.kind_case()) {
    case v1::MockRule::kNormal:
      if constexpr (kFloating) {
        Normal(rule.normal(), key, n, out);
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError("a normal mock rule for an integer dtype");
    case v1::MockRule::kUniform:
      if constexpr (kFloating) {
        Uniform(rule.uniform(), key, n, out);
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError("a uniform mock rule for an integer dtype");
    case v1::MockRule::kConstant: {
      const T value = Cast<T>(rule.constant());
      for (size_t i = 0; i < n; ++i) out[i] = value;
      return absl::OkStatus();
    }
    case v1::MockRule::kLiteral:
      if (rule.literal().size() != n * sizeof(T)) {
        return absl::InvalidArgumentError("a literal mock rule of the wrong size");
      }
      if (n != 0) std::memcpy(out, rule.literal().data(), n * sizeof(T));
      return absl::OkStatus();
    case v1::MockRule::kIntRange:
      if (rule.int_range().low() >= rule.int_range().high()) {
        return absl::InvalidArgumentError("an empty integer mock rule");
      }
      IntRange(rule.int_range(), key, n, out);
      return absl::OkStatus();
    case v1::MockRule::kRamp:
      Ramp(rule.ramp(), last_size, n, out);
      return absl::OkStatus();
    case v1::MockRule::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("no mock rule");
}

}  // namespace

uint64_t MockKey(absl::string_view name, uint64_t seed) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return Mix(h + kGolden * (seed + 1));
}

uint64_t MockWord(uint64_t key, uint64_t i) { return Word(key, i); }

absl::Status FillMock(absl::string_view name, uint64_t seed, const v1::MockRule& rule, v1::ScalarType dtype,
                      absl::Span<const int64_t> shape, void* out) {
  size_t n = 1;
  for (const int64_t size : shape) n *= static_cast<size_t>(size);
  const size_t last = shape.empty() ? 1 : static_cast<size_t>(shape.back());
  const uint64_t key = MockKey(name, seed);
  const auto fill = [&](auto* typed) { return Fill(rule, key, n, last, typed); };
  absl::Status status;
  switch (dtype) {
    case v1::FLOAT:
      status = fill(static_cast<float*>(out));
      break;
    case v1::DOUBLE:
      status = fill(static_cast<double*>(out));
      break;
    case v1::HALF:
      status = fill(static_cast<c10::Half*>(out));
      break;
    case v1::BFLOAT16:
      status = fill(static_cast<c10::BFloat16*>(out));
      break;
    case v1::BYTE:
      status = fill(static_cast<uint8_t*>(out));
      break;
    case v1::CHAR:
      status = fill(static_cast<int8_t*>(out));
      break;
    case v1::SHORT:
      status = fill(static_cast<int16_t*>(out));
      break;
    case v1::INT:
      status = fill(static_cast<int32_t*>(out));
      break;
    case v1::LONG:
      status = fill(static_cast<int64_t*>(out));
      break;
    case v1::BOOL:
      status = fill(static_cast<bool*>(out));
      break;
    default:
      status = absl::InvalidArgumentError(absl::StrCat("unknown dtype number ", static_cast<int>(dtype)));
  }
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", status.message()));
}

}  // namespace assay::engine

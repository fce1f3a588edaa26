#include "checkpoint/inspect.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/decode.h"
#include "common/digest.h"
#include "common/dtype.h"

namespace assay::checkpoint {
namespace {

// Small enough to be in the processor's cache still when the second look at it follows the first.
constexpr size_t kPieceBytes = size_t{1} << 20;

// Bits of numbers of 16, 32 or 64 bits with exponents all ones: infinite, or NaN where the mantissa is not
// zero.
template <typename Bits>
struct NumberFormat {
  Bits exponent;
  Bits mantissa;
};

struct Found {
  uint64_t nan = 0;
  uint64_t infinite = 0;
  uint64_t first_nan = 0;
  uint64_t first_infinite = 0;
  bool nonzero = false;
};

template <typename Bits>
void Count(const uint8_t* data, size_t count, NumberFormat<Bits> format, uint64_t first, Found& found) {
  for (size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * sizeof bits, sizeof bits);
    if ((bits & format.exponent) != format.exponent) continue;
    if ((bits & format.mantissa) != 0) {
      if (found.nan++ == 0) found.first_nan = first + i;
    } else if (found.infinite++ == 0) {
      found.first_infinite = first + i;
    }
  }
}

// Whole elements at `data`, which need not be aligned. The loop becomes vector code; a number that is not
// finite is looked for one by one only where there is one.
template <typename Bits>
void ScanNumbers(const uint8_t* data, size_t count, NumberFormat<Bits> format, uint64_t first, Found& found) {
  const Bits magnitude = format.exponent | format.mantissa;
  constexpr size_t kBlock = 4096;
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t length = std::min(kBlock, count - start);
    const uint8_t* from = data + start * sizeof(Bits);
    Bits any = 0, not_finite = 0;
    for (size_t i = 0; i < length; ++i) {
      Bits bits;
      std::memcpy(&bits, from + i * sizeof bits, sizeof bits);
      any |= bits & magnitude;
      not_finite |= static_cast<Bits>((bits & format.exponent) == format.exponent);
    }
    found.nonzero = found.nonzero || any != 0;
    if (not_finite != 0) Count(from, length, format, first + start, found);
  }
}

constexpr NumberFormat<uint32_t> kFloat = {0x7f800000, 0x007fffff};

// What is seen of one tensor so far, in pieces of whole elements.
class TensorScan {
 public:
  explicit TensorScan(const CheckpointTensor& tensor)
      : tensor_(tensor), block_(BlockOf(tensor.encoding, tensor.dtype)) {
    if (tensor.encoding != Encoding::kPlain) buffer_.resize(block_.elements * kBufferBlocks);
  }

  // Bytes [begin, end) of the data.
  void Look(size_t begin, size_t end) {
    const uint8_t* data = tensor_.data.data() + begin;
    if (tensor_.encoding != Encoding::kPlain) return LookAtBlocks(begin / block_.bytes, end / block_.bytes);
    switch (tensor_.dtype) {
      case v1::FLOAT:
        return ScanNumbers(data, (end - begin) / 4, kFloat, begin / 4, found_);
      case v1::HALF:
        return ScanNumbers<uint16_t>(data, (end - begin) / 2, {0x7c00, 0x03ff}, begin / 2, found_);
      case v1::BFLOAT16:
        return ScanNumbers<uint16_t>(data, (end - begin) / 2, {0x7f80, 0x007f}, begin / 2, found_);
      case v1::DOUBLE:
        return ScanNumbers<uint64_t>(data, (end - begin) / 8, {0x7ff0000000000000, 0x000fffffffffffff},
                                     begin / 8, found_);
      default:  // integers have no such numbers, and all of them may be zero
        found_.nonzero = true;
    }
  }

  const Found& found() const { return found_; }

 private:
  static constexpr size_t kBufferBlocks = 64;

  void LookAtBlocks(size_t begin, size_t end) {
    for (size_t block = begin; block < end; block += kBufferBlocks) {
      const size_t count = std::min(kBufferBlocks, end - block) * block_.elements;
      Decode(tensor_, block * block_.elements, count, buffer_.data());
      ScanNumbers(reinterpret_cast<const uint8_t*>(buffer_.data()), count, kFloat, block * block_.elements,
                  found_);
    }
  }

  const CheckpointTensor& tensor_;
  const BlockSize block_;
  std::vector<float> buffer_;
  Found found_;
};

// A weight that says nothing where it is zero: everything but matrices and tables. Biases and shifts begin at
// zero and may stay there; a vector of zeros (mask tokens, running means) is what some models are made with.
bool MayBeZero(absl::string_view name, const CheckpointTensor& tensor) {
  const auto wide =
      std::count_if(tensor.shape.begin(), tensor.shape.end(), [](int64_t size) { return size > 1; });
  if (wide < 2) return true;
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  return absl::StrContains(parts.back(), "bias") || parts.back() == "beta";
}

std::string Place(uint64_t index, const std::vector<int64_t>& shape) {
  std::vector<uint64_t> place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    place[i] = index % static_cast<uint64_t>(shape[i]);
    index /= static_cast<uint64_t>(shape[i]);
  }
  return absl::StrCat("[", absl::StrJoin(place, ", "), "]");
}

void Describe(const std::string& key, const CheckpointTensor& tensor, bool zero_is_a_defect,
              const Found& found, std::vector<std::string>& defects) {
  uint64_t count = 1;
  for (const int64_t size : tensor.shape) count *= static_cast<uint64_t>(size);
  const auto add = [&](absl::string_view what, uint64_t times, uint64_t first) {
    if (times == 0) return;
    defects.push_back(
        absl::StrCat(key, ": ", times, " ", what, " of ", count, ", first at ", Place(first, tensor.shape)));
  };
  add("NaN", found.nan, found.first_nan);
  add("Inf", found.infinite, found.first_infinite);
  if (!found.nonzero && zero_is_a_defect) defects.push_back(absl::StrCat(key, ": all zero"));
}

std::string Heading(const std::string& name, const CheckpointTensor& tensor) {
  // Lengths first, so that no two checkpoints run together to the same bytes.
  return absl::StrCat(name.size(), ":", name, tensor.dtype_name, "[", absl::StrJoin(tensor.shape, ","), "]",
                      tensor.data.size(), ":");
}

size_t PieceOf(const CheckpointTensor& tensor) {
  const size_t bytes = BlockOf(tensor.encoding, tensor.dtype).bytes;
  return bytes == 0 ? kPieceBytes : kPieceBytes / bytes * bytes;
}

// Which tensors are bound, and whether one may be nothing but zeros as all of its weights see it.
std::map<absl::string_view, bool> ZeroRules(const Fit& fit, bool zeros) {
  std::map<absl::string_view, bool> rules;
  for (const BoundWeight& weight : fit.weights) {
    if (weight.bound) rules[weight.key] = zeros && !MayBeZero(weight.name, weight.tensor);
  }
  return rules;
}

}  // namespace

std::string DigestTensors(const Tensors& tensors) {
  std::vector<std::string> none;
  return DigestAndInspect(tensors, Fit(), false, 1, &none);
}

std::string DigestAndInspect(const Tensors& tensors, const Fit& fit, bool zeros, int threads,
                             std::vector<std::string>* defects) {
  const std::map<absl::string_view, bool> bound = ZeroRules(fit, zeros);
  Sha256 digest;
  // Pieces that are hashed, counted over all tensors.
  std::atomic<uint64_t> hashed{0};

  // Goes through all pieces in order, and hands those of bound tensors to their scan.
  const auto look = [&](auto&& before_tensor, auto&& before_piece) {
    for (const auto& [name, tensor] : tensors) {
      before_tensor(name, tensor);
      const auto rule = bound.find(name);
      std::unique_ptr<TensorScan> scan;
      if (rule != bound.end() && !tensor.data.empty()) scan = std::make_unique<TensorScan>(tensor);
      for (size_t begin = 0, piece = PieceOf(tensor); begin < tensor.data.size(); begin += piece) {
        const size_t end = std::min(begin + piece, tensor.data.size());
        before_piece(tensor, begin, end);
        if (scan != nullptr) scan->Look(begin, end);
      }
      if (scan != nullptr) Describe(name, tensor, rule->second, scan->found(), *defects);
    }
  };
  const auto hash_heading = [&](const std::string& name, const CheckpointTensor& tensor) {
    digest.Update(Heading(name, tensor));
  };
  const auto hash_piece = [&](const CheckpointTensor& tensor, size_t begin, size_t end) {
    digest.Update(absl::string_view(reinterpret_cast<const char*>(tensor.data.data()) + begin, end - begin));
  };

  if (threads < 2 || bound.empty()) {
    look(hash_heading, hash_piece);
    return digest.FinishHex();
  }
  std::thread follower([&] {
    uint64_t ready = 0, looked_at = 0;
    look([](const std::string&, const CheckpointTensor&) {},
         [&](const CheckpointTensor&, size_t, size_t) {
           while (ready == looked_at) {
             hashed.wait(ready);
             ready = hashed.load();
           }
           ++looked_at;
         });
  });
  for (const auto& [name, tensor] : tensors) {
    hash_heading(name, tensor);
    for (size_t begin = 0, piece = PieceOf(tensor); begin < tensor.data.size(); begin += piece) {
      hash_piece(tensor, begin, std::min(begin + piece, tensor.data.size()));
      hashed.fetch_add(1);
      hashed.notify_one();
    }
  }
  follower.join();
  return digest.FinishHex();
}

}  // namespace assay::checkpoint

#include "checkpoint/fit.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/decode.h"
#include "common/dtype.h"

namespace assay::checkpoint {
namespace {

constexpr size_t kReported = 100;

std::string SomeOf(absl::string_view what, const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  if (names.empty()) return "";
  const auto end = names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size()));
  return absl::StrCat(names.size(), " ", what, ": ", absl::StrJoin(names.begin(), end, ", "),
                      names.size() > kShown ? ", …" : "");
}

template <typename Field>
void Copy(const std::vector<std::string>& names, Field* field) {
  for (size_t i = 0; i < std::min(kReported, names.size()); ++i) *field->Add() = names[i];
}

bool IsConverted(const BoundWeight& weight) {
  return weight.tensor.encoding != Encoding::kPlain || weight.tensor.dtype != weight.dtype;
}

size_t Elements(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  return count;
}

// Rows are those of the file; `out` is the whole weight.
void ReadInOrder(const CheckpointTensor& tensor, size_t rows, size_t row, float* out) {
  const size_t half =
      tensor.relayout == Relayout::kRope ? rows / static_cast<size_t>(tensor.rope_heads) / 2 : 0;
  if (tensor.relayout == Relayout::kRope) {
    for (size_t i = 0; i < rows; ++i) {
      const size_t head = i / (2 * half), within = i % (2 * half);
      const size_t to = head * 2 * half + within % 2 * half + within / 2;
      Decode(tensor, i * row, row, out + to * row);
    }
    return;
  }
  const std::unique_ptr<float[]> buffer(new float[row]);
  for (size_t i = 0; i < rows; ++i) {
    Decode(tensor, i * row, row, buffer.get());
    for (size_t j = 0; j < row; ++j) out[j * rows + i] = buffer[j];
  }
}

}  // namespace

std::string Fit::Describe() const {
  std::vector<std::string> parts;
  for (std::string part :
       {SomeOf("missing", missing), SomeOf("mismatched", mismatched), SomeOf("unexpected", unexpected)}) {
    if (!part.empty()) parts.push_back(std::move(part));
  }
  return parts.empty() ? "every weight is there, and nothing else" : absl::StrJoin(parts, "; ");
}

uint64_t Fit::bytes() const {
  uint64_t sum = 0;
  for (const BoundWeight& weight : weights) sum += weight.tensor.data.size();
  return sum;
}

v1::LoadReport Fit::Report(const std::vector<std::string>& defects) const {
  v1::LoadReport report;
  report.set_format(format);
  uint32_t bound = 0, converted = 0;
  for (const BoundWeight& weight : weights) {
    bound += weight.bound;
    converted += weight.bound && IsConverted(weight);
  }
  report.set_bound(bound);
  report.set_converted_count(converted);
  report.set_missing_count(static_cast<uint32_t>(missing.size()));
  report.set_unexpected_count(static_cast<uint32_t>(unexpected.size()));
  report.set_mismatched_count(static_cast<uint32_t>(mismatched.size()));
  report.set_tied_count(static_cast<uint32_t>(tied.size()));
  report.set_defect_count(static_cast<uint32_t>(defects.size()));
  Copy(missing, report.mutable_missing());
  Copy(unexpected, report.mutable_unexpected());
  Copy(mismatched, report.mutable_mismatched());
  Copy(tied, report.mutable_tied());
  Copy(defects, report.mutable_defect());
  report.set_bytes(bytes());
  return report;
}

absl::Span<const uint8_t> Fit::Data(size_t index) const {
  const BoundWeight& weight = weights[index];
  const CheckpointTensor& tensor = weight.tensor;
  if (!weight.bound || IsConverted(weight) || tensor.relayout != Relayout::kNone || tensor.data.empty() ||
      reinterpret_cast<uintptr_t>(tensor.data.data()) % ItemSize(tensor.dtype) != 0) {
    return {};
  }
  return tensor.data;
}

absl::Status Fit::Read(size_t index, void* out) const {
  const BoundWeight& weight = weights[index];
  const CheckpointTensor& tensor = weight.tensor;
  if (!weight.bound) return absl::InvalidArgumentError(absl::StrCat(weight.name, ": no tensor is bound"));
  if (tensor.data.empty()) return absl::OkStatus();
  if (!IsConverted(weight) && tensor.relayout == Relayout::kNone) {
    std::memcpy(out, tensor.data.data(), tensor.data.size());
    return absl::OkStatus();
  }
  // Anything converted or put in another order is float32: MatchTensors binds nothing else.
  float* const to = static_cast<float*>(out);
  const size_t count = Elements(weight.shape);
  if (tensor.relayout == Relayout::kNone || tensor.relayout == Relayout::kSubtractOne) {
    Decode(tensor, 0, count, to);
    if (tensor.relayout == Relayout::kSubtractOne) {
      for (size_t i = 0; i < count; ++i) to[i] -= 1;
    }
    return absl::OkStatus();
  }
  const size_t rows = static_cast<size_t>(tensor.shape[0]);
  try {
    ReadInOrder(tensor, rows, count / rows, to);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(weight.name, ": no memory to put it in order"));
  }
  return absl::OkStatus();
}

}  // namespace assay::checkpoint

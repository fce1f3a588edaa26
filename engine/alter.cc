#include "engine/alter.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/mock.h"

namespace assay::engine {
namespace {

// Writable, dense and row-major on the CPU; the input itself is never touched.
at::Tensor Copy(const at::Tensor& input, at::ScalarType dtype) {
  return input.to(at::TensorOptions(at::kCPU).dtype(dtype), /*non_blocking=*/false, /*copy=*/true)
      .contiguous();
}

at::Tensor Like(const at::Tensor& altered, const at::Tensor& input) {
  return altered.to(at::TensorOptions(input.device()).dtype(input.scalar_type()));
}

// Elements whose position in dimension 1 lies in [first, last); `row` is the elements of one position.
template <typename Change>
void ForPositions(int64_t numel, int64_t length, int64_t row, int64_t first, int64_t last, Change change) {
  for (int64_t i = 0; i < numel; ++i) {
    int64_t position = i / row % length;
    if (position >= first && position < last) change(i);
  }
}

absl::StatusOr<at::Tensor> Change(const at::Tensor& input, const v1::InputSpec& spec, int64_t length,
                                  int64_t row, int64_t first, int64_t last) {
  if (input.is_floating_point()) {
    at::Tensor copy = Copy(input, at::kDouble);
    double* data = copy.mutable_data_ptr<double>();
    double square = 0;
    for (int64_t i = 0; i < copy.numel(); ++i) square += data[i] * data[i];
    double size = std::sqrt(square / static_cast<double>(std::max<int64_t>(copy.numel(), 1)));
    if (size == 0) size = 1;
    // Noise, not a shift or a factor: a normalisation would take those out again.
    uint64_t key = MockKey(spec.name(), /*seed=*/1);
    ForPositions(copy.numel(), length, row, first, last, [&](int64_t i) {
      double unit = static_cast<double>(MockWord(key, static_cast<uint64_t>(i)) >> 11) * 0x1p-53;
      data[i] += size * (unit < 0.5 ? unit - 1 : unit);  // at least half its size away
    });
    return Like(copy, input);
  }
  if (!spec.has_id_low() || !spec.has_id_high() || spec.id_high() - spec.id_low() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input '", spec.name(), "' has no range of ids in the program: nothing valid to change to"));
  }
  at::Tensor copy = Copy(input, at::kLong);
  int64_t* data = copy.mutable_data_ptr<int64_t>();
  bool changed = false;
  ForPositions(copy.numel(), length, row, first, last, [&](int64_t i) {
    if (data[i] < spec.id_low() || data[i] >= spec.id_high()) return;
    data[i] = data[i] + 1 < spec.id_high() ? data[i] + 1 : spec.id_low();
    changed = true;
  });
  // Padding, as the rows of a real text end in: nothing that has to stay where it is.
  if (!changed)
    ForPositions(copy.numel(), length, row, first, last, [&](int64_t i) { data[i] = spec.id_low(); });
  return Like(copy, input);
}

absl::Status NoSequence(const at::Tensor& input, const v1::InputSpec& spec) {
  return absl::InvalidArgumentError(absl::StrCat(
      "input '", spec.name(), "' has no sequence dimension: it has ", input.dim(), " dimensions"));
}

}  // namespace

absl::StatusOr<at::Tensor> PadPositions(const at::Tensor& input, const v1::InputSpec& spec, int64_t first,
                                        int64_t last) {
  if (input.dim() < 2 || input.numel() == 0) return NoSequence(input, spec);
  if (!input.is_floating_point() && !spec.has_id_low()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input '", spec.name(), "' has no range of ids in the program: nothing valid to pad with"));
  }
  at::Tensor copy = Copy(input, input.scalar_type());
  copy.narrow(1, first, last - first).fill_(input.is_floating_point() ? 0 : spec.id_low());
  return Like(copy, input);
}

absl::StatusOr<at::Tensor> ChangePositions(const at::Tensor& input, const v1::InputSpec& spec, int64_t first,
                                           int64_t last) {
  if (input.dim() < 2 || input.numel() == 0) return NoSequence(input, spec);
  int64_t length = input.size(1);
  int64_t row = input.numel() / input.size(0) / length;
  return Change(input, spec, length, row, first, last);
}

absl::StatusOr<at::Tensor> ChangeAll(const at::Tensor& input, const v1::InputSpec& spec) {
  return Change(input, spec, /*length=*/1, /*row=*/std::max<int64_t>(input.numel(), 1), 0, 1);
}

namespace {

// `mask` [batch, sequence] with zeros at `masked` places, from 0 or up to the end.
absl::StatusOr<at::Tensor> Mask(const at::Tensor& mask, int64_t masked, bool beginning) {
  if (mask.dim() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("the mask has ", mask.dim(), " dimensions instead of [batch, sequence]"));
  }
  if (masked <= 0 || masked >= mask.size(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("masked is ", masked, ", of a sequence of ", mask.size(1)));
  }
  at::Tensor copy = Copy(mask, at::kDouble);
  double* data = copy.mutable_data_ptr<double>();
  int64_t length = mask.size(1);
  const int64_t first = beginning ? 0 : length - masked;
  ForPositions(copy.numel(), length, 1, first, first + masked, [&](int64_t i) { data[i] = 0; });
  return Like(copy, mask);
}

}  // namespace

absl::StatusOr<at::Tensor> MaskEnd(const at::Tensor& mask, int64_t masked) {
  return Mask(mask, masked, /*beginning=*/false);
}

absl::StatusOr<at::Tensor> MaskBeginning(const at::Tensor& mask, int64_t masked) {
  return Mask(mask, masked, /*beginning=*/true);
}

}  // namespace assay::engine

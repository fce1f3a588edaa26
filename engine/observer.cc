#include "engine/observer.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>

#include <algorithm>
#include <functional>

namespace assay::engine {
namespace {

// Float32 by its bits: an exponent of all ones is an infinity or, with a mantissa, a NaN.
bool HasNonFiniteFloat(const uint32_t* bits, int64_t count, bool infinities) {
  const uint32_t limit = infinities ? 0x7f7fffffu : 0x7f800000u;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= static_cast<uint32_t>((bits[i] & 0x7fffffffu) > limit);
  return bad != 0;
}

}  // namespace

void OperatorTimes::NodeRan(const NodePlace& node, int64_t nanoseconds) {
  auto total = totals_.find(std::string(node.op));
  if (total == totals_.end()) total = totals_.emplace(std::string(node.op), Total()).first;
  ++total->second.calls;
  total->second.nanoseconds += nanoseconds;
}

std::vector<std::pair<std::string, OperatorTimes::Total>> OperatorTimes::Sorted() const {
  std::vector<std::pair<std::string, Total>> sorted(totals_.begin(), totals_.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.nanoseconds > b.second.nanoseconds; });
  return sorted;
}

bool FirstNonFinite::ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value,
                               bool is_view) {
  if (hit_.has_value() || is_view || !HasNonFinite(value, infinities_)) return true;
  hit_ = Hit{node.index, output, std::string(node.name), std::string(node.op), std::string(node.module)};
  return true;
}

bool HasNonFinite(const at::Tensor& tensor, bool infinities) {
  if (!tensor.defined() || !tensor.is_floating_point() || tensor.numel() == 0) return false;
  if (tensor.is_cpu() && tensor.scalar_type() == at::ScalarType::Float) {
    const at::Tensor dense = tensor.contiguous();
    return HasNonFiniteFloat(static_cast<const uint32_t*>(dense.const_data_ptr()), dense.numel(), infinities);
  }
  if (infinities) return !at::isfinite(tensor).all().item().toBool();
  return at::isnan(tensor).any().item().toBool();
}

}  // namespace assay::engine

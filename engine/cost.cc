#include "engine/cost.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace assay::engine {
namespace {

constexpr size_t kShown = 10;

uint64_t Product(at::IntArrayRef sizes, size_t from = 0) {
  uint64_t product = 1;
  for (size_t d = from; d < sizes.size(); ++d) product *= static_cast<uint64_t>(sizes[d]);
  return product;
}

}  // namespace

RunCost::RunCost(const v1::Program& program, const Weights& weights, const std::vector<at::Tensor>& inputs,
                 bool profile)
    : program_(program), profile_(profile), sizes_(program.graph().value_count()) {
  absl::flat_hash_map<absl::string_view, size_t> weight_of;
  for (const v1::WeightSpec& spec : program.manifest().weights()) {
    const size_t index = weight_of.size();
    weight_of.emplace(spec.name(), index);
  }
  size_t next = 0;
  for (const v1::GraphInput& input : program.graph().inputs()) {
    c10::DimVector& sizes = sizes_[input.value()];
    if (input.kind() == v1::GraphInput::USER_INPUT) {
      const at::IntArrayRef given = inputs[next++].sizes();
      sizes.assign(given.begin(), given.end());
    } else if (input.kind() == v1::GraphInput::WEIGHT) {
      const at::IntArrayRef given = weights[weight_of.at(input.name())].sizes();
      sizes.assign(given.begin(), given.end());
    }
  }
}

void RunCost::NodeRan(const NodePlace& node, int64_t nanoseconds) {
  ++operators_;
  if (!profile_) return;
  auto total = totals_.find(std::string(node.op));
  if (total == totals_.end()) total = totals_.emplace(std::string(node.op), Total()).first;
  ++total->second.calls;
  total->second.nanoseconds += nanoseconds;
}

bool RunCost::ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool is_view) {
  const v1::Node& node = program_.graph().nodes(static_cast<int>(place.index));
  c10::DimVector& sizes = sizes_[node.outputs(static_cast<int>(output))];
  sizes.assign(value.sizes().begin(), value.sizes().end());
  if (is_view || output != 0) return true;
  const uint64_t flops = FlopsOf(node, place.op, value);
  flops_ += flops;
  // NodeRan came first.
  if (profile_ && flops > 0) totals_.find(std::string(place.op))->second.flops += flops;
  return true;
}

const c10::DimVector* RunCost::Sizes(const v1::Node& node, absl::string_view argument) const {
  for (const v1::NamedArgument& named : node.arguments()) {
    if (named.name() == argument && named.value().has_value()) return &sizes_[named.value().value()];
  }
  return nullptr;
}

uint64_t RunCost::FlopsOf(const v1::Node& node, absl::string_view op, const at::Tensor& result) const {
  const uint64_t numel = static_cast<uint64_t>(result.numel());
  const auto inner = [&](absl::string_view argument) -> uint64_t {
    const c10::DimVector* sizes = Sizes(node, argument);
    return sizes == nullptr || sizes->empty() ? 0 : 2 * numel * static_cast<uint64_t>(sizes->back());
  };
  if (op == "aten::linear") return inner("input");
  if (op == "aten::mm" || op == "aten::bmm" || op == "aten::matmul" || op == "aten::mv") return inner("self");
  if (op == "aten::addmm") return inner("mat1");
  if (op == "aten::baddbmm") return inner("batch1");
  const bool transposed = op == "aten::conv_transpose1d" || op == "aten::conv_transpose2d.input" ||
                          op == "aten::conv_transpose3d.input";
  if (transposed || op == "aten::conv1d" || op == "aten::conv2d" || op == "aten::conv3d" ||
      op == "aten::conv1d.padding" || op == "aten::conv2d.padding" || op == "aten::conv3d.padding" ||
      op == "aten::convolution" || op == "aten::_convolution") {
    const c10::DimVector* weight = Sizes(node, "weight");
    const c10::DimVector* input = Sizes(node, "input");
    if (weight == nullptr || input == nullptr) return 0;
    bool turned = transposed;
    for (const v1::NamedArgument& named : node.arguments()) {
      if (named.name() == "transposed") turned = named.value().boolean();
    }
    // A transposed one spreads each number of its input.
    return 2 * (turned ? Product(*input) : numel) * Product(*weight, 1);
  }
  if (op == "aten::scaled_dot_product_attention" ||
      op == "aten::_scaled_dot_product_flash_attention_for_cpu") {
    const c10::DimVector* query = Sizes(node, "query");
    const c10::DimVector* key = Sizes(node, "key");
    const c10::DimVector* value = Sizes(node, "value");
    if (query == nullptr || key == nullptr || value == nullptr || query->size() < 2 || key->size() < 2)
      return 0;
    const uint64_t scores = Product(*query) / static_cast<uint64_t>(std::max<int64_t>(1, query->back())) *
                            static_cast<uint64_t>((*key)[key->size() - 2]);
    return 2 * scores * static_cast<uint64_t>(query->back() + value->back());
  }
  return 0;
}

v1::ProgramCost RunCost::Result(const Placement& placement) const {
  v1::ProgramCost cost;
  for (const v1::WeightSpec& spec : program_.manifest().weights()) {
    uint64_t count = 1;
    for (const int64_t size : spec.shape()) count *= static_cast<uint64_t>(size);
    if (!spec.buffer()) cost.set_parameters(cost.parameters() + count);
    const auto dtype = TorchDtype(spec.dtype());
    const uint64_t bytes =
        !dtype.ok() ? 0 : c10::elementSize(*dtype == at::ScalarType::Float ? placement.dtype : *dtype);
    cost.set_weight_bytes(cost.weight_bytes() + count * bytes);
  }
  cost.set_flops(flops_);
  cost.set_operators(operators_);
  if (!profile_) return cost;
  std::vector<std::pair<std::string, Total>> sorted(totals_.begin(), totals_.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.nanoseconds > b.second.nanoseconds; });
  int64_t all = 0;
  for (const auto& [op, total] : sorted) all += total.nanoseconds;
  cost.set_profiled_seconds(static_cast<double>(all) * 1e-9);
  for (size_t i = 0; i < std::min(kShown, sorted.size()); ++i) {
    v1::OperatorCost& one = *cost.add_operator_();
    one.set_op(sorted[i].first);
    one.set_calls(sorted[i].second.calls);
    one.set_seconds(static_cast<double>(sorted[i].second.nanoseconds) * 1e-9);
    one.set_flops(sorted[i].second.flops);
  }
  return cost;
}

}  // namespace assay::engine

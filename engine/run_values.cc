#include "engine/run_values.h"

#include "absl/strings/str_cat.h"
#include "engine/number_statistics.h"

namespace assay::engine {
namespace {

class Keeper final : public Observer {
 public:
  Keeper(const v1::Graph& graph, const std::set<uint32_t>& wanted, uint32_t last_node, RunValues& kept)
      : graph_(graph), wanted_(wanted), last_node_(last_node), kept_(kept) {}

  bool ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool) override {
    return Keep(place, output, value);
  }
  bool ScalarMade(const NodePlace& place, uint32_t output, const c10::IValue& value) override {
    return Keep(place, output, value);
  }
  bool done() const { return done_; }

 private:
  bool Keep(const NodePlace& place, uint32_t output, const c10::IValue& value) {
    const v1::Node& node = graph_.nodes(static_cast<int>(place.index));
    const uint32_t number = node.outputs(static_cast<int>(output));
    if (wanted_.count(number) > 0) kept_[number] = value;
    done_ = place.index >= last_node_ && output + 1 >= static_cast<uint32_t>(node.outputs_size());
    return !done_;
  }

  const v1::Graph& graph_;
  const std::set<uint32_t>& wanted_;
  const uint32_t last_node_;
  RunValues& kept_;
  bool done_ = false;
};

}  // namespace

absl::StatusOr<RunValues> KeepValues(const v1::Graph& graph, const Plan& plan,
                                     absl::Span<const at::Tensor> inputs, const std::set<uint32_t>& wanted,
                                     uint32_t last_node) {
  RunValues kept;
  size_t next = 0;
  for (const v1::GraphInput& input : graph.inputs()) {
    const bool given = input.kind() == v1::GraphInput::USER_INPUT;
    const size_t index = given ? next++ : 0;
    if (wanted.count(input.value()) == 0) continue;
    kept[input.value()] = given ? Place(inputs[index], plan.placement()) : plan.Fixed(input.value());
  }
  Keeper keeper(graph, wanted, last_node, kept);
  const absl::Status status = plan.Run(inputs, &keeper).status();
  if (!status.ok() && !keeper.done()) return status;
  return kept;
}

std::vector<ValueOrigin> OriginsOf(const v1::Graph& graph) {
  std::vector<ValueOrigin> origins(graph.value_count());
  for (const v1::GraphInput& input : graph.inputs()) {
    ValueOrigin& origin = origins[input.value()];
    origin.name = input.name();
    origin.source = input.kind() == v1::GraphInput::WEIGHT     ? "weight"
                    : input.kind() == v1::GraphInput::CONSTANT ? "constant"
                                                               : "input";
  }
  for (int i = 0; i < graph.nodes_size(); ++i) {
    const v1::Node& node = graph.nodes(i);
    for (int o = 0; o < node.outputs_size(); ++o) {
      ValueOrigin& origin = origins[node.outputs(o)];
      origin.name = node.outputs_size() == 1 ? node.name() : absl::StrCat(node.name(), ".", o);
      origin.source = "operator";
      origin.node = i;
      origin.output = static_cast<uint32_t>(o);
    }
  }
  return origins;
}

v1::ValueStatistics StatisticsOf(const ValueOrigin& origin, const at::Tensor& value,
                                 const v1::NodeTrace* trace) {
  v1::ValueStatistics made;
  made.set_name(origin.name);
  made.set_source(origin.source);
  constexpr int64_t kSamples = 4;  // as of NodeTrace.samples
  if (value.defined()) SetNumberStatistics(value, kSamples, made);
  if (trace != nullptr) {
    made.set_expected(true);
    made.set_expected_mean(trace->mean());
    made.set_expected_abs_max(trace->abs_max());
    for (const float sample : trace->samples()) made.add_expected_samples(sample);
  }
  return made;
}

}  // namespace assay::engine

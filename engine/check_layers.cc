#include "engine/check_layers.h"

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "engine/numbered_names.h"

namespace assay::engine {
namespace {

// Calls `use` with the number of every value that an argument reads; sizes that are values are not among
// them.
template <typename Use>
void ForTensors(const v1::Argument& argument, Use use) {
  if (argument.kind_case() == v1::Argument::kValue) use(argument.value());
  for (const uint32_t value : argument.values().values()) use(value);
  for (const uint32_t value : argument.optional_values().values_plus_one()) {
    if (value > 0) use(value - 1);
  }
}

class Layers {
 public:
  Layers(const v1::Check::RepeatedLayers& check, const v1::Program& program)
      : check_(check), program_(program), graph_(program.graph()) {
    FindLive();
    FindCarriers();
    for (const v1::Tensor& constant : program.constants()) {
      constants_[constant.name()] =
          absl::StrCat(Sha256Hex(constant.data()).substr(0, 16), "/", constant.shape_size());
    }
  }

  Finding Run() {
    // How many layers of one kind, and how many modules of one signature, by place.
    std::map<std::string, std::set<std::string>> layers;
    std::map<std::string, int> like;
    struct Member {
      std::string module;
      std::vector<std::pair<std::string, std::string>>
          keys;  // of the layer's kind, of the module's signature
    };
    std::vector<Member> members;
    for (const auto& [module, nodes] : nodes_) NoteLayers(SplitNumbered(module), layers);
    for (const auto& [module, nodes] : nodes_) {
      Member member{module, {}};
      const NumberedName name = SplitNumbered(module);
      for (const size_t place : name.numbers) {
        const std::string layer = name.Joined(place + 1, name.parts.size());
        const std::string kind = KindOf(name, place);
        if (kind.empty()) continue;
        const std::string own =
            absl::StrCat(kind, "\n", name.Joined(name.parts.size(), place), "\n", SignatureOf(module, layer));
        member.keys.emplace_back(kind, own);
        ++like[own];
      }
      members.push_back(std::move(member));
    }
    Finding finding;
    bool compared = false;
    std::vector<std::string> unlike;
    for (const Member& member : members) {
      bool comparable = false, found = false;
      for (const auto& [kind, own] : member.keys) {
        comparable |= layers[kind].size() > 1;
        found |= like[own] > 1;
      }
      compared |= comparable;
      if (!comparable || found || IsExempt(check_.except(), member.module)) continue;
      unlike.push_back(member.module);
    }
    if (!unlike.empty()) {
      finding.Break(
          absl::StrCat("computed otherwise than in every other layer of its kind (operators, literals or "
                       "wiring differ): ",
                       FirstOf(unlike)));
    }
    if (finding.held && !compared) finding.nothing = "the program has no two layers alike";
    return finding;
  }

 private:
  // What no output depends on was left out of the computation.
  void FindLive() {
    live_.assign(graph_.value_count(), false);
    live_node_.assign(static_cast<size_t>(graph_.nodes_size()), false);
    for (const v1::Argument& output : graph_.outputs()) {
      ForTensors(output, [&](uint32_t value) { live_[value] = true; });
    }
    for (int i = graph_.nodes_size() - 1; i >= 0; --i) {
      const v1::Node& node = graph_.nodes(i);
      bool live = false;
      for (const uint32_t value : node.outputs()) live |= live_[value];
      if (!live) continue;
      live_node_[static_cast<size_t>(i)] = true;
      for (const v1::NamedArgument& one : node.arguments()) {
        ForTensors(one.value(), [&](uint32_t value) { live_[value] = true; });
      }
    }
  }

  // Nodes that depend on a weight, by module, in the order of the graph.
  void FindCarriers() {
    made_.resize(graph_.value_count());
    std::vector<bool> carries(graph_.value_count(), false);
    for (const v1::GraphInput& input : graph_.inputs()) {
      made_[input.value()].input = &input;
      carries[input.value()] = input.kind() == v1::GraphInput::WEIGHT;
    }
    for (int i = 0; i < graph_.nodes_size(); ++i) {
      const v1::Node& node = graph_.nodes(i);
      bool carrier = false;
      for (const v1::NamedArgument& one : node.arguments()) {
        ForTensors(one.value(), [&](uint32_t value) { carrier |= carries[value]; });
      }
      carrier &= live_node_[static_cast<size_t>(i)] &&
                 !absl::StartsWith(graph_.operators(static_cast<int>(node.op())).name(), "aten::sym_size");
      if (!carrier) continue;
      std::vector<const v1::Node*>& in = nodes_[graph_.modules(static_cast<int>(node.module()))];
      for (int k = 0; k < node.outputs_size(); ++k) {
        Origin& origin = made_[node.outputs(k)];
        origin.carrier = true;
        origin.module = &graph_.modules(static_cast<int>(node.module()));
        origin.ordinal = in.size();
        origin.output = k;
        carries[node.outputs(k)] = true;
      }
      in.push_back(&node);
    }
  }

  void NoteLayers(const NumberedName& name, std::map<std::string, std::set<std::string>>& layers) {
    for (const size_t place : name.numbers) {
      const std::string kind = KindOf(name, place);
      if (!kind.empty()) layers[kind].insert(name.Joined(place + 1, name.parts.size()));
    }
  }

  // Of the layer that `name` lies in, its number at `place`: the layer's path and its weights, with names and
  // shapes. Empty: it has none, and is no layer.
  std::string KindOf(const NumberedName& name, size_t place) {
    const std::string layer = name.Joined(place + 1, name.parts.size());
    auto [known, added] = kinds_.try_emplace(layer);
    if (!added) return known->second;
    std::string weights;
    for (const v1::WeightSpec& weight : program_.manifest().weights()) {
      if (!absl::StartsWith(weight.name(), layer + ".")) continue;
      absl::StrAppend(&weights, weight.name().substr(layer.size()), ":");
      for (const int64_t size : weight.shape()) absl::StrAppend(&weights, size, ",");
    }
    if (!weights.empty())
      known->second = absl::StrCat(name.Joined(place + 1, place), " ", Sha256Hex(weights));
    return known->second;
  }

  std::string SignatureOf(const std::string& module, const std::string& layer) {
    std::map<uint32_t, size_t> outer;
    const auto within = [&](absl::string_view path) {
      return path == layer || absl::StartsWith(path, absl::StrCat(layer, "."));
    };
    const auto value = [&](uint32_t number) -> std::string {
      const Origin& origin = made_[number];
      if (origin.input != nullptr && origin.input->kind() == v1::GraphInput::WEIGHT) {
        const std::string& name = origin.input->name();
        return absl::StrCat("weight ", within(name) ? name.substr(layer.size()) : name);
      }
      if (origin.input != nullptr && origin.input->kind() == v1::GraphInput::CONSTANT) {
        return absl::StrCat("constant ", constants_[origin.input->name()]);
      }
      if (origin.carrier && within(*origin.module)) {
        return absl::StrCat("value ", origin.module->substr(layer.size()), " ", origin.ordinal, " ",
                            origin.output);
      }
      // From another layer or shared by all: who it is differs, that it is the same one again does not.
      return absl::StrCat(origin.carrier ? "outer " : "free ",
                          outer.try_emplace(number, outer.size()).first->second);
    };
    std::string signature;
    for (const v1::Node* node : nodes_[module]) {
      const v1::Operator& op = graph_.operators(static_cast<int>(node->op()));
      absl::StrAppend(&signature, op.name(), ".", op.overload());
      for (const v1::NamedArgument& one : node->arguments()) {
        const v1::Argument& argument = one.value();
        absl::StrAppend(&signature, " ", one.name(), "=");
        bool tensors = false;
        ForTensors(argument, [&](uint32_t number) {
          absl::StrAppend(&signature, "[", value(number), "]");
          tensors = true;
        });
        if (tensors) continue;
        if (argument.kind_case() == v1::Argument::kSymInts) {
          for (const auto& size : argument.sym_ints().values()) {
            absl::StrAppend(&signature, size.has_value() ? "s" : absl::StrCat(size.literal()), ",");
          }
        } else {
          argument.AppendToString(&signature);
        }
      }
      signature += '\n';
    }
    return signature;
  }

  struct Origin {
    const v1::GraphInput* input = nullptr;
    bool carrier = false;  // made by a node that depends on a weight; then:
    const std::string* module = nullptr;
    size_t ordinal = 0;  // of the node in its module
    int output = 0;
  };
  const v1::Check::RepeatedLayers& check_;
  const v1::Program& program_;
  const v1::Graph& graph_;
  std::vector<bool> live_;
  std::vector<bool> live_node_;
  std::vector<Origin> made_;
  std::map<std::string, std::vector<const v1::Node*>> nodes_;  // carriers, by module
  std::map<std::string, std::string> constants_;
  std::map<std::string, std::string> kinds_;  // by layer
};

}  // namespace

Finding CheckRepeatedLayers(const v1::Check::RepeatedLayers& check, const v1::Program& program) {
  return Layers(check, program).Run();
}

}  // namespace assay::engine

#include "engine/check_idioms.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/numbered_names.h"

namespace assay::engine {
namespace {

using v1::Argument;
using v1::Node;

constexpr double kLargestEpsilon = 1e-3;
constexpr double kGeluScale = 0.7978845608;  // sqrt(2 / pi)
constexpr double kQuickGeluScale = 1.702;
constexpr int kFarthestScore = 8;  // operators between a product and its softmax

// What gives a value another form, or a part of it, and no other numbers.
bool OnlyMoves(const std::string& op) {
  static const std::set<std::string> kMoves = {
      "view",    "reshape", "dropout",         "contiguous", "transpose", "permute",  "unsqueeze",
      "squeeze", "flatten", "_unsafe_view",    "clone",      "to",        "_to_copy", "expand",
      "alias",   "t",       "slice",           "select",     "split",     "chunk",    "unbind",
      "detach",  "type_as", "split_with_sizes"};
  return kMoves.count(op) > 0;
}

// What may be subtracted from a value that depends on weights: a figure of such values.
bool IsFigure(const std::string& op) {
  static const std::set<std::string> kFigures = {"mean", "amax", "max", "maximum", "logsumexp", "cumsum"};
  return kFigures.count(op) > 0;
}

const Argument* Find(const Node& node, absl::string_view name) {
  for (const v1::NamedArgument& one : node.arguments()) {
    if (one.name() == name) return &one.value();
  }
  return nullptr;
}

bool IsValue(const Argument* argument) {
  return argument != nullptr && argument->kind_case() == Argument::kValue;
}

std::optional<double> NumberOf(const Argument* argument) {
  if (argument != nullptr && argument->has_real()) return argument->real();
  if (argument != nullptr && argument->has_integer()) return static_cast<double>(argument->integer());
  return std::nullopt;
}

template <typename Use>
void ForTensors(const Argument& argument, Use use) {
  if (argument.kind_case() == Argument::kValue) use(argument.value());
  for (const uint32_t value : argument.values().values()) use(value);
  for (const uint32_t value : argument.optional_values().values_plus_one()) {
    if (value > 0) use(value - 1);
  }
}

void ReadPadding(const nlohmann::json& config, std::set<int64_t>& padding) {
  for (const auto& [key, value] : config.items()) {
    if (value.is_object()) ReadPadding(value, padding);
    const bool named = absl::StrContains(key, "pad_token_id") || absl::StrContains(key, "padding_idx");
    if (named && value.is_number_integer()) padding.insert(value.get<int64_t>());
  }
}

class Idioms {
 public:
  Idioms(const v1::Check::Idioms& check, const v1::Program& program)
      : check_(check), graph_(program.graph()), config_(program.manifest().config_json()) {
    Trace();
    const auto parsed = nlohmann::json::parse(config_, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object()) ReadPadding(parsed, padding_);
    absl::AsciiStrToLower(&config_);
  }

  Finding Run() {
    int sines = 0, cosines = 0;
    for (int i = 0; i < graph_.nodes_size(); ++i) {
      if (!live_node_[static_cast<size_t>(i)]) continue;
      const Node& node = graph_.nodes(i);
      const std::string op = OpOf(node);
      sines += op == "sin";
      cosines += op == "cos";
      Literals(node, op);
      Wiring(node, op);
    }
    if (sines != cosines) {
      Break("sine_and_cosine", absl::StrCat(cosines, " cosines and ", sines, " sines"));
    }
    for (const auto& [from, places] : places_) {
      const int64_t only = *places.begin();
      if (places.size() == 1 && only != 0 && only != -1) {
        Break("place", absl::StrCat("of value ", from, " place ", only,
                                    " alone is taken, neither the first nor the last"));
      }
    }
    Finding finding;
    if (!broken_.empty()) finding.Break(FirstOf(broken_));
    return finding;
  }

 private:
  void Trace() {
    maker_.assign(graph_.value_count(), nullptr);
    users_.resize(graph_.value_count());
    carries_.assign(graph_.value_count(), false);
    live_node_.assign(static_cast<size_t>(graph_.nodes_size()), false);
    std::vector<bool> live(graph_.value_count(), false);
    for (const Argument& output : graph_.outputs()) ForTensors(output, [&](uint32_t v) { live[v] = true; });
    for (int i = graph_.nodes_size() - 1; i >= 0; --i) {
      const Node& node = graph_.nodes(i);
      const bool needed = std::any_of(node.outputs().begin(), node.outputs().end(),
                                      [&](uint32_t value) { return live[value]; });
      live_node_[static_cast<size_t>(i)] = needed;
      if (!needed) continue;
      for (const v1::NamedArgument& one : node.arguments()) {
        ForTensors(one.value(), [&](uint32_t v) {
          live[v] = true;
          users_[v].push_back(&node);
        });
      }
    }
    for (const v1::GraphInput& input : graph_.inputs()) {
      carries_[input.value()] = input.kind() == v1::GraphInput::WEIGHT;
    }
    for (const Node& node : graph_.nodes()) {
      bool carries = false;
      for (const v1::NamedArgument& one : node.arguments()) {
        ForTensors(one.value(), [&](uint32_t v) { carries |= carries_[v]; });
      }
      for (const uint32_t value : node.outputs()) {
        maker_[value] = &node;
        carries_[value] = carries;
      }
    }
  }

  std::string OpOf(const Node& node) const {
    return std::string(absl::StripPrefix(graph_.operators(static_cast<int>(node.op())).name(), "aten::"));
  }
  // Null: an input of the graph.
  const Node* Source(uint32_t value) const {
    const Node* node = maker_[value];
    while (node != nullptr && OnlyMoves(OpOf(*node))) {
      const Argument& first = node->arguments(0).value();
      node = IsValue(&first) ? maker_[first.value()] : nullptr;
    }
    return node;
  }
  std::string SourceOp(const Argument* argument) const {
    const Node* node = IsValue(argument) ? Source(argument->value()) : nullptr;
    return node == nullptr ? "" : OpOf(*node);
  }

  void Break(const std::string& rule, const std::string& what) {
    const std::string general = rule.substr(0, rule.find('/'));
    if (!IsExempt(check_.except(), rule) && !IsExempt(check_.except(), general))
      broken_.push_back(absl::StrCat(rule, ": ", what));
  }

  void Literals(const Node& node, const std::string& op) {
    const Argument* other = Find(node, "other");
    if (op == "add" && other != nullptr && other->has_real() && other->real() > 0 &&
        other->real() <= kLargestEpsilon) {
      for (const Node* user : users_[node.outputs(0)]) {
        const std::string by = OpOf(*user);
        if (by == "rsqrt" || by == "sqrt" || by == "div") continue;
        Break("epsilon",
              absl::StrCat("node '", node.name(), "' adds ", other->real(), " to what goes to ", by));
      }
    }
    if (op == "arange") {
      const Argument* start = Find(node, "start");
      if (start != nullptr && start->has_integer() && start->integer() != 0) {
        Break(absl::StrCat("counting/", start->integer()),
              absl::StrCat("node '", node.name(), "' counts on from there"));
      }
    }
    if (op == "add" && other != nullptr && other->has_integer()) Offset(node, other->integer());
    if (op == "gelu" && !absl::StrContains(config_, "gelu")) {
      Break("activation",
            absl::StrCat("node '", node.name(), "' is a gelu that the configuration does not name"));
    }
    if (op == "silu" && !absl::StrContains(config_, "silu") && !absl::StrContains(config_, "swish")) {
      Break("activation",
            absl::StrCat("node '", node.name(), "' is a silu that the configuration does not name"));
    }
    if (op == "tanh" || op == "sigmoid") Gate(node, op);
    if (op == "le" || op == "lt" || op == "gt" || op == "ge") Comparison(node, op);
    if (op == "select") {
      const Argument* from = Find(node, "self");
      const Argument* dim = Find(node, "dim");
      const Argument* index = Find(node, "index");
      if (IsValue(from) && carries_[from->value()] && dim != nullptr && dim->integer() == 1 &&
          index != nullptr && index->has_integer()) {
        places_[from->value()].insert(index->integer());
      }
    }
  }

  // Positions that leave out padding are the running sum of a mask, times the mask, plus the padding token.
  void Offset(const Node& node, int64_t added) {
    const Argument* self = Find(node, "self");
    const Node* from = IsValue(self) ? Source(self->value()) : nullptr;
    if (from == nullptr || carries_[self->value()]) return;
    const std::string op = OpOf(*from);
    if (op == "cumsum" && added != 0) {
      Break(absl::StrCat("counting/", added),
            absl::StrCat("node '", node.name(), "' adds it to a running sum"));
    }
    if (op != "mul" || padding_.empty()) return;
    std::string first = SourceOp(Find(*from, "self"));
    if (first == "add") {
      const Node* sum = Source(Find(*from, "self")->value());
      first = SourceOp(Find(*sum, "self"));
    }
    if (first != "cumsum" || padding_.count(added) > 0) return;
    Break("padding_offset", absl::StrCat("node '", node.name(), "' adds ", added,
                                         " to positions, which is no padding token of the configuration"));
  }

  void Gate(const Node& node, const std::string& op) {
    const Argument* self = Find(node, "self");
    const Node* from = IsValue(self) ? Source(self->value()) : nullptr;
    if (from == nullptr) return;
    const std::string made_by = OpOf(*from);
    const std::optional<double> scale = NumberOf(Find(*from, "other"));
    if (!scale || (made_by != "mul" && made_by != "div")) return;
    const double usual = op == "tanh" ? kGeluScale : kQuickGeluScale;
    // A tanh of a quotient caps what it is given.
    if (made_by == "mul" ? std::abs(*scale - usual) < 1e-6 * usual : op == "tanh") return;
    Break("gate", absl::StrCat("node '", node.name(), "' is a ", op, " of a value that was ",
                               made_by == "mul" ? "multiplied" : "divided", " by ", *scale));
  }

  // By how much a count of positions was moved on; nullopt: it is none.
  std::optional<int64_t> CountOf(const Argument* argument) const {
    if (!IsValue(argument)) return std::nullopt;
    const Node* node = Source(argument->value());
    int64_t moved = 0;
    if (node != nullptr && OpOf(*node) == "add" && IsValue(Find(*node, "self")) &&
        Find(*node, "other") != nullptr && Find(*node, "other")->has_integer()) {
      moved = Find(*node, "other")->integer();
      node = Source(Find(*node, "self")->value());
    }
    if (node == nullptr || OpOf(*node) != "arange") return std::nullopt;
    return moved;
  }

  void Comparison(const Node& node, const std::string& op) {
    const auto left = CountOf(Find(node, "self")), right = CountOf(Find(node, "other"));
    if (!left || !right) return;
    // a <= b and a < b + 1 say that a place sees itself, a > b and a >= b + 1 what it does not see.
    const int64_t usual = op == "lt" || op == "ge" ? -1 : 0;
    if (*left - *right == usual) return;
    Break("causal_mask",
          absl::StrCat("node '", node.name(), "' compares positions by ", op, ", moved by ", *left - *right));
  }

  void Wiring(const Node& node, const std::string& op) {
    const Argument* self = Find(node, "self");
    const Argument* other = Find(node, "other");
    if (op == "sub" && IsValue(self) && IsValue(other) && carries_[self->value()] &&
        carries_[other->value()]) {
      const std::string made_by = SourceOp(other);
      if (!IsFigure(made_by)) {
        Break(absl::StrCat("difference/", made_by),
              absl::StrCat("node '", node.name(), "' subtracts a value that depends on weights"));
      }
    }
    if (op == "linear" && SourceOp(Find(node, "input")) == "linear") {
      Break("linear_of_linear",
            absl::StrCat("nothing lies between node '", node.name(), "' and the one before"));
    }
    if (absl::StartsWith(op, "conv") &&
        SourceOp(Find(node, "input")) == "_native_batch_norm_legit_no_training") {
      Break("convolution_of_norm",
            absl::StrCat("nothing lies between node '", node.name(), "' and the norm before"));
    }
    if (op == "rsub") {
      for (const Node* user : users_[node.outputs(0)]) {
        const std::string by = OpOf(*user);
        if (OnlyMoves(by) || by == "mul" || by == "masked_fill" || by == "clamp" || by == "eq" ||
            by == "sqrt")
          continue;
        Break("one_minus", absl::StrCat("node '", node.name(), "' goes to ", by));
      }
    }
    if (op == "cat") HalfTurn(node);
    if (op == "softmax") Scores(node);
  }

  void HalfTurn(const Node& node) {
    const Argument* tensors = Find(node, "tensors");
    if (tensors == nullptr || tensors->values().values_size() != 2) return;
    const Node* half[2];
    bool negated[2];
    for (int i = 0; i < 2; ++i) {
      half[i] = maker_[tensors->values().values(i)];
      negated[i] = half[i] != nullptr && OpOf(*half[i]) == "neg";
      if (negated[i]) half[i] = maker_[Find(*half[i], "self")->value()];
      if (half[i] == nullptr || OpOf(*half[i]) != "slice") return;
    }
    if (Find(*half[0], "self")->value() != Find(*half[1], "self")->value()) return;
    const auto start = [](const Node& slice) { return NumberOf(Find(slice, "start")).value_or(0); };
    const bool swapped = start(*half[0]) != 0 && start(*half[1]) == 0;
    const bool right = swapped ? negated[0] && !negated[1] : !negated[0] && !negated[1];
    if (!right) {
      Break("half_turn", absl::StrCat("node '", node.name(), "' joins two halves, ",
                                      swapped ? "exchanged" : "in order", ", of which ",
                                      negated[0]   ? "the first"
                                      : negated[1] ? "the second"
                                                   : "none",
                                      " is negated"));
    }
  }

  // From a softmax back to the product of two matrices that it is of, by what depends on weights.
  void Scores(const Node& softmax) {
    const auto scales = [&](const Node* node) {
      return node != nullptr && (OpOf(*node) == "mul" || OpOf(*node) == "div");
    };
    const Node* node = Source(Find(softmax, "self")->value());
    for (int step = 0; node != nullptr && step < kFarthestScore; ++step) {
      if (scales(node)) return;
      const std::string op = OpOf(*node);
      if (op == "matmul" || op == "bmm" || op == "baddbmm") {
        const std::optional<double> alpha = NumberOf(Find(*node, "alpha"));
        bool scaled = alpha && *alpha != 1;
        for (const v1::NamedArgument& one : node->arguments()) {
          ForTensors(one.value(), [&](uint32_t value) { scaled |= scales(Source(value)); });
        }
        if (!scaled) {
          Break("scores", absl::StrCat("node '", softmax.name(), "' takes a product of matrices, '",
                                       node->name(), "', that nothing scales"));
        }
        return;
      }
      if (op == "linear" || op == "einsum") return;
      const Node* next = nullptr;
      for (const v1::NamedArgument& one : node->arguments()) {
        ForTensors(one.value(), [&](uint32_t value) {
          if (next == nullptr && carries_[value]) next = Source(value);
        });
      }
      node = next;
    }
  }

  const v1::Check::Idioms& check_;
  const v1::Graph& graph_;
  std::string config_;
  std::set<int64_t> padding_;
  std::vector<const Node*> maker_;
  std::vector<std::vector<const Node*>> users_;
  std::vector<bool> carries_;  // depends on a weight
  std::vector<bool> live_node_;
  std::map<uint32_t, std::set<int64_t>> places_;  // of dimension 1, by the value they are taken from
  std::vector<std::string> broken_;
};

}  // namespace

Finding CheckIdioms(const v1::Check::Idioms& check, const v1::Program& program) {
  return Idioms(check, program).Run();
}

}  // namespace assay::engine

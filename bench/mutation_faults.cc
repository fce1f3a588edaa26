#include "bench/mutation_faults.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/mutation_weights.h"
#include "common/status_macros.h"

namespace assay::mutation {
namespace {

using v1::Argument;
using v1::Node;
using v1::Program;

std::string OpOf(const Program& program, const Node& node) {
  return program.graph().operators(static_cast<int>(node.op())).name();
}

const Argument* Find(const Node& node, absl::string_view name) {
  for (const v1::NamedArgument& one : node.arguments()) {
    if (one.name() == name) return &one.value();
  }
  return nullptr;
}

Argument* Find(Node& node, absl::string_view name) {
  return const_cast<Argument*>(Find(std::as_const(node), name));
}

Argument& Ask(Node& node, const std::string& name) {
  if (Argument* found = Find(node, name)) return *found;
  v1::NamedArgument& added = *node.add_arguments();
  added.set_name(name);
  return *added.mutable_value();
}

void Remove(Node& node, absl::string_view name) {
  for (int i = 0; i < node.arguments_size(); ++i) {
    if (node.arguments(i).name() != name) continue;
    node.mutable_arguments()->DeleteSubrange(i, 1);
    return;
  }
}

bool IsValue(const Argument* argument) {
  return argument != nullptr && argument->kind_case() == Argument::kValue;
}

// Calls `use` with each place of the argument that holds a value's number.
void ForValues(Argument& argument, const std::function<void(uint32_t&)>& use) {
  const auto visit = [&](uint32_t number, const auto& write) {
    uint32_t changed = number;
    use(changed);
    if (changed != number) write(changed);
  };
  switch (argument.kind_case()) {
    case Argument::kValue:
      visit(argument.value(), [&](uint32_t n) { argument.set_value(n); });
      break;
    case Argument::kValues:
      for (int i = 0; i < argument.values().values_size(); ++i) {
        visit(argument.values().values(i), [&](uint32_t n) { argument.mutable_values()->set_values(i, n); });
      }
      break;
    case Argument::kOptionalValues:
      for (int i = 0; i < argument.optional_values().values_plus_one_size(); ++i) {
        const uint32_t one = argument.optional_values().values_plus_one(i);
        if (one == 0) continue;
        visit(one - 1,
              [&](uint32_t n) { argument.mutable_optional_values()->set_values_plus_one(i, n + 1); });
      }
      break;
    case Argument::kSymInts:
      for (auto& value : *argument.mutable_sym_ints()->mutable_values()) {
        if (value.has_value()) visit(value.value(), [&](uint32_t n) { value.set_value(n); });
      }
      break;
    default:
      break;
  }
}

// Whoever reads value `from` reads `to` instead.
void Reroute(Program& program, uint32_t from, uint32_t to) {
  const auto use = [&](uint32_t& number) {
    if (number == from) number = to;
  };
  for (Node& node : *program.mutable_graph()->mutable_nodes()) {
    for (v1::NamedArgument& one : *node.mutable_arguments()) ForValues(*one.mutable_value(), use);
  }
  for (Argument& output : *program.mutable_graph()->mutable_outputs()) ForValues(output, use);
}

void SetOperator(Program& program, Node& node, const std::string& name, const std::string& overload) {
  auto& operators = *program.mutable_graph()->mutable_operators();
  for (int i = 0; i < operators.size(); ++i) {
    if (operators[i].name() != name || operators[i].overload() != overload) continue;
    node.set_op(static_cast<uint32_t>(i));
    return;
  }
  v1::Operator& added = *operators.Add();
  added.set_name(name);
  added.set_overload(overload);
  node.set_op(static_cast<uint32_t>(operators.size() - 1));
}

// A small literal that is added keeps a division or a root from zero.
bool IsEpsilon(double value) { return value > 0 && value <= 1e-3; }

struct Activation {
  const char* from;
  const char* to;
};
constexpr Activation kActivations[] = {{"aten::silu", "aten::gelu"},     {"aten::relu", "aten::silu"},
                                       {"aten::tanh", "aten::sigmoid"},  {"aten::sigmoid", "aten::tanh"},
                                       {"aten::cos", "aten::sin"},       {"aten::sin", "aten::cos"},
                                       {"aten::softplus", "aten::relu"}, {"aten::rsqrt", "aten::reciprocal"},
                                       {"aten::erf", "aten::tanh"},      {"aten::gelu", "aten::silu"}};

// Finds every place in one node.
class NodeFaults {
 public:
  NodeFaults(const Program& program, int index, std::vector<Fault>& found)
      : program_(program), node_(program.graph().nodes(index)), index_(index), found_(found) {}

  void FindAll() {
    const std::string op = OpOf(program_, node_);
    Operands(op);
    Literals(op);
    Indexes(op);
    for (const Activation& one : kActivations) {
      if (op == one.from) Add("op.other_function", 0, absl::StrCat(one.from, " becomes ", one.to));
    }
    if (op == "aten::gelu") {
      const Argument* form = Find(node_, "approximate");
      const bool tanh = form != nullptr && form->text() == "tanh";
      Add("op.gelu_form", 0, tanh ? "tanh becomes none" : "none becomes tanh");
    }
    const bool norm = op == "aten::layer_norm" || op == "aten::group_norm";
    if (norm || op == "aten::gelu" || op == "aten::relu" || op == "aten::silu" || op == "aten::tanh" ||
        op == "aten::softmax" || op == "aten::neg" || op == "aten::masked_fill" || op == "aten::sigmoid") {
      Add("op.drop_operator", 0, absl::StrCat(op, " is left out"));
    }
    if ((op == "aten::linear" || norm || absl::StartsWith(op, "aten::conv")) &&
        IsValue(Find(node_, "bias"))) {
      Add("op.drop_bias", 0, absl::StrCat("bias of ", op, " is left out"));
    }
    if (op == "aten::linear" || op == "aten::matmul" || op == "aten::softmax" || op == "aten::layer_norm")
      Crossed(op);
  }

 private:
  void Add(const char* kind, int variant, std::string what) {
    Fault fault;
    fault.kind = kind;
    fault.node = index_;
    fault.variant = variant;
    fault.place = node_.name();
    fault.what = std::move(what);
    found_.push_back(std::move(fault));
  }

  void Operands(const std::string& op) {
    const bool first = IsValue(Find(node_, "self")), second = IsValue(Find(node_, "other"));
    if (first && second && Find(node_, "self")->value() != Find(node_, "other")->value()) {
      if (op == "aten::sub" || op == "aten::div" || op == "aten::matmul" || op == "aten::bmm" ||
          op == "aten::le" || op == "aten::lt" || op == "aten::gt") {
        Add("op.swap_operands", 0, absl::StrCat("operands of ", op, " change places"));
      }
      if (op == "aten::add") {
        Add("op.drop_addend", 0, "the second addend is left out");
        Add("op.drop_addend", 1, "the first addend is left out");
        Add("op.sign", 0, "a sum becomes a difference");
      }
      if (op == "aten::sub") Add("op.sign", 1, "a difference becomes a sum");
      if (op == "aten::mul") {
        Add("op.drop_factor", 0, "the second factor is left out");
        Add("op.drop_factor", 1, "the first factor is left out");
      }
    }
    const Argument* tensors = Find(node_, "tensors");
    if (op == "aten::cat" && tensors != nullptr && tensors->values().values_size() >= 2 &&
        tensors->values().values(0) != tensors->values().values(1)) {
      Add("op.swap_operands", 1, "the first two parts that are joined change places");
    }
  }

  void Literals(const std::string& op) {
    const Argument* other = Find(node_, "other");
    const bool literal = other != nullptr &&
                         (other->kind_case() == Argument::kReal || other->kind_case() == Argument::kInteger);
    const double value = !literal            ? 0
                         : other->has_real() ? other->real()
                                             : static_cast<double>(other->integer());
    if (literal && (op == "aten::mul" || op == "aten::div") && value != 1) {
      Add("op.drop_scale", 0, absl::StrCat(op, " by ", value, " is left out"));
    }
    if (literal && op == "aten::add" && IsEpsilon(value)) Epsilon(value);
    const Argument* eps = Find(node_, "eps");
    const bool has_eps = op == "aten::layer_norm" || op == "aten::group_norm" ||
                         op == "aten::_native_batch_norm_legit_no_training";
    if (has_eps) Epsilon(eps != nullptr ? eps->real() : 1e-5);
    for (const char* name : {"dim", "dim0"}) {
      const Argument* dim = Find(node_, name);
      if (dim == nullptr) continue;
      const bool reduces = op == "aten::softmax" || op == "aten::cumsum" || op == "aten::mean" ||
                           op == "aten::sum" || op == "aten::cat" || op == "aten::transpose" ||
                           op == "aten::roll" || op == "aten::flip" || op == "aten::argmax";
      if (reduces && (dim->kind_case() == Argument::kInteger || dim->ints().values_size() == 1)) {
        Add("op.axis", 0, absl::StrCat(op, ": ", name, " is another one"));
        Add("op.axis", 1, absl::StrCat(op, ": ", name, " is another one, the other way"));
      }
    }
  }

  void Epsilon(double value) {
    Add("op.epsilon", 0, absl::StrCat("epsilon ", value, " becomes ", value * 10));
    Add("op.epsilon", 1, absl::StrCat("epsilon ", value, " becomes ", value / 10));
    Add("op.epsilon", 2, absl::StrCat("epsilon ", value, " becomes ", value * 1000));
  }

  void Indexes(const std::string& op) {
    const Argument* end = Find(node_, "end");
    const Argument* start = Find(node_, "start");
    if (op == "aten::arange" && end != nullptr && end->has_integer() &&
        (start == nullptr || start->has_integer())) {
      Add("op.shift_position", 0, "is counted from one later");
    }
    if (op == "aten::le" || op == "aten::lt" || op == "aten::gt" || op == "aten::ge") {
      Add("op.shift_mask", 0, absl::StrCat(op, " includes the bound, or no longer does"));
    }
    if ((op == "aten::triu" || op == "aten::tril")) Add("op.shift_mask", 1, "the diagonal is one later");
    if (op == "aten::slice" && start != nullptr && start->has_integer() && start->integer() > 0 &&
        end != nullptr && end->has_integer() && end->integer() < (int64_t{1} << 40)) {
      Add("op.shift_slice", 0, "the part begins and ends one earlier");
    }
    if (op == "aten::select" && Find(node_, "index") != nullptr && Find(node_, "index")->has_integer()) {
      Add("op.shift_slice", 1, "the place that is chosen is another one");
    }
    if (op == "aten::roll" && Find(node_, "shifts") != nullptr && Find(node_, "shifts")->has_ints()) {
      Add("op.shift_slice", 2, "rolled one further");
    }
    const Argument* shift = Find(node_, "other");
    if ((op == "aten::add" || op == "aten::sub") && shift != nullptr && shift->has_integer()) {
      Add("op.shift_position", 1, absl::StrCat(shift->integer(), " becomes ", shift->integer() + 1));
    }
  }

  // The node reads what another node of the same operator made, or was given, just before.
  void Crossed(const std::string& op) {
    const char* name = op == "aten::linear" || op == "aten::layer_norm" ? "input" : "self";
    const Argument* own = Find(node_, name);
    if (!IsValue(own)) return;
    for (int i = index_ - 1; i >= 0 && i > index_ - 12; --i) {
      const Node& before = program_.graph().nodes(i);
      if (OpOf(program_, before) != op || !IsValue(Find(before, name))) continue;
      if (Find(before, name)->value() == own->value()) continue;
      Add("op.crossed_wire", 0, absl::StrCat("reads what ", before.name(), " reads"));
      found_.back().variant = i;
      return;
    }
  }

  const Program& program_;
  const Node& node_;
  const int index_;
  std::vector<Fault>& found_;
};

absl::Status PlantInNode(Program& program, const Fault& fault) {
  Node& node = *program.mutable_graph()->mutable_nodes(fault.node);
  const std::string op = OpOf(program, node);
  const std::string& overload = program.graph().operators(static_cast<int>(node.op())).overload();
  const auto bypass = [&](const char* operand) {
    Reroute(program, node.outputs(0), Find(node, operand)->value());
  };
  if (fault.kind == "op.swap_operands" && fault.variant == 1) {
    auto& values = *Find(node, "tensors")->mutable_values()->mutable_values();
    std::swap(values[0], values[1]);
  } else if (fault.kind == "op.swap_operands") {
    std::swap(*Find(node, "self"), *Find(node, "other"));
  } else if (fault.kind == "op.drop_addend" || fault.kind == "op.drop_factor") {
    bypass(fault.variant == 0 ? "self" : "other");
  } else if (fault.kind == "op.drop_scale") {
    bypass("self");
  } else if (fault.kind == "op.drop_operator") {
    bypass(Find(node, "self") != nullptr ? "self" : "input");
  } else if (fault.kind == "op.sign") {
    SetOperator(program, node, fault.variant == 0 ? "aten::sub" : "aten::add", std::string(overload));
  } else if (fault.kind == "op.drop_bias") {
    Remove(node, "bias");
  } else if (fault.kind == "op.gelu_form") {
    Argument& form = Ask(node, "approximate");
    form.set_text(form.text() == "tanh" ? "none" : "tanh");
  } else if (fault.kind == "op.other_function") {
    for (const Activation& one : kActivations) {
      if (op != one.from) continue;
      SetOperator(program, node, one.to, "");
      // The operators that take their place have the operand alone.
      const v1::NamedArgument self = node.arguments(0);
      node.clear_arguments();
      *node.add_arguments() = self;
      break;
    }
  } else if (fault.kind == "op.epsilon") {
    constexpr double kFactors[] = {10, 0.1, 1000};
    Argument& eps =
        Find(node, "eps") != nullptr || op != "aten::add" ? Ask(node, "eps") : *Find(node, "other");
    const double before = eps.kind_case() == Argument::kReal ? eps.real() : 1e-5;
    eps.set_real(before * kFactors[fault.variant]);
  } else if (fault.kind == "op.axis") {
    Argument& dim = Find(node, "dim") != nullptr ? *Find(node, "dim") : *Find(node, "dim0");
    const auto other = [&](int64_t d) {
      return fault.variant == 0 ? (d == 0 ? 1 : d - 1) : (d == -1 ? -3 : d + 1);
    };
    if (dim.has_ints()) {
      dim.mutable_ints()->set_values(0, other(dim.ints().values(0)));
    } else {
      dim.set_integer(other(dim.integer()));
    }
  } else if (fault.kind == "op.shift_position" && fault.variant == 1) {
    Find(node, "other")->set_integer(Find(node, "other")->integer() + 1);
  } else if (fault.kind == "op.shift_position") {
    // As many numbers, from one on.
    SetOperator(program, node, "aten::arange", "start");
    Argument& start = Ask(node, "start");
    start.set_integer(start.integer() + 1);
    Find(node, "end")->set_integer(Find(node, "end")->integer() + 1);
  } else if (fault.kind == "op.shift_mask" && fault.variant == 1) {
    Argument& diagonal = Ask(node, "diagonal");
    diagonal.set_integer(diagonal.integer() + 1);
  } else if (fault.kind == "op.shift_mask") {
    static const std::map<std::string, std::string> kOther = {{"aten::le", "aten::lt"},
                                                              {"aten::lt", "aten::le"},
                                                              {"aten::gt", "aten::ge"},
                                                              {"aten::ge", "aten::gt"}};
    SetOperator(program, node, kOther.at(op), std::string(overload));
  } else if (fault.kind == "op.shift_slice" && fault.variant == 0) {
    Find(node, "start")->set_integer(Find(node, "start")->integer() - 1);
    Find(node, "end")->set_integer(Find(node, "end")->integer() - 1);
  } else if (fault.kind == "op.shift_slice" && fault.variant == 1) {
    Argument& index = *Find(node, "index");
    index.set_integer(index.integer() <= 0 ? index.integer() + 1 : index.integer() - 1);
  } else if (fault.kind == "op.shift_slice") {
    auto& shifts = *Find(node, "shifts")->mutable_ints()->mutable_values();
    shifts[0] += 1;
  } else if (fault.kind == "op.crossed_wire") {
    const char* name = op == "aten::linear" || op == "aten::layer_norm" ? "input" : "self";
    *Find(node, name) = *Find(program.graph().nodes(fault.variant), name);
  } else {
    return absl::InternalError(absl::StrCat("no way to plant ", fault.kind));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Fault> AllFaults(const v1::Program& program) {
  std::vector<Fault> found;
  // What no output depends on cannot be wrong.
  std::set<uint32_t> used;
  v1::Graph graph = program.graph();
  const auto use = [&](uint32_t& value) { used.insert(value); };
  for (Argument& output : *graph.mutable_outputs()) ForValues(output, use);
  for (int i = graph.nodes_size() - 1; i >= 0; --i) {
    Node& node = *graph.mutable_nodes(i);
    const bool live = std::any_of(node.outputs().begin(), node.outputs().end(),
                                  [&](uint32_t value) { return used.count(value) > 0; });
    if (!live) continue;
    for (v1::NamedArgument& one : *node.mutable_arguments()) ForValues(*one.mutable_value(), use);
    if (node.outputs_size() == 1) NodeFaults(program, i, found).FindAll();
  }
  std::reverse(found.begin(), found.end());
  std::set<std::string> names;
  for (const v1::GraphInput& input : program.graph().inputs()) {
    if (used.count(input.value()) > 0) names.insert(input.name());
  }
  WeightFaults(program, names, found);
  return found;
}

bool HeldOut(const std::string& kind) {
  static const std::set<std::string> kinds = {"op.crossed_wire", "op.drop_factor", "weight.reorder_heads",
                                              "weight.layers_exchanged"};
  return kinds.count(kind) > 0;
}

absl::StatusOr<v1::Program> Plant(const v1::Program& program, const Fault& fault) {
  v1::Program planted = program;
  if (fault.node >= 0) {
    ASSAY_RETURN_IF_ERROR(PlantInNode(planted, fault));
  } else {
    ASSAY_RETURN_IF_ERROR(PlantInWeight(planted, fault));
  }
  return planted;
}

std::vector<std::string> Places(const v1::Program& program, const Fault& fault) {
  v1::Graph graph = program.graph();
  std::set<uint32_t> traced, values;
  for (const v1::NodeTrace& trace : program.golden().trace()) traced.insert(trace.node());
  std::set<std::string> changed;
  if (fault.weight >= 0) changed.insert(program.manifest().weights(fault.weight).name());
  if (fault.constant >= 0) changed.insert(program.constants(fault.constant).name());
  if (fault.kind == "weight.layers_exchanged" || fault.kind == "weight.swap_projections") {
    changed.insert(program.manifest().weights(fault.variant).name());
  }
  for (const v1::GraphInput& input : graph.inputs()) {
    if (fault.node < 0 && changed.count(input.name()) > 0 && input.kind() != v1::GraphInput::USER_INPUT) {
      values.insert(input.value());
    }
  }
  std::vector<std::string> found;
  if (fault.node >= 0) {
    found.push_back(graph.nodes(fault.node).name());
    for (uint32_t value : graph.nodes(fault.node).outputs()) values.insert(value);
  }
  for (int i = std::max(0, fault.node + 1); i < graph.nodes_size(); ++i) {
    Node& node = *graph.mutable_nodes(i);
    bool touched = false;
    for (v1::NamedArgument& one : *node.mutable_arguments()) {
      ForValues(*one.mutable_value(), [&](uint32_t& value) { touched |= values.count(value) > 0; });
    }
    if (!touched) continue;
    if (traced.count(static_cast<uint32_t>(i)) > 0) {
      found.push_back(node.name());
      continue;
    }
    for (uint32_t value : node.outputs()) values.insert(value);  // a view: look behind it
  }
  return found;
}

}  // namespace assay::mutation

#include "engine/cut.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/graph_values.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

absl::StatusOr<v1::ScalarType> ProtoDtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::ScalarType::Byte:
      return v1::BYTE;
    case at::ScalarType::Char:
      return v1::CHAR;
    case at::ScalarType::Short:
      return v1::SHORT;
    case at::ScalarType::Int:
      return v1::INT;
    case at::ScalarType::Long:
      return v1::LONG;
    case at::ScalarType::Float:
      return v1::FLOAT;
    case at::ScalarType::Double:
      return v1::DOUBLE;
    case at::ScalarType::Bool:
      return v1::BOOL;
    default:
      return absl::InvalidArgumentError(absl::StrCat("a value of dtype ", c10::toString(dtype)));
  }
}

bool IsFloat(v1::ScalarType dtype) {
  return dtype == v1::FLOAT || dtype == v1::HALF || dtype == v1::BFLOAT16;
}

class Cutter {
 public:
  Cutter(const v1::Program& program, const CutWish& wish, const RunValues& known)
      : program_(program), graph_(program.graph()), wish_(wish), known_(known), origins_(OriginsOf(graph_)) {}

  absl::StatusOr<Cut> Make() {
    v1::Program& made = cut_.program;
    made.set_format(program_.format());
    v1::Manifest& manifest = *made.mutable_manifest();
    const v1::Manifest& from = program_.manifest();
    manifest.set_model(from.model());
    manifest.set_architecture(from.architecture());
    manifest.set_torch_version(from.torch_version());
    manifest.set_transformers_version(from.transformers_version());
    manifest.set_export_schema(from.export_schema());
    manifest.set_mock_seed(from.mock_seed());
    ASSAY_RETURN_IF_ERROR(AddInputs());
    for (const uint32_t index : wish_.nodes) ASSAY_RETURN_IF_ERROR(AddNode(index));
    made.mutable_graph()->set_value_count(next_);
    for (const uint32_t value : wish_.outputs) ASSAY_RETURN_IF_ERROR(AddOutput(value));
    ASSAY_RETURN_IF_ERROR(ValidateProgram(made));
    return std::move(cut_);
  }

 private:
  absl::Status AddInputs() {
    std::set<uint32_t> outside = BoundaryOf(graph_, wish_);
    for (const uint32_t value : wish_.outputs) outside.erase(value);
    for (const uint32_t value : outside) {
      const auto known = known_.find(value);
      if (known == known_.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the value of ", origins_[value].name, " is not known"));
      }
      if (!known->second.isTensor()) continue;  // a number: written where it is used
      v1::GraphInput& input = *cut_.program.mutable_graph()->add_inputs();
      input.set_value(next_);
      number_[value] = next_++;
      const std::string& source = origins_[value].source;
      if (source == "weight" && wish_.weights_by_rule) {
        input.set_kind(v1::GraphInput::WEIGHT);
        input.set_name(origins_[value].name);
        for (const v1::WeightSpec& weight : program_.manifest().weights()) {
          if (weight.name() == input.name()) *cut_.program.mutable_manifest()->add_weights() = weight;
        }
        continue;
      }
      if (source == "constant" && !wish_.in_float64) {
        input.set_kind(v1::GraphInput::CONSTANT);
        input.set_name(origins_[value].name);
        for (const v1::Tensor& constant : program_.constants()) {
          if (constant.name() == input.name()) *cut_.program.add_constants() = constant;
        }
        continue;
      }
      ASSAY_RETURN_IF_ERROR(AddUserInput(value, known->second.toTensor(), input));
    }
    return absl::OkStatus();
  }

  absl::Status AddUserInput(uint32_t value, at::Tensor tensor, v1::GraphInput& input) {
    tensor = tensor.detach().to(at::kCPU);
    if (tensor.is_floating_point()) tensor = tensor.to(wish_.in_float64 ? at::kDouble : at::kFloat);
    input.set_kind(v1::GraphInput::USER_INPUT);
    // Weights and nodes may share a name.
    input.set_name(names_.insert(origins_[value].name).second
                       ? origins_[value].name
                       : absl::StrCat(origins_[value].name, "#", value));
    v1::InputSpec& spec = *cut_.program.mutable_manifest()->add_inputs();
    spec.set_name(input.name());
    ASSAY_ASSIGN_OR_RETURN(const v1::ScalarType dtype, ProtoDtype(tensor.scalar_type()));
    spec.set_dtype(dtype);
    spec.mutable_shape()->Assign(tensor.sizes().begin(), tensor.sizes().end());
    cut_.inputs.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status AddNode(uint32_t index) {
    const v1::Node& node = graph_.nodes(static_cast<int>(index));
    v1::Graph& graph = *cut_.program.mutable_graph();
    v1::Node& made = *graph.add_nodes();
    made = node;
    const auto op = operators_.emplace(node.op(), graph.operators_size());
    if (op.second) *graph.add_operators() = graph_.operators(static_cast<int>(node.op()));
    made.set_op(static_cast<uint32_t>(op.first->second));
    const auto module = modules_.emplace(node.module(), graph.modules_size());
    if (module.second) graph.add_modules(graph_.modules(static_cast<int>(node.module())));
    made.set_module(static_cast<uint32_t>(module.first->second));
    for (v1::NamedArgument& argument : *made.mutable_arguments()) {
      absl::Status status = Renumber(*argument.mutable_value());
      if (!status.ok()) return status;
    }
    for (int o = 0; o < node.outputs_size(); ++o) {
      number_[node.outputs(o)] = next_;
      made.set_outputs(o, next_++);
    }
    return absl::OkStatus();
  }

  absl::Status Renumber(v1::Argument& argument) {
    switch (argument.kind_case()) {
      case v1::Argument::kValue: {
        const auto number = number_.find(argument.value());
        if (number != number_.end()) {
          argument.set_value(number->second);
          return absl::OkStatus();
        }
        const c10::IValue& known = known_.at(argument.value());
        if (known.isInt()) {
          argument.set_integer(known.toInt());
        } else if (known.isDouble()) {
          argument.set_real(known.toDouble());
        } else if (known.isBool()) {
          argument.set_boolean(known.toBool());
        } else {
          return absl::InvalidArgumentError("a value that is neither tensor nor number");
        }
        return absl::OkStatus();
      }
      case v1::Argument::kValues:
        for (uint32_t& value : *argument.mutable_values()->mutable_values()) {
          if (number_.count(value) == 0) return absl::InvalidArgumentError("a number in a list of tensors");
          value = number_.at(value);
        }
        return absl::OkStatus();
      case v1::Argument::kOptionalValues:
        for (uint32_t& value : *argument.mutable_optional_values()->mutable_values_plus_one()) {
          if (value == 0) continue;
          if (number_.count(value - 1) == 0)
            return absl::InvalidArgumentError("a number in a list of tensors");
          value = number_.at(value - 1) + 1;
        }
        return absl::OkStatus();
      case v1::Argument::kSymInts:
        for (v1::Argument::SymInt& item : *argument.mutable_sym_ints()->mutable_values()) {
          if (!item.has_value()) continue;
          const auto number = number_.find(item.value());
          if (number != number_.end()) {
            item.set_value(number->second);
          } else {
            const c10::IValue& known = known_.at(item.value());
            if (!known.isInt()) return absl::InvalidArgumentError("a size that is no integer");
            item.set_literal(known.toInt());
          }
        }
        return absl::OkStatus();
      case v1::Argument::kScalarType:
        if (wish_.in_float64 && IsFloat(argument.scalar_type())) argument.set_scalar_type(v1::DOUBLE);
        return absl::OkStatus();
      default:
        return absl::OkStatus();
    }
  }

  absl::Status AddOutput(uint32_t value) {
    const auto known = known_.find(value);
    if (known == known_.end() || !known->second.isTensor() || number_.count(value) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the output ", origins_[value].name, " is no tensor that the part makes"));
    }
    const at::Tensor& tensor = known->second.toTensor();
    v1::OutputSpec& spec = *cut_.program.mutable_manifest()->add_outputs();
    spec.set_name(origins_[value].name);
    if (tensor.is_floating_point()) {
      spec.set_dtype(wish_.in_float64 ? v1::DOUBLE : v1::FLOAT);
    } else {
      ASSAY_ASSIGN_OR_RETURN(const v1::ScalarType dtype, ProtoDtype(tensor.scalar_type()));
      spec.set_dtype(dtype);
    }
    spec.mutable_shape()->Assign(tensor.sizes().begin(), tensor.sizes().end());
    cut_.program.mutable_graph()->add_outputs()->set_value(number_.at(value));
    return absl::OkStatus();
  }

  const v1::Program& program_;
  const v1::Graph& graph_;
  const CutWish& wish_;
  const RunValues& known_;
  const std::vector<ValueOrigin> origins_;
  Cut cut_;
  uint32_t next_ = 0;
  std::map<uint32_t, uint32_t> number_;  // of a value of the whole graph: its number in the part
  std::map<uint32_t, int> operators_, modules_;
  std::set<std::string> names_;
};

}  // namespace

std::set<uint32_t> BoundaryOf(const v1::Graph& graph, const CutWish& wish) {
  std::set<uint32_t> made, boundary(wish.outputs.begin(), wish.outputs.end());
  for (const uint32_t index : wish.nodes) {
    const v1::Node& node = graph.nodes(static_cast<int>(index));
    ForValues(node, [&](uint32_t value) {
      if (made.count(value) == 0) boundary.insert(value);
    });
    made.insert(node.outputs().begin(), node.outputs().end());
  }
  return boundary;
}

absl::StatusOr<Cut> CutProgram(const v1::Program& program, const CutWish& wish, const RunValues& known) {
  return Cutter(program, wish, known).Make();
}

}  // namespace assay::engine

// The graph's part of engine/validate.h.
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

// Names end up in errors and reports. No operator of LibTorch has a quarter as many arguments; more would
// only make validation slow.
constexpr size_t kMaxName = 1000;
constexpr int kMaxArguments = 256;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckUse(uint32_t value, uint32_t defined) {
  if (value < defined) return absl::OkStatus();
  return Invalid("uses value ", value, ", which no input and no earlier node gives");
}

// `defined` values exist when the node runs: all that it may use.
absl::Status CheckArgument(const v1::Argument& argument, uint32_t defined) {
  switch (argument.kind_case()) {
    case v1::Argument::kNone:
      return argument.none() ? absl::OkStatus() : Invalid("is a none that is false");
    case v1::Argument::kValue:
      return CheckUse(argument.value(), defined);
    case v1::Argument::kValues:
      for (const uint32_t value : argument.values().values()) ASSAY_RETURN_IF_ERROR(CheckUse(value, defined));
      return absl::OkStatus();
    case v1::Argument::kOptionalValues:
      for (const uint32_t value : argument.optional_values().values_plus_one()) {
        if (value != 0) ASSAY_RETURN_IF_ERROR(CheckUse(value - 1, defined));
      }
      return absl::OkStatus();
    case v1::Argument::kSymInts:
      for (const v1::Argument::SymInt& item : argument.sym_ints().values()) {
        if (item.kind_case() == v1::Argument::SymInt::KIND_NOT_SET)
          return Invalid("has an item without a value");
        if (item.has_value()) ASSAY_RETURN_IF_ERROR(CheckUse(item.value(), defined));
      }
      return absl::OkStatus();
    case v1::Argument::kScalarType:
      if (ItemSize(argument.scalar_type()) != 0) return absl::OkStatus();
      return Invalid("has the unknown dtype number ", static_cast<int>(argument.scalar_type()));
    case v1::Argument::kLayout:
      if (argument.layout() == v1::STRIDED) return absl::OkStatus();
      return Invalid("has the unknown layout number ", static_cast<int>(argument.layout()));
    case v1::Argument::kMemoryFormat:
      if (v1::MemoryFormat_IsValid(argument.memory_format()) &&
          argument.memory_format() != v1::MEMORY_FORMAT_UNSPECIFIED) {
        return absl::OkStatus();
      }
      return Invalid("has the unknown memory format number ", static_cast<int>(argument.memory_format()));
    case v1::Argument::kDevice:
      if (argument.device().type() == "cpu" || argument.device().type() == "cuda") return absl::OkStatus();
      return Invalid("has the device '", argument.device().type(), "', which is neither cpu nor cuda");
    case v1::Argument::KIND_NOT_SET:
      return Invalid("has no value");
    default:
      return absl::OkStatus();
  }
}

absl::Status CheckInputs(const v1::Program& program) {
  const v1::Manifest& manifest = program.manifest();
  absl::flat_hash_set<absl::string_view> weights, constants, seen;
  for (const auto& weight : manifest.weights()) weights.insert(weight.name());
  for (const auto& constant : program.constants()) constants.insert(constant.name());
  int user_inputs = 0;
  for (int i = 0; i < program.graph().inputs_size(); ++i) {
    const v1::GraphInput& input = program.graph().inputs(i);
    const std::string what = absl::StrCat("graph input ", input.name());
    if (input.value() != static_cast<uint32_t>(i)) {
      return Invalid(what, ": its value is number ", input.value(), " where ", i, " is next");
    }
    switch (input.kind()) {
      case v1::GraphInput::USER_INPUT:
        if (user_inputs >= manifest.inputs_size() || manifest.inputs(user_inputs).name() != input.name()) {
          return Invalid(what, " is not the manifest's input at its place");
        }
        ++user_inputs;
        continue;
      case v1::GraphInput::WEIGHT:
        if (!weights.contains(input.name())) return Invalid(what, " is no weight of the manifest");
        break;
      case v1::GraphInput::CONSTANT:
        if (!constants.contains(input.name())) return Invalid(what, " is no constant of the program");
        break;
      default:
        return Invalid(what, ": unknown kind number ", static_cast<int>(input.kind()));
    }
    // A weight and a constant may share a name: the kind belongs to the key.
    if (!seen.insert(input.name()).second) {
      for (int j = 0; j < i; ++j) {
        const v1::GraphInput& earlier = program.graph().inputs(j);
        if (earlier.kind() == input.kind() && earlier.name() == input.name()) {
          return Invalid(what, " is there twice");
        }
      }
    }
  }
  if (user_inputs == manifest.inputs_size()) return absl::OkStatus();
  return Invalid("input ", manifest.inputs(user_inputs).name(),
                 " of the manifest is not among the graph's inputs");
}

absl::Status CheckNode(const v1::Graph& graph, const v1::Node& node, uint32_t defined) {
  if (node.name().size() > kMaxName) return Invalid("a node with a name of ", node.name().size(), " bytes");
  if (node.op() >= static_cast<uint32_t>(graph.operators_size())) {
    return Invalid("node ", node.name(), ": operator ", node.op(), " of ", graph.operators_size());
  }
  const std::string& op = graph.operators(static_cast<int>(node.op())).name();
  // Built only for an error, since there are thousands of nodes.
  const auto what = [&] { return absl::StrCat("node ", node.name(), " (", op, ")"); };
  if (node.module() >= static_cast<uint32_t>(graph.modules_size())) {
    return Invalid(what(), ": module ", node.module(), " of ", graph.modules_size());
  }
  if (node.arguments_size() > kMaxArguments)
    return Invalid(what(), ": ", node.arguments_size(), " arguments");
  for (int i = 0; i < node.arguments_size(); ++i) {
    const v1::NamedArgument& argument = node.arguments(i);
    for (int j = 0; j < i; ++j) {
      if (node.arguments(j).name() == argument.name()) {
        return Invalid(what(), ": argument ", argument.name(), " is there twice");
      }
    }
    const absl::Status status = CheckArgument(argument.value(), defined);
    if (!status.ok()) return Invalid(what(), ": argument ", argument.name(), " ", status.message());
  }
  for (int i = 0; i < node.outputs_size(); ++i) {
    if (node.outputs(i) != defined + static_cast<uint32_t>(i)) {
      return Invalid(what(), ": its output is value ", node.outputs(i), " where ", defined + i, " is next");
    }
  }
  if (node.outputs().empty()) return Invalid(what(), ": it has no outputs");
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateGraph(const v1::Program& program) {
  const v1::Graph& graph = program.graph();
  for (const v1::Operator& op : graph.operators()) {
    if (op.name().empty()) return Invalid("an operator without a name");
    if (op.name().size() + op.overload().size() > kMaxName)
      return Invalid("an operator with a name of ", op.name().size(), " bytes");
  }
  ASSAY_RETURN_IF_ERROR(CheckInputs(program));
  uint32_t defined = static_cast<uint32_t>(graph.inputs_size());
  for (const v1::Node& node : graph.nodes()) {
    ASSAY_RETURN_IF_ERROR(CheckNode(graph, node, defined));
    defined += static_cast<uint32_t>(node.outputs_size());
  }
  if (graph.value_count() != defined) {
    return Invalid("the graph counts ", graph.value_count(), " values, but has ", defined);
  }
  if (graph.outputs_size() != program.manifest().outputs_size()) {
    return Invalid("the graph has ", graph.outputs_size(), " outputs, the manifest ",
                   program.manifest().outputs_size());
  }
  for (int i = 0; i < graph.outputs_size(); ++i) {
    const v1::Argument& output = graph.outputs(i);
    const std::string what = absl::StrCat("output ", program.manifest().outputs(i).name());
    switch (output.kind_case()) {
      case v1::Argument::kValue:
        if (output.value() >= defined) return Invalid(what, ": value ", output.value(), " of ", defined);
        break;
      case v1::Argument::kInteger:
      case v1::Argument::kReal:
      case v1::Argument::kBoolean:
        break;
      default:
        return Invalid(what, " is neither a value nor a number");
    }
  }
  return absl::OkStatus();
}

}  // namespace assay::engine

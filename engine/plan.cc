#include "engine/plan.h"

#include <ATen/ScalarOps.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "engine/code.h"
#include "engine/coerce.h"
#include "engine/operators.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

absl::Status At(const absl::Status& status, const std::string& place) {
  return absl::Status(status.code(), absl::StrCat(place, ": ", status.message()));
}

ValueKind KindOf(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return ValueKind::kInteger;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
      return ValueKind::kReal;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
      return ValueKind::kBoolean;
    case c10::TypeKind::NumberType:
      return ValueKind::kScalar;
    default:
      return ValueKind::kTensor;
  }
}

bool IsTensorList(const c10::Type& type) {
  return type.kind() == c10::TypeKind::ListType &&
         type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType;
}

ValueKind KindOfSymbolic(SymbolicFunction function, bool any_real) {
  switch (function) {
    case SymbolicFunction::kTrueDiv:
    case SymbolicFunction::kFloat:
      return ValueKind::kReal;
    case SymbolicFunction::kInt:
      return ValueKind::kInteger;
    case SymbolicFunction::kEq:
    case SymbolicFunction::kNe:
    case SymbolicFunction::kLt:
    case SymbolicFunction::kLe:
    case SymbolicFunction::kGt:
    case SymbolicFunction::kGe:
    case SymbolicFunction::kNot:
      return ValueKind::kBoolean;
    default:
      return any_real ? ValueKind::kReal : ValueKind::kInteger;
  }
}

at::Tensor Output(const Code& code, const std::vector<c10::IValue>& frame, const OutputSource& source) {
  const c10::IValue& value = source.kind == OutputSource::Kind::kValue   ? frame[source.index]
                             : source.kind == OutputSource::Kind::kFixed ? code.fixed[source.index]
                                                                         : code.literals[source.index];
  if (value.isTensor()) return value.toTensor();
  if (value.isScalar()) return at::scalar_to_tensor(value.toScalar());
  return at::Tensor();
}

// What LibTorch makes of integers that meet a real number. It is the process's, not a thread's.
class DefaultDtype {
 public:
  explicit DefaultDtype(at::ScalarType dtype) : before_(c10::get_default_dtype()) {
    if (dtype != at::ScalarType::Float) c10::set_default_dtype(c10::scalarTypeToTypeMeta(dtype));
  }
  ~DefaultDtype() {
    if (c10::get_default_dtype() != before_) c10::set_default_dtype(before_);
  }
  DefaultDtype(const DefaultDtype&) = delete;
  DefaultDtype& operator=(const DefaultDtype&) = delete;

 private:
  const caffe2::TypeMeta before_;
};

std::string ShapeText(at::IntArrayRef shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

}  // namespace

// Turns nodes into instructions, in order.
class PlanBuilder {
 public:
  PlanBuilder(const v1::Program& program, const Placement& placement, Code& code)
      : program_(program), code_(code), coercer_(placement, kinds_, is_fixed_, code), placement_(placement) {}

  absl::Status Build() {
    ASSAY_RETURN_IF_ERROR(DefineInputs());
    ASSAY_RETURN_IF_ERROR(ResolveOperators());
    code_.instructions.reserve(program_.graph().nodes_size());
    for (const v1::Node& node : program_.graph().nodes()) {
      const v1::Operator& op = program_.graph().operators(static_cast<int>(node.op()));
      const absl::Status status = BuildNode(node);
      if (!status.ok()) return At(status, absl::StrCat("node ", node.name(), " (", OperatorName(op), ")"));
    }
    BuildOutputs();
    FindLastUses();
    return absl::OkStatus();
  }

 private:
  absl::Status DefineInputs() {
    const v1::Graph& graph = program_.graph();
    absl::flat_hash_map<absl::string_view, const v1::Tensor*> constants;
    for (const v1::Tensor& constant : program_.constants()) constants.emplace(constant.name(), &constant);
    code_.value_count = graph.value_count();
    kinds_.reserve(graph.value_count());
    code_.fixed.resize(graph.inputs_size());
    for (const v1::GraphInput& input : graph.inputs()) {
      kinds_.push_back(ValueKind::kTensor);
      is_fixed_.push_back(input.kind() != v1::GraphInput::USER_INPUT);
      if (input.kind() == v1::GraphInput::USER_INPUT) code_.user_inputs.push_back(input.value());
      if (input.kind() == v1::GraphInput::CONSTANT) {
        ASSAY_ASSIGN_OR_RETURN(const at::Tensor constant, MakeTensor(*constants.at(input.name())));
        code_.fixed[input.value()] = Place(constant, placement_);
      }
    }
    return absl::OkStatus();
  }

  absl::Status ResolveOperators() {
    const v1::Graph& graph = program_.graph();
    std::vector<bool> used(graph.operators_size(), false);
    // Names the first node that wants an operator, which is what the reader of an error looks for.
    code_.handles.reserve(graph.operators_size());
    handle_of_.assign(graph.operators_size(), nullptr);
    symbolic_.assign(graph.operators_size(), std::nullopt);
    for (const v1::Node& node : graph.nodes()) {
      if (used[node.op()]) continue;
      used[node.op()] = true;
      const v1::Operator& op = graph.operators(static_cast<int>(node.op()));
      absl::string_view name = op.name();
      if (absl::ConsumePrefix(&name, "sym::")) {
        symbolic_[node.op()] = FindSymbolicFunction(name);
        if (symbolic_[node.op()].has_value()) continue;
        return absl::UnimplementedError(
            absl::StrCat("node ", node.name(), " (", op.name(), "): unknown symbolic function"));
      }
      absl::StatusOr<c10::OperatorHandle> handle = ResolveOperator(op);
      if (!handle.ok()) return At(handle.status(), absl::StrCat("node ", node.name()));
      code_.handles.push_back(*handle);
      handle_of_[node.op()] = &code_.handles.back();
    }
    for (const v1::Operator& op : graph.operators()) code_.operator_names.push_back(OperatorName(op));
    code_.modules.assign(graph.modules().begin(), graph.modules().end());
    return absl::OkStatus();
  }

  absl::Status BuildNode(const v1::Node& node) {
    Instruction made;
    made.first_argument = static_cast<uint32_t>(code_.arguments.size());
    made.first_output = node.outputs(0);
    made.output_count = static_cast<uint32_t>(node.outputs_size());
    if (symbolic_[node.op()].has_value()) {
      made.symbolic = *symbolic_[node.op()];
      ASSAY_RETURN_IF_ERROR(coercer_.CoerceSymbolic(node, made.symbolic));
      if (node.outputs_size() != 1 || node.list_output()) {
        return absl::InvalidArgumentError("a symbolic function gives one number");
      }
      const bool any_real =
          std::any_of(node.arguments().begin(), node.arguments().end(), [&](const auto& argument) {
            const v1::Argument& value = argument.value();
            return value.has_real() || (value.has_value() && (kinds_[value.value()] == ValueKind::kReal ||
                                                              kinds_[value.value()] == ValueKind::kScalar));
          });
      kinds_.push_back(KindOfSymbolic(made.symbolic, any_real));
    } else {
      made.op = handle_of_[node.op()];
      const c10::FunctionSchema& schema = made.op->schema();
      ASSAY_RETURN_IF_ERROR(coercer_.CoerceArguments(node, schema));
      made.is_view = IsView(schema);
      made.list_output = node.list_output();
      ASSAY_RETURN_IF_ERROR(DefineOutputs(node, schema));
    }
    made.argument_count = static_cast<uint32_t>(code_.arguments.size()) - made.first_argument;
    code_.instructions.push_back(made);
    code_.nodes.push_back({node.name(), node.op(), node.module()});
    return absl::OkStatus();
  }

  absl::Status DefineOutputs(const v1::Node& node, const c10::FunctionSchema& schema) {
    const auto& returns = schema.returns();
    const bool list = returns.size() == 1 && IsTensorList(*returns[0].real_type());
    if (list != node.list_output()) {
      return absl::InvalidArgumentError(list ? "it gives a list of tensors, which the node does not unpack"
                                             : "the node unpacks a list, which it does not give");
    }
    if (list) {
      kinds_.insert(kinds_.end(), node.outputs_size(), ValueKind::kTensor);
      return absl::OkStatus();
    }
    if (returns.size() != static_cast<size_t>(node.outputs_size())) {
      return absl::InvalidArgumentError(absl::StrCat("it gives ", returns.size(), " results, the node has ",
                                                     node.outputs_size(), " outputs"));
    }
    for (const c10::Argument& result : returns) {
      const c10::Type& type = *result.real_type();
      if (type.kind() == c10::TypeKind::ListType) {
        return absl::InvalidArgumentError("it gives a list beside other results");
      }
      kinds_.push_back(KindOf(type));
    }
    return absl::OkStatus();
  }

  void BuildOutputs() {
    for (const v1::Argument& output : program_.graph().outputs()) {
      OutputSource made;
      if (output.has_value()) {
        const bool fixed = output.value() < is_fixed_.size() && is_fixed_[output.value()];
        made.kind = fixed ? OutputSource::Kind::kFixed : OutputSource::Kind::kValue;
        made.index = output.value();
      } else {
        made.kind = OutputSource::Kind::kLiteral;
        made.index = static_cast<uint32_t>(code_.literals.size());
        if (output.has_integer()) {
          code_.literals.emplace_back(static_cast<int64_t>(output.integer()));
        } else if (output.has_real()) {
          code_.literals.emplace_back(output.real());
        } else {
          code_.literals.emplace_back(output.boolean());
        }
      }
      code_.outputs.push_back(made);
    }
  }

  // The frame's uses of one instruction, in the order in which the executor takes them.
  template <typename Visit>
  void EachUse(const Instruction& instruction, const Visit& visit) {
    using Kind = ArgumentSource::Kind;
    for (uint32_t i = 0; i < instruction.argument_count; ++i) {
      ArgumentSource& source = code_.arguments[instruction.first_argument + i];
      if (source.kind == Kind::kValue || source.kind == Kind::kWrapped || source.kind == Kind::kReal) {
        visit(source.index, source.last_use);
      } else if (source.kind == Kind::kInts || source.kind == Kind::kTensors ||
                 source.kind == Kind::kMaybeTensors) {
        for (ListItem& item : code_.lists[source.index]) {
          if (item.kind == ListItem::Kind::kValue) visit(item.index, item.last_use);
        }
      }
    }
  }

  // Backwards: the first use that is met is the last one of the run. Outputs of the graph are never given
  // away.
  void FindLastUses() {
    std::vector<bool> needed(code_.value_count, false);
    for (const OutputSource& output : code_.outputs) {
      if (output.kind == OutputSource::Kind::kValue) needed[output.index] = true;
    }
    for (size_t i = code_.instructions.size(); i-- > 0;) {
      Instruction& instruction = code_.instructions[i];
      instruction.first_dead = static_cast<uint32_t>(code_.dead.size());
      for (uint32_t o = 0; o < instruction.output_count; ++o) {
        if (!needed[instruction.first_output + o]) code_.dead.push_back(instruction.first_output + o);
      }
      instruction.dead_count = static_cast<uint32_t>(code_.dead.size()) - instruction.first_dead;
      // Within one instruction, too, only the last use may move the value away.
      std::vector<std::pair<uint32_t, bool*>> uses;
      EachUse(instruction, [&](uint32_t value, bool& last_use) { uses.emplace_back(value, &last_use); });
      for (auto use = uses.rbegin(); use != uses.rend(); ++use) {
        *use->second = !needed[use->first];
        needed[use->first] = true;
      }
    }
  }

  const v1::Program& program_;
  Code& code_;
  std::vector<ValueKind> kinds_;
  std::vector<bool> is_fixed_;
  Coercer coercer_;
  const Placement& placement_;
  std::vector<const c10::OperatorHandle*> handle_of_;  // by operator of the graph
  std::vector<std::optional<SymbolicFunction>> symbolic_;
};

Plan::Plan() : code_(std::make_unique<Code>()) {}
Plan::~Plan() = default;

absl::StatusOr<std::unique_ptr<Plan>> Plan::Build(const v1::Program& program, const Placement& placement) {
  ASSAY_RETURN_IF_ERROR(ValidateProgram(program));
  std::unique_ptr<Plan> plan(new Plan());
  plan->placement_ = placement;
  // The mock rules stay behind: literals among them can be large.
  plan->manifest_ = program.manifest();
  for (v1::WeightSpec& weight : *plan->manifest_.mutable_weights()) weight.clear_mock();
  try {
    ASSAY_RETURN_IF_ERROR(PlanBuilder(program, plan->placement_, *plan->code_).Build());
    absl::flat_hash_map<absl::string_view, int> index_of;
    for (const v1::WeightSpec& weight : program.manifest().weights()) {
      index_of.emplace(weight.name(), static_cast<int>(index_of.size()));
    }
    for (const v1::GraphInput& input : program.graph().inputs()) {
      if (input.kind() != v1::GraphInput::WEIGHT) continue;
      plan->weight_values_.emplace_back(index_of.at(input.name()), input.value());
    }
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
  return plan;
}

at::Tensor Plan::BoundWeight(int index) const {
  for (const auto& [weight, value] : weight_values_) {
    if (weight == index && bound_) return code_->fixed[value].toTensor();
  }
  return at::Tensor();
}

absl::Status Plan::Bind(const Weights& weights) {
  if (weights.size() != static_cast<size_t>(manifest_.weights_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(weights.size(), " weights for a program with ", manifest_.weights_size()));
  }
  // The flag cannot be set on tensors of inference mode.
  const c10::InferenceMode off(false);
  for (const auto& [index, value] : weight_values_) {
    const v1::WeightSpec& spec = manifest_.weights(index);
    const at::Tensor& weight = weights[index];
    const at::IntArrayRef shape(spec.shape().data(), spec.shape_size());
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(spec.dtype()));
    const bool there = weight.defined() && (weight.is_cpu() || weight.device() == placement_.device);
    if (!there || weight.scalar_type() != dtype || weight.sizes() != shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "weight ", spec.name(), ": the program takes ", DtypeName(spec.dtype()), " ", ShapeText(shape),
          ", given is ",
          weight.defined() ? absl::StrCat(c10::toString(weight.scalar_type()), " ", ShapeText(weight.sizes()))
                           : "nothing"));
    }
    try {
      const at::Tensor placed = Place(weight, placement_);
      // A tensor of its own over the same memory: a view would have the flag of its base.
      at::Tensor own = placed.numel() == 0 ? at::empty(placed.sizes(), placed.options())
                                           : at::from_blob(
                                                 const_cast<void*>(placed.const_data_ptr()), placed.sizes(),
                                                 placed.strides(), [placed](void*) {}, placed.options());
      if (spec.requires_grad()) own.set_requires_grad(true);
      code_->fixed[value] = std::move(own);
    } catch (const c10::Error& error) {
      return absl::ResourceExhaustedError(
          absl::StrCat("weight ", spec.name(), ": ", error.what_without_backtrace()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(absl::StrCat("weight ", spec.name(), ": out of memory"));
    }
  }
  bound_ = true;
  return absl::OkStatus();
}

absl::Status Plan::CheckInputs(absl::Span<const at::Tensor> inputs) const {
  if (inputs.size() != static_cast<size_t>(manifest_.inputs_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(inputs.size(), " inputs for a program with ", manifest_.inputs_size()));
  }
  int64_t batch = -1;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const v1::InputSpec& spec = manifest_.inputs(static_cast<int>(i));
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(spec.dtype()));
    const at::Tensor& input = inputs[i];
    const bool placed_dtype =
        input.defined() && dtype == at::ScalarType::Float && input.scalar_type() == placement_.dtype;
    bool fits =
        input.defined() && (input.scalar_type() == dtype || placed_dtype) && input.dim() == spec.shape_size();
    for (int d = 0; fits && d < spec.shape_size(); ++d) {
      if (std::count(spec.dynamic_dim().begin(), spec.dynamic_dim().end(), d) > 0) {
        fits = input.size(d) > 0;
      } else if (!spec.has_batch_dim() || spec.batch_dim() != d) {
        fits = input.size(d) == spec.shape(d);
      } else if (batch < 0) {
        batch = input.size(d);
        fits = batch > 0;
      } else if (input.size(d) != batch) {
        return absl::InvalidArgumentError(absl::StrCat("input ", spec.name(), " has a batch of ",
                                                       input.size(d), ", an earlier input one of ", batch));
      }
    }
    if (!fits) {
      const at::IntArrayRef shape(spec.shape().data(), spec.shape_size());
      return absl::InvalidArgumentError(absl::StrCat(
          "input ", spec.name(), ": the program takes ", DtypeName(spec.dtype()), " ", ShapeText(shape),
          spec.has_batch_dim() ? absl::StrCat(" with any batch in dimension ", spec.batch_dim())
                               : std::string(),
          ", given is ",
          input.defined() ? absl::StrCat(c10::toString(input.scalar_type()), " ", ShapeText(input.sizes()))
                          : "nothing"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<at::Tensor>> Plan::Run(absl::Span<const at::Tensor> inputs,
                                                  Observer* observer) const {
  if (!bound_) return absl::FailedPreconditionError("the plan's weights are not bound");
  ASSAY_RETURN_IF_ERROR(CheckInputs(inputs));
  const c10::InferenceMode inference;
  const DefaultDtype default_dtype(placement_.dtype);
  std::vector<c10::IValue> frame(code_->value_count);
  std::vector<at::Tensor> outputs;
  try {
    for (size_t i = 0; i < inputs.size(); ++i) frame[code_->user_inputs[i]] = Place(inputs[i], placement_);
    ASSAY_RETURN_IF_ERROR(Execute(*code_, frame, observer));
    outputs.reserve(code_->outputs.size());
    for (size_t i = 0; i < code_->outputs.size(); ++i) {
      at::Tensor output = Output(*code_, frame, code_->outputs[i]);
      if (!output.defined()) {
        return absl::InternalError(absl::StrCat("output ", manifest_.outputs(static_cast<int>(i)).name(),
                                                " has no value after the run"));
      }
      outputs.push_back(std::move(output));
    }
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
  return outputs;
}

at::Tensor Plan::Fixed(uint32_t value) const {
  if (value >= code_->fixed.size() || !code_->fixed[value].isTensor()) return at::Tensor();
  return code_->fixed[value].toTensor().detach();
}

size_t Plan::node_count() const { return code_->nodes.size(); }
NodePlace Plan::node(uint32_t index) const { return code_->Place(index); }

}  // namespace assay::engine

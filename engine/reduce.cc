#include "engine/reduce.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/cut.h"
#include "engine/diagnosis.h"
#include "engine/run_values.h"
#include "engine/standalone.h"
#include "engine/tolerance.h"
#include "engine/validate.h"
#include "engine/verdict.h"

namespace assay::engine {
namespace {

// A weight of a trained checkpoint goes in whole: GPT-2's embedding is 154 MB. Program files end at 256 MiB.
constexpr size_t kMaxInputBytes = size_t{192} << 20;

// Appends to a part what its golden is of: figures of one value. Nodes are `figure_*`.
class Figures {
 public:
  Figures(v1::Program& program, uint32_t value) : program_(program), value_(value) {}

  void Add(const v1::NodeTrace& trace, bool floating, double bound) {
    program_.mutable_manifest()->clear_outputs();
    program_.mutable_graph()->clear_outputs();
    const auto count = static_cast<int64_t>(trace.samples_size());
    const auto numel = static_cast<int64_t>(trace.numel());
    v1::Tensor& places = *program_.add_constants();
    places.set_name("figure_places");
    places.set_dtype(v1::LONG);
    places.add_shape(count);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t place = (2 * k + 1) * numel / (2 * count);
      places.mutable_data()->append(reinterpret_cast<const char*>(&place), sizeof place);
    }
    const uint32_t places_value = AddConstantInput(places.name());
    const uint32_t flat = AddNode("aten::reshape", "", [](v1::Node& node) { Ints(node, "shape", {-1}); });
    const uint32_t samples = AddNode("aten::index_select", "", [&](v1::Node& node) {
      node.mutable_arguments(0)->mutable_value()->set_value(flat);
      Named(node, "dim").set_integer(0);
      Named(node, "index").set_value(places_value);
    });
    AddOutput("samples", Float(samples, floating), {count},
              std::vector<float>(trace.samples().begin(), trace.samples().end()), bound);
    if (!floating) return;
    const uint32_t mean = AddNode("aten::mean", "", [](v1::Node&) {});
    AddOutput("mean", mean, {}, {trace.mean()}, bound);
    const uint32_t size = AddNode("aten::abs", "", [](v1::Node&) {});
    const uint32_t largest = AddNode("aten::max", "", [&](v1::Node& node) {
      node.mutable_arguments(0)->mutable_value()->set_value(size);
    });
    AddOutput("largest_magnitude", largest, {}, {trace.abs_max()}, bound);
  }

 private:
  static v1::Argument& Named(v1::Node& node, const std::string& name) {
    v1::NamedArgument& argument = *node.add_arguments();
    argument.set_name(name);
    return *argument.mutable_value();
  }
  static void Ints(v1::Node& node, const std::string& name, const std::vector<int64_t>& values) {
    v1::Argument::IntList& list = *Named(node, name).mutable_ints();
    for (const int64_t value : values) list.add_values(value);
  }

  // Inputs come first in a graph: every value behind them moves by one.
  uint32_t AddConstantInput(const std::string& name) {
    v1::Graph& graph = *program_.mutable_graph();
    const auto at = static_cast<uint32_t>(graph.inputs_size());
    const auto moved = [at](uint32_t value) { return value >= at ? value + 1 : value; };
    for (v1::Node& node : *graph.mutable_nodes()) {
      for (uint32_t& value : *node.mutable_outputs()) value = moved(value);
      for (v1::NamedArgument& argument : *node.mutable_arguments()) {
        v1::Argument& held = *argument.mutable_value();
        if (held.has_value()) held.set_value(moved(held.value()));
        if (held.has_values()) {
          for (uint32_t& value : *held.mutable_values()->mutable_values()) value = moved(value);
        }
        if (held.has_optional_values()) {
          for (uint32_t& value : *held.mutable_optional_values()->mutable_values_plus_one()) {
            if (value > 0) value = moved(value - 1) + 1;
          }
        }
        if (held.has_sym_ints()) {
          for (v1::Argument::SymInt& item : *held.mutable_sym_ints()->mutable_values()) {
            if (item.has_value()) item.set_value(moved(item.value()));
          }
        }
      }
    }
    value_ = moved(value_);
    v1::GraphInput& input = *graph.add_inputs();
    input.set_kind(v1::GraphInput::CONSTANT);
    input.set_name(name);
    input.set_value(at);
    graph.set_value_count(graph.value_count() + 1);
    return at;
  }

  // Its first argument, self, is the value that the figures are of, until `fill` says otherwise.
  template <typename Fill>
  uint32_t AddNode(const std::string& op, const std::string& overload, Fill fill) {
    v1::Graph& graph = *program_.mutable_graph();
    int number = 0;
    while (number < graph.operators_size() &&
           (graph.operators(number).name() != op || graph.operators(number).overload() != overload)) {
      ++number;
    }
    if (number == graph.operators_size()) {
      v1::Operator& added = *graph.add_operators();
      added.set_name(op);
      added.set_overload(overload);
    }
    int module = 0;
    while (module < graph.modules_size() && !graph.modules(module).empty()) ++module;
    if (module == graph.modules_size()) graph.add_modules("");
    v1::Node& node = *graph.add_nodes();
    node.set_name(absl::StrCat("figure_", graph.nodes_size()));
    node.set_op(static_cast<uint32_t>(number));
    node.set_module(static_cast<uint32_t>(module));
    Named(node, "self").set_value(value_);
    fill(node);
    const uint32_t value = graph.value_count();
    node.add_outputs(value);
    graph.set_value_count(value + 1);
    return value;
  }

  uint32_t Float(uint32_t value, bool floating) {
    if (floating) return value;
    return AddNode("aten::_to_copy", "", [&](v1::Node& node) {
      node.mutable_arguments(0)->mutable_value()->set_value(value);
      Named(node, "dtype").set_scalar_type(v1::FLOAT);
    });
  }

  void AddOutput(const std::string& name, uint32_t value, const std::vector<int64_t>& shape,
                 const std::vector<float>& expected, double bound) {
    v1::OutputSpec& spec = *program_.mutable_manifest()->add_outputs();
    spec.set_name(name);
    spec.set_dtype(v1::FLOAT);
    spec.mutable_shape()->Assign(shape.begin(), shape.end());
    program_.mutable_graph()->add_outputs()->set_value(value);
    v1::GoldenOutput& golden = *program_.mutable_golden()->add_outputs();
    v1::Tensor& tensor = *golden.mutable_tensor();
    tensor.set_name(name);
    tensor.set_dtype(v1::FLOAT);
    tensor.mutable_shape()->Assign(shape.begin(), shape.end());
    tensor.set_data(expected.data(), expected.size() * sizeof(float));
    for (const v1::ScalarType dtype : {v1::FLOAT, v1::BFLOAT16, v1::HALF}) {
      v1::LegitimateError& error = *golden.add_legitimate();
      error.set_dtype(dtype);
      // Of two such errors the check allows two and a half (docs/tolerances.md): the bound of the diagnosis.
      error.set_max(bound / 5);
      error.set_rms(bound / 5);
    }
  }

  v1::Program& program_;
  uint32_t value_;
};

absl::Status AddInputs(const std::vector<at::Tensor>& inputs, v1::Program& program) {
  size_t bytes = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor dense = inputs[i].contiguous();
    bytes += dense.nbytes();
    if (bytes > kMaxInputBytes) {
      return absl::ResourceExhaustedError("the inputs of the smallest part are more than 192 MiB");
    }
    v1::GoldenInput& input = *program.mutable_golden()->add_inputs();
    input.set_name(program.manifest().inputs(static_cast<int>(i)).name());
    input.set_data(dense.const_data_ptr(), dense.nbytes());
  }
  return absl::OkStatus();
}

class Reducer {
 public:
  explicit Reducer(const BoundCase& bound) : bound_(bound), graph_(bound.program.graph()) {}

  absl::StatusOr<Reduced> Make() {
    ASSAY_ASSIGN_OR_RETURN(const std::optional<Suspicion> found, Suspect(bound_));
    if (!found) return absl::FailedPreconditionError("no value that the golden has a trace of differs here");
    const uint32_t last = found->nodes.back();
    CutWish wish;
    wish.nodes = found->nodes;
    wish.outputs = {graph_.nodes(static_cast<int>(last)).outputs(static_cast<int>(found->output))};
    ASSAY_ASSIGN_OR_RETURN(const RunValues known,
                           KeepValues(graph_, bound_.plan, bound_.inputs, BoundaryOf(graph_, wish), last));
    std::string passed;
    for (const bool by_rule : {true, false}) {
      wish.weights_by_rule = by_rule;
      if (by_rule && bound_.weights != v1::MOCK) continue;
      Reduced made;
      ASSAY_ASSIGN_OR_RETURN(Cut cut, CutProgram(bound_.program, wish, known));
      made.program = std::move(cut.program);
      const v1::Graph& part = made.program.graph();
      const v1::Node& kept = part.nodes(part.nodes_size() - 1);
      Figures(made.program, kept.outputs(static_cast<int>(found->output)))
          .Add(*found->expected, known.at(wish.outputs[0]).toTensor().is_floating_point(), found->bound);
      made.program.mutable_golden()->set_cpu_capability(bound_.golden.cpu_capability());
      ASSAY_RETURN_IF_ERROR(AddInputs(cut.inputs, made.program));
      ASSAY_RETURN_IF_ERROR(ValidateProgram(made.program));
      ASSAY_ASSIGN_OR_RETURN(const v1::CaseResult alone,
                             RunStandalone(made.program, bound_.plan.placement()));
      if (alone.outcome() == v1::PASSED) {
        passed = "the part alone gives what the golden has: the difference needs the rest of the program";
        continue;
      }
      made.nodes = wish.nodes.size();
      made.story =
          absl::StrCat("kept ", wish.nodes.size(), " of ", graph_.nodes_size(), " operators (",
                       Names(wish.nodes), "), ", cut.inputs.size(), " inputs by value",
                       made.program.manifest().weights().empty() ? "" : ", weights by their mock rules",
                       "; run alone it fails: ", alone.message());
      return made;
    }
    return absl::FailedPreconditionError(passed);
  }

 private:
  std::string Names(const std::vector<uint32_t>& nodes) const {
    return absl::StrJoin(nodes, ", ", [this](std::string* out, uint32_t node) {
      absl::StrAppend(out, graph_.nodes(static_cast<int>(node)).name());
    });
  }

  const BoundCase& bound_;
  const v1::Graph& graph_;
};

}  // namespace

absl::StatusOr<Reduced> Reduce(const BoundCase& bound) {
  try {
    return Reducer(bound).Make();
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

}  // namespace assay::engine

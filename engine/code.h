// The instructions of a plan. Internal to the engine: written by PlanBuilder, read by the executor.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/observer.h"
#include "engine/symbolic.h"

namespace assay::engine {

// What an operator gets as one argument.
struct ArgumentSource {
  enum class Kind : uint8_t {
    kValue,         // frame[index]
    kFixed,         // fixed[index]: a weight or a constant
    kLiteral,       // literals[index]
    kInts,          // lists[index], some of whose items are values: int[]
    kTensors,       // lists[index]: Tensor[]
    kMaybeTensors,  // lists[index]: Tensor?[]
    kWrapped,       // frame[index], a scalar where the operator wants a Tensor: a wrapped number
    kReal,          // frame[index], a scalar where the operator wants a float
  };
  Kind kind = Kind::kLiteral;
  bool last_use = false;  // of frame[index]: moved, not copied
  uint32_t index = 0;
};

// An item of a list: a value, a weight or constant, a number, or none.
struct ListItem {
  enum class Kind : uint8_t { kValue, kFixed, kInteger, kNone };
  Kind kind = Kind::kNone;
  bool last_use = false;
  uint32_t index = 0;
  int64_t integer = 0;
};

struct Instruction {
  const c10::OperatorHandle* op = nullptr;  // null: a symbolic function
  SymbolicFunction symbolic = SymbolicFunction::kAdd;
  bool is_view = false;
  bool list_output = false;
  uint32_t first_argument = 0;  // into Code.arguments
  uint32_t argument_count = 0;
  uint32_t first_output = 0;  // value numbers follow each other
  uint32_t output_count = 0;
  uint32_t first_dead = 0;  // into Code.dead: outputs that nothing uses
  uint32_t dead_count = 0;
};

struct OutputSource {
  enum class Kind : uint8_t { kValue, kFixed, kLiteral };
  Kind kind = Kind::kValue;
  uint32_t index = 0;
};

struct Code {
  // One per node of the graph.
  std::vector<Instruction> instructions;
  std::vector<ArgumentSource> arguments;
  std::vector<std::vector<ListItem>> lists;
  std::vector<c10::IValue> literals;
  std::vector<uint32_t> dead;
  std::vector<OutputSource> outputs;
  uint32_t value_count = 0;
  // Value numbers of the user inputs, in the order of Manifest.inputs.
  std::vector<uint32_t> user_inputs;
  // Indexed by value number, up to the last graph input. Undefined where not bound, or a user input.
  std::vector<c10::IValue> fixed;
  // One per operator of the graph; instructions point into it.
  std::vector<c10::OperatorHandle> handles;

  // Names, for errors and observers.
  std::vector<std::string> operator_names;
  std::vector<std::string> modules;
  struct NodeName {
    std::string name;
    uint32_t op = 0;
    uint32_t module = 0;
  };
  std::vector<NodeName> nodes;

  NodePlace Place(uint32_t node) const {
    const NodeName& name = nodes[node];
    return {node, name.name, operator_names[name.op], modules[name.module]};
  }
};

// Runs the instructions over `frame`, which has value_count entries and holds the user inputs. On return it
// holds the values that Code.outputs name. Errors are those of Plan::Run.
absl::Status Execute(const Code& code, std::vector<c10::IValue>& frame, Observer* observer);

}  // namespace assay::engine

// Faults that people make in models and loaders, planted in a program and its weights.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"

namespace assay::mutation {

// One place where one fault can be planted. A function of the program alone.
struct Fault {
  std::string kind;   // "op.drop_bias", "weight.transpose", …
  int node = -1;      // index into Graph.nodes; -1: the fault is in a weight or a constant
  int weight = -1;    // index into Manifest.weights
  int constant = -1;  // index into Program.constants
  int variant = 0;    // where a kind can be planted in several ways at one place
  std::string place;  // node, weight or constant by name
  std::string what;   // what is changed, for a person: "eps 1e-05 becomes 0.0001"
};

// Every fault of every kind that has a place in the program, in an order that depends on the program alone.
std::vector<Fault> AllFaults(const v1::Program& program);

// Kinds that were kept out while the structural checks were tuned.
bool HeldOut(const std::string& kind);

// The program with the fault: its golden is the right program's. Weights are changed by giving their values
// in place of their rule. INVALID_ARGUMENT where the fault would change nothing.
absl::StatusOr<v1::Program> Plant(const v1::Program& program, const Fault& fault);

// Where a diagnosis may place the fault: the changed operator, and the first operators with a trace through
// which its change can be seen.
std::vector<std::string> Places(const v1::Program& program, const Fault& fault);

}  // namespace assay::mutation

// Whether weights or computation are at fault, where a run left what it should be.
#pragma once

#include <cstdint>
#include <vector>

#include "assay/v1/result.pb.h"
#include "engine/checks.h"

namespace assay::engine {

// What is suspected: the operator at which the run differs, last, and before it those between it and the
// values that are known to agree.
struct Suspicion {
  std::vector<uint32_t> nodes;  // indexes into Graph.nodes, ascending
  uint32_t output = 0;          // of the last node: that differs
  // What the reference has of that output; null: nothing.
  const v1::NodeTrace* expected = nullptr;
  double bound = 0;  // that rounding may do to it
};

// Fills fault and fault_reason. Computes the suspected nodes once more on the CPU in float64, from the very
// values that they read in the failing run: where that gives what the reference has, the computation was
// wrong; where it gives what the run gave, its operands are, and among these weights are held against their
// mock rules or, of a checkpoint, the same graph is run with mock weights against the program's own golden.
// FAULT_UNKNOWN with the reason where that does not tell. No exceptions.
void Judge(const BoundCase& bound, const Suspicion& suspicion, v1::Divergence& divergence);

}  // namespace assay::engine

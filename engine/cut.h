// A part of a program as a program of its own, its far inputs replaced by the values that a run gave them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/run_values.h"

namespace assay::engine {

struct CutWish {
  std::vector<uint32_t> nodes;    // that are kept: indexes into Graph.nodes, ascending
  std::vector<uint32_t> outputs;  // values that kept nodes make: the outputs of the part
  // Weights by their mock rules; else every weight that is read becomes an input with the values of the run.
  bool weights_by_rule = false;
  // Float64 throughout: every float becomes one, in inputs, constants and dtype literals.
  bool in_float64 = false;
};

struct Cut {
  v1::Program program;             // without a golden
  std::vector<at::Tensor> inputs;  // one per Manifest.inputs, on the CPU, float32 where the run was narrower
};

// The values that kept nodes read and none of them makes, the outputs beside: what CutProgram must know.
std::set<uint32_t> BoundaryOf(const v1::Graph& graph, const CutWish& wish);

// INVALID_ARGUMENT: a value is not known, or the part makes no sense.
absl::StatusOr<Cut> CutProgram(const v1::Program& program, const CutWish& wish, const RunValues& known);

}  // namespace assay::engine

// Values of one run, kept; and their figures.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/observer.h"
#include "engine/plan.h"

namespace assay::engine {

// By value number: tensors, and the numbers that symbolic functions gave.
using RunValues = std::map<uint32_t, c10::IValue>;

// Runs the bound plan once and keeps the values named; weights, constants and inputs among them, too. Those
// after `last_node` are not computed. Errors are Plan::Run's.
absl::StatusOr<RunValues> KeepValues(const v1::Graph& graph, const Plan& plan,
                                     absl::Span<const at::Tensor> inputs, const std::set<uint32_t>& wanted,
                                     uint32_t last_node);

// Where a value comes from: its name and what kind of thing made it.
struct ValueOrigin {
  std::string name;
  std::string source;   // as ValueStatistics.source
  int node = -1;        // index into Graph.nodes; -1: an input of the graph
  uint32_t output = 0;  // of it
};
std::vector<ValueOrigin> OriginsOf(const v1::Graph& graph);

// Figures of a tensor, in float64. `trace` may be null.
v1::ValueStatistics StatisticsOf(const ValueOrigin& origin, const at::Tensor& value,
                                 const v1::NodeTrace* trace);

}  // namespace assay::engine

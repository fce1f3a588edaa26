// A run held against the trace of its golden, value by value.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "assay/v1/program.pb.h"
#include "engine/observer.h"

namespace assay::engine {

// One traced value.
struct TracedValue {
  uint32_t node = 0;    // index into Graph.nodes
  uint32_t output = 0;  // index into Node.outputs
  double error = 0;     // largest difference of the figures; infinite where a NaN or the number of elements
  double scale = 0;     // largest magnitude among the value and what it was computed from
  double bound = 0;     // that rounding may do, in the units of `error`
  bool exact = true;    // every figure is the trace's, but for the last bit of a sum
  bool beyond = false;  // differs by more than rounding may do
  std::string detail;   // where beyond
};

// Watches one whole run of the graph that the golden is of. A value may differ by `share` of `scale`: where
// large numbers cancel, what is left carries their rounding (docs/tolerances.md).
class TraceComparison final : public Observer {
 public:
  TraceComparison(const v1::Graph& graph, const v1::Golden& golden, double share);
  bool ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool is_view) override;
  // In the order of the run; views are not traced.
  const std::vector<TracedValue>& values() const { return values_; }
  // Null where the golden has none.
  const v1::NodeTrace* TraceOf(uint32_t node, uint32_t output) const;

 private:
  void Compare(const v1::NodeTrace& trace, const at::Tensor& value, TracedValue& made) const;

  const v1::Graph& graph_;
  const double share_;
  absl::flat_hash_map<std::pair<uint32_t, uint32_t>, const v1::NodeTrace*> traces_;
  std::vector<double> magnitude_;  // by value number, as the golden had it
  std::vector<TracedValue> values_;
};

}  // namespace assay::engine

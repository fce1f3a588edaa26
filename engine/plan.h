// A program made ready to run: operators resolved, arguments coerced, values laid out, lifetimes known.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"
#include "engine/observer.h"
#include "engine/tensors.h"
#include "engine/weights.h"

namespace assay::engine {

struct Code;  // instructions, in code.h

// Built once, bound once, run often. After Bind, Run may be called from several threads at once, if the
// placement's dtype is float32; a narrower one becomes LibTorch's default dtype, which is the process's, for
// the time of a run.
//
// Placement: device literals of the graph become the placement's device. With dtype bfloat16 or float16,
// every float32 weight, constant, input and dtype literal becomes that dtype, so that the whole graph
// computes in it; islands that the library itself keeps in float32 (norms, softmax) lose that protection,
// because the graph no longer tells a deliberate float32 from the model's own. float32 runs exactly what was
// exported.
class Plan {
 public:
  // INVALID_ARGUMENT: the graph or an argument is wrong. UNIMPLEMENTED: an operator that this LibTorch lacks
  // or that programs may not use. Both name node and operator.
  static absl::StatusOr<std::unique_ptr<Plan>> Build(const v1::Program& program, const Placement& placement);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Weights in the order of Manifest.weights, with the manifest's shapes and dtypes, on the CPU or already
  // on the placement's device; they are placed here. Shares their memory where nothing changes. Each gets the
  // manifest's requires_grad flag, on a tensor of the plan's own, because the flag decides which kernel
  // matmul takes. INVALID_ARGUMENT names the weight.
  absl::Status Bind(const Weights& weights);

  // One tensor per Manifest.inputs, placed here if they are not; sizes may differ from the manifest's in
  // batch_dim and dynamic_dim only. Gives one tensor per Manifest.outputs, on the placement's device. Errors
  // name node, operator and module: RESOURCE_EXHAUSTED out of memory, UNIMPLEMENTED no kernel for this device
  // or dtype, CANCELLED by the observer, FAILED_PRECONDITION not bound, INVALID_ARGUMENT wrong inputs,
  // INTERNAL an operator refused its arguments.
  absl::StatusOr<std::vector<at::Tensor>> Run(absl::Span<const at::Tensor> inputs,
                                              Observer* observer = nullptr) const;

  // What the operators read as the `index`-th of Manifest.weights; undefined where none does, or before Bind.
  at::Tensor BoundWeight(int index) const;

  const Placement& placement() const { return placement_; }
  size_t node_count() const;
  // The weight or constant that is this value of the graph, as it is bound; undefined for any other.
  at::Tensor Fixed(uint32_t value) const;
  NodePlace node(uint32_t index) const;

 private:
  Plan();
  friend class PlanBuilder;

  absl::Status CheckInputs(absl::Span<const at::Tensor> inputs) const;

  Placement placement_;
  v1::Manifest manifest_;  // without mock rules
  std::unique_ptr<Code> code_;
  // Index into Manifest.weights, and the value that it is in the graph. Weights that no node uses are not
  // here.
  std::vector<std::pair<int, uint32_t>> weight_values_;
  bool bound_ = false;
};

}  // namespace assay::engine

// What running a program once takes: parameters, floating point operations, and the time of its operators.
#pragma once

#include <c10/util/DimVector.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/observer.h"
#include "engine/plan.h"
#include "engine/weights.h"

namespace assay::engine {

// Watches one run. Counts, from shapes, two operations a multiply-add of matrix products, convolutions and
// attention (docs/diagnosis.md has the operators); everything else counts nothing. With `profile` it adds up
// the time of every operator, too.
class RunCost final : public Observer {
 public:
  // `graph` outlives it. `weights` and `inputs` are those of the run.
  RunCost(const v1::Program& program, const Weights& weights, const std::vector<at::Tensor>& inputs,
          bool profile);

  void NodeRan(const NodePlace& node, int64_t nanoseconds) override;
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) override;

  // `placement`: for the bytes of the weights.
  v1::ProgramCost Result(const Placement& placement) const;

 private:
  struct Total {
    uint64_t calls = 0;
    int64_t nanoseconds = 0;
    uint64_t flops = 0;
  };
  uint64_t FlopsOf(const v1::Node& node, absl::string_view op, const at::Tensor& result) const;
  // Sizes of the value that an argument of that name reads; null where it reads none.
  const c10::DimVector* Sizes(const v1::Node& node, absl::string_view argument) const;

  const v1::Program& program_;
  const bool profile_;
  std::vector<c10::DimVector> sizes_;  // by value number
  std::map<std::string, Total, std::less<>> totals_;
  uint64_t flops_ = 0;
  uint32_t operators_ = 0;
};

}  // namespace assay::engine

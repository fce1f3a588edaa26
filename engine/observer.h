// Who watches a run, and ready-made watchers.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace assay::engine {

// A node of the graph, by name. Views into the plan, valid as long as it.
struct NodePlace {
  uint32_t index = 0;  // into Graph.nodes
  absl::string_view name;
  absl::string_view op;      // "aten::linear", "aten::add.Tensor"
  absl::string_view module;  // "model.layers.0.mlp"; "" for the top
};

// Called on the thread of Run, in its order. An observer serves one run at a time.
class Observer {
 public:
  virtual ~Observer() = default;
  // A node has run, in so many nanoseconds of wall clock (the call alone, observers excluded; on CUDA, the
  // launch alone).
  virtual void NodeRan(const NodePlace& node, int64_t nanoseconds) {
    (void)node;
    (void)nanoseconds;
  }
  // One tensor that it computed: `output` indexes Node.outputs. is_view: it only looks at another value's
  // memory. Return false to end the run early; Run is then CANCELLED.
  virtual bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) {
    (void)node;
    (void)output;
    (void)value;
    (void)is_view;
    return true;
  }
  // One number that a symbolic function, or an operator that gives a size, computed; likewise.
  virtual bool ScalarMade(const NodePlace& node, uint32_t output, const c10::IValue& value) {
    (void)node;
    (void)output;
    (void)value;
    return true;
  }
};

// Nanoseconds and calls per operator.
class OperatorTimes : public Observer {
 public:
  struct Total {
    uint64_t calls = 0;
    int64_t nanoseconds = 0;
  };
  void NodeRan(const NodePlace& node, int64_t nanoseconds) override;
  // Largest total first.
  std::vector<std::pair<std::string, Total>> Sorted() const;

 private:
  std::map<std::string, Total, std::less<>> totals_;
};

// The first node whose output holds a NaN or an infinity. Masks of -inf are legitimate, so infinities are
// looked for only if asked.
class FirstNonFinite : public Observer {
 public:
  explicit FirstNonFinite(bool infinities = false) : infinities_(infinities) {}
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) override;
  struct Hit {
    uint32_t node = 0;
    uint32_t output = 0;
    std::string name, op, module;
  };
  const std::optional<Hit>& hit() const { return hit_; }

 private:
  bool infinities_;
  std::optional<Hit> hit_;
};

// True if a floating point tensor holds a NaN (or, if asked, an infinity). False for other dtypes.
bool HasNonFinite(const at::Tensor& tensor, bool infinities);

}  // namespace assay::engine

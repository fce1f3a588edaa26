// Which value of one recording is which of another: the same program, or another version's of the same model.
// No LibTorch here. Pure and thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/gate.pb.h"

namespace assay::engine {

// "aten::linear", "aten::add.Tensor" of a node.
std::string OperatorName(const v1::Graph& graph, uint32_t node);

// By index into Recording.value of `to`: the index into that of `from`, or -1. Ascending where it is not -1:
// the longest common sequence, in which pairs weigh by what speaks for them: the same bits, operator, module
// and shape. RESOURCE_EXHAUSTED where the graphs are too large for it.
absl::StatusOr<std::vector<int>> AlignValues(const v1::Recording& from, const v1::Recording& to);

}  // namespace assay::engine

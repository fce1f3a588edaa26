// Fresh inputs of a program: other numbers, other tokens, other batches, and masks that hide something.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"

namespace assay::mutation {

struct FreshInputs {
  std::vector<at::Tensor> inputs;  // one per Manifest.inputs
  // [batch, sequence] of bool, true where an output row means something; undefined: everywhere.
  at::Tensor seen;
};

// The `index`-th of a sequence that depends on the program alone. Tokens of the range that the manifest gives
// are drawn anew and others stay; noise has another seed; every fourth has one row and every fourth three;
// attention masks are full, hide an end or hide a beginning, in turn.
absl::StatusOr<FreshInputs> MakeFreshInputs(const v1::Program& program, const std::vector<at::Tensor>& golden,
                                            int index);

}  // namespace assay::mutation

// Weights of a program, one tensor per Manifest.weights, in its order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "checkpoint/checkpoint.h"
#include "engine/tensors.h"

namespace assay::engine {

using checkpoint::Checkpoint;

using Weights = std::vector<at::Tensor>;

// Mock weights, float32 on the CPU, by the rules of the manifest; `seed` is usually Manifest.mock_seed, which
// the golden needs.
absl::StatusOr<Weights> MockWeights(const v1::Manifest& manifest, uint64_t seed);

// The checkpoint's weights where they lie in its mapping (copied only where an element would be misaligned).
// INVALID_ARGUMENT, with the names, where the checkpoint does not fit. Tensors keep the mapping alive.
absl::StatusOr<Weights> CheckpointWeights(const v1::Manifest& manifest, const Checkpoint& checkpoint);

}  // namespace assay::engine

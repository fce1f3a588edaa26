// Weights of a program, one tensor per Manifest.weights, in its order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "checkpoint/fit.h"
#include "engine/tensors.h"

namespace assay::engine {

using Weights = std::vector<at::Tensor>;

// Mock weights, float32 on the CPU, by the rules of the manifest; `seed` is usually Manifest.mock_seed, which
// the golden needs.
absl::StatusOr<Weights> MockWeights(const v1::Manifest& manifest, uint64_t seed);

// The weights that a fitting checkpoint has, in the manifest's dtypes, on `device`. On the CPU they lie where
// they are in its mapping, which they keep alive; copies are made only of what must be widened, dequantised,
// turned or aligned. On another device they come through page-locked buffers (engine/staging.h).
// INVALID_ARGUMENT, with the names, where the checkpoint does not fit, or a bool is none; RESOURCE_EXHAUSTED:
// no memory.
absl::StatusOr<Weights> CheckpointWeights(const checkpoint::Fit& fit,
                                          at::Device device = at::Device(at::DeviceType::CPU));

}  // namespace assay::engine

// Between the tensors of a program file and LibTorch's. Everything made here is 64-byte aligned: MKL's tiny
// products depend on alignment in the last bits.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// Where a plan runs. dtype replaces float32 in weights, constants, inputs and dtype literals of the graph;
// see Plan. Other dtypes stay.
struct Placement {
  at::Device device = at::Device(at::DeviceType::CPU);
  at::ScalarType dtype = at::ScalarType::Float;  // Float, BFloat16 or Half
};

// UNIMPLEMENTED for a number that is no ScalarType.
absl::StatusOr<at::ScalarType> TorchDtype(v1::ScalarType dtype);

// A fresh CPU tensor with the message's values. INVALID_ARGUMENT where data and shape disagree.
absl::StatusOr<at::Tensor> MakeTensor(const v1::Tensor& tensor);

// A fresh CPU tensor filled by a mock rule (engine/mock.h).
absl::StatusOr<at::Tensor> MakeMockTensor(absl::string_view name, uint64_t seed, const v1::MockRule& rule,
                                          v1::ScalarType dtype,
                                          const google::protobuf::RepeatedField<int64_t>& shape);

// The golden's inputs, one per Manifest.inputs, float32 on the CPU: by value, or made by rule.
absl::StatusOr<std::vector<at::Tensor>> GoldenInputs(const v1::Manifest& manifest, const v1::Golden& golden);
// Those of the program's own golden.
absl::StatusOr<std::vector<at::Tensor>> GoldenInputs(const v1::Program& program);

// The golden's outputs, one per Manifest.outputs, on the CPU.
absl::StatusOr<std::vector<at::Tensor>> GoldenOutputs(const v1::Golden& golden);
absl::StatusOr<std::vector<at::Tensor>> GoldenOutputs(const v1::Program& program);

// The tensor on the placement's device, in its dtype if it is float32. The same tensor where nothing changes.
at::Tensor Place(const at::Tensor& tensor, const Placement& placement);

}  // namespace assay::engine

// One run of a program, written down so that another run can be held against it: docs/gate.md.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/gate.pb.h"
#include "engine/tensors.h"
#include "engine/weights.h"

namespace assay::engine {

// Numbers that are kept of each value by default: of a run that is compared at once, and of one in a file.
inline constexpr uint32_t kLiveSamples = 4096;
inline constexpr uint32_t kFileSamples = 64;

// What goes into a run besides its inputs.
struct GivenWeights {
  Weights values;  // one per Manifest.weights
  v1::WeightsKind kind = v1::MOCK;
  std::string identity;            // Recording.weights_identity
  std::vector<std::string> notes;  // Recording.note
};

// The program's own mock weights, as its golden has them.
absl::StatusOr<GivenWeights> OwnMockWeights(const v1::Manifest& manifest);

// Inputs by name, in the order of `to`. FAILED_PRECONDITION where `to` takes others, of other dtypes or
// shapes.
absl::StatusOr<std::vector<at::Tensor>> InputsFor(const v1::Manifest& to, const v1::Manifest& from,
                                                  const std::vector<at::Tensor>& inputs);

// Binds, runs once on the placement and writes down every value. Errors are Plan's, and INVALID_ARGUMENT
// where `samples` is none. `digest` is that of the program's file.
absl::StatusOr<v1::Recording> Record(const v1::Program& program, const std::string& digest,
                                     const GivenWeights& weights, const std::vector<at::Tensor>& inputs,
                                     const Placement& placement, uint32_t samples);

// The file form. What ParseRecording gives can be compared: INVALID_ARGUMENT where the bytes are no
// recording, or its parts do not fit each other; UNIMPLEMENTED for another format.
absl::StatusOr<std::string> SerializeRecording(const v1::Recording& recording);
absl::StatusOr<v1::Recording> ParseRecording(absl::string_view file_bytes);

}  // namespace assay::engine

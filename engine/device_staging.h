// Staging onto a device that LibTorch drives, on a stream beside the one that computes.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/staging.h"

namespace assay::engine {

// Fills tensors[i], dense and all on one device, from sources[i]; on return they may be used on any stream.
// Throws c10::Error where LibTorch does. Not run by any test: it needs a GPU. What can be tested without one,
// the order of reading and copying, is Stage, and that is.
absl::Status StageOnto(const std::vector<at::Tensor>& tensors, absl::Span<const StagedSource> sources);

}  // namespace assay::engine

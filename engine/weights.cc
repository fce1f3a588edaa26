#include "engine/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/validate.h"

namespace assay::engine {

absl::StatusOr<Weights> MockWeights(const v1::Manifest& manifest, uint64_t seed) {
  Weights weights;
  weights.reserve(manifest.weights_size());
  for (const v1::WeightSpec& spec : manifest.weights()) {
    ASSAY_ASSIGN_OR_RETURN(at::Tensor weight,
                           MakeMockTensor(spec.name(), seed, spec.mock(), spec.dtype(), spec.shape()));
    weights.push_back(std::move(weight));
  }
  return weights;
}

absl::StatusOr<Weights> CheckpointWeights(const v1::Manifest& manifest, const Checkpoint& checkpoint) {
  const checkpoint::Fit fit = checkpoint.Match(manifest);
  if (!fit.fits()) return absl::InvalidArgumentError(fit.Describe());
  Weights weights;
  weights.reserve(manifest.weights_size());
  for (const v1::WeightSpec& spec : manifest.weights()) {
    const checkpoint::CheckpointTensor& stored = *checkpoint.Find(manifest, spec.name());
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(stored.dtype));
    const at::TensorOptions options = at::TensorOptions().dtype(dtype);
    if (spec.dtype() == v1::BOOL &&
        !std::all_of(stored.data.begin(), stored.data.end(), [](uint8_t byte) { return byte <= 1; })) {
      return absl::InvalidArgumentError(absl::StrCat(spec.name(), ": a bool that is neither 0 nor 1"));
    }
    const bool aligned = reinterpret_cast<uintptr_t>(stored.data.data()) % ItemSize(stored.dtype) == 0;
    try {
      if (stored.data.empty() || !aligned) {
        at::Tensor copy = at::empty(stored.shape, options);
        if (!stored.data.empty())
          std::memcpy(copy.mutable_data_ptr(), stored.data.data(), stored.data.size());
        weights.push_back(std::move(copy));
      } else {
        // The mapping is read-only and so are programs: Plan::Build refuses operators that write.
        weights.push_back(at::from_blob(
            const_cast<uint8_t*>(stored.data.data()), stored.shape, [owner = stored.owner](void*) {},
            options));
      }
    } catch (const c10::Error& error) {
      return absl::ResourceExhaustedError(absl::StrCat(spec.name(), ": ", error.what_without_backtrace()));
    }
  }
  return weights;
}

}  // namespace assay::engine

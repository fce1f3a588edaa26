#include "engine/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/dtype.h"
#include "common/status_macros.h"
#include "engine/device_staging.h"
#include "engine/staging.h"

namespace assay::engine {
namespace {

absl::Status CheckBools(const checkpoint::BoundWeight& weight, absl::Span<const uint8_t> data) {
  if (weight.dtype != v1::BOOL) return absl::OkStatus();
  if (std::all_of(data.begin(), data.end(), [](uint8_t byte) { return byte <= 1; })) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(weight.name, ": a bool that is neither 0 nor 1"));
}

absl::StatusOr<at::Tensor> OnCpu(const checkpoint::Fit& fit, size_t index) {
  const checkpoint::BoundWeight& weight = fit.weights[index];
  ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(weight.dtype));
  const at::TensorOptions options = at::TensorOptions().dtype(dtype);
  const absl::Span<const uint8_t> data = fit.Data(index);
  if (!data.empty()) {
    ASSAY_RETURN_IF_ERROR(CheckBools(weight, data));
    // The mapping is read-only and so are programs: Plan::Build refuses operators that write.
    return at::from_blob(
        const_cast<uint8_t*>(data.data()), weight.shape, [owner = weight.tensor.owner](void*) {}, options);
  }
  at::Tensor copy = at::empty(weight.shape, options);
  if (copy.numel() == 0) return copy;
  ASSAY_RETURN_IF_ERROR(fit.Read(index, copy.mutable_data_ptr()));
  ASSAY_RETURN_IF_ERROR(
      CheckBools(weight, {static_cast<const uint8_t*>(copy.const_data_ptr()), copy.nbytes()}));
  return copy;
}

absl::StatusOr<Weights> OnDevice(const checkpoint::Fit& fit, at::Device device) {
  Weights weights;
  std::vector<StagedSource> sources;
  for (size_t i = 0; i < fit.weights.size(); ++i) {
    const checkpoint::BoundWeight& weight = fit.weights[i];
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(weight.dtype));
    weights.push_back(at::empty(weight.shape, at::TensorOptions(device).dtype(dtype)));
    StagedSource source;
    source.data = fit.Data(i);
    source.size = weights.back().nbytes();
    ASSAY_RETURN_IF_ERROR(CheckBools(weight, source.data));
    source.read = [&fit, &weight, i, size = source.size](void* out) {
      ASSAY_RETURN_IF_ERROR(fit.Read(i, out));
      return CheckBools(weight, {static_cast<const uint8_t*>(out), size});
    };
    sources.push_back(std::move(source));
  }
  ASSAY_RETURN_IF_ERROR(StageOnto(weights, sources));
  return weights;
}

}  // namespace

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

absl::StatusOr<Weights> CheckpointWeights(const checkpoint::Fit& fit, at::Device device) {
  if (!fit.fits()) return absl::InvalidArgumentError(fit.Describe());
  try {
    if (!device.is_cpu()) return OnDevice(fit, device);
    Weights weights;
    weights.reserve(fit.weights.size());
    for (size_t i = 0; i < fit.weights.size(); ++i) {
      ASSAY_ASSIGN_OR_RETURN(at::Tensor weight, OnCpu(fit, i));
      weights.push_back(std::move(weight));
    }
    return weights;
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory for the checkpoint's weights");
  }
}

}  // namespace assay::engine

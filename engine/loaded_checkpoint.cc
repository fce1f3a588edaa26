#include "engine/loaded_checkpoint.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/cuda_device.h"
#include "engine/memory_need.h"

namespace assay::engine {
namespace {

using SteadyClock = std::chrono::steady_clock;

absl::Status CheckRoom(const CaseMaterial& material, const checkpoint::Fit& fit, const LoadOptions& options) {
  const size_t float_bytes = options.placement.dtype == at::ScalarType::Float ? 4 : 2;
  const MemoryNeed need = EstimateNeed(material.program, material.golden(), &fit, float_bytes);
  if (options.placement.device.is_cuda()) {
    // All of it goes to the device, whatever lies ready in a mapping.
    const std::optional<v1::DeviceInfo> device = FindCudaDevice();
    if (!device.has_value()) return absl::UnavailableError("the CUDA device does not answer");
    return RefuseTooLarge(need, device->memory_bytes(), 0);
  }
  uint64_t available = options.available_memory;
  if (available == 0) {
    ASSAY_ASSIGN_OR_RETURN(available, AvailableMemory());
  }
  return RefuseTooLarge(need, available, options.memory_limit);
}

absl::Status CheckDigests(const std::string& found, const CaseMaterial& material,
                          const LoadOptions& options) {
  if (!options.pinned_digest.empty() && found != options.pinned_digest) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint's weights have the digest ", found,
                                                   "; pinned is ", options.pinned_digest));
  }
  const v1::CheckpointGolden& golden = material.checkpoint;
  if (!material.has_checkpoint_golden() || golden.golden().outputs().empty()) return absl::OkStatus();
  if (found != golden.weights_digest()) {
    return absl::InvalidArgumentError(absl::StrCat("the golden is of the weights ", golden.weights_digest(),
                                                   ", the checkpoint holds ", found));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const CaseMaterial& material, const LoadOptions& options,
                                                v1::LoadReport& report) {
  const auto start = SteadyClock::now();
  ASSAY_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint,
                         checkpoint::Checkpoint::Open(options.folder));
  const checkpoint::Fit fit = checkpoint.Match(material.program.manifest());
  report = fit.Report();
  if (!fit.fits()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint does not fit the program's configuration: ", fit.Describe()));
  }
  ASSAY_RETURN_IF_ERROR(CheckRoom(material, fit, options));
  const checkpoint::Inspection inspection = checkpoint.Inspect(fit);
  report = fit.Report(inspection.defects);
  LoadedCheckpoint loaded;
  loaded.digest = inspection.digest;
  loaded.synthetic = checkpoint.synthetic();
  ASSAY_RETURN_IF_ERROR(CheckDigests(loaded.digest, material, options));
  ASSAY_ASSIGN_OR_RETURN(loaded.weights, CheckpointWeights(fit, options.placement.device));
  report.set_seconds(std::chrono::duration<double>(SteadyClock::now() - start).count());
  return loaded;
}

}  // namespace assay::engine

// The first CUDA device as the driver describes it. Asked through the driver's own libraries, which a machine
// without a GPU does not have, so that one binary serves both.
#pragma once

#include <optional>
#include <string>

#include "assay/v1/result.pb.h"

namespace assay::engine {

// Where to look. The defaults are the real ones; tests give others.
struct CudaLibraries {
  std::string cuda = "libcuda.so.1";
  std::string nvml = "libnvidia-ml.so.1";
};

// nullopt: no driver, or no device. Initialises the driver, after which the process must not fork. `driver`
// is "550.54.14 (CUDA 12.4)": the driver's own version and the newest CUDA that it serves, which several
// drivers share; without NVML, or where it does not answer, the latter alone.
std::optional<v1::DeviceInfo> FindCudaDevice(const CudaLibraries& libraries = {});

}  // namespace assay::engine

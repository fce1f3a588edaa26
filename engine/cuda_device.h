// The first CUDA device as the driver describes it. Asked through the driver's own library, which a machine
// without a GPU does not have, so that one binary serves both.
#pragma once

#include <optional>

#include "assay/v1/result.pb.h"

namespace assay::engine {

// nullopt: no driver, or no device. Initialises the driver, after which the process must not fork.
std::optional<v1::DeviceInfo> FindCudaDevice();

}  // namespace assay::engine

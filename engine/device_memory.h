// What a process holds of its GPU's memory.
#pragma once

#include <cstdint>

namespace assay::engine {

struct DeviceMemory {
  uint64_t peak_bytes = 0;  // the most taken of the device for tensors since StartDeviceMemory()
  uint64_t kept_bytes = 0;  // still taken, after all that can be was given back
};

// Before a test, in the process that runs it. No-op before CUDA is in use.
void StartDeviceMemory();

// After a test: gives back to the device what nothing uses, and tells what is left. Zeros where CUDA is not
// in use. A device that is in error (no call succeeds after one) is told as CUDA tells it: c10::Error. So is
// a device whose work, waited for here, ends in one.
DeviceMemory GiveBackDeviceMemory();

}  // namespace assay::engine

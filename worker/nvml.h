// What NVIDIA's management library says of a node's GPUs. It is loaded at run time: a node without a driver
// has none, and asking it, unlike asking CUDA, leaves a process able to fork.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/result.pb.h"

namespace assay::worker {

// A GPU, or a slice of one (MIG), as the driver tells it.
struct NvmlGpu {
  v1::DeviceInfo info;       // kind "cuda"; id "GPU-…" or "MIG-…"
  unsigned index = 0;        // of the GPU, in the order of PCI addresses
  std::string gpu_id;        // of the whole GPU
  uint64_t memory_used = 0;  // bytes, now, by whatever uses it
};

// Every GPU in the order of PCI addresses; where MIG is on its slices instead, in their order. A GPU with MIG
// on and no slices offers nothing and is left out. `library` as dlopen(3) takes it.
//   NOT_FOUND    the library is not there.
//   UNAVAILABLE  the driver does not answer, or not as its API says; the message has the call and its error.
absl::StatusOr<std::vector<NvmlGpu>> AskNvml(const std::string& library = "libnvidia-ml.so.1");

}  // namespace assay::worker

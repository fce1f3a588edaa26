// Which GPUs this node offers, found without CUDA: the worker holds no LibTorch, and a test host that looked
// could not fork any more.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/result.pb.h"

namespace assay::worker {

// A GPU, or a slice of one, that tests may run on.
struct Gpu {
  v1::DeviceInfo info;  // kind and id are set; the rest as far as it is known without CUDA
  std::string visible;  // what CUDA_VISIBLE_DEVICES calls it
  // There is none: its tests run on the CPU, and what comes of them says "simulated" and never covers. Only
  // tests of Assay itself make such GPUs; no option of the product does.
  bool simulated = false;
};

// Where to look. The defaults are the real places; tests give others.
struct GpuPlaces {
  std::string nvml = "libnvidia-ml.so.1";
  std::filesystem::path devices = "/dev";
};

// What the driver's management library tells, or, on a node with device files and without that library, one
// GPU for each file ("0", "1", …: no memory, model or slices are known then, and the log says so).
// CUDA_VISIBLE_DEVICES in `environment` chooses among them as CUDA reads it. Empty: there is no GPU.
//   FAILED_PRECONDITION  CUDA_VISIBLE_DEVICES chooses by number among different GPUs without
//                        CUDA_DEVICE_ORDER=PCI_BUS_ID: what it means is known to CUDA alone.
//   UNAVAILABLE          there are GPUs and the driver does not answer.
absl::StatusOr<std::vector<Gpu>> FindGpus(const std::vector<std::string>& environment,
                                          const GpuPlaces& places = {});

// GPUs that are not there, for tests of Assay: a text-format assay.v1.SimulatedGpus.
absl::StatusOr<std::vector<Gpu>> ReadSimulatedGpus(const std::filesystem::path& file);

// "550.54.14 (CUDA 12.4)": a driver's own version, as NVML tells it, and the newest CUDA that it serves,
// which the test host adds. Older hosts tell the latter alone. Either may be unknown, and empty.
std::string DriverOf(const std::string& nvml, const std::string& host);

// `environment` with CUDA_VISIBLE_DEVICES set to `gpus`.
std::vector<std::string> WithVisibleGpus(const std::vector<std::string>& environment,
                                         const std::string& gpus);

}  // namespace assay::worker

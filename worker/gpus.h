// Which GPUs this node offers, found without CUDA: the worker holds no LibTorch, and a test host that looked
// could not fork any more.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace assay::worker {

// The names by which CUDA_VISIBLE_DEVICES chooses a single GPU: the entries of that variable in `environment`
// where it is set, else "0", "1", … for every NVIDIA device file in `devices`. Empty without a driver.
std::vector<std::string> FindGpus(const std::vector<std::string>& environment,
                                  const std::filesystem::path& devices = "/dev");

// `environment` with CUDA_VISIBLE_DEVICES set to `gpus`.
std::vector<std::string> WithVisibleGpus(const std::vector<std::string>& environment,
                                         const std::string& gpus);

}  // namespace assay::worker

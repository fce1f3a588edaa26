// The machine that the worker runs on, as it tells its coordinator.
#pragma once

#include <filesystem>

#include "assay/v1/coordinator.pb.h"

namespace assay::worker {

// From the kernel's and the distribution's own files below `root` ("/proc/cpuinfo", "/proc/meminfo",
// "/etc/os-release"); what one does not say stays empty. cpus: those that this process may run on.
// torch_build is left to who knows the test hosts.
v1::NodeInfo DescribeNode(const std::filesystem::path& root = "/");

}  // namespace assay::worker

// How much memory a process holds for itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace assay::host {

struct MemoryUse {
  // Resident anonymous and shared-memory bytes. Mapped files (LibTorch's code, a checkpoint's weights) do not
  // count: the kernel can drop them, and processes share them.
  uint64_t own_bytes = 0;
  // The most that own_bytes can be shown to have been: exact where the files' share never shrank.
  uint64_t own_peak_bytes = 0;
  // The most that was ever resident, files included.
  uint64_t resident_peak_bytes = 0;
};

// From /proc/<pid>/status. pid 0 is this process. nullopt where the process is gone or the kernel does not
// say.
std::optional<MemoryUse> ReadMemoryUse(pid_t pid);

}  // namespace assay::host

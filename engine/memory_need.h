// How much memory a program will take, and how much there is. No LibTorch here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "checkpoint/fit.h"

namespace assay::engine {

// In bytes.
struct MemoryNeed {
  uint64_t weights = 0;      // every weight in the dtype of the run, mapped pages included
  uint64_t copied = 0;       // of `weights`: in memory of the process's own, not where they lie in a file
  uint64_t activations = 0;  // the most that is live at once during a run and its comparison
  uint64_t total() const { return weights + activations; }
  uint64_t own() const { return copied + activations; }  // what the kernel cannot drop
};

// `float_bytes` is the size of an element that was float32: 4, or 2 in half precision. `fit` says which
// weights lie ready in a mapping; null: none do. Activations follow the golden's trace through the graph's
// lifetimes, every element at 4 bytes (a few masks and positions are smaller or larger); where the golden has
// no trace, only inputs and outputs are known, and the figure is a lower bound. `program` has passed
// ValidateProgram, `golden` ValidateGolden.
MemoryNeed EstimateNeed(const v1::Program& program, const v1::Golden& golden, const checkpoint::Fit* fit,
                        size_t float_bytes);

// What this process may still take: the kernel's MemAvailable, or what its memory cgroup (or one above it, v2
// or v1) leaves, pages that can be dropped counted as free. `root` is where proc and sys are. UNAVAILABLE:
// the kernel does not say.
absl::StatusOr<uint64_t> AvailableMemory(const std::filesystem::path& root = "/");

// What processes here may ever take together: the machine's memory, or the limit of this process's memory
// cgroup or of one above it. Does not change while they run. Otherwise as above.
absl::StatusOr<uint64_t> MemoryLimit(const std::filesystem::path& root = "/");

// RESOURCE_EXHAUSTED, with the figures, where the need is more than is available, or what the process must
// hold itself is more than `limit` (0: there is none).
absl::Status RefuseTooLarge(const MemoryNeed& need, uint64_t available, uint64_t limit);

}  // namespace assay::engine

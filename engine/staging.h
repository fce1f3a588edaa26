// Weights on their way from files to a device with memory of its own: through two page-locked buffers, so
// that one is read into while the other is copied. No LibTorch here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace assay::engine {

// Where bytes go. Calls come from one thread.
class StagingDevice {
 public:
  virtual ~StagingDevice() = default;
  // The buffer of `slot`, 0 or 1: memory that the device reads while the processor goes on. The same in every
  // call.
  virtual absl::Span<uint8_t> Buffer(int slot) = 0;
  // Begins to copy the first `size` bytes of the slot's buffer to byte `at` of tensor `tensor`. Copies run
  // one after another, beside what the caller does. The buffer must not change before Wait(slot) has
  // returned.
  virtual absl::Status Begin(int slot, size_t tensor, size_t at, size_t size) = 0;
  // Returns when the slot's last copy has ended; at once where there is none.
  virtual absl::Status Wait(int slot) = 0;
};

// One tensor to be brought.
struct StagedSource {
  // Its bytes where they lie; empty: `read` makes them, `size` in all, in memory that it is given.
  absl::Span<const uint8_t> data;
  size_t size = 0;
  std::function<absl::Status(void*)> read;
};

// Brings tensor i from sources[i], for every i, and waits for the last copy. The first error ends it, after
// what was begun has ended.
absl::Status Stage(absl::Span<const StagedSource> sources, StagingDevice& device);

}  // namespace assay::engine

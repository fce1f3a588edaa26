// Runs a program to its end within bounds of time and memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace assay::worker {

struct Bounds {
  absl::Duration timeout = absl::InfiniteDuration();
  uint64_t memory_bytes = 0;  // resident and its own (no mapped files), of all its processes together; 0: any
};

struct BoundedEnd {
  enum class Why { kItself, kTimedOut, kOutOfMemory, kCancelled };
  Why why = Why::kItself;
  int wait_status = 0;             // kItself; as in wait(2)
  uint64_t peak_memory_bytes = 0;  // as seen, some ten times a second
};

// Blocks until the program has ended; whatever it started in its process group is killed then. `output` gets
// its standard output and error, as they come; `cancelled` is asked some ten times a second. NOT_FOUND where
// the binary is missing. Safe from any thread.
absl::StatusOr<BoundedEnd> RunBounded(const std::filesystem::path& binary,
                                      const std::vector<std::string>& arguments,
                                      const std::vector<std::string>& environment, const Bounds& bounds,
                                      const std::function<void(absl::string_view)>& output,
                                      const std::function<bool()>& cancelled);

}  // namespace assay::worker

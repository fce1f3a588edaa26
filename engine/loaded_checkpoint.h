// A checkpoint's way to weights that a plan can bind: opened, matched, measured, read through and judged.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/result.pb.h"
#include "checkpoint/checkpoint.h"
#include "engine/case_material.h"
#include "engine/weights.h"

namespace assay::engine {

struct LoadedCheckpoint {
  Weights weights;
  std::string digest;  // of the weights
  bool synthetic = false;
};

struct LoadOptions {
  std::string folder;
  // What the weights must be; empty: whatever they are.
  std::string pinned_digest;
  Placement placement;
  uint64_t memory_limit = 0;      // of what the process may hold itself, in bytes; 0: none
  uint64_t available_memory = 0;  // of the node, in bytes; 0: the kernel is asked
};

// Fills `report` as far as it comes, whatever it returns. Errors that may mean an absence, where the test
// demands no checkpoint: NOT_FOUND no folder, or no weights in it; FAILED_PRECONDITION weights in a form that
// is not loaded, or that do not fit the program (named). Faults in any case: INVALID_ARGUMENT, UNIMPLEMENTED
// a file or its weights are not what they should be (named), or not those of the pin or the golden (both
// digests named); RESOURCE_EXHAUSTED the memory does not suffice (with figures).
absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const CaseMaterial& material, const LoadOptions& options,
                                                v1::LoadReport& report);

}  // namespace assay::engine

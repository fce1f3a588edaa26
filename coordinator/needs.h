// What a job asks of the worker and device that take it, and the text ("route") under which a queue keeps
// jobs that ask the same. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/batch.pb.h"

namespace assay::coordinator {

// Beyond the kind of device. A default one is placed wherever a slot is free, but has a GPU alone.
struct Requirement {
  uint64_t gpu_memory = 0;  // bytes of one GPU, where it runs on one; 0: unknown, and so a whole GPU
  uint64_t memory = 0;      // bytes of the node, where it runs on the CPU; 0: unknown, and counted as nothing
  bool predicted = false;   // the figures come from recorded runs; else they were stated
  std::vector<std::string> selector;  // sorted, no two the same
  bool operator==(const Requirement&) const = default;
};

// "gpu:40960 host:2048 predicted +gpu=H100 +zone=a"; memory in MiB, rounded up. Two requirements have the
// same route exactly when they are the same. Empty: nothing is asked for.
std::string RouteOf(const Requirement& requirement);
// What RouteOf wrote. INVALID_ARGUMENT for anything else.
absl::StatusOr<Requirement> ParseRoute(absl::string_view route);

// Of the stage that the job is in: an export asks for an exporter, and nothing else.
Requirement RequirementOf(const v1::Job& job);

// INVALID_ARGUMENT, naming it, for what is not "key" or "key=value": letters, digits and "._/-" in either,
// from 1 to 63 of them in the key and at most 63 in the value.
absl::Status CheckSelector(absl::string_view selector);

// What a job is predicted to need where the test before took `peak` bytes: a quarter more, rounded up to a
// step of an eighth of the power of two below it (at least 64 MiB), so that a queue has few routes.
uint64_t PredictedBytes(uint64_t peak);

// True where a device with `has` bytes may take a job that needs `needs`. A predicted need is met, with the
// device to itself, from 7/10 on: head-room and rounding keep no job from a device on which it has run.
bool Suffices(uint64_t has, uint64_t needs, bool predicted);

// "40 GiB", "1.5 GiB", "512 MiB".
std::string MemoryText(uint64_t bytes);

}  // namespace assay::coordinator

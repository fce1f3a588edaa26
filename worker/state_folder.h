// What everything that works in a worker's state folder does first.
#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "worker/agent.h"
#include "worker/subprocess.h"

namespace assay::worker {

// One process at a time. FAILED_PRECONDITION: another one has it. Unlocked when the descriptor is closed.
absl::StatusOr<Fd> LockFolder(const std::filesystem::path& folder);

// The test host runs with a working folder of its own choice.
void MakePathsAbsolute(AgentOptions& options);

}  // namespace assay::worker

// Node acceptance without a coordinator: goldens from a content folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/coordinator.pb.h"
#include "worker/agent.h"

namespace assay::worker {

struct LocalAcceptOptions {
  AgentOptions agent;               // of which coordinator and name are not used; state_dir keeps the report
  std::filesystem::path content;    // holds templates/ and models/
  std::vector<std::string> models;  // of the catalogue; empty: the first by name of each architecture type
  uint32_t repetitions = 3;
};

// Runs the sweep as a coordinator's request would be run. The report is kept in state_dir, and told by the
// worker that uses it next while its devices and drivers are the same.
//   NOT_FOUND            a model has no catalogue entry or no program in `content`.
//   INVALID_ARGUMENT     `content` cannot be read.
//   FAILED_PRECONDITION  as Agent::Start.
absl::StatusOr<v1::AcceptanceReport> AcceptLocally(const LocalAcceptOptions& options);

}  // namespace assay::worker

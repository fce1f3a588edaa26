// Running assay-host without a worker.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace assay::cli {

// Runs a test host (empty: the one beside this executable) with this process's output and waits for it; its
// exit code. UNAVAILABLE: it ended by a signal. Else what the system says.
absl::StatusOr<int> RunHost(const std::string& binary, const std::vector<std::string>& arguments);

}  // namespace assay::cli

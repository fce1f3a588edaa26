// Commands about workers and about why jobs wait for them.
#pragma once

#include <cstdint>
#include <string>

#include "cli/connection.h"
#include "common/exit_code.h"

namespace assay::cli {

ExitCode WorkersCommand(const ConnectionOptions& connection, bool json);
// Why the job waits, or what it does instead.
ExitCode WhyCommand(const ConnectionOptions& connection, const std::string& job_id, bool json);
ExitCode CordonCommand(const ConnectionOptions& connection, const std::string& worker,
                       const std::string& reason);
ExitCode UncordonCommand(const ConnectionOptions& connection, const std::string& worker);
ExitCode DrainCommand(const ConnectionOptions& connection, const std::string& worker);
// Waits for the sweep's end. kExitTestsFailed where the node is rejected, with what it found.
ExitCode AcceptCommand(const ConnectionOptions& connection, const std::string& worker, uint32_t repetitions);

}  // namespace assay::cli

// Commands that ask a coordinator. Each writes its answer and gives the process's exit code.
#pragma once

#include <cstdint>
#include <string>

#include "assay/v1/coordinator.pb.h"
#include "cli/connection.h"
#include "cli/follow.h"
#include "common/exit_code.h"

namespace assay::cli {

struct SubmitOptions {
  bool watch = false;
  bool json = false;
  std::string output_dir;  // where the reports go once the batches have ended; empty: nowhere
};
ExitCode SubmitCommand(const ConnectionOptions& connection, const Submission& submission,
                       const SubmitOptions& options);
// As JSON: an event a line, as it comes.
ExitCode WatchCommand(const ConnectionOptions& connection, const std::string& batch_id, bool json);
ExitCode BatchesCommand(const ConnectionOptions& connection, size_t limit, bool json);
ExitCode ShowCommand(const ConnectionOptions& connection, const std::string& batch_id, bool json);
ExitCode CancelCommand(const ConnectionOptions& connection, const std::string& batch_id);
// `output` is a file; empty: standard output.
ExitCode ReportCommand(const ConnectionOptions& connection, const std::string& batch_id,
                       v1::ReportFormat format, const std::string& output);
// Names the models without a catalogue entry on standard error: a batch file has no place for that.
ExitCode NextBatchCommand(const ConnectionOptions& connection, uint32_t size, const std::string& output);
ExitCode LogsCommand(const ConnectionOptions& connection, const std::string& job_id, v1::Stage stage);

}  // namespace assay::cli

// `assay reduce`, and `assay run --program`, which runs what it writes: both through a test host on this
// machine.
#pragma once

#include <string>
#include <vector>

#include "cli/connection.h"
#include "common/exit_code.h"

namespace assay::cli {

struct ReduceOptions {
  ConnectionOptions connection;
  std::string folder_or_job;
  std::string host_binary;  // empty: the one beside this executable
  std::string
      checkpoint;  // folder with the weights, of a job that loaded some; empty: the job's own, if a folder
  std::string output;  // the program file; empty: <model>_reduced.assay here
};

// Runs the job's failing case here once more and writes the smallest part of its program that still fails.
// kExitOk: written. kExitNoTests: the case passes here, or cannot be reduced; the reason is on standard
// error.
ExitCode ReduceCommand(const ReduceOptions& options);

// Runs programs against their own goldens: kExitTestsFailed where one does not agree.
ExitCode RunProgramsCommand(const std::vector<std::string>& programs, const std::string& host_binary,
                            const std::string& dtype);

}  // namespace assay::cli

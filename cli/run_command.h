// `assay run`: a coordinator, a worker and a client in one process, for as long as the batches take.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"
#include "common/exit_code.h"

namespace assay::cli {

struct RunOptions {
  std::vector<std::string> batch_files;
  std::string content_dir;      // empty: looked for
  std::string output_dir;       // reports go here
  std::string host_binary;      // empty: assay-host beside the executable
  std::string checkpoint_root;  // empty: no real weights
  std::string submitter;
  uint32_t slots = 1;
  v1::Target target;
  bool cpu_only = false;
};

// Runs the batches to their end with everything in memory, and writes report.md, report.html, report.json,
// junit.xml, ROADMAP.md and batches/<its file's name>.md for each batch. An interrupt stops all:
// kExitInterrupted.
ExitCode RunCommand(const RunOptions& options);

}  // namespace assay::cli

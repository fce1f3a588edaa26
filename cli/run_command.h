// `assay run`: a coordinator, a worker and a client in one process, for as long as the batches take.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"
#include "cli/checkpoint_batch.h"
#include "common/exit_code.h"

namespace assay::cli {

struct RunOptions {
  std::vector<std::string> batch_files;
  std::string content_dir;  // empty: looked for
  std::string output_dir;   // reports go here
  std::string host_binary;  // empty: assay-host beside the executable
  // A checkpoint to run by itself, beside the batch files; its `checkpoint` is empty: none.
  CheckpointWish checkpoint;
  std::string exporter;  // folder of the exporter; empty: the content's, where a batch names a checkpoint
  std::string checkpoint_root;  // ids are looked for as <root>/<org>/<name> first; empty: not
  std::string hub_cache;        // empty: as HF_HUB_CACHE and its kin say
  bool offline = false;         // ask no hub, whatever the environment says
  bool allow_pickle = false;    // pickled weights may be converted, in the exporter's sandbox
  std::string submitter;
  uint32_t slots = 1;
  v1::Target target;
  std::vector<v1::Target> targets;  // as Submission's
  bool cpu_only = false;
  bool profile = false;     // results carry the operators that took longest
  std::string traceparent;  // of the command's span; empty: it is not traced
};

// A batch that names a checkpoint, or a folder of the exporter that was given, makes the worker an exporter;
// default checkpoints of the catalogue are then tried too. Runs the batches to their end with everything in
// memory, and writes report.md, report.html, report.json, junit.xml, ROADMAP.md and batches/<its file's
// name>.md for each batch. An interrupt stops all: kExitInterrupted.
ExitCode RunCommand(const RunOptions& options);

}  // namespace assay::cli

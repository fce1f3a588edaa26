// `assay gate`: did a change of versions, builds, machines or weights alter models' numbers? docs/gate.md.
// The numbers are made and compared by assay-host; here is who is compared with whom, and what comes out.
#pragma once

#include <string>
#include <vector>

#include "common/exit_code.h"

namespace assay::cli {

struct GateOptions {
  // Folders of programs (*.assay) or recordings (*.recording), or one such file. Two, or more to bisect.
  std::vector<std::string> sides;
  bool bisect = false;
  std::vector<std::string> models;  // empty: all
  // Of the first and the last side.
  std::string from_checkpoint, to_checkpoint;  // folders whose weights go through the programs
  std::string from_golden, to_golden;          // files of checkpoints' goldens, for inputs
  std::string from_host, to_host;              // other builds of assay-host
  std::string host_binary;                     // which compares; empty: the one beside this executable
  std::string device = "cpu";
  std::string dtype = "float32";
  uint32_t timeout_seconds = 600;  // for each model
  bool allow_not_comparable = false;
  std::string format = "text";  // text, json, junit, markdown, html
  std::string output;           // file; empty: standard output
};

// kExitOk: nothing changed beyond the tolerance, and everything was compared. kExitChanged: something did.
// kExitTestsFailed: something could not be compared, unless that is allowed. kExitNoTests: nothing was
// compared at all, even then. kExitUsage: bad input.
ExitCode GateCommand(const GateOptions& options);

struct RecordOptions {
  std::string side, like;  // `like`: the side whose weights and inputs are taken; empty: its own
  std::string checkpoint, golden;
  std::vector<std::string> models;
  std::string host_binary;
  std::string device = "cpu";
  std::string dtype = "float32";
  uint32_t timeout_seconds = 600;
  std::string output_dir;
};

// `assay gate --record`: writes <model>.recording for each model of a side.
ExitCode RecordCommand(const RecordOptions& options);

}  // namespace assay::cli

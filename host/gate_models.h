// `assay-host gate` and `assay-host record`: models of two sides compared, or of one written down. Each model
// has a process of its own, so that one that crashes or hangs leaves the others be. docs/gate.md.
#pragma once

#include <string>
#include <vector>

#include "engine/tensors.h"

namespace assay::host {

// Where one side's models are.
struct GateSide {
  // A folder with <model>.assay (run here) or <model>.recording (as it was run), or one such file.
  std::string root;
  std::string checkpoint;  // folder whose weights go through it; empty: mock weights
  std::string golden;      // file of a checkpoint's golden, for its inputs; empty: the program's own
};

struct GateModelsOptions {
  GateSide from, to;  // of `record`, `to` is the side whose weights and inputs are taken; may be empty
  std::vector<std::string> models;  // empty: all of both sides
  bool on_cuda = false;
  std::string dtype;               // "bfloat16", "float16"; else float32
  std::string output;              // gate: file for the v1::GateReport; record: folder for the recordings
  uint32_t samples = 0;            // kept of each value; 0: the default
  uint32_t timeout_seconds = 600;  // for each model
};

// Exit code: 0 the report is written (whatever it says), 2 a side cannot be read, or is no side.
int GateModels(const GateModelsOptions& options);
// One line a model on standard output. Exit code: 0 all are recorded, 2 as above, 3 one could not be.
int RecordModels(const GateModelsOptions& options);

}  // namespace assay::host

// `assay-host run`: generated tests from files, without a worker or a coordinator.
#pragma once

#include <string>
#include <vector>

#include "assay/v1/test.pb.h"
#include "host/test_processes.h"

namespace assay::host {

struct RunFilesOptions {
  std::vector<std::string> tests;
  std::string programs;         // folder with <test.name>.assay
  std::string checkpoint_root;  // folder with <test.checkpoint>/; empty: no weights
  std::string checkpoint;       // the folder itself, for every test; outweighs checkpoint_root
  // Programs and goldens that cases name by digest: a folder with files of those names, and DIGEST=PATH.
  std::string blobs;
  std::vector<std::string> files;
  v1::DeviceChoice device = v1::DEVICE_CHOICE_UNSPECIFIED;  // for tests that leave the choice open (AUTO)
  v1::Dtype dtype = v1::DTYPE_UNSPECIFIED;                  // instead of every test's own
  // A file that gets one line of JSON a test: {"test": NAME, "result": TestResult}. Empty: none.
  std::string results;
  int jobs = 1;  // tests at a time
  // In this very process, one after another: for a debugger. A crash is then a crash.
  bool in_process = false;
  std::string reduce_to;  // RunOptions.reduce_to, of the one test, in this very process
  bool profile = false;   // the operators of each test that took longest
  bool verbose = false;   // every check, not only those that did not hold
  ProcessOptions processes;
};

// One line a test on standard output, then one with the counts. Exit code: 0 all passed (a skipped case is no
// failure), 2 a file is no test, or `results` cannot be written, 3 some test did not pass, 4 nothing was run
// or all was skipped, 8 interrupted.
int RunFiles(const RunFilesOptions& options);

}  // namespace assay::host

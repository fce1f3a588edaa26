// `assay-host program`: programs against their own goldens, with mock weights and without a test. What
// `assay reduce` writes is such a program.
#pragma once

#include <string>
#include <vector>

namespace assay::host {

struct ProgramOptions {
  std::vector<std::string> files;
  bool on_cuda = false;
  std::string dtype;  // "bfloat16", "float16"; else float32
};

// What came out of each, on standard output. Exit code: 0 all agree, 2 a file is no program with a golden, 3
// one does not agree or cannot be run.
int RunPrograms(const ProgramOptions& options);

}  // namespace assay::host

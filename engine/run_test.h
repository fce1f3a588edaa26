// Runs one generated test in this process, from its program file to a verdict. No torch headers here.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// Hears of a running test as it happens. Called on the thread that runs the test.
class TestSink {
 public:
  virtual ~TestSink() = default;
  virtual void CaseStarted(absl::string_view name) = 0;
  virtual void CaseFinished(const v1::CaseResult& result) = 0;
  virtual void Log(absl::string_view text) = 0;
};

struct RunOptions {
  std::string program_path;  // empty: there is no program, the outcome is UNSUPPORTED
  // Empty: no weights. A loading case is then SKIPPED, or, where the test names a checkpoint, an
  // INFRASTRUCTURE_ERROR.
  std::string checkpoint_dir;
  // A process that still wants to fork must not touch CUDA: without this, AUTO means the CPU and a test that
  // demands CUDA is UNSUPPORTED.
  bool allow_cuda = false;
  // Programs and goldens that cases name by digest.
  std::map<std::string, std::string> files = {};
  // Every file of checkpoint_dir that is loaded has the SHA-256 that the hub gives for it.
  bool hub_verified = false;
  // Results then carry CaseResult.output_digest.
  bool want_output_digests = false;
  // A file for the smallest part of the program that shows a golden check's failure (engine/reduce.h); what
  // became of it is logged. Empty: none. The process must be able to write it.
  std::string reduce_to = {};
  // Results then carry ProgramCost.operator.
  bool profile = false;
  // In bytes, of the node; 0: the kernel is asked. A checkpoint that needs more is refused before it is run.
  uint64_t available_memory = 0;
};

// Every problem of the test, its program or its weights is in the result, never an exception: a test that
// says what cannot be done is FAILED (or UNSUPPORTED), never a silent pass. Provenance is filled but for
// test_digest and worker, which the caller knows.
//
// Call SetThreads before the first call in a process. Not thread-safe: LibTorch's thread count is the
// process's.
v1::TestResult RunTest(const v1::ModelTest& test, const RunOptions& options, TestSink& sink);

// Intra-operator threads of this process. Call with 1 before any operator runs in a process that will fork:
// a child that uses OpenMP threads after its parent did hangs.
void SetThreads(int threads);

// Lets the heap keep what tensors of a few hundred KB give back: by default each is a mapping of its own,
// whose pages every run of a plan would take from the kernel again. Call once, at start.
void KeepMemory();

// Loads what a first test would otherwise load lazily (dispatcher tables, kernels' code pages), on one
// thread. Children that are forked afterwards share it.
void WarmUp();

// Who would run: filled are engine_build, torch_version and device (for `choice`, AUTO included). Asks the
// driver when choice is not CPU, which a process that still wants to fork must not do.
v1::Provenance Describe(v1::DeviceChoice choice);

// True if LibTorch was built with CUDA and a device answers. Initialises CUDA.
bool CudaIsThere();

}  // namespace assay::engine

#include "host/run_programs.h"

#include <cstdio>

#include "common/exit_code.h"
#include "engine/program.h"
#include "engine/run_test.h"
#include "engine/standalone.h"

namespace assay::host {
namespace {

void Print(const v1::CaseResult& result) {
  for (const v1::CheckResult& check : result.check()) {
    printf("  %s: error %.3g, allowed %.3g\n", check.name().c_str(), check.error(), check.tolerance());
  }
  for (const v1::OutputSummary& output : result.output()) {
    printf("  %s:", output.name().c_str());
    for (const double sample : output.samples()) printf(" %.9g", sample);
    printf("\n");
  }
  if (!result.has_divergence()) return;
  printf("  first to differ: %s (%s): %s\n", result.divergence().node().c_str(),
         result.divergence().op().c_str(), result.divergence().detail().c_str());
}

}  // namespace

int RunPrograms(const ProgramOptions& options) {
  engine::Placement placement;
  if (options.dtype == "bfloat16") placement.dtype = at::ScalarType::BFloat16;
  if (options.dtype == "float16") placement.dtype = at::ScalarType::Half;
  if (options.on_cuda) {
    if (!engine::CudaIsThere()) {
      fprintf(stderr, "assay-host: there is no CUDA device\n");
      return kExitUsage;
    }
    placement.device = at::Device(at::DeviceType::CUDA, 0);
  }
  int code = kExitOk;
  for (const std::string& file : options.files) {
    const auto program = engine::ReadProgram(file);
    if (!program.ok()) {
      fprintf(stderr, "assay-host: %s\n", std::string(program.status().message()).c_str());
      return kExitUsage;
    }
    const auto result = engine::RunStandalone(*program, placement);
    if (!result.ok()) {
      printf("%-20s %s: %s\n", "FAILED", file.c_str(), std::string(result.status().message()).c_str());
      code = kExitTestsFailed;
      continue;
    }
    printf("%-20s %s%s%s\n", v1::Outcome_Name(result->outcome()).c_str(), file.c_str(),
           result->message().empty() ? "" : ": ", result->message().c_str());
    Print(*result);
    if (result->outcome() != v1::PASSED) code = kExitTestsFailed;
  }
  return code;
}

}  // namespace assay::host

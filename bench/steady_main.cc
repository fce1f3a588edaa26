// assay-steady: right programs and their variants, run over and over as other machines would run them, with
// another number of threads and memory that lies elsewhere; the kernels' instruction sets are the
// environment's. One JSON line for each model and check: how it ended, and the most that it took of its
// tolerance. bench/steady runs it in every setting and makes the table.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/mock_case.h"
#include "bench/mutation_score.h"
#include "bench/shifted_memory.h"
#include "common/status_macros.h"
#include "engine/checks.h"
#include "engine/plan.h"
#include "engine/run_test.h"
#include "engine/tensors.h"
#include "engine/validate.h"
#include "engine/weights.h"

namespace assay::steady {
namespace {

using nlohmann::json;

struct Options {
  std::filesystem::path root = ".";
  std::filesystem::path output = "steady.jsonl";
  std::vector<std::string> names;
  std::vector<int> threads = {1, 2};
  std::vector<size_t> shifts = {0};
};

// Of one check, over all repetitions: the worst.
struct Worst {
  int runs = 0;
  int failed = 0;
  std::string message;  // of the first failure
  double share = 0;     // of the tolerance; infinite where nothing was allowed and something found
};

double ShareOf(double error, double tolerance) {
  if (error == 0) return 0;
  return tolerance > 0 ? error / tolerance : std::numeric_limits<double>::infinity();
}

void Take(const v1::CheckResult& result, const std::string& where, Worst& worst) {
  ++worst.runs;
  if (result.outcome() != v1::PASSED && result.outcome() != v1::SKIPPED) {
    if (worst.failed++ == 0) worst.message = absl::StrCat(where, ": ", result.message());
  }
  if (result.has_error()) worst.share = std::max(worst.share, ShareOf(result.error(), result.tolerance()));
  if (result.has_rms_error()) {
    worst.share = std::max(worst.share, ShareOf(result.rms_error(), result.rms_tolerance()));
  }
}

// Every check once, held against the golden and, structural ones, without one.
absl::Status Repeat(const mutation::CatalogueCase& model, const std::string& where,
                    std::map<std::string, Worst>& found) {
  const v1::Program& program = model.program;
  // As of a checkpoint that has neither golden nor variants.
  v1::Program plain = program;
  plain.clear_variant();
  v1::Golden inputs_only;
  *inputs_only.mutable_inputs() = program.golden().inputs();
  const uint64_t seed = program.manifest().mock_seed();
  ASSAY_RETURN_IF_ERROR(engine::ValidateGraph(program));
  // All of it anew: constants, weights and inputs lie where memory now begins.
  ASSAY_ASSIGN_OR_RETURN(const auto plan, engine::Plan::Build(program, engine::Placement{}));
  ASSAY_ASSIGN_OR_RETURN(const engine::Weights weights, engine::MockWeights(program.manifest(), seed));
  ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> inputs, engine::GoldenInputs(program));
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan->Run(inputs));
  for (const bool golden : {true, false}) {
    engine::BoundCase bound{golden ? program : plain,
                            golden ? program.golden() : inputs_only,
                            *plan,
                            v1::MOCK,
                            seed,
                            inputs,
                            outputs};
    bound.tensors = &weights;
    bound.reload = [&] { return engine::MockWeights(program.manifest(), seed); };
    for (const v1::Check& check : model.mock.check()) {
      if (!golden && !mutation::IsStructural(check)) continue;
      Take(engine::RunCheck(check, bound), where,
           found[golden ? check.name() : absl::StrCat(check.name(), " without a golden")]);
    }
  }
  return absl::OkStatus();
}

absl::Status RepeatAll(const mutation::CatalogueCase& model, const Options& options, std::ofstream& out) {
  std::map<std::string, Worst> found;
  for (const int threads : options.threads) {
    at::set_num_threads(threads);
    for (const size_t shift : options.shifts) {
      ShiftMemory(shift);
      absl::Status status;
      try {
        c10::InferenceMode inference;
        status = Repeat(model, absl::StrCat(threads, " threads, memory shifted by ", shift), found);
      } catch (const c10::Error& error) {
        status = absl::InternalError(error.what_without_backtrace());
      }
      ShiftMemory(0);
      ASSAY_RETURN_IF_ERROR(status);
    }
  }
  bool held = true;
  for (const auto& [check, worst] : found) {
    held &= worst.failed == 0;
    out << json{{"model", model.name},      {"check", check},
                {"runs", worst.runs},       {"failed", worst.failed},
                {"message", worst.message}, {"share", std::isfinite(worst.share) ? worst.share : 1e300}}
               .dump()
        << "\n";
  }
  out.flush();  // the next model may crash
  return held ? absl::OkStatus() : absl::FailedPreconditionError("a check fails");
}

int Main(const Options& options) {
  std::ofstream out(options.output);
  out << json{{"cpu", at::get_cpu_capability()}}.dump() << "\n";
  const auto broken = mutation::ForEachModel(
      options.root, options.names,
      [&](const mutation::CatalogueCase& model) { return RepeatAll(model, options, out); });
  out.close();
  if (!broken.ok() || !out) {
    std::fprintf(
        stderr, "assay-steady: %s\n",
        broken.ok() ? "the output cannot be written" : std::string(broken.status().message()).c_str());
    return 2;
  }
  return *broken == 0 ? 0 : 3;
}

}  // namespace
}  // namespace assay::steady

int main(int argc, char** argv) {
  CLI::App app("Right programs, over and over, as other machines would run them.", "assay-steady");
  assay::steady::Options options;
  app.add_option("names", options.names, "catalogue entries (default: all with a program)");
  app.add_option("--root", options.root, "folder with templates/ and models/");
  app.add_option("--output", options.output, "file for one JSON line a model and check");
  app.add_option("--threads", options.threads, "numbers of threads")->check(CLI::Range(1, 256));
  app.add_option("--shift", options.shifts, "bytes beyond a multiple of 64 at which tensors begin")
      ->check(CLI::IsMember({0, 8, 16, 24, 32, 40, 48, 56}));
  CLI11_PARSE(app, argc, argv);
  assay::engine::SetThreads(1);
  assay::engine::KeepMemory();
  return assay::steady::Main(options);
}

// assay-engine-bench: the engine's side of bench/engine, which tells it on standard input what to do:
//   load FILE   reads a program, plans it, binds its mock weights, compares a run with the golden
//   run N       runs it N times; answers with the thread's processor time in nanoseconds, all N together
// One line of answer each, "ok …" or "error …". One thread, no observer.
#include <ATen/Parallel.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/plan.h"
#include "engine/program.h"
#include "engine/run_test.h"
#include "engine/tensors.h"
#include "engine/weights.h"

namespace assay::engine {
namespace {

struct Subject {
  std::unique_ptr<Plan> plan;
  std::vector<at::Tensor> inputs;
};

// Largest difference as a share of the reference's largest magnitude; not finite where shapes differ.
double Error(const at::Tensor& got, const at::Tensor& want) {
  if (got.sizes() != want.sizes()) return INFINITY;
  const at::Tensor a = got.to(at::kDouble).contiguous(), b = want.to(at::kDouble).contiguous();
  double error = 0, scale = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.const_data_ptr<double>()[i], y = b.const_data_ptr<double>()[i];
    if (std::isfinite(y)) scale = std::max(scale, std::abs(y));
    if (x == y) continue;
    const double difference = std::abs(x - y);
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
  }
  return scale > 0 ? error / scale : error;
}

absl::StatusOr<Subject> Load(const std::string& file) {
  ASSAY_ASSIGN_OR_RETURN(v1::Program program, ReadProgram(file));
  Subject subject;
  ASSAY_ASSIGN_OR_RETURN(subject.plan, Plan::Build(program, Placement{}));
  ASSAY_ASSIGN_OR_RETURN(Weights weights, MockWeights(program.manifest(), program.manifest().mock_seed()));
  ASSAY_RETURN_IF_ERROR(subject.plan->Bind(weights));
  ASSAY_ASSIGN_OR_RETURN(subject.inputs, GoldenInputs(program));
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> golden, GoldenOutputs(program));
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> outputs, subject.plan->Run(subject.inputs));
  if (outputs.size() != golden.size()) return absl::InternalError("not as many outputs as the golden has");
  for (size_t i = 0; i < golden.size(); ++i) {
    const double error = Error(outputs[i], golden[i]);
    if (!(error <= 1e-4)) return absl::InternalError(absl::StrCat("output ", i, " is off by ", error));
  }
  return subject;
}

int64_t ThreadNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

absl::StatusOr<int64_t> RunMany(const Subject& subject, int64_t runs) {
  const int64_t start = ThreadNanoseconds();
  for (int64_t i = 0; i < runs; ++i) ASSAY_RETURN_IF_ERROR(subject.plan->Run(subject.inputs).status());
  return ThreadNanoseconds() - start;
}

int Main() {
  // As in the test host: freed memory stays with the process, or its pages are taken from the kernel again in
  // every run.
  assay::engine::KeepMemory();
  at::set_num_threads(1);
  Subject subject;
  const auto refuse = [](const absl::Status& status) {
    std::cout << "error " << status.ToString() << std::endl;
  };
  for (std::string word, argument; std::cin >> word && std::getline(std::cin >> std::ws, argument);) {
    if (word == "load") {
      auto loaded = Load(argument);
      if (loaded.ok()) {
        subject = *std::move(loaded);
        std::cout << "ok" << std::endl;
      } else {
        refuse(loaded.status());
      }
    } else if (word == "run" && subject.plan != nullptr) {
      auto took = RunMany(subject, std::atoll(argument.c_str()));
      if (took.ok()) {
        std::cout << "ok " << *took << std::endl;
      } else {
        refuse(took.status());
      }
    } else {
      refuse(absl::InvalidArgumentError(absl::StrCat("'", word, "' now")));
    }
  }
  return 0;
}

}  // namespace
}  // namespace assay::engine

int main() { return assay::engine::Main(); }

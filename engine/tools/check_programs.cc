// assay-engine-check PROGRAM…: a developer's look at programs. For each: milliseconds to load and to plan,
// microseconds of a run, the largest error against the golden relative to the output's scale, and the first
// node that differs from the golden's trace by more than --trace-tolerance. Exit code 3 if a program fails.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan.h"
#include "engine/program.h"
#include "engine/tensors.h"
#include "engine/weights.h"

namespace assay::engine {
namespace {

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

std::vector<double> Values(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::ScalarType::Double).to(at::kCPU).contiguous();
  const double* data = static_cast<const double*>(dense.const_data_ptr());
  return std::vector<double>(data, data + dense.numel());
}

struct Error {
  double absolute = 0;
  double scale = 0;  // largest magnitude of the reference
  double relative() const { return scale > 0 ? absolute / scale : absolute; }
};

Error Compare(const std::vector<double>& got, const std::vector<double>& want) {
  Error error;
  if (got.size() != want.size()) {
    error.absolute = INFINITY;
    return error;
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isfinite(want[i])) error.scale = std::max(error.scale, std::abs(want[i]));
    if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
    const double difference = std::abs(got[i] - want[i]);
    error.absolute = std::isnan(difference) ? INFINITY : std::max(error.absolute, difference);
  }
  return error;
}

// Follows a run along the golden's trace.
class TraceFollower : public Observer {
 public:
  TraceFollower(const v1::Golden& golden, double tolerance) : tolerance_(tolerance) {
    for (const v1::NodeTrace& trace : golden.trace()) traces_[{trace.node(), trace.output()}] = &trace;
  }
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool) override {
    const auto found = traces_.find({node.index, output});
    if (found == traces_.end()) return true;
    const v1::NodeTrace& trace = *found->second;
    ++seen_;
    const std::vector<double> all = Values(value);
    double abs_max = 0;
    for (const double v : all) abs_max = std::max(abs_max, std::abs(v));
    const size_t n = static_cast<size_t>(trace.samples_size());
    std::vector<double> got, want;
    for (size_t k = 0; k < n && trace.numel() == all.size(); ++k) {
      got.push_back(all[(2 * k + 1) * all.size() / (2 * n)]);
      want.push_back(trace.samples(static_cast<int>(k)));
    }
    Error error = Compare(got, want);
    if (trace.numel() != all.size()) error.absolute = INFINITY;
    if (std::isfinite(trace.abs_max()) && std::isfinite(abs_max)) {
      error.scale = std::max<double>(error.scale, trace.abs_max());
      error.absolute = std::max(error.absolute, std::abs(abs_max - trace.abs_max()));
    }
    worst_ = std::max(worst_, error.relative());
    if (first_.empty() && !(error.relative() <= tolerance_)) {
      first_ = std::string(node.name) + " (" + std::string(node.op) + ") in " + std::string(node.module) +
               ": " + std::to_string(error.absolute) + " of " + std::to_string(error.scale);
    }
    return true;
  }
  double worst() const { return worst_; }
  size_t seen() const { return seen_; }
  const std::string& first() const { return first_; }

 private:
  double tolerance_;
  std::map<std::pair<uint32_t, uint32_t>, const v1::NodeTrace*> traces_;
  double worst_ = 0;
  size_t seen_ = 0;
  std::string first_;
};

struct Options {
  std::vector<std::string> files;
  int runs = 20;
  int threads = 1;
  double tolerance = 1e-4;
  double trace_tolerance = 1e-4;
  std::string dtype = "float32";
  bool operators = false;
};

// "" or why not.
std::string Check(const std::string& file, const Options& options) {
  const std::map<std::string, at::ScalarType> dtypes = {
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  Clock::time_point start = Clock::now();
  absl::StatusOr<v1::Program> program = ReadProgram(file);
  const double load = Milliseconds(start);
  if (!program.ok()) return program.status().ToString();
  start = Clock::now();
  auto plan = Plan::Build(*program, {at::Device(at::kCPU), dtypes.at(options.dtype)});
  const double build = Milliseconds(start);
  if (!plan.ok()) return plan.status().ToString();
  start = Clock::now();
  auto weights = MockWeights(program->manifest(), program->manifest().mock_seed());
  if (!weights.ok()) return weights.status().ToString();
  if (const absl::Status bound = (*plan)->Bind(*weights); !bound.ok()) return bound.ToString();
  const double bind = Milliseconds(start);
  auto inputs = GoldenInputs(*program);
  auto golden = GoldenOutputs(*program);
  if (!inputs.ok()) return inputs.status().ToString();
  if (!golden.ok()) return golden.status().ToString();

  TraceFollower follower(program->golden(), options.trace_tolerance);
  auto outputs = (*plan)->Run(*inputs, &follower);
  if (!outputs.ok()) return outputs.status().ToString();
  Error worst;
  for (size_t i = 0; i < golden->size(); ++i) {
    if ((*outputs)[i].sizes() != (*golden)[i].sizes()) return "an output's shape differs";
    if (options.dtype == "float32" && (*outputs)[i].scalar_type() != (*golden)[i].scalar_type()) {
      return "an output's dtype differs";
    }
    const Error error = Compare(Values((*outputs)[i]), Values((*golden)[i]));
    if (!(error.relative() <= worst.relative())) worst = error;
  }
  std::vector<double> micros;
  for (int i = 0; i < options.runs; ++i) {
    start = Clock::now();
    outputs = (*plan)->Run(*inputs);
    micros.push_back(Milliseconds(start) * 1000);
    if (!outputs.ok()) return outputs.status().ToString();
  }
  std::sort(micros.begin(), micros.end());
  const double median = micros.empty() ? 0 : micros[micros.size() / 2];
  std::printf(
      "%-28s %5zu nodes  load %6.2f ms  plan %6.2f ms  bind %6.2f ms  run %8.0f us (best %.0f)  error %.2e  "
      "trace %.2e of %zu%s%s\n",
      program->manifest().model().c_str(), (*plan)->node_count(), load, build, bind, median,
      micros.empty() ? 0 : micros[0], worst.relative(), follower.worst(), follower.seen(),
      follower.first().empty() ? "" : "  first ", follower.first().c_str());
  if (options.operators) {
    OperatorTimes times;
    for (int i = 0; i < options.runs; ++i) (void)(*plan)->Run(*inputs, &times);
    for (const auto& [name, total] : times.Sorted()) {
      std::printf("    %-40s %6.1f calls  %9.1f us\n", name.c_str(),
                  static_cast<double>(total.calls) / options.runs,
                  static_cast<double>(total.nanoseconds) / 1000 / options.runs);
    }
  }
  if (!(worst.relative() <= options.tolerance)) return "it does not agree with its golden";
  return "";
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Runs programs with mock weights and compares them with their goldens.");
  app.add_option("programs", options.files, "program files")->required();
  app.add_option("--runs", options.runs, "timed runs of each");
  app.add_option("--threads", options.threads, "intra-operator threads");
  app.add_option("--tolerance", options.tolerance,
                 "largest error, relative to an output's largest magnitude");
  app.add_option("--trace-tolerance", options.trace_tolerance, "the same, of a node");
  app.add_option("--dtype", options.dtype, "float32, bfloat16 or float16")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  app.add_flag("--operators", options.operators, "time per operator");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(options.threads);
  int failed = 0;
  for (const std::string& file : options.files) {
    const std::string why = Check(file, options);
    if (why.empty()) continue;
    ++failed;
    std::printf("%s: FAILED: %s\n", file.c_str(), why.c_str());
  }
  std::printf("%zu programs, %d failed\n", options.files.size(), failed);
  return failed == 0 ? 0 : 3;
}

}  // namespace
}  // namespace assay::engine

int main(int argc, char** argv) { return assay::engine::Main(argc, argv); }

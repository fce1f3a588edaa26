#include "coordinator/report/cost.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/words.h"
#include "nlohmann/json.hpp"

namespace assay::report {
namespace {

PredictionErrors::Spread SpreadOf(std::vector<double> errors) {
  PredictionErrors::Spread spread{errors.size()};
  if (errors.empty()) return spread;
  std::sort(errors.begin(), errors.end());
  spread.median = errors[errors.size() / 2];
  spread.nine_of_ten = errors[std::min(errors.size() - 1, errors.size() * 9 / 10)];
  return spread;
}

}  // namespace

std::string CountText(uint64_t count) {
  const auto number = static_cast<double>(count);
  if (count >= 1'000'000'000) return absl::StrFormat("%.2f G", number / 1e9);
  if (count >= 1'000'000) return absl::StrFormat("%.2f M", number / 1e6);
  if (count >= 10'000) return absl::StrFormat("%.1f k", number / 1e3);
  return absl::StrCat(count);
}

std::string CostText(const v1::CaseResult& one) {
  if (!one.has_cost()) return "";
  return absl::StrCat("load ", SecondsText(one.load_seconds()), " (bind ", SecondsText(one.bind_seconds()),
                      "), run ", SecondsText(one.run_seconds()), ", check ", SecondsText(one.check_seconds()),
                      "; ", CountText(one.cost().parameters()), " parameters in ",
                      BytesText(one.cost().weight_bytes()), ", ", CountText(one.cost().flops()),
                      " FLOP a run");
}

std::string StagesText(const v1::Job& job) {
  const v1::TestResult& result = job.result();
  if (result.stage_size() == 0) return "";
  std::string text = absl::StrJoin(result.stage(), ", ", [](std::string* out, const v1::StageTime& stage) {
    absl::StrAppend(out, stage.stage(), " ", SecondsText(stage.seconds()));
  });
  if (result.peak_memory_bytes() > 0)
    absl::StrAppend(&text, "; at most ", BytesText(result.peak_memory_bytes()));
  if (job.predicted().seconds() > 0) {
    absl::StrAppend(&text, "; predicted ", SecondsText(job.predicted().seconds()));
    const uint64_t memory = std::max(job.predicted().memory_bytes(), job.predicted().gpu_memory_bytes());
    if (memory > 0) absl::StrAppend(&text, " and ", BytesText(memory));
  }
  return text;
}

std::vector<std::string> ProfileLines(const v1::CaseResult& one) {
  std::vector<std::string> lines;
  for (const v1::OperatorCost& cost : one.cost().operator_()) {
    const double share =
        one.cost().profiled_seconds() > 0 ? 100 * cost.seconds() / one.cost().profiled_seconds() : 0;
    lines.push_back(
        absl::StrFormat("%9.6f s  %4.1f %%  %6u x %s", cost.seconds(), share, cost.calls(), cost.op()));
  }
  return lines;
}

nlohmann::ordered_json CostJson(const v1::CaseResult& one) {
  if (!one.has_cost()) return nullptr;
  nlohmann::ordered_json operators = nlohmann::ordered_json::array();
  for (const v1::OperatorCost& cost : one.cost().operator_()) {
    operators.push_back(
        {{"op", cost.op()}, {"calls", cost.calls()}, {"seconds", cost.seconds()}, {"flops", cost.flops()}});
  }
  return {{"load_seconds", one.load_seconds()},    {"bind_seconds", one.bind_seconds()},
          {"run_seconds", one.run_seconds()},      {"check_seconds", one.check_seconds()},
          {"parameters", one.cost().parameters()}, {"weight_bytes", one.cost().weight_bytes()},
          {"flops", one.cost().flops()},           {"operators", one.cost().operators()},
          {"slowest", std::move(operators)}};
}

nlohmann::ordered_json StagesJson(const v1::TestResult& result) {
  if (result.stage_size() == 0) return nullptr;
  nlohmann::ordered_json stages = nlohmann::ordered_json::object();
  for (const v1::StageTime& stage : result.stage()) stages[stage.stage()] = stage.seconds();
  return stages;
}

nlohmann::ordered_json PredictionJson(const v1::Job& job) {
  if (!job.has_predicted()) return nullptr;
  return {{"seconds", job.predicted().seconds()},
          {"memory_bytes", job.predicted().memory_bytes()},
          {"gpu_memory_bytes", job.predicted().gpu_memory_bytes()}};
}

PredictionErrors MeasurePredictions(const std::vector<const v1::Job*>& jobs) {
  std::vector<double> time, memory;
  auto add = [](std::vector<double>& errors, double predicted, double taken) {
    if (predicted > 0 && taken > 0) errors.push_back(std::abs(taken - predicted) / predicted);
  };
  for (const v1::Job* job : jobs) {
    add(time, job->predicted().seconds(), job->result().seconds());
    // What a GPU's driver takes for itself is in the prediction and in no result.
    if (job->predicted().memory_bytes() > 0) {
      add(memory, static_cast<double>(job->predicted().memory_bytes()),
          static_cast<double>(job->result().peak_memory_bytes()));
    }
  }
  return {SpreadOf(std::move(time)), SpreadOf(std::move(memory))};
}

}  // namespace assay::report

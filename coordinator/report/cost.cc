#include "coordinator/report/cost.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/words.h"
#include "nlohmann/json.hpp"

namespace assay::report {

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

std::string StagesText(const v1::TestResult& result) {
  if (result.stage_size() == 0) return "";
  std::string text = absl::StrJoin(result.stage(), ", ", [](std::string* out, const v1::StageTime& stage) {
    absl::StrAppend(out, stage.stage(), " ", SecondsText(stage.seconds()));
  });
  if (result.peak_memory_bytes() > 0)
    absl::StrAppend(&text, "; at most ", BytesText(result.peak_memory_bytes()));
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

}  // namespace assay::report

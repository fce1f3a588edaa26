// What running a model took, for each format. Pure and thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"
#include "assay/v1/result.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace assay::report {

// "1.23 M", "456 k", "789".
std::string CountText(uint64_t count);

// "load 0.002 s (bind 0.001 s), run 0.003 s, check 0.010 s; 1.23 M parameters in 4.7 MiB, 56.7 M FLOP a run";
// empty for a result of an earlier release.
std::string CostText(const v1::CaseResult& one);
// "fetch 0.001 s, generate 0.000 s, wait 0.002 s, run 0.020 s; at most 31.2 MiB; predicted 0.021 s and 30.9
// MiB"; empty likewise. Without the last part where nothing was known of the model on that kind of device.
std::string StagesText(const v1::Job& job);
// The operators that took longest, a line each; empty where no profile was asked for.
std::vector<std::string> ProfileLines(const v1::CaseResult& one);

// null where nothing is recorded.
nlohmann::ordered_json CostJson(const v1::CaseResult& one);
nlohmann::ordered_json StagesJson(const v1::TestResult& result);
nlohmann::ordered_json PredictionJson(const v1::Job& job);

// How far predictions were off: |taken - predicted| / predicted, of the jobs whose result tells both.
struct PredictionErrors {
  struct Spread {
    size_t jobs = 0;
    double median = 0, nine_of_ten = 0;  // not exceeded by half, by 90 %, of the jobs
  };
  Spread time, memory;
};
PredictionErrors MeasurePredictions(const std::vector<const v1::Job*>& jobs);

}  // namespace assay::report

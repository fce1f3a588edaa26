// The plan's own criteria of success, as a checklist with figures.
#pragma once

#include <string>
#include <vector>

#include "coordinator/report/coverage.h"

namespace assay::report {

struct Criterion {
  int number = 0;    // from 1, as the plan has them
  std::string text;  // what the plan asks
  bool met = false;
  std::string figures;            // the numbers that decide it
  std::vector<std::string> open;  // the models that stand in its way, by name; may be cut by what shows it
};

// All six, in order.
std::vector<Criterion> JudgePlan(const Coverage& coverage, const ReportInput& input);

}  // namespace assay::report

// What the coverage plan says, to be held against the evidence: its dates and its claims.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/report/coverage.h"

namespace assay::report {

// The plan's figures, as written there. They contradict each other, which is why none of them is ever used to
// compute anything.
inline constexpr int kClaimedTracked = 198;
inline constexpr int kClaimedImplemented = 147;
inline constexpr int kClaimedMissing = 51;
inline constexpr int kClaimedMediumMissing = 62;
inline constexpr int kClaimedAfterBatch1 = 157;
inline constexpr int kClaimedRemainingAfterBatch1 = 41;
inline constexpr int kPlannedAfterBatch1 = 52;  // models of batches 2 to 6

// What contradicts what in these claims, one sentence each.
std::vector<std::string> Contradictions();

enum class Progress { kDone, kOpen, kOverdue };

// One batch of the plan, held against the evidence.
struct PlannedBatch {
  uint32_t number = 0;
  bool has_date = false;
  absl::CivilDay due;                // only with has_date
  std::vector<std::string> models;   // by the registry
  std::vector<std::string> missing;  // those of them that are not covered
  Progress progress = Progress::kOpen;
  // Overdue: until now. Done: until the day on which the last of its models was covered for the first time.
  int64_t days_late = 0;
  absl::CivilDay done_on;  // only of one that is done
};

// "done 2025-04-03", "done 2025-04-07, 2 days late", "open", "overdue by 1 day".
std::string ProgressText(const PlannedBatch& batch);

// By number. A batch is overdue once its day (UTC) is over and a model of it is not covered.
std::vector<PlannedBatch> HoldPlanAgainst(const Coverage& coverage, absl::Time now);

// A model to be covered next.
struct NextModel {
  std::string name;
  std::string original_name;  // empty: the same
  std::string arch_type;
  std::string template_name;
  std::string task;
  Priority priority = Priority::kLow;
  bool catalogued = false;  // else template and task are those usual for the architecture type, and the model
                            // needs a catalogue entry and a program before it can pass
  std::string why;          // it is missing
};

// What is missing, the most urgent first: by priority; within one, by the plan's batches, then as the
// registry has them. At most `size`.
std::vector<NextModel> NextModels(const Coverage& coverage, size_t size);

}  // namespace assay::report

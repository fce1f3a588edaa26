// What one report is about: everything, or one batch; gathered once, then written in any format.
#pragma once

#include <string>
#include <vector>

#include "coordinator/report/coverage.h"
#include "coordinator/report/criteria.h"
#include "coordinator/report/plan.h"
#include "coordinator/report/report.h"

namespace assay::report {

// A line on something that a reader should know of a model: a hyphen, a patch, a deviation, an absent check,
// …
struct Remark {
  std::string model;
  std::string kind;  // "hyphenated name", "deviation", "patch", "note", "absent check", "flaky", …
  std::string text;
};

struct Scope {
  const ReportInput* input = nullptr;
  const v1::Batch* batch = nullptr;  // nullptr: over everything
  // The batch's jobs; over everything: the newest of each model on each target, and beside it the newest
  // whose test ran and the newest that tried a checkpoint, where those are others. By model, then target.
  std::vector<const v1::Job*> jobs;
  std::vector<const v1::Batch*> batches;  // all of them, the oldest first
  Coverage coverage;                      // always over everything
  std::vector<Criterion> criteria;
  std::vector<PlannedBatch> plan;
  std::vector<NextModel> next;  // the ten most urgent
  std::vector<Remark> remarks;  // on the models of `jobs`

  bool IsFlaky(const v1::Job& job) const;
  // What the job itself shows of trained weights, as the coverage of its model counts it.
  RealGrade GradeOf(const v1::Job& job) const;
  // The catalogue entry of the job's model; nullptr: it has none.
  const v1::CatalogueEntry* EntryOf(const v1::Job& job) const;
};

// NOT_FOUND where batch_id names no batch of the input. The input must outlive the scope.
absl::StatusOr<Scope> MakeScope(const ReportInput& input);

// Outcomes (QUEUED and RUNNING among them) with how many jobs have them, PASSED first.
std::vector<std::pair<std::string, size_t>> CountOutcomes(const std::vector<const v1::Job*>& jobs);

// How long the jobs took.
struct Durations {
  double sum = 0;                    // seconds over all jobs that ran
  double median = 0;                 // the middle one; of an even number the lower
  const v1::Job* slowest = nullptr;  // nullptr: none ran
};
Durations MeasureDurations(const std::vector<const v1::Job*>& jobs);

// Why a job did not pass, in a line: the test's message, else the first case's and check's.
std::string Complaint(const v1::Job& job);

// The outcome of the job's test with mock weights ("PASSED", golden compared), "-" where it has no such case.
std::string MockWord(const v1::Job& job);

// Those of the scope's jobs that have an export stage, or ran with weights of a checkpoint; first those of
// trained ones, then those of synthetic ones, which are never told in one list.
struct CheckpointJobs {
  std::vector<const v1::Job*> trained, synthetic, exported;
};
CheckpointJobs FindCheckpointJobs(const Scope& scope);

// "critical: 4 of 20 (20.0 %): albert, bert, …; 1 more unverified: x; 2 more without golden: y, z; 3
// synthetic, never real: …", one line a priority.
std::vector<std::string> RealCoverageLines(const Coverage& coverage);

}  // namespace assay::report

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/parity.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/variants.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

void AppendTallies(absl::string_view what, const TallyByWord& rows, std::string& out) {
  absl::StrAppend(&out, what, "\n");
  for (const auto& [word, tally] : rows) {
    absl::StrAppendFormat(&out, "  %-26s %8d %10d %9d %12d %12d %16d %16d %10d %8d  %7s\n", word,
                          tally.tracked.size(), tally.generated.size(), tally.verified.size(),
                          tally.mock_passed.size(), tally.real_passed.size(), tally.real_unverified.size(),
                          tally.real_structural.size(), tally.synthetic.size(), tally.covered.size(),
                          Percent(tally.covered.size(), tally.tracked.size()));
  }
}

void AppendJobs(const Scope& scope, std::string& out) {
  size_t width = 10;
  for (const v1::Job* job : scope.jobs) width = std::max(width, job->model().name().size());
  for (const v1::Job* job : scope.jobs) {
    absl::StrAppendFormat(&out, "  %-20s %-*s %-14s %9s", JobWord(*job), static_cast<int>(width),
                          job->model().name(), TargetOf(*job), SecondsText(job->result().seconds()));
    if (scope.IsFlaky(*job)) absl::StrAppend(&out, "  flaky");
    const std::string complaint = job->result().outcome() == v1::PASSED ? "" : Complaint(*job);
    if (!complaint.empty()) {
      std::string line = Shorten(CleanText(complaint), 160);
      std::replace(line.begin(), line.end(), '\n', ' ');
      absl::StrAppend(&out, "  ", line);
    }
    absl::StrAppend(&out, "\n");
  }
}

void AppendCheckpoints(absl::string_view what, const std::vector<const v1::Job*>& jobs, std::string& out) {
  if (jobs.empty()) return;
  absl::StrAppend(&out, "\n", what, "\n");
  for (const v1::Job* job : jobs) {
    absl::StrAppend(&out, "  ", job->model().name(), " on ", TargetOf(*job), "\n");
    for (const std::string& told : CheckpointLines(*job)) {
      std::string line = Shorten(CleanText(told), 400);
      std::replace(line.begin(), line.end(), '\n', ' ');
      absl::StrAppend(&out, "    ", line, "\n");
    }
  }
}

// Stages that found a checkpoint or should have; where a default one was not to be had only how many.
void AppendExports(const std::vector<const v1::Job*>& jobs, std::string& out) {
  size_t skipped = 0;
  std::string lines;
  for (const v1::Job* job : jobs) {
    if (ExportOf(*job)->outcome() == v1::SKIPPED) {
      ++skipped;
      continue;
    }
    std::string line = Shorten(CleanText(absl::StrCat(CheckpointText(*job), ": ", ExportText(*job))), 400);
    std::replace(line.begin(), line.end(), '\n', ' ');
    absl::StrAppend(&lines, "  ", job->model().name(), ": ", line, "\n");
  }
  if (jobs.empty()) return;
  absl::StrAppend(&out, "\nExports\n", lines);
  if (skipped > 0) {
    absl::StrAppend(&out, "  SKIPPED, as the default checkpoint is not to be had: ", skipped, "\n");
  }
}

std::string OutcomeLine(const std::vector<const v1::Job*>& jobs) {
  std::string line;
  for (const auto& [word, count] : CountOutcomes(jobs)) {
    absl::StrAppend(&line, line.empty() ? "" : ", ", count, " ", word);
  }
  return line.empty() ? "no results" : line;
}

}  // namespace

std::string RenderText(const Scope& scope) {
  std::string out;
  if (scope.batch != nullptr) {
    absl::StrAppend(&out, "Batch ", CleanText(scope.batch->name()), " (", scope.batch->batch_id(),
                    "): ", OutcomeLine(scope.jobs), "\n");
    AppendJobs(scope, out);
    absl::StrAppend(&out, "\n");
  }
  absl::StrAppend(&out, "Coverage as of ", TimeText(scope.input->now), " UTC\n");
  absl::StrAppendFormat(&out, "  %-26s %8s %10s %9s %12s %12s %16s %16s %10s %8s\n", "", "tracked",
                        "generated", "verified", "mock passed", "real passed", "real, unverified",
                        "real, no golden", "synthetic", "covered");
  const Coverage& coverage = scope.coverage;
  AppendTallies("all", {{"tracked models", coverage.total}}, out);
  AppendTallies("by priority", coverage.by_priority, out);
  AppendTallies("by architecture type", coverage.by_arch_type, out);
  AppendTallies("by template", coverage.by_template, out);
  AppendTallies("by device", coverage.by_device, out);

  absl::StrAppend(&out, "\nReal coverage: trained checkpoints with a golden and verified weights alone\n");
  for (const std::string& line : RealCoverageLines(coverage)) absl::StrAppend(&out, "  ", line, "\n");
  const CheckpointJobs checkpoints = FindCheckpointJobs(scope);
  AppendCheckpoints("Trained checkpoints", checkpoints.trained, out);
  AppendCheckpoints("Synthetic checkpoints (random values: never real)", checkpoints.synthetic, out);
  AppendExports(checkpoints.exported, out);

  const std::vector<VariantCount> variants = CountVariants(scope.jobs);
  if (!variants.empty()) absl::StrAppend(&out, "\nVariants\n");
  for (const VariantCount& count : variants) {
    absl::StrAppend(&out, "  ", CleanText(VariantText(count)), "\n");
  }

  const std::vector<ParityCheck> parity = CompareDevices(scope.jobs);
  if (!parity.empty()) absl::StrAppend(&out, "\nParity of devices\n");
  for (const ParityCheck& check : parity) {
    absl::StrAppend(&out, "  ", CleanText(check.first->model().name()), " ",
                    v1::Dtype_Name(check.first->result().provenance().dtype()), " ",
                    CleanText(check.case_name), ", ", CleanText(DeviceWord(*check.first)), " and ",
                    CleanText(DeviceWord(*check.second)), ": ", ParityWord(check.parity),
                    check.message.empty() ? "" : "; ", CleanText(check.message), "\n");
  }

  absl::StrAppend(&out, "\nThe plan's criteria\n");
  for (const Criterion& criterion : scope.criteria) {
    absl::StrAppend(&out, "  ", criterion.met ? "[met]     " : "[NOT MET] ", criterion.number, ". ",
                    criterion.text, "\n              ", CleanText(criterion.figures), "\n");
  }
  if (scope.batch == nullptr) {
    std::vector<const v1::Job*> open;
    for (const v1::Job* job : scope.jobs) {
      if (job->result().outcome() != v1::PASSED || scope.IsFlaky(*job)) open.push_back(job);
    }
    absl::StrAppend(&out, "\nNewest results: ", OutcomeLine(scope.jobs), "\n");
    Scope not_passed = scope;
    not_passed.jobs = open;
    AppendJobs(not_passed, out);
  }
  return out;
}

}  // namespace assay::report

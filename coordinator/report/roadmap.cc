#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

std::string Names(const std::vector<std::string>& names) {
  return absl::StrJoin(names, ", ", [](std::string* out, const std::string& name) {
    absl::StrAppend(out, MarkdownText(name));
  });
}

void AppendClaims(const Coverage& coverage, std::string& out) {
  size_t medium_missing = 0;
  for (const ModelCoverage& model : coverage.models) {
    if (model.model.priority == Priority::kMedium && !model.covered) ++medium_missing;
  }
  const size_t tracked = coverage.total.tracked.size(), covered = coverage.total.covered.size();
  absl::StrAppend(&out, "## What the plan claims, and what is recorded\n\n",
                  "| | the plan's claim | recorded here |\n|---|---:|---:|\n| tracked | ", kClaimedTracked,
                  " | ", tracked, " |\n| implemented, and here: covered | ", kClaimedImplemented, " | ",
                  covered, " |\n| missing | ", kClaimedMissing, " | ", tracked - covered,
                  " |\n| missing of medium priority | ", kClaimedMediumMissing, " | ", medium_missing,
                  " |\n| after batch 1 | ", kClaimedAfterBatch1, " | ", covered, " |\n\n");
  out += "The plan's claims contradict each other:\n\n";
  for (const std::string& contradiction : Contradictions()) absl::StrAppend(&out, "- ", contradiction, "\n");
  out +=
      "\nSo no claim is added to. A model counts here only by a recorded run of its real architecture whose "
      "numbers "
      "were compared with a reference; where the claim is higher, no such run is recorded.\n\n";
}

void AppendDates(const Scope& scope, std::string& out) {
  out +=
      "## Target dates\n\n| batch | due | models | covered | state | missing "
      "|\n|---:|---|---:|---:|---|---|\n";
  size_t overdue = 0;
  for (const PlannedBatch& batch : scope.plan) {
    std::string state = ProgressText(batch);
    if (batch.progress == Progress::kOverdue) {
      ++overdue;
      state = absl::StrCat("**", state, "**");
    }
    absl::StrAppend(&out, "| ", batch.number, " | ",
                    batch.has_date ? absl::FormatCivilTime(batch.due) : "no date given", " | ",
                    batch.models.size(), " | ", batch.models.size() - batch.missing.size(), " | ", state,
                    " | ", batch.missing.empty() ? "-" : Names(batch.missing), " |\n");
  }
  absl::StrAppend(&out, "\n",
                  overdue == 0 ? "Nothing is overdue." : absl::StrCat("Overdue batches: ", overdue, "."),
                  "\n\n");
}

void AppendNames(const Coverage& coverage, bool by_plan, std::string& out) {
  for (Priority priority : {Priority::kCritical, Priority::kMedium, Priority::kLow}) {
    std::vector<std::string> covered, missing;
    for (const ModelCoverage& model : coverage.models) {
      if (model.model.named_by_plan != by_plan || model.model.priority != priority) continue;
      (model.covered ? covered : missing)
          .push_back(model.flaky ? absl::StrCat(model.model.name, " (flaky)") : model.model.name);
    }
    if (covered.empty() && missing.empty()) continue;
    absl::StrAppend(&out, "- ", PriorityName(priority), ": ", covered.size(), " of ",
                    covered.size() + missing.size(), " covered\n");
    if (!covered.empty()) absl::StrAppend(&out, "  - covered: ", Names(covered), "\n");
    if (!missing.empty()) absl::StrAppend(&out, "  - missing: ", Names(missing), "\n");
  }
  out += "\n";
}

}  // namespace

std::string RenderRoadmap(const Scope& scope) {
  const Coverage& coverage = scope.coverage;
  const size_t tracked = coverage.total.tracked.size(), covered = coverage.total.covered.size();
  std::string out =
      absl::StrCat("# Roadmap\n\nAs of ", TimeText(scope.input->now), " UTC: ", covered, " of ", tracked,
                   " tracked models are covered (", Percent(covered, tracked), "), ", tracked - covered,
                   " are missing. Regenerated from the registry and the recorded results; do not edit.\n\n");
  AppendDates(scope, out);

  out += "## The plan's criteria\n\n";
  for (const Criterion& criterion : scope.criteria) {
    absl::StrAppend(&out, "- [", criterion.met ? "x" : " ", "] ", criterion.number, ". ", criterion.text,
                    ": **", criterion.met ? "met" : "NOT MET", "**. ", MarkdownText(criterion.figures), "\n");
  }
  out += "\n";

  out += "## Real coverage by priority\n\nTrained checkpoints with a golden and verified weights alone.\n\n";
  for (const std::string& line : RealCoverageLines(coverage))
    absl::StrAppend(&out, "- ", MarkdownText(line), "\n");
  out += "\n";

  AppendClaims(coverage, out);

  out +=
      "## What comes next\n\n| model | priority | architecture type | template | task | why it is missing | "
      "catalogue "
      "entry |\n|---|---|---|---|---|---|---|\n";
  for (const NextModel& model : scope.next) {
    absl::StrAppend(&out, "| ", MarkdownText(model.name), " | ", PriorityName(model.priority), " | ",
                    MarkdownText(model.arch_type), " | ", MarkdownText(model.template_name), " | ",
                    MarkdownText(model.task), " | ", MarkdownText(model.why), " | ",
                    model.catalogued ? "yes" : "**none yet**", " |\n");
  }
  if (scope.next.empty()) out += "| - | | | | | every tracked model is covered | |\n";
  out +=
      "\nA model without a catalogue entry has no program and ends as UNSUPPORTED until one is added; its "
      "template "
      "and task above are those usual for its architecture type. `assay next-batch` writes this list as a "
      "batch "
      "file.\n\n## Models that the plan names\n\n";
  AppendNames(coverage, true, out);
  out +=
      "## Models that the registry filled in\n\nThe plan counts these models without naming them; their "
      "names were "
      "chosen to fill its counts.\n\n";
  AppendNames(coverage, false, out);

  out += "## Evidence\n\nWhat is covered, by the jobs that cover it:\n\n";
  for (const ModelCoverage& model : coverage.models) {
    std::vector<std::string> jobs;
    for (const TargetResult& result : model.results) {
      if (!result.covered) continue;
      if (result.mock_passed) {
        const v1::Provenance& from = result.test_job->result().provenance();
        jobs.push_back(absl::StrCat(result.target, " job ", MarkdownCode(result.test_job->job_id()),
                                    ", test ", MarkdownCode(from.test_digest()), ", program ",
                                    MarkdownCode(from.program_digest())));
      }
      if (result.real_passed()) {
        const v1::Provenance& from = result.real_job->result().provenance();
        jobs.push_back(
            absl::StrCat(result.target, " real weights of ", MarkdownText(CheckpointText(*result.real_job)),
                         ", job ", MarkdownCode(result.real_job->job_id()), ", test ",
                         MarkdownCode(from.test_digest()), ", weights ", MarkdownCode(from.weights_digest()),
                         ", golden ", MarkdownCode(from.golden_digest())));
      }
    }
    if (!jobs.empty())
      absl::StrAppend(&out, "- ", MarkdownText(model.model.name), ": ", absl::StrJoin(jobs, "; "), "\n");
  }
  if (coverage.total.covered.empty()) out += "Nothing is covered yet.\n";
  return out;
}

}  // namespace assay::report

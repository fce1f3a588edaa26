#include "coordinator/report/scope.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

std::vector<Remark> MakeRemarks(const Scope& scope) {
  std::vector<Remark> remarks;
  std::string previous;
  for (const v1::Job* job : scope.jobs) {
    const std::string& name = job->model().name();
    auto remark = [&](absl::string_view kind, std::string text) {
      remarks.push_back({name, std::string(kind), std::move(text)});
    };
    const v1::CatalogueEntry* entry = scope.EntryOf(*job);
    // Jobs are by model: what is true of the model is said once.
    if (name != previous) {
      const std::string& original = !job->model().original_name().empty() || entry == nullptr
                                        ? job->model().original_name()
                                        : entry->original_name();
      if (absl::StrContains(original, "-")) {
        remark("hyphenated name", absl::StrCat(original, " is tested as ", name, ", in ", TestFileOf(name)));
      }
      if (scope.input->registry.Find(name) == nullptr) {
        remark("not tracked", "ran, but the registry does not name it: it is no part of coverage");
      }
      if (entry == nullptr) {
        remark("no catalogue entry", "no class, checkpoint or checks of its own are declared");
      } else {
        if (!entry->deviation().empty()) remark("deviation", entry->deviation());
        for (const std::string& patch : entry->patch()) {
          remark("patch", absl::StrCat(patch, "; its reason and its check stand in the program's manifest"));
        }
        if (!entry->note().empty()) remark("note", entry->note());
        for (const v1::NotApplicable& absent : entry->not_applicable()) {
          remark("absent check",
                 absl::StrCat(absent.check(), " of ", absent.case_name(), ": ", absent.reason()));
        }
        if (entry->template_() != job->model().template_()) {
          remark("template", absl::StrCat("the batch names ", job->model().template_(), ", the catalogue ",
                                          entry->template_()));
        }
      }
      previous = name;
    }
    if (scope.IsFlaky(*job)) {
      remark("flaky", absl::StrCat("passed on ", TargetOf(*job), " after a failure at the same inputs"));
    }
    if (job->attempts_size() > 1) {
      std::string text = absl::StrCat(job->attempts_size(), " attempts on ", TargetOf(*job), ":");
      for (const v1::AttemptSummary& attempt : job->attempts()) {
        absl::StrAppend(
            &text, attempt.attempt() == job->attempts(0).attempt() ? " " : ", ",
            attempt.outcome() == v1::OUTCOME_UNSPECIFIED ? "no result" : OutcomeWord(attempt.outcome()),
            " by ", attempt.worker());
      }
      remark("attempts", text);
    }
  }
  return remarks;
}

}  // namespace

const v1::CatalogueEntry* Scope::EntryOf(const v1::Job& job) const {
  auto found = input->catalogue.find(job.model().name());
  return found == input->catalogue.end() ? nullptr : &found->second;
}

RealGrade Scope::GradeOf(const v1::Job& job) const {
  const ModelCoverage* model = coverage.Find(job.model().name());
  return GradeAs(job, model != nullptr && model->type_by_name);
}

bool Scope::IsFlaky(const v1::Job& job) const {
  if (job.flaky()) return job.result().outcome() == v1::PASSED;
  const ModelCoverage* model = coverage.Find(job.model().name());
  if (model == nullptr) return false;
  return std::any_of(model->results.begin(), model->results.end(), [&](const TargetResult& result) {
    return result.flaky && result.test_job->job_id() == job.job_id();
  });
}

absl::StatusOr<Scope> MakeScope(const ReportInput& input) {
  Scope scope;
  scope.input = &input;
  scope.coverage = ComputeCoverage(input);
  if (input.batch_id.empty()) {
    for (const auto* list : {&scope.coverage.models, &scope.coverage.untracked}) {
      for (const ModelCoverage& model : *list) {
        for (const TargetResult& result : model.results) {
          for (const v1::Job* job : {result.job, result.test_job, result.real_job}) {
            // A result that does not tell its device may decide several targets.
            if (job != nullptr && std::find(scope.jobs.begin(), scope.jobs.end(), job) == scope.jobs.end()) {
              scope.jobs.push_back(job);
            }
          }
        }
      }
    }
  } else {
    for (const v1::Batch& batch : input.batches) {
      if (batch.batch_id() == input.batch_id) scope.batch = &batch;
    }
    if (scope.batch == nullptr) return absl::NotFoundError(absl::StrCat("no batch '", input.batch_id, "'"));
    for (const v1::Job& job : input.jobs) {
      if (job.batch_id() == input.batch_id) scope.jobs.push_back(&job);
    }
  }
  std::sort(scope.jobs.begin(), scope.jobs.end(), [](const v1::Job* a, const v1::Job* b) {
    return std::make_tuple(a->model().name(), TargetOf(*a), a->job_id()) <
           std::make_tuple(b->model().name(), TargetOf(*b), b->job_id());
  });
  for (const v1::Batch& batch : input.batches) scope.batches.push_back(&batch);
  std::sort(scope.batches.begin(), scope.batches.end(), [](const v1::Batch* a, const v1::Batch* b) {
    return std::make_pair(TimeOf(a->create_time()), a->batch_id()) <
           std::make_pair(TimeOf(b->create_time()), b->batch_id());
  });
  scope.criteria = JudgePlan(scope.coverage, input);
  scope.plan = HoldPlanAgainst(scope.coverage, input.now);
  scope.next = NextModels(scope.coverage, 10);
  scope.remarks = MakeRemarks(scope);
  return scope;
}

std::vector<std::pair<std::string, size_t>> CountOutcomes(const std::vector<const v1::Job*>& jobs) {
  std::map<std::string, size_t> counts;
  for (const v1::Job* job : jobs) ++counts[JobWord(*job)];
  std::vector<std::pair<std::string, size_t>> ordered;
  if (auto passed = counts.find("PASSED"); passed != counts.end()) {
    ordered.push_back(*passed);
    counts.erase(passed);
  }
  ordered.insert(ordered.end(), counts.begin(), counts.end());
  return ordered;
}

Durations MeasureDurations(const std::vector<const v1::Job*>& jobs) {
  Durations durations;
  std::vector<double> seconds;
  for (const v1::Job* job : jobs) {
    if (job->state() != v1::DONE || job->result().seconds() <= 0) continue;
    seconds.push_back(job->result().seconds());
    durations.sum += seconds.back();
    if (durations.slowest == nullptr || job->result().seconds() > durations.slowest->result().seconds()) {
      durations.slowest = job;
    }
  }
  if (!seconds.empty()) {
    std::sort(seconds.begin(), seconds.end());
    durations.median = seconds[(seconds.size() - 1) / 2];
  }
  return durations;
}

std::string Complaint(const v1::Job& job) {
  const v1::TestResult& test = job.result();
  std::string text = test.message();
  if (text.empty()) {
    for (const v1::CaseResult& one : test.case_()) {
      if (one.outcome() == v1::PASSED || one.outcome() == v1::SKIPPED) continue;
      text = absl::StrCat(one.name(), ": ", one.message());
      for (const v1::CheckResult& check : one.check()) {
        if (check.outcome() == v1::PASSED || check.outcome() == v1::SKIPPED) continue;
        text = absl::StrCat(one.name(), ": ", check.name(), ": ", check.message());
        break;
      }
      break;
    }
  }
  if (!test.last_case().empty()) absl::StrAppend(&text, text.empty() ? "" : "; ", "in ", test.last_case());
  if (test.signal() != 0) absl::StrAppend(&text, text.empty() ? "" : "; ", "signal ", test.signal());
  return text;
}

std::string MockWord(const v1::Job& job) {
  for (const v1::CaseResult& one : job.result().case_()) {
    if (one.name() != kMockCase) continue;
    std::string word = OutcomeWord(one.outcome());
    if (one.outcome() == v1::PASSED && one.evidence() != v1::GOLDEN) word += " (structural)";
    if (one.outcome() == v1::SKIPPED && !one.reason().empty())
      absl::StrAppend(&word, " (", one.reason(), ")");
    return word;
  }
  return "-";
}

CheckpointJobs FindCheckpointJobs(const Scope& scope) {
  CheckpointJobs jobs;
  for (const v1::Job* job : scope.jobs) {
    if (ExportOf(*job) != nullptr) jobs.exported.push_back(job);
    const v1::CaseResult* loading = LoadingCaseOf(*job);
    if (loading == nullptr || loading->outcome() == v1::SKIPPED) continue;
    if (loading->weights() == v1::SYNTHETIC) jobs.synthetic.push_back(job);
    if (loading->weights() == v1::REAL) jobs.trained.push_back(job);
  }
  return jobs;
}

std::vector<std::string> RealCoverageLines(const Coverage& coverage) {
  std::vector<std::string> lines;
  for (const auto& [priority, tally] : coverage.by_priority) {
    std::string line = absl::StrCat(priority, ": ", tally.real_passed.size(), " of ", tally.tracked.size(),
                                    " (", Percent(tally.real_passed.size(), tally.tracked.size()), ")");
    const auto append = [&](absl::string_view what, const std::set<std::string>& names) {
      if (!names.empty()) absl::StrAppend(&line, what, absl::StrJoin(names, ", "));
    };
    append(": ", tally.real_passed);
    append(absl::StrCat("; ", tally.real_unverified.size(), " more with unverified weights: "),
           tally.real_unverified);
    append(absl::StrCat("; ", tally.real_structural.size(), " more with ", kNoGolden, ": "),
           tally.real_structural);
    append(absl::StrCat("; ", tally.synthetic.size(), " with synthetic weights, which are never real: "),
           tally.synthetic);
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace assay::report

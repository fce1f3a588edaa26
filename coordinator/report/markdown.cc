#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/cost.h"
#include "coordinator/report/divergence.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/parity.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/variants.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

std::string Row(const std::vector<std::string>& cells) {
  return absl::StrCat("| ", absl::StrJoin(cells, " | "), " |\n");
}

std::string Names(const std::vector<std::string>& names) {
  return absl::StrJoin(names, ", ", [](std::string* out, const std::string& name) {
    absl::StrAppend(out, MarkdownText(name));
  });
}

void AppendTallies(const TallyByWord& rows, std::string& out) {
  for (const auto& [word, tally] : rows) {
    out += Row({MarkdownText(word), absl::StrCat(tally.tracked.size()), absl::StrCat(tally.generated.size()),
                absl::StrCat(tally.verified.size()), absl::StrCat(tally.mock_passed.size()),
                absl::StrCat(tally.real_passed.size()), absl::StrCat(tally.real_unverified.size()),
                absl::StrCat(tally.real_structural.size()), absl::StrCat(tally.synthetic.size()),
                absl::StrCat(tally.covered.size()), Percent(tally.covered.size(), tally.tracked.size())});
  }
}

void AppendCoverage(const Coverage& coverage, bool in_full, std::string& out) {
  out +=
      "| | tracked | generated | verified | mock passed | real passed | real, unverified | real, no golden | "
      "synthetic | covered | % |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  AppendTallies({{"all tracked models", coverage.total}}, out);
  AppendTallies(coverage.by_priority, out);
  if (in_full) {
    out += "| *architecture type* | | | | | | | | | | |\n";
    AppendTallies(coverage.by_arch_type, out);
    out += "| *template* | | | | | | | | | | |\n";
    AppendTallies(coverage.by_template, out);
    out += "| *device* | | | | | | | | | | |\n";
    AppendTallies(coverage.by_device, out);
  }
  out += "\n";
}

void AppendLegend(std::string& out) {
  out +=
      "Covered: the newest result on some target PASSED, and in it the numbers of the model's real "
      "architecture "
      "were compared with a golden. Generated and verified are one fact, seen twice: a worker verifies each "
      "test "
      "that it generates before it names its digest. Real passed: a trained checkpoint, whose weights the "
      "hub's "
      "SHA-256 or a pinned digest vouches for, agreed in float32 with a golden and gave every answer that is "
      "known. Real, unverified: nothing vouches for the weights. Real, no golden: its shapes, finiteness and "
      "invariances held, but there was no reference to compare with. Synthetic: a checkpoint of random "
      "values, "
      "which is never real. None of these three, nor skipped cases and cancelled jobs, count as "
      "anything.\n\n";
}

void AppendJobs(const Scope& scope, std::string& out) {
  out +=
      "| model | class | outcome | mock weights | real weights | checks applied / possible | template | task "
      "| "
      "target | "
      "time | worker |\n|---|---|---|---|---|---:|---|---|---|---:|---|\n";
  for (const v1::Job* job : scope.jobs) {
    const CheckCount checks = CountChecks(*job, scope.EntryOf(*job));
    std::string outcome = JobWord(*job) == "PASSED" ? "PASSED" : absl::StrCat("**", JobWord(*job), "**");
    if (scope.IsFlaky(*job)) outcome += " (flaky)";
    const v1::CatalogueEntry* entry = scope.EntryOf(*job);
    out +=
        Row({MarkdownText(job->model().name()), entry == nullptr ? "-" : MarkdownText(entry->model_class()),
             outcome, MarkdownText(MockWord(*job)), MarkdownText(RealWord(*job)),
             absl::StrCat(checks.applied, " / ", checks.possible), MarkdownText(job->model().template_()),
             MarkdownText(job->model().task()), TargetOf(*job), SecondsText(job->result().seconds()),
             MarkdownText(job->worker())});
  }
  out += "\n";
}

std::string Joined(const std::vector<std::string>& lines) {
  return absl::StrJoin(lines, "<br>", [](std::string* out, const std::string& line) {
    absl::StrAppend(out, MarkdownText(line));
  });
}

void AppendCheckpointTable(const std::vector<const v1::Job*>& jobs, std::string& out) {
  out +=
      "| model | target | checkpoint | weights | evidence | trust | loading case | loaded | findings | "
      "answers |\n"
      "|---|---|---|---|---|---|---|---|---|---|\n";
  for (const v1::Job* job : jobs) {
    const v1::CaseResult& loading = *LoadingCaseOf(*job);
    const v1::Provenance& from = job->result().provenance();
    std::vector<std::string> findings = LoadFindings(loading.load()), answers;
    if (!loading.no_golden().empty()) {
      findings.insert(findings.begin(), absl::StrCat(kNoGolden, ": ", loading.no_golden()));
    }
    for (const v1::AnswerResult& answer : loading.answer()) answers.push_back(AnswerText(answer));
    out += Row({MarkdownText(job->model().name()), TargetOf(*job), MarkdownText(CheckpointText(*job)),
                from.weights_digest().empty() ? "-" : MarkdownCode(from.weights_digest().substr(0, 12)),
                RealEvidenceText(*job), std::string(TrustWord(from.weights_trust())),
                MarkdownText(RealWord(*job)), MarkdownText(LoadText(loading.load())), Joined(findings),
                Joined(answers)});
  }
  out += "\n";
}

void AppendCheckpoints(const Scope& scope, std::string& out) {
  const CheckpointJobs jobs = FindCheckpointJobs(scope);
  if (!jobs.trained.empty()) {
    out += "## Trained checkpoints\n\n";
    AppendCheckpointTable(jobs.trained, out);
  }
  if (!jobs.synthetic.empty()) {
    out +=
        "## Synthetic checkpoints\n\nFull size and form, random values: they show that the path holds, and "
        "are never real.\n\n";
    AppendCheckpointTable(jobs.synthetic, out);
  }
  if (!jobs.exported.empty()) {
    out += "## Exports\n\n| model | checkpoint | outcome | exporter |\n|---|---|---|---|\n";
    for (const v1::Job* job : jobs.exported) {
      out += Row({MarkdownText(job->model().name()), MarkdownText(CheckpointText(*job)),
                  MarkdownText(ExportText(*job)), MarkdownText(ExportOf(*job)->export_().exporter())});
    }
    out += "\n";
  }
}

void AppendRealCoverage(const Coverage& coverage, std::string& out) {
  out += "## Real coverage by priority\n\nTrained checkpoints with a golden and verified weights alone.\n\n";
  for (const std::string& line : RealCoverageLines(coverage))
    absl::StrAppend(&out, "- ", MarkdownText(line), "\n");
  out += "\n";
}

void AppendFailures(const Scope& scope, std::string& out) {
  out += "## What did not pass\n\n";
  bool any = false;
  for (const v1::Job* job : scope.jobs) {
    if (job->state() != v1::DONE || job->result().outcome() == v1::PASSED) continue;
    any = true;
    absl::StrAppend(&out, "### ", MarkdownText(job->model().name()), " on ", TargetOf(*job), ": ",
                    JobWord(*job), "\n\n");
    const std::string complaint = Complaint(*job);
    if (!complaint.empty()) absl::StrAppend(&out, MarkdownText(complaint), "\n\n");
    for (const v1::CaseResult& one : job->result().case_()) {
      for (const v1::CheckResult& check : one.check()) {
        if (check.outcome() == v1::PASSED || check.outcome() == v1::SKIPPED) continue;
        absl::StrAppend(&out, "- ", MarkdownText(one.name()), ", check ", MarkdownText(check.name()), ": ",
                        OutcomeWord(check.outcome()));
        if (check.has_error()) absl::StrAppendFormat(&out, ", error %.3g", check.error());
        if (check.has_tolerance()) absl::StrAppendFormat(&out, ", allowed %.3g", check.tolerance());
        absl::StrAppend(&out, check.message().empty() ? "" : ": ", MarkdownText(check.message()), "\n");
      }
      std::string indent = absl::StrCat("- ", MarkdownText(one.name()), ", ");
      for (const std::string& line : DivergenceLines(one.divergence())) {
        absl::StrAppend(&out, indent, MarkdownText(line), "\n");
        indent = "  - ";
      }
    }
    absl::StrAppend(&out, "- job ", MarkdownCode(job->job_id()), ", attempt ", job->attempt(), ", worker ",
                    MarkdownText(job->worker()), "\n\n");
    if (!job->result().output_tail().empty()) {
      absl::StrAppend(&out, "Its last output:\n\n", MarkdownBlock(job->result().output_tail()), "\n");
    }
  }
  if (!any) out += scope.jobs.empty() ? "Nothing has run.\n\n" : "Every recorded result is PASSED.\n\n";
}

void AppendCosts(const Scope& scope, std::string& out) {
  bool any = false;
  for (const v1::Job* job : scope.jobs) {
    const std::string stages = StagesText(*job);
    for (const v1::CaseResult& one : job->result().case_()) {
      const std::string cost = CostText(one);
      if (cost.empty()) continue;
      if (!any)
        out +=
            "## What runs took\n\n| model | target | case | stages of the job | of the case "
            "|\n|---|---|---|---|---|\n";
      any = true;
      absl::StrAppend(&out, "| ", MarkdownText(job->model().name()), " | ", TargetOf(*job), " | ",
                      MarkdownText(one.name()), " | ", MarkdownText(stages), " | ", MarkdownText(cost));
      for (const std::string& line : ProfileLines(one)) absl::StrAppend(&out, "<br>", MarkdownText(line));
      out += " |\n";
    }
  }
  if (any) out += "\n";
}

void AppendRemarks(const Scope& scope, std::string& out) {
  out += "## Deviations and special handling\n\n";
  if (scope.remarks.empty()) {
    out += "None.\n\n";
    return;
  }
  out += "| model | what | |\n|---|---|---|\n";
  for (const Remark& remark : scope.remarks) {
    out += Row({MarkdownText(remark.model), remark.kind, MarkdownText(remark.text)});
  }
  out += "\n";
}

// What of the variants was run, and the cause of each that is missing.
void AppendVariants(const Scope& scope, std::string& out) {
  const std::vector<VariantCount> variants = CountVariants(scope.jobs);
  if (variants.empty()) return;
  out += "## Variants\n\n";
  for (const VariantCount& count : variants)
    absl::StrAppend(&out, "- ", MarkdownText(VariantText(count)), "\n");
  out += "\n";
  std::string rows;
  for (const VariantCount& count : variants) {
    for (const auto& [model, cause] : count.missing) {
      rows += Row({count.name, MarkdownText(model), "missing", MarkdownText(cause)});
    }
    for (const auto& [model, cause] : count.partial) {
      rows += Row({count.name, MarkdownText(model), "in part", MarkdownText(cause)});
    }
  }
  if (!rows.empty()) absl::StrAppend(&out, "| variant | model | | cause |\n|---|---|---|---|\n", rows, "\n");
}

void AppendStatistics(const Scope& scope, std::string& out) {
  out += "## Statistics\n\n";
  for (const auto& [word, count] : CountOutcomes(scope.jobs)) {
    absl::StrAppend(&out, "- ", word, ": ", count, " of ", scope.jobs.size(), "\n");
  }
  size_t applied = 0, possible = 0;
  for (const v1::Job* job : scope.jobs) {
    const CheckCount checks = CountChecks(*job, scope.EntryOf(*job));
    applied += checks.applied;
    possible += checks.possible;
  }
  absl::StrAppend(&out, "- checks applied: ", applied, " of ", possible, " possible\n");
  const Durations durations = MeasureDurations(scope.jobs);
  if (durations.slowest != nullptr) {
    absl::StrAppend(&out, "- time in tests: ", SecondsText(durations.sum), " in all, median ",
                    SecondsText(durations.median), ", slowest ",
                    MarkdownText(durations.slowest->model().name()), " with ",
                    SecondsText(durations.slowest->result().seconds()), "\n");
  }
  uint64_t peak = 0;
  for (const v1::Job* job : scope.jobs) peak = std::max<uint64_t>(peak, job->result().peak_memory_bytes());
  absl::StrAppend(&out, "- highest memory of a test: ", BytesText(peak), "\n");
  const PredictionErrors errors = MeasurePredictions(scope.jobs);
  auto predicted = [&out](const char* what, const PredictionErrors::Spread& spread) {
    if (spread.jobs == 0) return;
    out += absl::StrFormat(
        "- %s predicted for %u tests: off by %.0f %% in the median, by at most %.0f %% in nine of ten\n",
        what, spread.jobs, 100 * spread.median, 100 * spread.nine_of_ten);
  };
  predicted("time", errors.time);
  predicted("memory", errors.memory);
  out += "\n";
}

void AppendMissing(const Coverage& coverage, std::string& out) {
  out += "## Missing, by name\n\n";
  for (const auto& [word, tally] : coverage.by_priority) {
    std::vector<std::string> names;
    for (const ModelCoverage& model : coverage.models) {
      if (model.covered || PriorityName(model.model.priority) != word) continue;
      names.push_back(model.results.empty() ? model.model.name
                                            : absl::StrCat(model.model.name, " (", model.why_missing, ")"));
    }
    absl::StrAppend(&out, "- ", word, ", ", names.size(), " of ", tally.tracked.size(),
                    names.empty() ? "" : ": ", Names(names), "\n");
  }
  out += "\n";
}

void AppendNext(const Scope& scope, std::string& out) {
  out += "## What comes next\n\n";
  for (const PlannedBatch& batch : scope.plan) {
    if (batch.missing.empty()) continue;
    absl::StrAppend(&out, "- batch ", batch.number, " of the plan is ", ProgressText(batch));
    if (batch.has_date) absl::StrAppend(&out, " (due ", absl::FormatCivilTime(batch.due), ")");
    absl::StrAppend(&out, ": ", batch.missing.size(), " of ", batch.models.size(),
                    " missing: ", Names(batch.missing), "\n");
  }
  if (scope.next.empty()) {
    out += "- every tracked model is covered\n";
  } else {
    std::vector<std::string> names;
    for (const NextModel& model : scope.next) {
      names.push_back(model.catalogued ? model.name : absl::StrCat(model.name, " (no catalogue entry yet)"));
    }
    absl::StrAppend(&out, "- the most urgent of what is missing: ", Names(names), "\n");
  }
  out += "\n";
}

void AppendCriteria(const Scope& scope, std::string& out) {
  out += "## The plan's criteria\n\n";
  for (const Criterion& criterion : scope.criteria) {
    absl::StrAppend(&out, "- [", criterion.met ? "x" : " ", "] ", criterion.number, ". ", criterion.text,
                    ": **", criterion.met ? "met" : "NOT MET", "**. ", MarkdownText(criterion.figures), "\n");
  }
  out += "\n";
}

// Nothing where no model ran on two kinds of device.
void AppendParity(const Scope& scope, std::string& out) {
  const std::vector<ParityCheck> checks = CompareDevices(scope.jobs);
  if (checks.empty()) return;
  out +=
      "## Parity of devices\n\nThe outputs of one device held against those of another, by a few figures of "
      "each "
      "(samples, mean, norm, largest magnitude). That each agrees with its golden is the stronger statement, "
      "and "
      "is in the table of models.\n\n"
      "| model | dtype | case | devices | outputs | nearest to what is allowed "
      "|\n|---|---|---|---|---|---|\n";
  for (const ParityCheck& check : checks) {
    out += Row({MarkdownText(check.first->model().name()),
                v1::Dtype_Name(check.first->result().provenance().dtype()), MarkdownText(check.case_name),
                MarkdownText(absl::StrCat(DeviceWord(*check.first), " and ", DeviceWord(*check.second))),
                check.parity == Parity::kDiffer ? absl::StrCat("**", ParityWord(check.parity), "**")
                                                : ParityWord(check.parity),
                MarkdownText(check.message.empty() ? "equal in every figure" : check.message)});
  }
  out += "\n";
}

void AppendBatches(const Scope& scope, std::string& out) {
  out += "## Batches\n\n| batch | file | submitted | ended | done |\n|---|---|---|---|---:|\n";
  for (const v1::Batch* batch : scope.batches) {
    out +=
        Row({MarkdownCode(batch->batch_id()), MarkdownText(batch->name()), TimeText(batch->create_time()),
             TimeText(batch->end_time()),
             absl::StrCat(batch->done(), " of ", batch->total(), batch->cancelled() ? ", cancelled" : "")});
  }
  out += "\n";
}

void AppendEvidence(const Scope& scope, std::string& out) {
  out +=
      "## Evidence\n\nEvery figure above counts these results. Two results are comparable exactly when their "
      "digests, builds and devices agree.\n\n"
      "| model | job | attempt | test | program | template | catalogue | weights | checkpoint's program | "
      "its golden "
      "| engine | torch | device | log |\n"
      "|---|---|---:|---|---|---|---|---|---|---|---|---|---|---|\n";
  auto digest = [](const std::string& text) { return text.empty() ? std::string("-") : MarkdownCode(text); };
  for (const v1::Job* job : scope.jobs) {
    if (job->state() != v1::DONE) continue;
    const v1::Provenance& from = job->result().provenance();
    out += Row({MarkdownText(job->model().name()), MarkdownCode(job->job_id()), absl::StrCat(job->attempt()),
                digest(from.test_digest()), digest(from.program_digest()), digest(from.template_digest()),
                digest(from.catalogue_digest()), digest(from.weights_digest()),
                digest(from.checkpoint_program_digest()), digest(from.golden_digest()),
                MarkdownText(from.engine_build()), MarkdownText(from.torch_version()),
                MarkdownText(absl::StrCat(from.device().kind(), " ", from.device().name())),
                digest(job->log_digest())});
  }
}

}  // namespace

std::string RenderMarkdown(const Scope& scope) {
  std::string out;
  if (scope.batch != nullptr) {
    absl::StrAppend(&out, "# Batch report: ", MarkdownText(scope.batch->name()), "\n\nBatch ",
                    MarkdownCode(scope.batch->batch_id()), ", submitted by ",
                    scope.batch->submitter().empty() ? "-" : MarkdownText(scope.batch->submitter()), " at ",
                    TimeText(scope.batch->create_time()), ", ended ", TimeText(scope.batch->end_time()),
                    scope.batch->cancelled() ? ", **cancelled**" : "", ". Times are UTC.\n\n## Models\n\n");
    AppendJobs(scope, out);
    AppendCheckpoints(scope, out);
    AppendFailures(scope, out);
    AppendCosts(scope, out);
    AppendRemarks(scope, out);
    AppendStatistics(scope, out);
    AppendVariants(scope, out);
    AppendParity(scope, out);
    out += "## Coverage with this batch\n\n";
    AppendCoverage(scope.coverage, false, out);
    AppendLegend(out);
    AppendNext(scope, out);
  } else {
    absl::StrAppend(&out, "# Coverage report\n\nAs of ", TimeText(scope.input->now),
                    " UTC, computed from the registry's names and the newest result of each model on each "
                    "target.\n\n## Coverage\n\n");
    AppendCoverage(scope.coverage, true, out);
    AppendLegend(out);
    AppendRealCoverage(scope.coverage, out);
    AppendCriteria(scope, out);
    out += "## Models that ran\n\n";
    AppendJobs(scope, out);
    AppendCheckpoints(scope, out);
    AppendFailures(scope, out);
    AppendCosts(scope, out);
    AppendRemarks(scope, out);
    AppendStatistics(scope, out);
    AppendVariants(scope, out);
    AppendParity(scope, out);
    AppendMissing(scope.coverage, out);
    AppendNext(scope, out);
    AppendBatches(scope, out);
  }
  AppendEvidence(scope, out);
  return out;
}

}  // namespace assay::report

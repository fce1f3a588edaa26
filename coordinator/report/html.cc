// One file that needs nothing beside it: no script, no font, no image; light and dark by the reader's
// setting.
#include <algorithm>
#include <map>

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

constexpr absl::string_view kStyle = R"(
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2126;--dim:#646d76;--line:#d9dee3;--soft:#f4f6f8;
--pass:#d7f0dc;--passfg:#11551f;--fail:#f9d7d5;--failfg:#82130c;--err:#fbe4c5;--errfg:#6d3e00;--skip:#e6e9ec;--skipfg:#454d55}
@media(prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e4e8ec;--dim:#98a1aa;--line:#333b43;--soft:#1c2228;
--pass:#173d22;--passfg:#a5e0b3;--fail:#4d1a18;--failfg:#f7b5b0;--err:#47300f;--errfg:#f2cd92;--skip:#2a3138;--skipfg:#b9c2ca}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:74rem;padding:1.5rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p.dim,.dim{color:var(--dim)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{padding:.28rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{background:var(--soft);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr.group td{background:var(--soft);font-weight:600}
code,pre{font:.82rem ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--soft);padding:.6rem;white-space:pre-wrap;margin:.3rem 0}
.o{display:inline-block;padding:0 .5rem;border-radius:.7rem;font-size:.78rem;font-weight:600;white-space:nowrap}
.pass{background:var(--pass);color:var(--passfg)}.fail{background:var(--fail);color:var(--failfg)}
.err{background:var(--err);color:var(--errfg)}.skip{background:var(--skip);color:var(--skipfg)}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.tile{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;padding:.6rem 1rem;min-width:8rem}
.tile b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}
.bar{height:.5rem;border-radius:.25rem;background:var(--skip);overflow:hidden;min-width:6rem}
.bar i{display:block;height:100%;background:var(--passfg)}
details summary{cursor:pointer}
)";

absl::string_view ClassOf(absl::string_view outcome) {
  if (outcome == "PASSED") return "pass";
  if (outcome == "FAILED") return "fail";
  if (outcome == "SKIPPED" || outcome == "CANCELLED" || outcome == "QUEUED" || outcome == "RUNNING")
    return "skip";
  return "err";
}

std::string Badge(absl::string_view outcome, absl::string_view extra = "") {
  return absl::StrCat("<span class=\"o ", ClassOf(outcome), "\">", outcome, XmlText(extra), "</span>");
}

void AppendTile(absl::string_view what, size_t part, size_t of, std::string& out) {
  absl::StrAppend(&out, "<div class=\"tile\"><b>", part, "</b>", what, " <span class=\"dim\">of ", of, ", ",
                  Percent(part, of), "</span></div>\n");
}

void AppendTallies(absl::string_view what, const TallyByWord& rows, std::string& out) {
  absl::StrAppend(&out, "<tr class=\"group\"><td colspan=\"11\">", what, "</td></tr>\n");
  for (const auto& [word, tally] : rows) {
    absl::StrAppend(&out, "<tr><td>", XmlText(word), "</td>");
    for (const auto* names :
         {&tally.tracked, &tally.generated, &tally.verified, &tally.mock_passed, &tally.real_passed,
          &tally.real_unverified, &tally.real_structural, &tally.synthetic, &tally.covered}) {
      absl::StrAppend(&out, "<td class=\"n\" title=\"", XmlAttribute(absl::StrJoin(*names, ", ")), "\">",
                      names->size(), "</td>");
    }
    const double share = tally.tracked.empty() ? 0 : 100.0 * tally.covered.size() / tally.tracked.size();
    absl::StrAppendFormat(
        &out, "<td><div class=\"bar\" title=\"%.1f %%\"><i style=\"width:%.1f%%\"></i></div></td></tr>\n",
        share, share);
  }
}

void AppendCoverage(const Coverage& coverage, std::string& out) {
  out +=
      "<h2>Coverage</h2>\n<div class=\"wide\"><table>\n<tr><th></th><th class=\"n\">tracked</th><th "
      "class=\"n\">generated</th><th class=\"n\">verified</th><th class=\"n\">mock passed</th><th "
      "class=\"n\">real "
      "passed</th><th class=\"n\">real, unverified</th><th class=\"n\">real, no golden</th><th "
      "class=\"n\">synthetic</th><th class=\"n\">covered</th><th></th></tr>\n";
  AppendTallies("all", {{"tracked models", coverage.total}}, out);
  AppendTallies("priority", coverage.by_priority, out);
  AppendTallies("architecture type", coverage.by_arch_type, out);
  AppendTallies("template", coverage.by_template, out);
  AppendTallies("device", coverage.by_device, out);
  out +=
      "</table></div>\n<p class=\"dim\">Covered: the newest result on some target PASSED, and in it the "
      "numbers of "
      "the model&#39;s real architecture were compared with a golden. A worker verifies each test that it "
      "generates, so "
      "generated and verified rest on the same digest. Real passed: trained weights that the hub&#39;s "
      "SHA-256 or a "
      "pinned digest vouches for agreed in float32 with a golden. Unverified weights, passes without a "
      "golden, "
      "synthetic checkpoints (random values), skipped cases and cancelled jobs count as nothing. Point at a "
      "figure for its names.</p>\n<h2>Real coverage by priority</h2>\n<ul>\n";
  for (const std::string& line : RealCoverageLines(coverage)) {
    absl::StrAppend(&out, "<li>", XmlText(line), "</li>\n");
  }
  out += "</ul>\n";
}

void AppendCriteria(const Scope& scope, std::string& out) {
  out += "<h2>The plan&#39;s criteria</h2>\n<div class=\"wide\"><table>\n";
  for (const Criterion& criterion : scope.criteria) {
    absl::StrAppend(&out, "<tr><td class=\"n\">", criterion.number, "</td><td>", XmlText(criterion.text),
                    "<br><span class=\"dim\">", XmlText(criterion.figures),
                    "</span></td><td><span class=\"o ", criterion.met ? "pass\">met" : "fail\">NOT MET",
                    "</span></td></tr>\n");
  }
  out += "</table></div>\n";
}

// A row a model, a column a target that something ran on.
void AppendMatrix(const Scope& scope, std::string& out) {
  std::set<std::string> targets;
  std::map<std::string, std::map<std::string, const v1::Job*>> cells;
  for (const v1::Job* job : scope.jobs) {
    targets.insert(TargetOf(*job));
    const v1::Job*& cell = cells[job->model().name()][TargetOf(*job)];
    if (cell == nullptr || TimeOf(cell->end_time()) <= TimeOf(job->end_time())) cell = job;
  }
  out +=
      "<h2>Models and targets</h2>\n<div "
      "class=\"wide\"><table>\n<tr><th>model</th><th>priority</th><th>template</th>";
  for (const std::string& target : targets) absl::StrAppend(&out, "<th>", XmlText(target), "</th>");
  out += "</tr>\n";
  auto row = [&](const ModelCoverage& model, absl::string_view priority) {
    absl::StrAppend(&out, "<tr><td>", XmlText(model.model.name), "</td><td class=\"dim\">", priority,
                    "</td><td class=\"dim\">", XmlText(model.template_name), "</td>");
    auto found = cells.find(model.model.name);
    for (const std::string& target : targets) {
      const v1::Job* job = nullptr;
      if (found != cells.end() && found->second.count(target) > 0) job = found->second.at(target);
      if (job == nullptr) {
        out += "<td class=\"dim\">-</td>";
        continue;
      }
      absl::StrAppend(&out, "<td title=\"", XmlAttribute(absl::StrCat("job ", job->job_id())), "\">",
                      Badge(JobWord(*job), scope.IsFlaky(*job) ? " flaky" : ""), "</td>");
    }
    out += "</tr>\n";
  };
  std::map<std::string, std::vector<const ModelCoverage*>> by_arch_type;
  for (const ModelCoverage& model : scope.coverage.models) {
    if (scope.batch != nullptr && cells.count(model.model.name) == 0) continue;
    by_arch_type[model.model.arch_type].push_back(&model);
  }
  for (const auto& [arch_type, models] : by_arch_type) {
    size_t covered =
        std::count_if(models.begin(), models.end(), [](const auto* model) { return model->covered; });
    absl::StrAppend(&out, "<tr class=\"group\"><td colspan=\"", 3 + targets.size(), "\">", XmlText(arch_type),
                    ", ", covered, " of ", models.size(), " covered</td></tr>\n");
    for (const ModelCoverage* model : models) row(*model, PriorityName(model->model.priority));
  }
  bool headed = false;
  for (const ModelCoverage& model : scope.coverage.untracked) {
    if (cells.count(model.model.name) == 0) continue;
    if (!headed)
      absl::StrAppend(&out, "<tr class=\"group\"><td colspan=\"", 3 + targets.size(),
                      "\">not tracked</td></tr>\n");
    headed = true;
    row(model, "");
  }
  out += "</table></div>\n";
}

void AppendResults(const Scope& scope, std::string& out) {
  out +=
      "<h2>Results</h2>\n<div class=\"wide\"><table>\n<tr><th>model</th><th>outcome</th><th>mock "
      "weights</th><th>real weights</th><th class=\"n\">checks applied / possible</th><th>target</th><th "
      "class=\"n\">time</th><th>detail</th></tr>\n";
  for (const v1::Job* job : scope.jobs) {
    const CheckCount checks = CountChecks(*job, scope.EntryOf(*job));
    absl::StrAppend(&out, "<tr><td>", XmlText(job->model().name()), "</td><td>",
                    Badge(JobWord(*job), scope.IsFlaky(*job) ? " flaky" : ""), "</td><td>",
                    XmlText(MockWord(*job)), "</td><td>", XmlText(RealWord(*job)), "</td><td class=\"n\">",
                    checks.applied, " / ", checks.possible, "</td><td>", XmlText(TargetOf(*job)),
                    "</td><td class=\"n\">", SecondsText(job->result().seconds()), "</td><td>");
    const std::string complaint = job->result().outcome() == v1::PASSED ? "" : Shorten(Complaint(*job), 300);
    if (!complaint.empty()) absl::StrAppend(&out, XmlText(complaint));
    absl::StrAppend(&out, "<details><summary class=\"dim\">", job->result().case__size(),
                    " cases</summary>\n");
    if (const std::string stages = StagesText(*job); !stages.empty()) {
      absl::StrAppend(&out, "<div class=\"dim\">", XmlText(stages), "</div>\n");
    }
    for (const v1::CaseResult& one : job->result().case_()) {
      std::vector<std::string> lines;
      for (const v1::CheckResult& check : one.check()) {
        std::string line = absl::StrCat(OutcomeWord(check.outcome()), "  ", check.name());
        if (check.has_error()) absl::StrAppendFormat(&line, "  error %.3g", check.error());
        if (check.has_tolerance()) absl::StrAppendFormat(&line, "  allowed %.3g", check.tolerance());
        if (!check.message().empty()) absl::StrAppend(&line, "  ", check.message());
        lines.push_back(line);
      }
      if (std::string cost = CostText(one); !cost.empty()) lines.push_back(std::move(cost));
      for (std::string& line : ProfileLines(one)) lines.push_back(std::move(line));
      for (std::string& line : DivergenceLines(one.divergence())) lines.push_back(std::move(line));
      absl::StrAppend(&out, "<div>", Badge(OutcomeWord(one.outcome())), " ", XmlText(one.name()), " ",
                      XmlText(one.reason()), " <span class=\"dim\">", WeightsWord(one.weights()), " ",
                      EvidenceWord(one.evidence()), "</span></div>");
      if (!lines.empty()) absl::StrAppend(&out, "<pre>", XmlText(absl::StrJoin(lines, "\n")), "</pre>\n");
      out += GrowthPlot(one.divergence());
    }
    if (!job->result().output_tail().empty()) {
      absl::StrAppend(&out, "<div>its last output</div><pre>", XmlText(job->result().output_tail()),
                      "</pre>\n");
    }
    out += "</details></td></tr>\n";
  }
  out += "</table></div>\n";
}

void AppendVariants(const Scope& scope, std::string& out) {
  const std::vector<VariantCount> variants = CountVariants(scope.jobs);
  if (variants.empty()) return;
  out +=
      "<h2>Variants</h2>\n<p class=\"dim\">Further programs of the same models and weights: sdpa attention, "
      "a "
      "cache, greedy decoding, other shapes.</p>\n";
  for (const VariantCount& count : variants) {
    absl::StrAppend(&out, "<div>", XmlText(VariantText(count)), "</div>\n");
    std::vector<std::string> lines;
    for (const auto& [model, cause] : count.missing)
      lines.push_back(absl::StrCat(model, ": missing: ", cause));
    for (const auto& [model, cause] : count.partial)
      lines.push_back(absl::StrCat(model, ": in part: ", cause));
    if (lines.empty()) continue;
    absl::StrAppend(&out, "<details><summary class=\"dim\">causes</summary><pre>",
                    XmlText(absl::StrJoin(lines, "\n")), "</pre></details>\n");
  }
}

// Nothing where no model ran on two kinds of device.
void AppendParity(const Scope& scope, std::string& out) {
  const std::vector<ParityCheck> checks = CompareDevices(scope.jobs);
  if (checks.empty()) return;
  out +=
      "<h2>Parity of devices</h2>\n<p class=\"dim\">The outputs of one device held against those of another, "
      "by a few figures of each. That each agrees with its golden is the stronger statement.</p>\n<div "
      "class=\"wide\"><table>\n<tr><th>model</th><th>dtype</th><th>case</th><th>devices</th><th>outputs</th>"
      "<th>nearest to what is allowed</th></tr>\n";
  for (const ParityCheck& check : checks) {
    const char* style = check.parity == Parity::kAgree    ? "pass"
                        : check.parity == Parity::kDiffer ? "fail"
                                                          : "skip";
    absl::StrAppend(&out, "<tr><td>", XmlText(check.first->model().name()), "</td><td>",
                    DtypeWord(check.first->result().provenance().dtype()), "</td><td>",
                    XmlText(check.case_name), "</td><td>", XmlText(DeviceWord(*check.first)), " and ",
                    XmlText(DeviceWord(*check.second)), "</td><td><span class=\"o ", style, "\">",
                    ParityWord(check.parity), "</span></td><td>",
                    XmlText(check.message.empty() ? "equal in every figure" : check.message), "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void AppendCheckpointTable(const std::vector<const v1::Job*>& jobs, std::string& out) {
  out +=
      "<div class=\"wide\"><table>\n<tr><th>model</th><th>target</th><th>checkpoint</th><th>loading "
      "case</th><th>evidence</th><th>trust</th><th>loaded</th><th>answers</th></tr>\n";
  for (const v1::Job* job : jobs) {
    const v1::CaseResult& loading = *LoadingCaseOf(*job);
    const v1::Provenance& from = job->result().provenance();
    absl::StrAppend(&out, "<tr><td>", XmlText(job->model().name()), "</td><td>", XmlText(TargetOf(*job)),
                    "</td><td>", XmlText(CheckpointText(*job)), "<br><code title=\"",
                    XmlAttribute(from.weights_digest()), "\">", XmlText(from.weights_digest().substr(0, 12)),
                    "</code></td><td>", Badge(OutcomeWord(loading.outcome())), " ", XmlText(RealWord(*job)),
                    "</td><td>", RealEvidenceText(*job), "</td><td>", TrustWord(from.weights_trust()),
                    "</td><td>", XmlText(LoadText(loading.load())));
    std::vector<std::string> findings = LoadFindings(loading.load());
    if (!loading.no_golden().empty()) {
      findings.insert(findings.begin(), absl::StrCat(kNoGolden, ": ", loading.no_golden()));
    }
    if (!findings.empty()) {
      absl::StrAppend(&out, "<details><summary class=\"dim\">", findings.size(), " findings</summary><pre>",
                      XmlText(absl::StrJoin(findings, "\n")), "</pre></details>");
    }
    out += "</td><td>";
    for (const v1::AnswerResult& answer : loading.answer()) {
      absl::StrAppend(&out, "<div>", XmlText(AnswerText(answer)), "</div>");
    }
    out += "</td></tr>\n";
  }
  out += "</table></div>\n";
}

void AppendCheckpoints(const Scope& scope, std::string& out) {
  const CheckpointJobs jobs = FindCheckpointJobs(scope);
  if (!jobs.trained.empty()) {
    out += "<h2>Trained checkpoints</h2>\n";
    AppendCheckpointTable(jobs.trained, out);
  }
  if (!jobs.synthetic.empty()) {
    out +=
        "<h2>Synthetic checkpoints</h2>\n<p class=\"dim\">Full size and form, random values: never "
        "real.</p>\n";
    AppendCheckpointTable(jobs.synthetic, out);
  }
  if (jobs.exported.empty()) return;
  out +=
      "<h2>Exports</h2>\n<div class=\"wide\"><table>\n<tr><th>model</th><th>checkpoint</th><th></th><th>"
      "outcome and time</th><th>exporter</th></tr>\n";
  for (const v1::Job* job : jobs.exported) {
    absl::StrAppend(&out, "<tr><td>", XmlText(job->model().name()), "</td><td>",
                    XmlText(CheckpointText(*job)), "</td><td>", Badge(OutcomeWord(ExportOf(*job)->outcome())),
                    "</td><td>", XmlText(Shorten(ExportText(*job), 400)), "</td><td>",
                    XmlText(ExportOf(*job)->export_().exporter()), "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void AppendRemarks(const Scope& scope, std::string& out) {
  out += "<h2>Deviations and special handling</h2>\n";
  if (scope.remarks.empty()) out += "<p>None.</p>\n";
  if (scope.remarks.empty()) return;
  out += "<div class=\"wide\"><table>\n";
  for (const Remark& remark : scope.remarks) {
    absl::StrAppend(&out, "<tr><td>", XmlText(remark.model), "</td><td>", remark.kind, "</td><td>",
                    XmlText(remark.text), "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void AppendNext(const Scope& scope, std::string& out) {
  out +=
      "<h2>What comes next</h2>\n<div "
      "class=\"wide\"><table>\n<tr><th>model</th><th>priority</th><th>template</th><th>why it is "
      "missing</th><th>catalogue entry</th></tr>\n";
  for (const NextModel& model : scope.next) {
    absl::StrAppend(&out, "<tr><td>", XmlText(model.name), "</td><td>", PriorityName(model.priority),
                    "</td><td>", XmlText(model.template_name), "</td><td>", XmlText(model.why), "</td><td>",
                    model.catalogued ? "yes" : "none yet", "</td></tr>\n");
  }
  out += "</table></div>\n";
  out +=
      "<div class=\"wide\"><table>\n<tr><th>batch of the plan</th><th>due</th><th "
      "class=\"n\">covered</th><th>state</th><th>missing</th></tr>\n";
  for (const PlannedBatch& batch : scope.plan) {
    absl::StrAppend(&out, "<tr><td>", batch.number, "</td><td>",
                    batch.has_date ? absl::FormatCivilTime(batch.due) : "-", "</td><td class=\"n\">",
                    batch.models.size() - batch.missing.size(), " of ", batch.models.size(), "</td><td>",
                    ProgressText(batch), "</td><td>", XmlText(absl::StrJoin(batch.missing, ", ")),
                    "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void AppendEvidence(const Scope& scope, std::string& out) {
  out +=
      "<h2>Evidence</h2>\n<details><summary>Job ids and digests that every figure above rests "
      "on</summary>\n<div "
      "class=\"wide\"><table>\n<tr><th>model</th><th>job</th><th>digests</th><th>engine and "
      "device</th></tr>\n";
  for (const v1::Job* job : scope.jobs) {
    if (job->state() != v1::DONE) continue;
    const v1::Provenance& from = job->result().provenance();
    absl::StrAppend(&out, "<tr><td>", XmlText(job->model().name()), "</td><td><code>", XmlText(job->job_id()),
                    "</code><br>attempt ", job->attempt(), " by ", XmlText(job->worker()), "</td><td>");
    for (const auto& [what, digest] : std::initializer_list<std::pair<absl::string_view, absl::string_view>>{
             {"test", from.test_digest()},
             {"program", from.program_digest()},
             {"template", from.template_digest()},
             {"catalogue", from.catalogue_digest()},
             {"weights", from.weights_digest()},
             {"checkpoint's program", from.checkpoint_program_digest()},
             {"its golden", from.golden_digest()},
             {"log", job->log_digest()}}) {
      if (!digest.empty()) absl::StrAppend(&out, what, " <code>", XmlText(digest), "</code><br>");
    }
    absl::StrAppend(&out, "</td><td>", XmlText(from.engine_build()), ", torch ",
                    XmlText(from.torch_version()), "<br>", XmlText(from.device().kind()), " ",
                    XmlText(from.device().name()), " ", XmlText(from.device().capability()), "</td></tr>\n");
  }
  out += "</table></div></details>\n";
}

}  // namespace

std::string RenderHtml(const Scope& scope) {
  const std::string title =
      scope.batch != nullptr ? absl::StrCat("Batch report: ", scope.batch->name()) : "Coverage report";
  std::string out = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>",
      XmlText(title), "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<h1>", XmlText(title),
      "</h1>\n");
  if (scope.batch != nullptr) {
    absl::StrAppend(&out, "<p class=\"dim\">Batch <code>", XmlText(scope.batch->batch_id()),
                    "</code>, submitted ", TimeText(scope.batch->create_time()), ", ended ",
                    TimeText(scope.batch->end_time()), " UTC", scope.batch->cancelled() ? ", cancelled" : "",
                    "</p>\n");
  } else {
    absl::StrAppend(&out, "<p class=\"dim\">As of ", TimeText(scope.input->now), " UTC</p>\n");
  }
  out += "<div class=\"tiles\">\n";
  if (scope.batch != nullptr) {
    for (const auto& [word, count] : CountOutcomes(scope.jobs))
      AppendTile(word, count, scope.jobs.size(), out);
  }
  const Tally& total = scope.coverage.total;
  AppendTile("covered", total.covered.size(), total.tracked.size(), out);
  AppendTile("mock passed", total.mock_passed.size(), total.tracked.size(), out);
  AppendTile("real passed", total.real_passed.size(), total.tracked.size(), out);
  out += "</div>\n";
  if (scope.batch == nullptr) AppendCriteria(scope, out);
  if (scope.batch == nullptr) AppendCoverage(scope.coverage, out);
  AppendMatrix(scope, out);
  AppendResults(scope, out);
  AppendVariants(scope, out);
  AppendParity(scope, out);
  AppendCheckpoints(scope, out);
  AppendRemarks(scope, out);
  if (scope.batch != nullptr) AppendCoverage(scope.coverage, out);
  AppendNext(scope, out);
  AppendEvidence(scope, out);
  out += "</body>\n</html>\n";
  return out;
}

}  // namespace assay::report

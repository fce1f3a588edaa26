// JUnit XML as Surefire writes it and as Jenkins, GitLab and GitHub's viewers read it: a suite a template, a
// test case a case; a suite for the parity of devices, where there is any. What did not hold is a <failure>;
// what could not be found out is an <error> of the outcome's type.
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/divergence.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/parity.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

struct Counts {
  size_t tests = 0, failures = 0, errors = 0, skipped = 0;
  double seconds = 0;
};

std::string Attribute(absl::string_view name, absl::string_view value) {
  return absl::StrCat(" ", name, "=\"", XmlAttribute(value), "\"");
}

std::string CountAttributes(const Counts& counts) {
  return absl::StrFormat(" tests=\"%d\" failures=\"%d\" errors=\"%d\" skipped=\"%d\" time=\"%.6f\"",
                         counts.tests, counts.failures, counts.errors, counts.skipped, counts.seconds);
}

// What a case said: message, checks that did not pass, divergence.
std::string CaseDetail(const v1::CaseResult& one) {
  std::string detail = one.message();
  for (const v1::CheckResult& check : one.check()) {
    if (check.outcome() == v1::PASSED) continue;
    absl::StrAppend(&detail, detail.empty() ? "" : "\n", OutcomeWord(check.outcome()), " ", check.name());
    if (!check.message().empty()) absl::StrAppend(&detail, ": ", check.message());
    if (check.has_error()) absl::StrAppendFormat(&detail, " (error %.6g", check.error());
    if (check.has_error() && check.has_tolerance())
      absl::StrAppendFormat(&detail, ", tolerance %.6g", check.tolerance());
    if (check.has_error()) detail += ")";
  }
  for (const std::string& line : DivergenceLines(one.divergence())) {
    absl::StrAppend(&detail, detail.empty() ? "" : "\n", line);
  }
  return detail;
}

class Suite {
 public:
  // `output` is for the system-out of the case; may be empty.
  void Add(const v1::Job& job, absl::string_view name, double seconds, absl::string_view verdict,
           absl::string_view message, absl::string_view detail, absl::string_view output) {
    ++counts_.tests;
    counts_.seconds += seconds;
    absl::StrAppend(
        &cases_, "    <testcase", Attribute("name", name),
        Attribute("classname", absl::StrCat("assay.", job.model().template_(), ".", job.model().name(), ".",
                                            DeviceOf(job), "_", DtypeWord(DtypeOf(job)))),
        absl::StrFormat(" time=\"%.6f\"", seconds));
    std::string inside;
    if (verdict == "FAILED") {
      ++counts_.failures;
      absl::StrAppend(&inside, "      <failure", Attribute("message", message), Attribute("type", verdict),
                      ">", XmlText(detail), "</failure>\n");
    } else if (verdict == "SKIPPED" || verdict == "CANCELLED" || verdict == "QUEUED" ||
               verdict == "RUNNING") {
      ++counts_.skipped;
      absl::StrAppend(&inside, "      <skipped", Attribute("message", message), "/>\n");
    } else if (verdict != "PASSED") {
      ++counts_.errors;
      absl::StrAppend(&inside, "      <error", Attribute("message", message), Attribute("type", verdict), ">",
                      XmlText(detail), "</error>\n");
    }
    if (!output.empty()) absl::StrAppend(&inside, "      <system-out>", XmlText(output), "</system-out>\n");
    absl::StrAppend(&cases_, inside.empty() ? "/>\n" : absl::StrCat(">\n", inside, "    </testcase>\n"));
  }

  void AddProperty(const v1::Job& job, absl::string_view name, absl::string_view value) {
    if (value.empty()) return;
    absl::StrAppend(&properties_, "      <property",
                    Attribute("name", absl::StrCat(job.model().name(), ".", TargetOf(job), ".", name)),
                    Attribute("value", value), "/>\n");
  }

  std::string Text(absl::string_view name, const std::string& timestamp) const {
    return absl::StrCat("  <testsuite", Attribute("name", name), CountAttributes(counts_),
                        timestamp.empty() ? "" : Attribute("timestamp", timestamp), ">\n    <properties>\n",
                        properties_, "    </properties>\n", cases_, "  </testsuite>\n");
  }

  const Counts& counts() const { return counts_; }

 private:
  Counts counts_;
  std::string properties_, cases_;
};

void AddProperties(const Scope& scope, const v1::Job& job, Suite& suite) {
  const v1::Provenance& from = job.result().provenance();
  suite.AddProperty(job, "job_id", job.job_id());
  suite.AddProperty(job, "attempt", absl::StrCat(job.attempt()));
  suite.AddProperty(job, "outcome", JobWord(job));
  suite.AddProperty(job, "test_digest", from.test_digest());
  suite.AddProperty(job, "program_digest", from.program_digest());
  suite.AddProperty(job, "template_digest", from.template_digest());
  suite.AddProperty(job, "catalogue_digest", from.catalogue_digest());
  suite.AddProperty(job, "weights_digest", from.weights_digest());
  if (TriedCheckpoint(job)) {
    suite.AddProperty(job, "checkpoint", CheckpointText(job));
    suite.AddProperty(job, "real_weights", RealWord(job));
    suite.AddProperty(job, "real_grade", GradeWord(scope.GradeOf(job)));
    suite.AddProperty(job, "weights_trust", TrustWord(from.weights_trust()));
    suite.AddProperty(job, "checkpoint_program_digest", from.checkpoint_program_digest());
    suite.AddProperty(job, "golden_digest", from.golden_digest());
  }
  suite.AddProperty(job, "engine_build", from.engine_build());
  suite.AddProperty(job, "torch_version", from.torch_version());
  suite.AddProperty(job, "device", from.device().name());
  suite.AddProperty(job, "worker", job.worker());
  suite.AddProperty(job, "log_digest", job.log_digest());
}

void AddJob(const Scope& scope, const v1::Job& job, Suite& suite) {
  AddProperties(scope, job, suite);
  const v1::TestResult& test = job.result();
  const std::string word = JobWord(job);
  if (job.state() != v1::DONE) {
    suite.Add(job, "test", 0, word, word, "", "");
    return;
  }
  // A test case of its own for each export; that a default checkpoint is not to be had is no fault.
  if (const v1::TestResult* exported = ExportOf(job)) {
    const std::string text = ExportText(job);
    suite.Add(job, "export", exported->seconds(), OutcomeWord(exported->outcome()), Shorten(text, 400), text,
              exported->outcome() == v1::PASSED ? text : exported->output_tail());
  }
  if (EndedInExport(job)) return;
  bool told = false;  // whether some case shows the outcome of the whole
  for (int i = 0; i < test.case__size(); ++i) {
    const v1::CaseResult& one = test.case_(i);
    const std::string verdict = OutcomeWord(one.outcome());
    std::string message = one.message();
    if (one.outcome() == v1::SKIPPED && !one.reason().empty()) message = one.reason();
    if (message.empty()) message = one.outcome() == v1::FAILED ? Complaint(job) : verdict;
    if (verdict == word) told = true;
    std::string output;
    if (one.outcome() == test.outcome() && one.outcome() != v1::PASSED) output = test.output_tail();
    if (one.name() == kLoadingCase && TriedCheckpoint(job)) {
      absl::StrAppend(&output, output.empty() ? "" : "\n", absl::StrJoin(CheckpointLines(job), "\n"), "\n");
    }
    if (i == 0 && scope.IsFlaky(job)) {
      output = absl::StrCat("FLAKY: passed after a failure at the same inputs\n", output);
    }
    suite.Add(job, one.name(), one.seconds(), verdict, Shorten(message, 400), CaseDetail(one), output);
  }
  // A test that crashed, hung or never started has no case that says so: give it one.
  if (told) return;
  const std::string name = test.last_case().empty() ? "test" : test.last_case();
  std::string message = Complaint(job);
  if (message.empty()) message = word;
  const double rest = test.case__size() == 0 ? test.seconds() : 0;
  suite.Add(job, name, rest, word, Shorten(message, 400), message, test.output_tail());
}

// Two devices that differ are a failure, though each may have passed by itself.
void AddParity(const ParityCheck& check, Suite& suite) {
  const bool differs = check.parity == Parity::kDiffer;
  suite.Add(
      *check.second,
      absl::StrCat(check.case_name, " on ", DeviceWord(*check.first), " and ", DeviceWord(*check.second)), 0,
      differs                          ? "FAILED"
      : check.parity == Parity::kAgree ? "PASSED"
                                       : "SKIPPED",
      Shorten(absl::StrCat(ParityWord(check.parity), ": ", check.message), 400), check.message, "");
}

}  // namespace

std::string RenderJunit(const Scope& scope) {
  std::map<std::string, Suite> suites;
  for (const v1::Job* job : scope.jobs) AddJob(scope, *job, suites[job->model().template_()]);
  for (const ParityCheck& check : CompareDevices(scope.jobs)) AddParity(check, suites["parity"]);
  Counts total;
  std::string body;
  const std::string timestamp = absl::FormatTime(
      "%Y-%m-%dT%H:%M:%S", scope.batch != nullptr ? TimeOf(scope.batch->create_time()) : scope.input->now,
      absl::UTCTimeZone());
  for (const auto& [name, suite] : suites) {
    absl::StrAppend(&body, suite.Text(absl::StrCat("assay.", name), timestamp));
    total.tests += suite.counts().tests;
    total.failures += suite.counts().failures;
    total.errors += suite.counts().errors;
    total.skipped += suite.counts().skipped;
    total.seconds += suite.counts().seconds;
  }
  return absl::StrCat("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites",
                      Attribute("name", scope.batch != nullptr ? scope.batch->name() : "assay"),
                      CountAttributes(total), ">\n", body, "</testsuites>\n");
}

}  // namespace assay::report

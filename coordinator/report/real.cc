#include "coordinator/report/real.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

constexpr size_t kShownDigest = 12;

// PINNED is only believed where the digest that was loaded is the one that was pinned.
bool IsTrusted(const v1::Provenance& from) {
  return from.weights_trust() == v1::HUB_SHA256 ||
         (from.weights_trust() == v1::PINNED && from.weights_digest() == from.checkpoint().weights_digest() &&
          !from.checkpoint().config_digest().empty());
}

// Where an answer was known beforehand, the check that compares it must have held.
bool KnownAnswersHeld(const v1::CaseResult& one) {
  const bool any = std::any_of(one.answer().begin(), one.answer().end(),
                               [](const v1::AnswerResult& answer) { return answer.known(); });
  return !any || std::any_of(one.check().begin(), one.check().end(), [](const v1::CheckResult& check) {
    return check.name() == "answers" && check.outcome() == v1::PASSED;
  });
}

// The golden check itself, not another one that measures something.
bool ComparedGolden(const v1::CaseResult& one) {
  return one.evidence() == v1::GOLDEN && one.no_golden().empty() &&
         std::any_of(one.check().begin(), one.check().end(), [](const v1::CheckResult& check) {
           return check.name() == "golden" && check.outcome() == v1::PASSED && check.has_error() &&
                  check.has_tolerance() && check.error() <= check.tolerance();
         });
}

std::string LettersAndDigits(absl::string_view name) {
  std::string kept;
  for (const char c : name) {
    if (absl::ascii_isalnum(c)) kept += absl::ascii_tolower(c);
  }
  return kept;
}

void AppendNames(absl::string_view what, const google::protobuf::RepeatedPtrField<std::string>& names,
                 uint32_t count, std::vector<std::string>* lines) {
  for (const std::string& name : names) lines->push_back(absl::StrCat(what, ": ", name));
  const auto shown = static_cast<uint32_t>(names.size());
  if (count > shown) lines->push_back(absl::StrCat(what, ": and ", count - shown, " more"));
}

}  // namespace

bool Holds(const v1::CaseResult& one) {
  bool any = false;
  for (const v1::CheckResult& check : one.check()) {
    if (check.outcome() != v1::PASSED && check.outcome() != v1::SKIPPED) return false;
    any |= check.outcome() == v1::PASSED;
  }
  return any && one.outcome() == v1::PASSED;
}

bool HasMeasured(const v1::CaseResult& one) {
  return std::any_of(one.check().begin(), one.check().end(), [](const v1::CheckResult& check) {
    return check.outcome() == v1::PASSED && check.has_error() && check.has_tolerance() &&
           check.error() <= check.tolerance();
  });
}

absl::string_view GradeWord(RealGrade grade) {
  switch (grade) {
    case RealGrade::kReal:
      return "real";
    case RealGrade::kInexact:
      return "inexact";
    case RealGrade::kUnverified:
      return "unverified";
    case RealGrade::kStructural:
      return "structural";
    case RealGrade::kSynthetic:
      return "synthetic";
    case RealGrade::kOtherModel:
      return "other model";
    case RealGrade::kNone:
      break;
  }
  return "none";
}

const v1::CaseResult* LoadingCaseOf(const v1::Job& job) {
  for (const v1::CaseResult& one : job.result().case_()) {
    if (one.name() == kLoadingCase) return &one;
  }
  return nullptr;
}

RealGrade GradeOf(const v1::Job& job) {
  const v1::CaseResult* loading = LoadingCaseOf(job);
  if (job.state() != v1::DONE || job.result().outcome() != v1::PASSED || loading == nullptr ||
      !Holds(*loading)) {
    return RealGrade::kNone;
  }
  if (loading->weights() == v1::SYNTHETIC) return RealGrade::kSynthetic;
  if (loading->weights() != v1::REAL) return RealGrade::kNone;
  const v1::Provenance& from = job.result().provenance();
  // Each digest says what was run: without one of them nothing can be traced back to it.
  if (from.weights_digest().empty() ||
      (from.checkpoint_program_digest().empty() && from.program_digest().empty())) {
    return RealGrade::kNone;
  }
  if (!ComparedGolden(*loading) || from.checkpoint_program_digest().empty() || from.golden_digest().empty()) {
    return RealGrade::kStructural;
  }
  if (!IsTrusted(from)) return RealGrade::kUnverified;
  if (DtypeWord(DtypeOf(job)) != DtypeWord(v1::FLOAT32)) return RealGrade::kInexact;
  return KnownAnswersHeld(*loading) ? RealGrade::kReal : RealGrade::kUnverified;
}

RealGrade GradeAs(const v1::Job& job, bool type_by_name) {
  const RealGrade grade = GradeOf(job);
  if (!type_by_name || grade == RealGrade::kNone) return grade;
  const v1::TestResult* exported = ExportOf(job);
  const std::string type = exported == nullptr ? "" : LettersAndDigits(exported->export_().model_type());
  return !type.empty() && type == LettersAndDigits(job.model().name()) ? grade : RealGrade::kOtherModel;
}

bool EndedInExport(const v1::Job& job) { return job.state() == v1::DONE && job.stage() == v1::STAGE_EXPORT; }

bool TriedCheckpoint(const v1::Job& job) {
  if (job.model().has_checkpoint()) return true;
  const v1::TestResult* exported = ExportOf(job);
  if (exported != nullptr && exported->outcome() != v1::SKIPPED) return true;
  const v1::CaseResult* loading = LoadingCaseOf(job);
  return loading != nullptr && loading->outcome() != v1::SKIPPED &&
         (loading->weights() == v1::REAL || loading->weights() == v1::SYNTHETIC);
}

const v1::TestResult* ExportOf(const v1::Job& job) {
  if (EndedInExport(job)) return &job.result();
  for (const v1::StageRecord& ended : job.ended_stage()) {
    if (ended.stage() == v1::STAGE_EXPORT) return &ended.result();
  }
  return nullptr;
}

std::string ExportText(const v1::Job& job) {
  const v1::TestResult* exported = ExportOf(job);
  if (exported == nullptr) return "-";
  std::string text = absl::StrCat(OutcomeWord(exported->outcome()), " in ", SecondsText(exported->seconds()));
  if (exported->outcome() == v1::PASSED && exported->has_export_()) {
    const v1::ExportResult& made = exported->export_();
    absl::StrAppend(&text, " (program ", made.program_cached() ? "cached" : "made", ", ",
                    !made.no_golden().empty() || made.golden_digest().empty()
                        ? absl::StrCat(kNoGolden, ": ", made.no_golden())
                    : made.golden_cached() ? "golden cached"
                                           : "golden made",
                    ")");
  } else if (!exported->message().empty()) {
    absl::StrAppend(&text, ": ", exported->message());
  }
  return text;
}

std::string CheckpointText(const v1::Job& job) {
  const v1::Provenance& from = job.result().provenance();
  const v1::TestResult* exported = ExportOf(job);
  for (const v1::CheckpointRef* ref :
       {&from.checkpoint(), exported == nullptr ? nullptr : &exported->export_().checkpoint(),
        &job.model().checkpoint(), &job.default_checkpoint()}) {
    if (ref == nullptr || ref->id().empty()) continue;
    if (!ref->commit().empty()) return absl::StrCat(ref->id(), "@", ref->commit().substr(0, kShownDigest));
    return ref->revision().empty() ? ref->id() : absl::StrCat(ref->id(), "@", ref->revision());
  }
  return "-";
}

absl::string_view TrustWord(v1::WeightsTrust trust) {
  switch (trust) {
    case v1::HUB_SHA256:
      return "hub SHA-256";
    case v1::PINNED:
      return "pinned";
    case v1::UNVERIFIED:
      return "unverified";
    default:
      return "";
  }
}

std::string RealWord(const v1::Job& job) {
  if (EndedInExport(job)) return absl::StrCat(OutcomeWord(job.result().outcome()), " (export)");
  const v1::CaseResult* loading = LoadingCaseOf(job);
  if (loading == nullptr || (loading->weights() != v1::REAL && loading->weights() != v1::SYNTHETIC))
    return "-";
  const std::string word = OutcomeWord(loading->outcome());
  if (loading->outcome() == v1::SKIPPED) {
    return loading->reason().empty() ? word : absl::StrCat(word, " (", loading->reason(), ")");
  }
  if (loading->outcome() != v1::PASSED) {
    return loading->weights() == v1::SYNTHETIC ? absl::StrCat(word, " (synthetic weights)") : word;
  }
  std::vector<std::string> weaker;
  const v1::Provenance& from = job.result().provenance();
  if (loading->weights() == v1::SYNTHETIC) weaker.push_back("synthetic weights");
  if (!ComparedGolden(*loading)) weaker.push_back(std::string(kNoGolden));
  if (loading->weights() == v1::REAL && !IsTrusted(from)) weaker.push_back("unverified weights");
  if (DtypeWord(DtypeOf(job)) != DtypeWord(v1::FLOAT32))
    weaker.push_back(std::string(DtypeWord(DtypeOf(job))));
  if (!KnownAnswersHeld(*loading)) weaker.push_back("known answers not checked");
  return weaker.empty() ? word : absl::StrCat(word, " (", absl::StrJoin(weaker, ", "), ")");
}

std::string RealEvidenceText(const v1::Job& job) {
  const v1::CaseResult* loading = LoadingCaseOf(job);
  if (loading == nullptr || loading->outcome() == v1::SKIPPED) return "";
  return std::string(EvidenceWord(loading->evidence()));
}

std::string LoadText(const v1::LoadReport& load) {
  if (load.format().empty() && load.bound() == 0) return "";
  std::vector<std::string> of_bound;
  if (load.tied_count() > 0) of_bound.push_back(absl::StrCat(load.tied_count(), " tied"));
  if (load.converted_count() > 0) of_bound.push_back(absl::StrCat(load.converted_count(), " converted"));
  std::string text = absl::StrCat(load.bound(), " bound");
  if (!of_bound.empty()) absl::StrAppend(&text, " (", absl::StrJoin(of_bound, ", "), ")");
  for (const auto& [count, what] : std::initializer_list<std::pair<uint32_t, absl::string_view>>{
           {load.missing_count(), "missing"},
           {load.mismatched_count(), "mismatched"},
           {load.defect_count(), "defective"},
           {load.unexpected_count(), "unexpected"}}) {
    if (count > 0) absl::StrAppend(&text, ", ", count, " ", what);
  }
  if (!load.format().empty()) absl::StrAppend(&text, "; ", load.format());
  if (load.bytes() > 0)
    absl::StrAppend(&text, ", ", BytesText(load.bytes()), " in ", SecondsText(load.seconds()));
  if (load.bytes() > 0 && load.seconds() > 0) {
    absl::StrAppendFormat(&text, " (%.2f GiB/s)",
                          static_cast<double>(load.bytes()) / (1 << 30) / load.seconds());
  }
  return text;
}

std::vector<std::string> LoadFindings(const v1::LoadReport& load) {
  std::vector<std::string> lines;
  AppendNames("missing", load.missing(), load.missing_count(), &lines);
  AppendNames("mismatched", load.mismatched(), load.mismatched_count(), &lines);
  AppendNames("defect", load.defect(), load.defect_count(), &lines);
  AppendNames("unexpected", load.unexpected(), load.unexpected_count(), &lines);
  AppendNames("tied", load.tied(), load.tied_count(), &lines);
  return lines;
}

std::vector<std::string> CheckpointLines(const v1::Job& job) {
  constexpr size_t kShownFindings = 8;
  std::vector<std::string> lines;
  const v1::TestResult* exported = ExportOf(job);
  const v1::CaseResult* loading = LoadingCaseOf(job);
  const bool loaded = loading != nullptr && loading->outcome() != v1::SKIPPED &&
                      (loading->weights() == v1::REAL || loading->weights() == v1::SYNTHETIC);
  if (!loaded && exported == nullptr && !job.model().has_checkpoint()) return lines;
  const v1::Provenance& from = job.result().provenance();
  std::string line = absl::StrCat("checkpoint ", CheckpointText(job));
  if (loaded) {
    absl::StrAppend(&line, ": ", RealWord(job));
    if (!RealEvidenceText(job).empty()) absl::StrAppend(&line, ", evidence ", RealEvidenceText(job));
    if (!TrustWord(from.weights_trust()).empty()) {
      absl::StrAppend(&line, ", trust ", TrustWord(from.weights_trust()));
    }
    if (!from.weights_digest().empty()) absl::StrAppend(&line, ", weights ", from.weights_digest());
    if (exported != nullptr && !exported->export_().checkpoint().config_digest().empty()) {
      absl::StrAppend(&line, ", configuration ", exported->export_().checkpoint().config_digest());
    }
  }
  lines.push_back(std::move(line));
  if (exported != nullptr) lines.push_back(absl::StrCat("export ", ExportText(job)));
  if (!loaded) return lines;
  if (!loading->no_golden().empty()) lines.push_back(absl::StrCat(kNoGolden, ": ", loading->no_golden()));
  if (const std::string load = LoadText(loading->load()); !load.empty()) {
    lines.push_back(absl::StrCat("loaded ", load));
  }
  std::vector<std::string> findings = LoadFindings(loading->load());
  const size_t found = findings.size();
  if (found > kShownFindings) {
    findings.resize(kShownFindings);
    findings.push_back(absl::StrCat("and ", found - kShownFindings, " more; the report as JSON names them"));
  }
  lines.insert(lines.end(), findings.begin(), findings.end());
  for (const v1::AnswerResult& answer : loading->answer()) {
    lines.push_back(absl::StrCat("answer ", AnswerText(answer)));
  }
  return lines;
}

std::string AnswerText(const v1::AnswerResult& answer) {
  return absl::StrCat(answer.question().empty() ? answer.name() : answer.question(), " -> ", answer.text(),
                      " [eager: ", answer.expected(), answer.known() ? ", known" : "", "]");
}

}  // namespace assay::report

#include "coordinator/store/evidence.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// Of what follows: why the result is not believed; empty where it is.

std::string DoubtOfExport(const v1::Job& job, const v1::TestResult& result) {
  const v1::ExportResult& made = result.export_();
  const v1::CheckpointRef& asked = *AskedCheckpoint(job);
  if (!IsDigest(made.program_digest())) return "the export passed and names no program";
  for (const std::string& digest : {made.golden_digest(), made.weights_blob()}) {
    if (!digest.empty() && !IsDigest(digest)) {
      return absl::StrCat("the export names '", digest, "', which is no digest");
    }
  }
  const v1::CheckpointRef& resolved = made.checkpoint();
  if (resolved.id() != asked.id()) {
    return absl::StrCat("the export is of checkpoint '", resolved.id(), "', and '", asked.id(),
                        "' was asked for");
  }
  if (!resolved.commit().empty() && !IsGitSha1(resolved.commit())) {
    return absl::StrCat("the export resolved its checkpoint to '", resolved.commit(),
                        "', which is no commit");
  }
  if (IsGitSha1(asked.revision()) && !resolved.commit().empty() && resolved.commit() != asked.revision()) {
    return absl::StrCat("the export is of commit ", resolved.commit(), ", and ", asked.revision(),
                        " was asked for");
  }
  return "";
}

bool Holds(v1::Outcome outcome) { return outcome == v1::PASSED || outcome == v1::SKIPPED; }

std::string DoubtOfCases(const v1::TestResult& result, bool loads_checkpoint) {
  bool passed = false, loaded = false;
  for (const v1::CaseResult& one : result.case_()) {
    if (!Holds(one.outcome())) {
      return absl::StrCat("the test passed, and its case ", one.name(), " is ",
                          v1::Outcome_Name(one.outcome()));
    }
    for (const v1::CheckResult& check : one.check()) {
      if (Holds(check.outcome())) continue;
      return absl::StrCat("the test passed, and check ", check.name(), " of ", one.name(), " is ",
                          v1::Outcome_Name(check.outcome()));
    }
    if (one.outcome() != v1::PASSED) continue;
    passed = true;
    loaded |= one.weights() == v1::REAL || one.weights() == v1::SYNTHETIC;
  }
  if (!passed) return "the test passed without a case that did";
  if (loads_checkpoint && !loaded) return "the test passed without a case that loaded the checkpoint";
  return "";
}

std::string DoubtOfDigests(const v1::Assignment& given, const v1::Provenance& ran) {
  const v1::ExportResult& made = given.export_();
  // Weights that lie at the worker, where nobody exported them, are loaded by the model's own program.
  const bool own_program = !given.has_export_() && ran.checkpoint_program_digest() == given.program_digest();
  const std::string& loader = own_program ? given.program_digest() : made.program_digest();
  const struct {
    const char* what;
    const std::string& given;
    const std::string& ran;
  } digests[] = {
      {"template", given.template_digest(), ran.template_digest()},
      {"catalogue entry", given.catalogue_digest(), ran.catalogue_digest()},
      {"program", given.program_digest(), ran.program_digest()},
      {"checkpoint's program", loader, ran.checkpoint_program_digest()},
      {"checkpoint's golden", made.golden_digest(), ran.golden_digest()},
  };
  for (const auto& digest : digests) {
    if (digest.given == digest.ran) continue;
    return absl::StrCat("the test ran with ", digest.what, " '", digest.ran, "', and was given '",
                        digest.given, "'");
  }
  const std::string& exported = made.checkpoint().weights_digest();
  if (!exported.empty() && ran.weights_digest() != exported) {
    return absl::StrCat("the test ran with weights '", ran.weights_digest(),
                        "', and its export found weights '", exported, "'");
  }
  const v1::CheckpointRef& loaded = ran.checkpoint();
  if (given.has_export_() &&
      (loaded.id() != given.checkpoint().id() || loaded.commit() != given.checkpoint().commit())) {
    return absl::StrCat("the test loaded checkpoint '", loaded.id(), "' at '", loaded.commit(),
                        "', and was given '", given.checkpoint().id(), "' at '", given.checkpoint().commit(),
                        "'");
  }
  // The hub vouches for the files of a commit; what lies in a folder comes from nobody knows where.
  if (ran.weights_trust() == v1::HUB_SHA256 && given.checkpoint().commit().empty()) {
    return "the test says that the hub vouches for its weights, and they are of no commit";
  }
  if (ran.weights_trust() != v1::PINNED) return "";
  const v1::CheckpointRef& pinned = given.checkpoint();
  if (pinned.weights_digest().empty() || ran.weights_digest() != pinned.weights_digest()) {
    return absl::StrCat("the test calls weights '", ran.weights_digest(), "' pinned, and pinned are '",
                        pinned.weights_digest(), "'");
  }
  const std::string& config = made.checkpoint().config_digest();
  if (pinned.config_digest().empty() || config != pinned.config_digest()) {
    return absl::StrCat("the test calls its checkpoint pinned, its configuration is '", config,
                        "', and pinned is '", pinned.config_digest(), "'");
  }
  return "";
}

std::string DoubtOf(const JobRecord& record, const v1::TestResult& result) {
  const v1::Outcome outcome = result.outcome();
  if (outcome == v1::OUTCOME_UNSPECIFIED || outcome == v1::CANCELLED || !v1::Outcome_IsValid(outcome)) {
    return absl::StrCat("the worker gave no outcome of its own (", static_cast<int>(outcome), ")");
  }
  const v1::Job& job = record.job;
  if (StageOf(job) == v1::STAGE_EXPORT) {
    if (outcome == v1::SKIPPED && !job.has_default_checkpoint()) {
      return "a checkpoint that the batch names cannot be skipped";
    }
    return outcome == v1::PASSED ? DoubtOfExport(job, result) : "";
  }
  const v1::TestResult* exported = ExportOf(job);
  const bool loads_checkpoint = exported != nullptr && exported->outcome() == v1::PASSED;
  if (outcome == v1::SKIPPED && loads_checkpoint) {
    return "a checkpoint that was exported cannot be skipped";
  }
  if (outcome != v1::PASSED) return "";
  std::string doubt = DoubtOfCases(result, loads_checkpoint);
  // What an attempt of before this was recorded was given, nobody knows.
  if (doubt.empty() && record.assigned.has_attempt()) {
    doubt = DoubtOfDigests(record.assigned, result.provenance());
  }
  return doubt;
}

}  // namespace

v1::TestResult Examined(const JobRecord& record, v1::TestResult result) {
  const std::string doubt = DoubtOf(record, result);
  if (doubt.empty()) return result;
  result.set_outcome(v1::INFRASTRUCTURE_ERROR);
  result.set_message(
      result.message().empty() ? doubt : absl::StrCat(doubt, "; the worker's message: ", result.message()));
  return result;
}

}  // namespace assay::coordinator

// What jobs show of trained checkpoints: what was loaded, on what a pass rests, and how much that is worth.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/result.pb.h"
#include "generator/rules.h"

namespace assay::report {

using generator::kLoadingCase;  // the case that loads a checkpoint

// What every report says of a pass without a golden.
inline constexpr absl::string_view kNoGolden = "no golden: structural checks only";

// How far a job's loading case bears out that a model works with trained weights. Only kReal is real
// coverage.
enum class RealGrade {
  kNone,        // no checkpoint was loaded, or the job or the case did not pass
  kOtherModel,  // it passed, and is of another architecture than the tracked model that it was run as
  kSynthetic,   // a checkpoint with random values; never real
  kStructural,  // trained weights, but their numbers were compared with nothing
  kUnverified,  // compared, but nothing vouches for the weights: a golden of a corrupt checkpoint agrees with
                // it
  kInexact,     // compared and vouched for, in another dtype than float32
  kReal,        // trained, vouched for by the hub's SHA-256 or a pin, compared in float32, known answers held
};

// What a case says of itself is believed as far as its checks bear it out: PASSED, some check PASSED, none
// that did anything but PASS or be SKIPPED.
bool Holds(const v1::CaseResult& one);
// A golden that was compared has left the error that was found, within the one that was allowed.
bool HasMeasured(const v1::CaseResult& one);

// "real", "inexact", "unverified", "structural", "synthetic", "other model", "none".
absl::string_view GradeWord(RealGrade grade);

// nullptr: the result has no such case.
const v1::CaseResult* LoadingCaseOf(const v1::Job& job);

RealGrade GradeOf(const v1::Job& job);
// GradeOf, or kOtherModel where `type_by_name` and the exported checkpoint's model type is not the model's
// name, but for case, '-', '_' and '.': nothing else ties a checkpoint to a tracked model of which the
// catalogue has no program to compare types with. So too where the export tells no type.
RealGrade GradeAs(const v1::Job& job, bool type_by_name);
// True where the job set out to load a checkpoint: the batch names one, a default one was exported, or
// weights were loaded. False where a default one was not to be had.
bool TriedCheckpoint(const v1::Job& job);
// True where the job is done and its test never began, because its export did not end well.
bool EndedInExport(const v1::Job& job);

// The export stage's result, of a job that has it behind it or ended in it; nullptr: there was none, or it is
// not done.
const v1::TestResult* ExportOf(const v1::Job& job);
// "PASSED in 12.300 s (program cached, golden made)", "SKIPPED in 0.001 s: <why>"; "-" where there was none.
std::string ExportText(const v1::Job& job);

// "owner/name@0123456789ab", "/a/folder"; "-" where there is none. What was loaded, else what was asked for.
std::string CheckpointText(const v1::Job& job);
// "hub SHA-256", "pinned", "unverified"; "" for weights that come from no checkpoint.
absl::string_view TrustWord(v1::WeightsTrust trust);
// Outcome of the loading case with what weakens it: "PASSED", "PASSED (no golden: structural checks only)",
// "PASSED (unverified weights)", "PASSED (synthetic weights)", "SKIPPED (NO_WEIGHTS)", "FAILED (export)",
// "-".
std::string RealWord(const v1::Job& job);
// "golden", "structural", "" where no checkpoint was loaded.
std::string RealEvidenceText(const v1::Job& job);

// "199 bound (12 tied, 3 converted), 2 unexpected; safetensors, 86.7 MiB in 0.052 s (1.63 GiB/s)"; "" where
// nothing was loaded.
std::string LoadText(const v1::LoadReport& load);
// "missing: a.weight; nearest: b.weight", one a name, with what was left out at the end of each kind.
// Unexpected and tied keys are no faults and come last.
std::vector<std::string> LoadFindings(const v1::LoadReport& load);
// All of that about one job as lines for a person, the most telling first: checkpoint, export, what was
// loaded, what of it deserves a look, answers. Empty where the job has nothing to do with a checkpoint.
std::vector<std::string> CheckpointLines(const v1::Job& job);

// "The capital of France is [MASK]. -> Paris (81 %) [eager: Paris, known]".
std::string AnswerText(const v1::AnswerResult& answer);

}  // namespace assay::report

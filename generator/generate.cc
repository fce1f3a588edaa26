#include "generator/generate.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/checkpoint_entry.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/templates.h"

namespace assay::generator {
namespace {

constexpr size_t kShownDigest = 12;
constexpr absl::string_view kNoTinyProgram =
    "the catalogue has no program of this model: only its checkpoint is run";

absl::Status Wrong(const JobSpec& job, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("model ", Quoted(job.model.name()), ": ", what));
}

v1::Case* FindCase(v1::ModelTest& test, absl::string_view name) {
  for (v1::Case& one : *test.mutable_case_()) {
    if (one.name() == name) return &one;
  }
  return nullptr;
}

void MakeAbsent(v1::ModelTest& test, absl::string_view case_name, absl::string_view check,
                absl::string_view reason) {
  v1::AbsentCheck* absent = test.add_absent();
  absent->set_case_name(std::string(case_name));
  absent->set_check(std::string(check));
  absent->set_reason(std::string(reason));
}

// Takes every check that `unfit` finds fault with out of the case, absent with what it says.
void Withdraw(v1::ModelTest& test, v1::Case& from,
              const std::function<std::string(const v1::Check&)>& unfit) {
  for (int i = 0; i < from.check_size();) {
    const std::string reason = unfit(from.check(i));
    if (reason.empty()) {
      ++i;
      continue;
    }
    MakeAbsent(test, from.name(), from.check(i).name(), reason);
    from.mutable_check()->DeleteSubrange(i, 1);
  }
}

// Where `check` of `case_name` stands, or an error that names what the template has instead.
struct CheckPlace {
  v1::Case* in;
  int index;
};
absl::StatusOr<CheckPlace> FindCheck(v1::ModelTest& test, const JobSpec& job, absl::string_view case_name,
                                     absl::string_view check) {
  v1::Case* in = FindCase(test, case_name);
  if (in == nullptr) {
    return Wrong(job, absl::StrCat("its catalogue entry speaks of case ", Quoted(case_name),
                                   ", which template ", test.template_(), " has not"));
  }
  std::vector<std::string> names;
  for (int i = 0; i < in->check_size(); ++i) {
    if (in->check(i).name() == check) return CheckPlace{in, i};
    names.push_back(in->check(i).name());
  }
  const std::string nearest = NearestName(check, names);
  return Wrong(job, absl::StrCat("its catalogue entry speaks of check ", Quoted(check), " of ", case_name,
                                 ", which template ", test.template_(), " has not",
                                 nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
}

// What it says is of the architecture, not of the tiny program alone.
bool SpeaksOfArchitecture(const v1::Check& check) {
  return !TensorNamesOf(check).empty() || check.has_repeated_layers() || check.has_configuration() ||
         check.has_weight_influence() || check.has_weights_alike() || check.has_every_input() ||
         check.has_idioms();
}

// What an entry says of its mock case's tensors (they have other names, the check cannot hold) is true of the
// architecture, so it holds in the loading case too, unless the entry speaks of that case itself. The check
// of the loading case that is meant; null: none.
v1::Check* SameOfLoadingCase(v1::ModelTest& test, const v1::CatalogueEntry& entry,
                             absl::string_view case_name, const v1::Check& check) {
  if (case_name != kMockCase || !SpeaksOfArchitecture(check)) return nullptr;
  for (const v1::CheckOverride& one : entry.replace_check()) {
    if (one.case_name() == kLoadingCase && one.check().name() == check.name()) return nullptr;
  }
  for (const v1::NotApplicable& one : entry.not_applicable()) {
    if (one.case_name() == kLoadingCase && one.check() == check.name()) return nullptr;
  }
  v1::Case* loading = FindCase(test, kLoadingCase);
  if (loading == nullptr) return nullptr;
  for (v1::Check& one : *loading->mutable_check()) {
    if (one.name() == check.name() && one.kind_case() == check.kind_case()) return &one;
  }
  return nullptr;
}

// Why a check cannot be applied to the exported program; empty: it can. An export that names no tensors gives
// no reason to leave anything out: the engine then refuses what does not fit.
std::string MissingTensor(const v1::Check& check, const v1::ExportResult& made) {
  if (made.input().empty() && made.output().empty()) return "";
  for (const std::string& name : TensorNamesOf(check)) {
    const auto has = [&](const auto& names) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    if (has(made.input()) || has(made.output())) continue;
    return absl::StrCat("the checkpoint's program has no ", name,
                        "; its inputs: ", absl::StrJoin(made.input(), ", "),
                        "; its outputs: ", absl::StrJoin(made.output(), ", "));
  }
  return "";
}

// A tiny program's limits, and what a checkpoint of `bytes` needs beyond them (docs/test_file.md).
void ScaleLimits(uint64_t bytes, v1::Limits& limits) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  bytes = std::min(bytes, kMaxMemoryBytes);
  limits.set_memory_bytes(std::min(limits.memory_bytes() + bytes + bytes / 2, kMaxMemoryBytes));
  const uint64_t started = (bytes + kGiB - 1) / kGiB;
  limits.set_timeout_ms(static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{limits.timeout_ms()} * 5 + started * 120'000, kMaxTimeoutMs)));
}

// The model's own say on the checks of its template.
absl::Status ApplyEntry(const v1::CatalogueEntry& entry, const JobSpec& job, v1::ModelTest& test) {
  if (entry.name() != job.model.name()) {
    return Wrong(job, absl::StrCat("given the catalogue entry of ", Quoted(entry.name())));
  }
  if (entry.template_() != test.template_()) {
    return Wrong(job, absl::StrCat("the batch names template ", Quoted(test.template_()),
                                   ", its catalogue entry ", Quoted(entry.template_())));
  }
  // The program runs the entry's task; under another name its pass would be shown for what never ran. A
  // checkpoint has a program of its own, for the task that the batch names.
  if (entry.task() != test.task() && !job.model.has_checkpoint()) {
    return Wrong(job, absl::StrCat("the batch names task ", Quoted(test.task()), ", its catalogue entry ",
                                   Quoted(entry.task())));
  }
  test.set_model_class(entry.model_class());
  test.set_checkpoint(entry.checkpoint());
  test.set_deviation(entry.deviation());
  if (test.original_name().empty()) test.set_original_name(entry.original_name());
  for (const v1::CheckOverride& override : entry.replace_check()) {
    ASSAY_ASSIGN_OR_RETURN(const CheckPlace place,
                           FindCheck(test, job, override.case_name(), override.check().name()));
    v1::Check* check = place.in->mutable_check(place.index);
    if (KindOf(*check) != KindOf(override.check())) {
      return Wrong(job,
                   absl::StrCat("its catalogue entry replaces check ", check->name(), " of ",
                                override.case_name(), " by one of kind ", Quoted(KindOf(override.check())),
                                "; a replacement keeps the kind ", KindOf(*check)));
    }
    *check = override.check();
    if (v1::Check* same = SameOfLoadingCase(test, entry, override.case_name(), *check)) *same = *check;
  }
  for (const v1::NotApplicable& absent : entry.not_applicable()) {
    ASSAY_ASSIGN_OR_RETURN(const CheckPlace place, FindCheck(test, job, absent.case_name(), absent.check()));
    if (SameOfLoadingCase(test, entry, absent.case_name(), place.in->check(place.index)) != nullptr) {
      Withdraw(test, *FindCase(test, kLoadingCase),
               [&](const v1::Check& check) { return check.name() == absent.check() ? absent.reason() : ""; });
    }
    place.in->mutable_check()->DeleteSubrange(place.index, 1);
    MakeAbsent(test, absent.case_name(), absent.check(), absent.reason());
  }
  return absl::OkStatus();
}

// A text of another program's, as a reason: one line.
std::string OneLine(absl::string_view text) {
  std::string line(text.substr(0, 1000));
  std::replace_if(
      line.begin(), line.end(), [](char c) { return absl::ascii_iscntrl(c); }, ' ');
  v1::AbsentCheck probe;
  probe.set_reason(line);
  std::vector<Problem> problems;
  ExamineStrings(probe, {}, &problems);
  return problems.empty() ? line : Printable(line);
}

constexpr absl::string_view kNoExport = "no checkpoint was exported for this test";

// The checkpoint's part: what it loads, with which program, held against which golden.
absl::Status ApplyExport(const JobSpec& job, v1::ModelTest& test) {
  v1::Case* loading = FindCase(test, kLoadingCase);
  if (loading == nullptr) return absl::OkStatus();  // ExamineTest says what is missing
  if (job.export_result == nullptr) {
    Withdraw(test, *loading, [](const v1::Check& check) {
      return std::string(check.has_golden() || check.has_answers() ? kNoExport : "");
    });
    return absl::OkStatus();
  }
  const v1::ExportResult& made = *job.export_result;
  if (job.checkpoint == nullptr) return Wrong(job, "what was exported comes with its checkpoint");
  if (made.program_digest().empty()) return Wrong(job, "its export made no program");
  const bool golden = !made.golden_digest().empty() && made.no_golden().empty();
  if (!golden && made.no_golden().empty()) {
    return Wrong(job, "its export made no golden and does not say why");
  }
  v1::CheckpointRef& trained = *test.mutable_trained();
  trained.set_id(job.checkpoint->id());
  trained.set_revision(job.checkpoint->revision());
  trained.set_commit(job.checkpoint->commit());
  // The batch vouches for its weights and configuration, else the project. What an export found vouches for
  // nothing.
  trained.set_weights_digest(job.model.checkpoint().weights_digest());
  trained.set_config_digest(job.model.checkpoint().config_digest());
  PinByEntry(job.checkpoint_entry, trained);
  loading->set_program_digest(made.program_digest());
  loading->set_golden_digest(made.golden_digest());
  if (test.model_class().empty()) test.set_model_class(made.model_class());
  const std::string no_golden = OneLine(made.no_golden());
  Withdraw(test, *loading, [&](const v1::Check& check) {
    if (!golden && (check.has_golden() || check.has_answers())) return no_golden;
    return MissingTensor(check, made);
  });
  if (job.checkpoint_entry != nullptr) {
    bool compared = false;
    for (v1::Check& check : *loading->mutable_check()) {
      if (!check.has_answers()) continue;
      *check.mutable_answers()->mutable_known() = job.checkpoint_entry->known_answer();
      compared = true;
    }
    // What is known of the checkpoint is not left out in silence.
    if (golden && !compared && !job.checkpoint_entry->known_answer().empty()) {
      return Wrong(job, absl::StrCat("checkpoint ", job.checkpoint->id(),
                                     " has known answers, and no check of ", kLoadingCase, " compares them"));
    }
  }
  // Without a tiny program only the checkpoint runs.
  if (test.program_digest().empty()) {
    for (int i = 0; i < test.case__size(); ++i) {
      if (test.case_(i).name() != kMockCase) continue;
      Withdraw(test, *test.mutable_case_(i), [](const v1::Check&) { return std::string(kNoTinyProgram); });
      test.mutable_case_()->DeleteSubrange(i, 1);
      break;
    }
  }
  ScaleLimits(made.memory_bytes(), *test.mutable_limits());
  return absl::OkStatus();
}

absl::Status ApplyTarget(const JobSpec& job, v1::SetUp& set_up) {
  const v1::DeviceChoice wanted = job.target.device();
  if (!v1::DeviceChoice_IsValid(wanted) || !v1::Dtype_IsValid(job.target.dtype())) {
    return Wrong(job, "its target has a device or dtype of a newer version");
  }
  if (wanted == v1::CPU || wanted == v1::CUDA) {
    if (set_up.device() != v1::AUTO && set_up.device() != wanted) {
      return Wrong(job, absl::StrCat("the job asks for ", v1::DeviceChoice_Name(wanted),
                                     ", the template allows only ", v1::DeviceChoice_Name(set_up.device())));
    }
    set_up.set_device(wanted);
  }
  if (job.target.dtype() != v1::DTYPE_UNSPECIFIED) set_up.set_dtype(job.target.dtype());
  return absl::OkStatus();
}

// No name has a control character, so no line can be broken and no comment left.
std::string Header(const v1::ModelTest& test) {
  const auto shown = [](absl::string_view digest) { return digest.substr(0, kShownDigest); };
  std::string text = absl::StrCat("# Generated by assay from template ", test.template_(), " (",
                                  shown(test.template_digest()), "), ");
  if (test.catalogue_digest().empty()) {
    absl::StrAppend(&text, "no catalogue entry");
  } else {
    absl::StrAppend(&text, "catalogue entry ", test.name(), " (", shown(test.catalogue_digest()), ")");
  }
  if (test.has_trained()) {
    absl::StrAppend(&text, ", checkpoint ", test.trained().id());
    if (!test.trained().commit().empty()) absl::StrAppend(&text, " (", shown(test.trained().commit()), ")");
  }
  absl::StrAppend(&text, ", batch entry ", test.arch_type(), "/",
                  test.original_name().empty() ? test.name() : test.original_name(), ".\n");
  absl::StrAppend(&text, "# Do not edit: change the template or the catalogue entry and generate again.\n");
  if (!test.original_name().empty()) absl::StrAppend(&text, "# Original name: ", test.original_name(), "\n");
  return text;
}

}  // namespace

absl::StatusOr<v1::ModelTest> Generate(const v1::Template& resolved, const v1::CatalogueEntry* entry,
                                       const JobSpec& job) {
  if (resolved.abstract() || !resolved.base().empty()) {
    return Wrong(job, absl::StrCat("template ", Quoted(resolved.name()), " is ",
                                   resolved.abstract() ? "abstract" : "not resolved"));
  }
  if (resolved.name() != job.model.template_()) {
    return Wrong(job, absl::StrCat("given template ", Quoted(resolved.name()), ", the batch names ",
                                   Quoted(job.model.template_())));
  }
  if ((entry != nullptr) == job.catalogue_digest.empty()) {
    return Wrong(job, "a catalogue entry comes with its digest, or neither is there");
  }
  v1::ModelTest test = PlannedTest(resolved);
  test.set_name(job.model.name());
  test.set_original_name(job.model.original_name());
  test.set_template_(resolved.name());
  test.set_task(job.model.task());
  test.set_arch_type(job.model.arch_type());
  test.set_template_digest(job.template_digest);
  test.set_catalogue_digest(job.catalogue_digest);
  test.set_program_digest(job.program_digest);
  if (entry != nullptr) ASSAY_RETURN_IF_ERROR(ApplyEntry(*entry, job, test));
  ASSAY_RETURN_IF_ERROR(ApplyExport(job, test));
  ASSAY_RETURN_IF_ERROR(ApplyTarget(job, *test.mutable_set_up()));
  ASSAY_RETURN_IF_ERROR(
      ProblemsToStatus(absl::StrCat("model ", Quoted(job.model.name())), ExamineTest(test)));
  return test;
}

std::string FormatTest(const v1::ModelTest& test) {
  return absl::StrCat(Header(test), FormatTextProto(test));
}

std::string TestFileName(absl::string_view name) { return absl::StrCat("test_hf_", name, ".textproto"); }

std::string TestFileName(const v1::ModelRef& model) { return TestFileName(model.name()); }

}  // namespace assay::generator

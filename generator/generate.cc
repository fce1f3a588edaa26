#include "generator/generate.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/templates.h"

namespace assay::generator {
namespace {

constexpr size_t kShownDigest = 12;

absl::Status Wrong(const JobSpec& job, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("model ", Quoted(job.model.name()), ": ", what));
}

v1::Case* FindCase(v1::ModelTest& test, absl::string_view name) {
  for (v1::Case& one : *test.mutable_case_()) {
    if (one.name() == name) return &one;
  }
  return nullptr;
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

// The model's own say on the checks of its template.
absl::Status ApplyEntry(const v1::CatalogueEntry& entry, const JobSpec& job, v1::ModelTest& test) {
  if (entry.name() != job.model.name()) {
    return Wrong(job, absl::StrCat("given the catalogue entry of ", Quoted(entry.name())));
  }
  if (entry.template_() != test.template_()) {
    return Wrong(job, absl::StrCat("the batch names template ", Quoted(test.template_()),
                                   ", its catalogue entry ", Quoted(entry.template_())));
  }
  // The program runs the entry's task; under another name its pass would be shown for what never ran.
  if (entry.task() != test.task()) {
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
  }
  for (const v1::NotApplicable& absent : entry.not_applicable()) {
    ASSAY_ASSIGN_OR_RETURN(const CheckPlace place, FindCheck(test, job, absent.case_name(), absent.check()));
    place.in->mutable_check()->DeleteSubrange(place.index, 1);
    v1::AbsentCheck* given = test.add_absent();
    given->set_case_name(absent.case_name());
    given->set_check(absent.check());
    given->set_reason(absent.reason());
  }
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

// Names are letters, digits, underscores and hyphens, so no line can be broken and no comment left.
std::string Header(const v1::ModelTest& test) {
  const auto shown = [](absl::string_view digest) { return digest.substr(0, kShownDigest); };
  std::string text = absl::StrCat("# Generated by assay from template ", test.template_(), " (",
                                  shown(test.template_digest()), "), ");
  if (test.catalogue_digest().empty()) {
    absl::StrAppend(&text, "no catalogue entry");
  } else {
    absl::StrAppend(&text, "catalogue entry ", test.name(), " (", shown(test.catalogue_digest()), ")");
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

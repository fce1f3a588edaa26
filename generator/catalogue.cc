#include "generator/catalogue.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/textproto_folder.h"
#include "nlohmann/json.hpp"

namespace assay::generator {
namespace {

std::vector<Problem> ExamineEntry(const v1::CatalogueEntry& entry, absl::string_view file) {
  std::vector<Problem> problems;
  const auto add = [&](Path path, std::string message) {
    problems.push_back({std::move(path), std::move(message)});
  };
  ExamineStrings(entry, {}, &problems);
  ExamineNameInFile(entry.name(), file, &problems);
  ExamineOriginalName(entry.original_name(), entry.name(), Join({}, "original_name"), &problems);
  ExamineClass(entry.model_class(), Join({}, "model_class"), &problems);
  if (!entry.config_class().empty()) ExamineClass(entry.config_class(), Join({}, "config_class"), &problems);
  if (!IsTask(entry.task())) {
    add(Join({}, "task"), absl::StrCat("must be like 'fill-mask', is ", Quoted(entry.task())));
  }
  ExamineArchType(entry.arch_type(), Join({}, "arch_type"), &problems);
  if (!IsName(entry.template_())) {
    add(Join({}, "template"), absl::StrCat("must name a template, is ", Quoted(entry.template_())));
  }
  ExamineCheckpoint(entry.checkpoint(), Join({}, "checkpoint"), &problems);
  for (int i = 0; i < entry.config_override_size(); ++i) {
    const Path at = Join({}, "config_override", i);
    if (entry.config_override(i).field().empty()) add(Join(at, "field"), "is missing");
    if (!nlohmann::json::accept(entry.config_override(i).json())) {
      add(Join(at, "json"), absl::StrCat("is not JSON: ", Quoted(entry.config_override(i).json())));
    }
  }
  for (int i = 0; i < entry.patch_size(); ++i) {
    if (!IsName(entry.patch(i))) {
      add(Join({}, "patch", i), absl::StrCat("must name a patch, is ", Quoted(entry.patch(i))));
    }
  }
  // One say on a check: replaced or not applicable, once.
  std::set<std::pair<std::string, std::string>> spoken;
  const auto speak = [&](const std::string& case_name, const std::string& check, const Path& at) {
    ExamineCaseName(case_name, Join(at, "case_name"), &problems);
    if (!spoken.insert({case_name, check}).second) {
      add(at, absl::StrCat("speaks of check ", Quoted(check), " of ", Quoted(case_name), " a second time"));
    }
  };
  for (int i = 0; i < entry.replace_check_size(); ++i) {
    const v1::CheckOverride& one = entry.replace_check(i);
    const Path at = Join({}, "replace_check", i);
    ExamineCheck(one.check(), Join(at, "check"), &problems);
    speak(one.case_name(), one.check().name(), at);
  }
  for (int i = 0; i < entry.not_applicable_size(); ++i) {
    const v1::NotApplicable& one = entry.not_applicable(i);
    const Path at = Join({}, "not_applicable", i);
    if (one.reason().empty()) add(at, "has no reason");
    speak(one.case_name(), one.check(), at);
  }
  return problems;
}

}  // namespace

absl::StatusOr<v1::CatalogueEntry> ParseCatalogueEntry(absl::string_view file, absl::string_view text) {
  v1::CatalogueEntry entry;
  ASSAY_RETURN_IF_ERROR(ParseTextProto(file, text, entry));
  ASSAY_RETURN_IF_ERROR(ProblemsToStatus(file, ExamineEntry(entry, file)));
  return entry;
}

absl::StatusOr<std::map<std::string, v1::CatalogueEntry>> LoadCatalogue(const std::filesystem::path& dir) {
  std::map<std::string, v1::CatalogueEntry> entries;
  ASSAY_RETURN_IF_ERROR(ForEachTextProto(dir, [&](const std::string& file, absl::string_view text) {
    absl::StatusOr<v1::CatalogueEntry> one = ParseCatalogueEntry(file, text);
    ASSAY_RETURN_IF_ERROR(one.status());
    entries.emplace(one->name(), *std::move(one));
    return absl::OkStatus();
  }));
  return entries;
}

}  // namespace assay::generator

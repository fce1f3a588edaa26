#include "generator/templates.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/textproto_folder.h"

namespace assay::generator {
namespace {

constexpr absl::string_view kRoot = "base";

v1::CaseTemplate* FindCase(v1::Template& in, absl::string_view name) {
  for (v1::CaseTemplate& one : *in.mutable_case_()) {
    if (one.name() == name) return &one;
  }
  return nullptr;
}

int IndexOfCheck(const v1::CaseTemplate& in, absl::string_view name) {
  for (int i = 0; i < in.check_size(); ++i) {
    if (in.check(i).name() == name) return i;
  }
  return -1;
}

absl::Status Wrong(const v1::Template& which, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("template ", which.name(), ": ", what));
}

// Takes `child.remove` out of `result`, which is what its bases gave.
absl::Status Remove(const v1::Template& child, v1::Template& result) {
  for (const v1::RemoveCheck& removed : child.remove()) {
    v1::CaseTemplate* from = FindCase(result, removed.case_name());
    const int index = from == nullptr ? -1 : IndexOfCheck(*from, removed.check());
    if (index < 0) {
      return Wrong(child, absl::StrCat("removes check ", removed.check(), " of ", removed.case_name(),
                                       ", which ", child.base(), " has not"));
    }
    from->mutable_check()->DeleteSubrange(index, 1);
    *result.add_remove() = removed;
  }
  return absl::OkStatus();
}

absl::Status MergeCase(const v1::Template& child, const v1::CaseTemplate& given, v1::Template& result) {
  v1::CaseTemplate* into = FindCase(result, given.name());
  if (into == nullptr) {
    *result.add_case_() = given;
    return absl::OkStatus();
  }
  if (given.weights() != v1::WEIGHTS_KIND_UNSPECIFIED) into->set_weights(given.weights());
  for (const v1::Check& check : given.check()) {
    const int index = IndexOfCheck(*into, check.name());
    if (index < 0) {
      *into->add_check() = check;
    } else if (KindOf(into->check(index)) != KindOf(check)) {
      return Wrong(child,
                   absl::StrCat("check ", check.name(), " of ", given.name(), " is ",
                                KindOf(into->check(index)), " in its base and ", KindOf(check),
                                " here: a replacement keeps the kind; remove it and add another name"));
    } else {
      *into->mutable_check(index) = check;
    }
    // What is there again is not absent.
    auto* removed = result.mutable_remove();
    removed->erase(std::remove_if(removed->begin(), removed->end(),
                                  [&](const v1::RemoveCheck& one) {
                                    return one.case_name() == given.name() && one.check() == check.name();
                                  }),
                   removed->end());
  }
  return absl::OkStatus();
}

// What `child` says on top of `result`, which is what its bases gave.
absl::Status Apply(const v1::Template& child, v1::Template& result) {
  result.set_name(child.name());
  result.set_description(child.description());
  result.set_abstract(child.abstract());
  if (child.has_set_up()) result.mutable_set_up()->MergeFrom(child.set_up());
  if (child.has_limits()) result.mutable_limits()->MergeFrom(child.limits());
  ASSAY_RETURN_IF_ERROR(Remove(child, result));
  for (const v1::CaseTemplate& given : child.case_()) {
    ASSAY_RETURN_IF_ERROR(MergeCase(child, given, result));
  }
  return absl::OkStatus();
}

std::vector<Problem> ExamineFile(const v1::Template& parsed, absl::string_view file) {
  std::vector<Problem> problems;
  const auto add = [&](Path path, std::string message) {
    problems.push_back({std::move(path), std::move(message)});
  };
  ExamineStrings(parsed, {}, &problems);
  ExamineNameInFile(parsed.name(), file, &problems);
  if (parsed.base().empty() && parsed.name() != kRoot) {
    add(Join({}, "base"), absl::StrCat("is missing: only ", kRoot, " is a root"));
  }
  if (!parsed.base().empty() && !IsName(parsed.base())) {
    add(Join({}, "base"), absl::StrCat("is not a template's name: ", Quoted(parsed.base())));
  }
  if (parsed.description().empty()) add(Join({}, "description"), "is missing");
  std::set<std::pair<std::string, std::string>> given;
  std::set<std::string> cases;
  for (int i = 0; i < parsed.case__size(); ++i) {
    const v1::CaseTemplate& one = parsed.case_(i);
    const Path at = Join({}, "case", i);
    ExamineCaseName(one.name(), Join(at, "name"), &problems);
    if (!cases.insert(one.name()).second) {
      add(Join(at, "name"), absl::StrCat("a second case ", Quoted(one.name())));
    }
    for (int k = 0; k < one.check_size(); ++k) {
      const Path check = Join(at, "check", k);
      ExamineCheck(one.check(k), check, &problems);
      if (!given.insert({one.name(), one.check(k).name()}).second) {
        add(Join(check, "name"),
            absl::StrCat("a second check ", Quoted(one.check(k).name()), " in ", one.name()));
      }
    }
  }
  std::set<std::pair<std::string, std::string>> removed;
  for (int i = 0; i < parsed.remove_size(); ++i) {
    const v1::RemoveCheck& one = parsed.remove(i);
    const Path at = Join({}, "remove", i);
    if (one.reason().empty()) add(at, "has no reason");
    if (!removed.insert({one.case_name(), one.check()}).second) {
      add(at, absl::StrCat("removes ", Quoted(one.check()), " twice"));
    }
    if (given.count({one.case_name(), one.check()}) > 0) {
      add(at, absl::StrCat("removes ", Quoted(one.check()), ", which this template sets"));
    }
  }
  return problems;
}

}  // namespace

absl::StatusOr<v1::Template> ParseTemplate(absl::string_view file, absl::string_view text) {
  v1::Template parsed;
  ASSAY_RETURN_IF_ERROR(ParseTextProto(file, text, parsed));
  ASSAY_RETURN_IF_ERROR(ProblemsToStatus(file, ExamineFile(parsed, file)));
  return parsed;
}

absl::StatusOr<v1::Template> ResolveTemplate(const std::map<std::string, v1::Template>& parsed,
                                             absl::string_view name) {
  std::vector<const v1::Template*> chain;  // from `name` to its root
  std::vector<std::string> names;
  for (std::string next(name); !next.empty(); next = chain.back()->base()) {
    const bool seen = std::find(names.begin(), names.end(), next) != names.end();
    names.push_back(next);
    if (seen) {
      return absl::InvalidArgumentError(
          absl::StrCat("template ", name, ": inherits from itself: ", absl::StrJoin(names, " -> ")));
    }
    const auto found = parsed.find(next);
    if (found == parsed.end()) {
      if (chain.empty()) return absl::NotFoundError(absl::StrCat("no template ", Quoted(name)));
      return Wrong(*chain.back(), absl::StrCat("its base ", Quoted(next), " does not exist"));
    }
    chain.push_back(&found->second);
  }
  if (chain.empty()) return absl::NotFoundError("no template without a name");
  v1::Template result;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) ASSAY_RETURN_IF_ERROR(Apply(**it, result));
  if (!result.abstract()) {
    ASSAY_RETURN_IF_ERROR(
        ProblemsToStatus(absl::StrCat("template ", result.name()), ExaminePlanned(PlannedTest(result))));
  }
  return result;
}

absl::StatusOr<std::map<std::string, v1::Template>> LoadTemplates(const std::filesystem::path& dir) {
  std::map<std::string, v1::Template> parsed;
  ASSAY_RETURN_IF_ERROR(ForEachTextProto(dir, [&](const std::string& file, absl::string_view text) {
    absl::StatusOr<v1::Template> one = ParseTemplate(file, text);
    ASSAY_RETURN_IF_ERROR(one.status());
    parsed.emplace(one->name(), *std::move(one));
    return absl::OkStatus();
  }));
  std::map<std::string, v1::Template> resolved;
  for (const auto& [name, unused] : parsed) {
    absl::StatusOr<v1::Template> one = ResolveTemplate(parsed, name);
    if (!one.ok()) {
      return absl::Status(one.status().code(),
                          absl::StrCat((dir / name).string(), ".textproto: ", one.status().message()));
    }
    if (!one->abstract()) resolved.emplace(name, *std::move(one));
  }
  if (resolved.empty()) return absl::NotFoundError(absl::StrCat(dir.string(), ": holds no template"));
  return resolved;
}

v1::ModelTest PlannedTest(const v1::Template& resolved) {
  v1::ModelTest test;
  if (resolved.has_set_up()) *test.mutable_set_up() = resolved.set_up();
  if (resolved.has_limits()) *test.mutable_limits() = resolved.limits();
  for (const v1::CaseTemplate& from : resolved.case_()) {
    v1::Case* one = test.add_case_();
    one->set_name(from.name());
    one->set_weights(from.weights());
    *one->mutable_check() = from.check();
  }
  for (const v1::RemoveCheck& removed : resolved.remove()) {
    v1::AbsentCheck* absent = test.add_absent();
    absent->set_case_name(removed.case_name());
    absent->set_check(removed.check());
    absent->set_reason(removed.reason());
  }
  return test;
}

std::set<std::string> TemplateNames(const std::map<std::string, v1::Template>& resolved) {
  std::set<std::string> names;
  for (const auto& [name, unused] : resolved) names.insert(name);
  return names;
}

}  // namespace assay::generator

#include "coordinator/report/variants.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace assay::report {
namespace {

using Reasons = std::map<std::string, std::string>;

void AppendNames(const char* what, const std::vector<std::string>& names, std::string& out) {
  if (!names.empty()) absl::StrAppend(&out, "; ", what, ": ", absl::StrJoin(names, ", "));
}

std::vector<std::string> KeysOf(const Reasons& reasons) {
  std::vector<std::string> keys;
  for (const auto& [name, unused] : reasons) keys.push_back(name);
  return keys;
}

void Add(const std::string& model, const v1::CheckResult& check, VariantCount& count) {
  if (check.outcome() == v1::PASSED) {
    count.passed.insert(model);
    if (!check.note().empty()) count.partial.emplace(model, check.note());
  } else if (check.outcome() != v1::SKIPPED) {
    count.failed.insert(model);
  } else if (check.reason() == "NOT_APPLICABLE") {
    count.not_applicable.emplace(model, check.message());
  } else if (check.reason() == "MISSING_VARIANT") {
    count.missing.emplace(model, check.message());
  } else {
    count.skipped.emplace(model, check.message());
  }
}

// A model that ran on several targets counts once.
void CountOnce(VariantCount& count) {
  for (const std::string& model : count.failed) count.passed.erase(model);
  const auto drop = [&](const std::string& model, std::initializer_list<Reasons*> from) {
    for (Reasons* reasons : from) reasons->erase(model);
  };
  for (const std::string& model : count.failed) {
    drop(model, {&count.partial, &count.skipped, &count.missing, &count.not_applicable});
  }
  for (const std::string& model : count.passed) {
    drop(model, {&count.skipped, &count.missing, &count.not_applicable});
  }
  for (const std::string& model : KeysOf(count.skipped)) drop(model, {&count.missing, &count.not_applicable});
  for (const std::string& model : KeysOf(count.missing)) drop(model, {&count.not_applicable});
}

}  // namespace

std::vector<VariantCount> CountVariants(const std::vector<const v1::Job*>& jobs) {
  std::vector<VariantCount> counts;
  for (const char* name : {"sdpa", "kv_cache", "generate", "dynamic_shapes"}) {
    VariantCount count;
    count.name = name;
    for (const v1::Job* job : jobs) {
      for (const v1::CaseResult& one : job->result().case_()) {
        for (const v1::CheckResult& check : one.check()) {
          if (check.name() == name) Add(job->model().name(), check, count);
        }
      }
    }
    CountOnce(count);
    if (count.possible() + count.not_applicable.size() > 0) counts.push_back(std::move(count));
  }
  return counts;
}

std::string VariantText(const VariantCount& count) {
  std::string out = absl::StrCat(count.name, ": ", count.passed.size(), " of ", count.possible(), " passed");
  if (!count.partial.empty()) absl::StrAppend(&out, " (", count.partial.size(), " in part)");
  absl::StrAppend(&out, "; ", count.not_applicable.size(), " not applicable");
  AppendNames("FAILED", {count.failed.begin(), count.failed.end()}, out);
  AppendNames("not comparable", KeysOf(count.skipped), out);
  AppendNames("missing", KeysOf(count.missing), out);
  return out;
}

}  // namespace assay::report

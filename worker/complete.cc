#include "worker/complete.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace assay::worker {
namespace {

bool Holds(v1::Outcome outcome) { return outcome == v1::PASSED || outcome == v1::SKIPPED; }

std::string FaultOfCase(const v1::Case& wanted, const v1::CaseResult& got, bool has_checkpoint) {
  if (!Holds(got.outcome())) {
    return absl::StrCat("says PASSED, but case ", got.name(), " ", v1::Outcome_Name(got.outcome()));
  }
  if (got.outcome() == v1::SKIPPED) {
    if (wanted.weights() == v1::REAL && has_checkpoint) {
      return absl::StrCat("says PASSED, but case ", got.name(),
                          ", which has a checkpoint to load, was skipped");
    }
    return "";
  }
  std::map<std::string, const v1::CheckResult*> checks;
  for (const v1::CheckResult& check : got.check()) {
    if (!checks.emplace(check.name(), &check).second) {
      return absl::StrCat("has check ", check.name(), " of case ", got.name(), " twice");
    }
  }
  for (const v1::Check& check : wanted.check()) {
    const auto at = checks.find(check.name());
    if (at == checks.end()) return absl::StrCat("lacks check ", check.name(), " of case ", got.name());
    if (!Holds(at->second->outcome())) {
      return absl::StrCat("says PASSED, but check ", check.name(), " of case ", got.name(), " ",
                          v1::Outcome_Name(at->second->outcome()));
    }
  }
  return "";
}

}  // namespace

std::string FaultOfPass(const v1::ModelTest& test, const v1::TestResult& result) {
  if (result.outcome() != v1::PASSED) return "";
  std::map<std::string, const v1::CaseResult*> cases;
  for (const v1::CaseResult& got : result.case_()) {
    if (!cases.emplace(got.name(), &got).second) return absl::StrCat("has case ", got.name(), " twice");
  }
  for (const v1::Case& wanted : test.case_()) {
    const auto at = cases.find(wanted.name());
    if (at == cases.end()) return absl::StrCat("lacks case ", wanted.name());
    if (std::string fault = FaultOfCase(wanted, *at->second, test.has_trained()); !fault.empty())
      return fault;
  }
  return "";
}

}  // namespace assay::worker

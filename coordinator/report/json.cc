#include "nlohmann/json.hpp"

#include "absl/strings/str_cat.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

using Json = nlohmann::ordered_json;

Json NamesJson(const std::set<std::string>& names) {
  return Json(std::vector<std::string>(names.begin(), names.end()));
}

// Every figure with the names that it counts.
Json TallyJson(const Tally& tally) {
  Json json = Json::object();
  auto add = [&](const char* what, const std::set<std::string>& names) {
    json[what] = {{"count", names.size()}, {"models", NamesJson(names)}};
  };
  add("tracked", tally.tracked);
  add("generated", tally.generated);
  add("verified", tally.verified);
  add("mock_passed", tally.mock_passed);
  add("real_passed", tally.real_passed);
  add("real_passed_structural_only", tally.real_structural);
  add("covered", tally.covered);
  return json;
}

Json TalliesJson(const TallyByWord& tallies) {
  Json json = Json::object();
  for (const auto& [word, tally] : tallies) json[word] = TallyJson(tally);
  return json;
}

Json CaseJson(const v1::CaseResult& one) {
  Json json = {{"name", one.name()},
               {"outcome", OutcomeWord(one.outcome())},
               {"reason", one.reason()},
               {"message", one.message()},
               {"weights", std::string(WeightsWord(one.weights()))},
               {"evidence", std::string(EvidenceWord(one.evidence()))},
               {"seconds", one.seconds()},
               {"divergence", DivergenceText(one.divergence())}};
  Json& checks = json["checks"] = Json::array();
  for (const v1::CheckResult& check : one.check()) {
    Json& entry = checks.emplace_back(Json{
        {"name", check.name()}, {"outcome", OutcomeWord(check.outcome())}, {"message", check.message()}});
    if (check.has_error()) entry["error"] = check.error();
    if (check.has_tolerance()) entry["tolerance"] = check.tolerance();
  }
  return json;
}

Json ProvenanceJson(const v1::Provenance& from) {
  return {{"test_digest", from.test_digest()},
          {"template_digest", from.template_digest()},
          {"catalogue_digest", from.catalogue_digest()},
          {"program_digest", from.program_digest()},
          {"weights_digest", from.weights_digest()},
          {"mock_seed", from.mock_seed()},
          {"engine_build", from.engine_build()},
          {"torch_version", from.torch_version()},
          {"device",
           {{"kind", from.device().kind()},
            {"name", from.device().name()},
            {"capability", from.device().capability()},
            {"driver", from.device().driver()}}},
          {"worker", from.worker()}};
}

Json JobJson(const Scope& scope, const v1::Job& job) {
  const CheckCount checks = CountChecks(job, scope.EntryOf(job));
  Json json = {{"job_id", job.job_id()},
               {"batch_id", job.batch_id()},
               {"model", job.model().name()},
               {"original_name", job.model().original_name()},
               {"template", job.model().template_()},
               {"task", job.model().task()},
               {"arch_type", job.model().arch_type()},
               {"target", TargetOf(job)},
               {"outcome", JobWord(job)},
               {"flaky", scope.IsFlaky(job)},
               {"message", job.result().message()},
               {"last_case", job.result().last_case()},
               {"signal", job.result().signal()},
               {"seconds", job.result().seconds()},
               {"peak_memory_bytes", job.result().peak_memory_bytes()},
               {"attempt", job.attempt()},
               {"worker", job.worker()},
               {"end_time", TimeText(job.end_time())},
               {"log_digest", job.log_digest()},
               {"checks_applied", checks.applied},
               {"checks_possible", checks.possible},
               {"provenance", ProvenanceJson(job.result().provenance())}};
  Json& cases = json["cases"] = Json::array();
  for (const v1::CaseResult& one : job.result().case_()) cases.push_back(CaseJson(one));
  return json;
}

Json ModelJson(const ModelCoverage& model, bool tracked) {
  Json json = {{"name", model.model.name},
               {"original_name", model.original_name},
               {"arch_type", model.model.arch_type},
               {"template", model.template_name},
               {"catalogued", model.entry != nullptr},
               {"generated", model.generated},
               {"mock_passed", model.mock_passed},
               {"real_passed", model.real_passed},
               {"real_passed_structural_only", model.real_structural && !model.real_passed},
               {"synthetic_passed", model.synthetic},
               {"covered", model.covered},
               {"flaky", model.flaky},
               {"why_missing", model.why_missing}};
  if (tracked) {
    json["priority"] = std::string(PriorityName(model.model.priority));
    json["named_by"] = model.model.named_by_plan ? "plan" : "registry";
    json["plan_batch"] = model.model.batch;
  }
  Json& results = json["results"] = Json::array();
  for (const TargetResult& result : model.results) {
    results.push_back({{"target", result.target},
                       {"outcome", OutcomeWord(result.job->result().outcome())},
                       {"job_id", result.job->job_id()},
                       {"covered", result.covered}});
  }
  return json;
}

}  // namespace

std::string RenderJson(const Scope& scope) {
  Json root = {{"as_of", TimeText(scope.input->now)}};
  if (scope.batch != nullptr) {
    root["batch"] = {{"batch_id", scope.batch->batch_id()},
                     {"name", scope.batch->name()},
                     {"submitter", scope.batch->submitter()},
                     {"create_time", TimeText(scope.batch->create_time())},
                     {"end_time", TimeText(scope.batch->end_time())},
                     {"cancelled", scope.batch->cancelled()}};
  }
  const Coverage& coverage = scope.coverage;
  root["coverage"] = {{"total", TallyJson(coverage.total)},
                      {"by_priority", TalliesJson(coverage.by_priority)},
                      {"by_arch_type", TalliesJson(coverage.by_arch_type)},
                      {"by_template", TalliesJson(coverage.by_template)},
                      {"by_device", TalliesJson(coverage.by_device)}};
  Json& criteria = root["criteria"] = Json::array();
  for (const Criterion& criterion : scope.criteria) {
    criteria.push_back({{"number", criterion.number},
                        {"text", criterion.text},
                        {"met", criterion.met},
                        {"figures", criterion.figures},
                        {"open", criterion.open}});
  }
  Json& outcomes = root["outcomes"] = Json::object();
  for (const auto& [word, count] : CountOutcomes(scope.jobs)) outcomes[word] = count;
  Json& models = root["models"] = Json::array();
  for (const ModelCoverage& model : coverage.models) models.push_back(ModelJson(model, true));
  Json& untracked = root["untracked"] = Json::array();
  for (const ModelCoverage& model : coverage.untracked) untracked.push_back(ModelJson(model, false));
  Json& remarks = root["remarks"] = Json::array();
  for (const Remark& remark : scope.remarks) {
    remarks.push_back({{"model", remark.model}, {"kind", remark.kind}, {"text", remark.text}});
  }
  Json& jobs = root["jobs"] = Json::array();
  for (const v1::Job* job : scope.jobs) jobs.push_back(JobJson(scope, *job));
  // Text that is not UTF-8 is replaced, never thrown at.
  return root.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace assay::report

#include "nlohmann/json.hpp"

#include "absl/strings/str_cat.h"
#include "coordinator/report/cost.h"
#include "coordinator/report/divergence.h"
#include "coordinator/report/parity.h"
#include "coordinator/report/renderers.h"
#include "coordinator/report/variants.h"
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
  add("real_passed_unverified", tally.real_unverified);
  add("real_passed_structural_only", tally.real_structural);
  add("synthetic_passed", tally.synthetic);
  add("covered", tally.covered);
  return json;
}

Json TalliesJson(const TallyByWord& tallies) {
  Json json = Json::object();
  for (const auto& [word, tally] : tallies) json[word] = TallyJson(tally);
  return json;
}

Json TextsJson(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return Json(std::vector<std::string>(texts.begin(), texts.end()));
}

Json LoadJson(const v1::LoadReport& load) {
  const auto keys = [](uint32_t count, const google::protobuf::RepeatedPtrField<std::string>& names) {
    return Json{{"count", count}, {"names", TextsJson(names)}};
  };
  return {{"format", load.format()},
          {"bound", load.bound()},
          {"converted", load.converted_count()},
          {"missing", keys(load.missing_count(), load.missing())},
          {"unexpected", keys(load.unexpected_count(), load.unexpected())},
          {"mismatched", keys(load.mismatched_count(), load.mismatched())},
          {"tied", keys(load.tied_count(), load.tied())},
          {"defects", keys(load.defect_count(), load.defect())},
          {"bytes", load.bytes()},
          {"seconds", load.seconds()}};
}

Json CheckpointJson(const v1::CheckpointRef& ref) {
  return {{"id", ref.id()},
          {"revision", ref.revision()},
          {"commit", ref.commit()},
          {"weights_digest", ref.weights_digest()},
          {"config_digest", ref.config_digest()}};
}

Json ExportJson(const v1::TestResult& exported) {
  const v1::ExportResult& made = exported.export_();
  return {{"outcome", OutcomeWord(exported.outcome())},
          {"message", exported.message()},
          {"seconds", exported.seconds()},
          {"model_class", made.model_class()},
          {"checkpoint", CheckpointJson(made.checkpoint())},
          {"program_digest", made.program_digest()},
          {"program_cached", made.program_cached()},
          {"golden_digest", made.golden_digest()},
          {"golden_cached", made.golden_cached()},
          {"no_golden", made.no_golden()},
          {"fetch_seconds", made.fetch_seconds()},
          {"program_seconds", made.program_seconds()},
          {"golden_seconds", made.golden_seconds()},
          {"memory_bytes", made.memory_bytes()},
          {"exporter", made.exporter()}};
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
  if (one.has_cost()) json["cost"] = CostJson(one);
  if (one.has_divergence()) json["diagnosis"] = DivergenceJson(one.divergence());
  if (one.has_load()) json["load"] = LoadJson(one.load());
  if (!one.no_golden().empty()) json["no_golden"] = one.no_golden();
  if (one.answer_size() > 0) {
    Json& answers = json["answers"] = Json::array();
    for (const v1::AnswerResult& answer : one.answer()) {
      answers.push_back({{"name", answer.name()},
                         {"question", answer.question()},
                         {"text", answer.text()},
                         {"expected", answer.expected()},
                         {"known", answer.known()}});
    }
  }
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
          {"weights_trust", std::string(TrustWord(from.weights_trust()))},
          {"checkpoint", CheckpointJson(from.checkpoint())},
          {"checkpoint_program_digest", from.checkpoint_program_digest()},
          {"golden_digest", from.golden_digest()},
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
               {"stages", StagesJson(job.result())},
               {"predicted", PredictionJson(job)},
               {"peak_memory_bytes", job.result().peak_memory_bytes()},
               {"attempt", job.attempt()},
               {"worker", job.worker()},
               {"end_time", TimeText(job.end_time())},
               {"log_digest", job.log_digest()},
               {"real_grade", std::string(GradeWord(scope.GradeOf(job)))},
               {"real_weights", RealWord(job)},
               {"checks_applied", checks.applied},
               {"checks_possible", checks.possible},
               {"provenance", ProvenanceJson(job.result().provenance())}};
  if (job.model().has_checkpoint()) json["checkpoint"] = CheckpointJson(job.model().checkpoint());
  if (job.has_default_checkpoint()) json["default_checkpoint"] = CheckpointJson(job.default_checkpoint());
  if (const v1::TestResult* exported = ExportOf(job)) json["export"] = ExportJson(*exported);
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
               {"real_passed", model.real_passed()},
               {"real_grade", std::string(GradeWord(model.real))},
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
                       {"covered", result.covered},
                       {"mock_passed", result.mock_passed},
                       {"test_job_id", result.test_job == nullptr ? "" : result.test_job->job_id()},
                       {"real_grade", std::string(GradeWord(result.real))},
                       {"real_job_id", result.real_job == nullptr ? "" : result.real_job->job_id()}});
  }
  return json;
}

Json ParityJson(const ParityCheck& check) {
  return {{"model", check.first->model().name()},
          {"dtype", v1::Dtype_Name(check.first->result().provenance().dtype())},
          {"case", check.case_name},
          {"job_ids", {check.first->job_id(), check.second->job_id()}},
          {"devices", {DeviceWord(*check.first), DeviceWord(*check.second)}},
          {"parity", ParityWord(check.parity)},
          {"error", check.error},
          {"allowed", check.allowed},
          {"message", check.message}};
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
  Json& parity = root["parity"] = Json::array();
  for (const ParityCheck& check : CompareDevices(scope.jobs)) parity.push_back(ParityJson(check));
  Json& variants = root["variants"] = Json::array();
  for (const VariantCount& count : CountVariants(scope.jobs)) {
    variants.push_back({{"name", count.name},
                        {"possible", count.possible()},
                        {"passed", count.passed},
                        {"failed", count.failed},
                        {"partial", count.partial},
                        {"skipped", count.skipped},
                        {"missing", count.missing},
                        {"not_applicable", count.not_applicable}});
  }
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

#include "coordinator/report/coverage.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

constexpr absl::string_view kUnknownDevice = "auto";
// A GPU that is not there, in tests of Assay itself: what "it" ran covers nothing.
constexpr absl::string_view kSimulated = "simulated";

bool IsOlder(const v1::Job* a, const v1::Job* b) {
  auto key = [](const v1::Job* job) {
    return std::make_tuple(TimeOf(job->end_time()), TimeOf(job->create_time()), job->job_id());
  };
  return key(a) < key(b);
}

bool IsTestFailure(v1::Outcome outcome) {
  return outcome == v1::FAILED || outcome == v1::CRASHED || outcome == v1::TIMED_OUT ||
         outcome == v1::OUT_OF_MEMORY;
}

// The same test, program, weights, engine and kind of machine: a different outcome has no cause but chance.
bool SameInputs(const v1::Provenance& a, const v1::Provenance& b) {
  return !a.test_digest().empty() && a.test_digest() == b.test_digest() &&
         a.program_digest() == b.program_digest() && a.weights_digest() == b.weights_digest() &&
         a.checkpoint_program_digest() == b.checkpoint_program_digest() &&
         a.golden_digest() == b.golden_digest() && a.mock_seed() == b.mock_seed() &&
         a.engine_build() == b.engine_build() && a.torch_version() == b.torch_version() &&
         a.device().kind() == b.device().kind() && a.device().name() == b.device().name() &&
         a.device().capability() == b.device().capability() && a.device().driver() == b.device().driver();
}

// A test's own result, whatever came before it. `by_name`: only its name says which model a checkpoint must
// be of.
TargetResult Judge(const v1::Job& job, const std::string& device, bool by_name) {
  TargetResult result;
  result.device = device;
  result.target = absl::StrCat(device, "/", DtypeWord(DtypeOf(job)));
  result.job = result.test_job = &job;
  result.full_precision = DtypeWord(DtypeOf(job)) == DtypeWord(v1::FLOAT32) &&
                          job.result().provenance().device().kind() != kSimulated;
  const v1::TestResult& test = job.result();
  const bool ran_to_its_end = test.outcome() == v1::PASSED || test.outcome() == v1::FAILED;
  for (const v1::CaseResult& one : test.case_()) {
    result.mock_passed |= ran_to_its_end && !test.provenance().program_digest().empty() && Holds(one) &&
                          one.weights() == v1::MOCK && one.name() == kMockCase &&
                          one.evidence() == v1::GOLDEN && HasMeasured(one);
  }
  if (TriedCheckpoint(job)) result.real_job = &job;
  result.real = GradeAs(job, by_name);
  result.covered = test.outcome() == v1::PASSED && (result.mock_passed || result.real_passed());
  return result;
}

bool IsFlaky(const v1::Job& job, const std::vector<const v1::Job*>& older) {
  if (job.result().outcome() != v1::PASSED) return false;
  return job.flaky() || std::any_of(older.begin(), older.end(), [&](const v1::Job* other) {
           return IsTestFailure(other->result().outcome()) &&
                  SameInputs(other->result().provenance(), job.result().provenance());
         });
}

// What the jobs of one target show together, oldest first, not empty. A failed export decides on checkpoints
// alone; a test that loaded none, and passed, leaves what the last one to load one has shown.
TargetResult JudgeAll(const std::vector<const v1::Job*>& jobs, const std::string& device, bool by_name) {
  const auto test =
      std::find_if(jobs.rbegin(), jobs.rend(), [](const v1::Job* job) { return !EndedInExport(*job); });
  TargetResult result = Judge(test == jobs.rend() ? *jobs.back() : **test, device, by_name);
  result.job = jobs.back();
  if (test == jobs.rend()) {
    result.test_job = nullptr;
  } else {
    result.flaky = IsFlaky(**test, {jobs.begin(), test.base() - 1});
  }
  const auto tried =
      std::find_if(jobs.rbegin(), jobs.rend(), [](const v1::Job* job) { return TriedCheckpoint(*job); });
  const bool newest_test_passed =
      result.test_job == nullptr || result.test_job->result().outcome() == v1::PASSED;
  if (tried != jobs.rend() && *tried != result.test_job && (newest_test_passed || tried < test)) {
    const TargetResult real = Judge(**tried, device, by_name);
    result.real_job = *tried;
    result.real = real.real;
    result.covered =
        newest_test_passed && result.test_job != nullptr && (result.mock_passed || result.real_passed());
  }
  return result;
}

// The newest result for each target. `jobs` are a model's done ones, oldest first.
std::vector<TargetResult> Decide(const std::vector<const v1::Job*>& jobs, bool by_name) {
  std::map<std::string, std::vector<const v1::Job*>> by_dtype;
  for (const v1::Job* job : jobs) by_dtype[std::string(DtypeWord(DtypeOf(*job)))].push_back(job);
  std::vector<TargetResult> results;
  for (const auto& [dtype, of_dtype] : by_dtype) {
    std::set<std::string> devices;
    for (const v1::Job* job : of_dtype) devices.insert(DeviceOf(*job));
    if (devices.size() > 1) devices.erase(std::string(kUnknownDevice));
    for (const std::string& device : devices) {
      std::vector<const v1::Job*> telling, cancelled;
      for (const v1::Job* job : of_dtype) {
        const std::string ran_on = DeviceOf(*job);
        if (ran_on != device && ran_on != kUnknownDevice) continue;
        (job->result().outcome() == v1::CANCELLED ? cancelled : telling).push_back(job);
      }
      std::vector<const v1::Job*>& candidates = telling.empty() ? cancelled : telling;
      results.push_back(JudgeAll(candidates, device, by_name));
    }
  }
  std::sort(results.begin(), results.end(),
            [](const TargetResult& a, const TargetResult& b) { return a.target < b.target; });
  return results;
}

std::string WhyMissing(const ModelCoverage& coverage) {
  if (coverage.covered) return "";
  if (coverage.results.empty()) return coverage.entry == nullptr ? "no catalogue entry" : "never run";
  std::vector<std::string> reasons;
  for (const TargetResult& result : coverage.results) {
    const v1::TestResult& test = result.job->result();
    if (EndedInExport(*result.job)) {
      reasons.push_back(absl::StrCat(OutcomeWord(test.outcome()), " on ", result.target, " in its export"));
    } else if (test.outcome() != v1::PASSED) {
      reasons.push_back(absl::StrCat(OutcomeWord(test.outcome()), " on ", result.target));
    } else if (test.provenance().program_digest().empty() &&
               test.provenance().checkpoint_program_digest().empty()) {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, " without a program"));
    } else if (result.device == kSimulated) {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, ", where no such device is"));
    } else if (result.covered || result.real == RealGrade::kInexact) {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, ", but only float32 covers"));
    } else if (result.real == RealGrade::kOtherModel) {
      const v1::TestResult* exported = ExportOf(*result.real_job);
      const std::string type = exported == nullptr ? "" : exported->export_().model_type();
      reasons.push_back(
          absl::StrCat("PASSED on ", result.target, ", but its checkpoint is of model type '", type, "'"));
    } else if (result.real == RealGrade::kSynthetic) {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, ", but only with synthetic weights"));
    } else if (result.real == RealGrade::kUnverified) {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, ", but nothing vouches for the weights"));
    } else {
      reasons.push_back(absl::StrCat("PASSED on ", result.target, ", but no golden was compared"));
    }
  }
  return absl::StrJoin(reasons, "; ");
}

ModelCoverage CoverModel(TrackedModel model, const ReportInput& input, std::vector<const v1::Job*> jobs,
                         bool tracked) {
  std::sort(jobs.begin(), jobs.end(), IsOlder);
  ModelCoverage coverage;
  if (auto found = input.catalogue.find(model.name); found != input.catalogue.end()) {
    coverage.entry = &found->second;
    coverage.template_name = found->second.template_();
    coverage.original_name = found->second.original_name();
  }
  // A worker holds a checkpoint's type against the catalogue's program; what is not tracked may be of any.
  const bool by_name = coverage.type_by_name = tracked && coverage.entry == nullptr;
  for (const v1::Job* job : jobs) {
    if (!job->model().template_().empty()) coverage.template_name = job->model().template_();
    if (!job->model().original_name().empty()) coverage.original_name = job->model().original_name();
    if (!job->result().provenance().test_digest().empty()) coverage.generated = true;
    const TargetResult alone = Judge(*job, DeviceOf(*job), by_name);
    if (alone.covered && alone.full_precision) {
      coverage.first_covered = std::min(coverage.first_covered, TimeOf(job->end_time()));
    }
  }
  coverage.model = std::move(model);
  coverage.results = Decide(jobs, by_name);
  for (const TargetResult& result : coverage.results) {
    coverage.flaky |= result.flaky;
    // In half precision a hundredth of the largest number is allowed: told in the matrix, but no coverage.
    if (!result.full_precision) continue;
    coverage.mock_passed |= result.mock_passed;
    coverage.real = std::max(coverage.real, result.real);
    coverage.covered |= result.covered;
  }
  coverage.why_missing = WhyMissing(coverage);
  return coverage;
}

// The set that the grade is counted in.
void CountReal(RealGrade grade, const std::string& name, Tally& tally) {
  for (auto* names : {&tally.real_passed, &tally.real_unverified, &tally.real_structural, &tally.synthetic}) {
    names->erase(name);
  }
  if (grade == RealGrade::kReal) tally.real_passed.insert(name);
  if (grade == RealGrade::kUnverified) tally.real_unverified.insert(name);
  if (grade == RealGrade::kStructural) tally.real_structural.insert(name);
  if (grade == RealGrade::kSynthetic) tally.synthetic.insert(name);
}

void Count(const ModelCoverage& model, Tally& tally) {
  const std::string& name = model.model.name;
  tally.tracked.insert(name);
  if (model.generated) tally.generated.insert(name);
  // A worker verifies every test that it generates, and names a digest for none that it refused.
  if (model.generated) tally.verified.insert(name);
  if (model.mock_passed) tally.mock_passed.insert(name);
  CountReal(model.real, name, tally);
  if (model.covered) tally.covered.insert(name);
}

TallyByWord CountByDevice(const std::vector<ModelCoverage>& models) {
  std::map<std::string, Tally> by_device;
  for (const ModelCoverage& model : models) {
    for (const TargetResult& result : model.results) {
      Tally& tally = by_device[result.full_precision ? result.device : result.target];
      const std::string& name = model.model.name;
      if (result.test_job != nullptr && !result.test_job->result().provenance().test_digest().empty()) {
        tally.generated.insert(name);
        tally.verified.insert(name);
      }
      if (result.mock_passed) tally.mock_passed.insert(name);
      CountReal(result.real, name, tally);
      if (result.covered) tally.covered.insert(name);
    }
  }
  for (auto& [device, tally] : by_device) {
    for (const ModelCoverage& model : models) tally.tracked.insert(model.model.name);
  }
  return TallyByWord(by_device.begin(), by_device.end());
}

}  // namespace

const ModelCoverage* Coverage::Find(absl::string_view name) const {
  for (const auto* list : {&models, &untracked}) {
    for (const ModelCoverage& model : *list) {
      if (model.model.name == name) return &model;
    }
  }
  return nullptr;
}

Coverage ComputeCoverage(const ReportInput& input) {
  std::map<std::string, std::vector<const v1::Job*>> done;
  for (const v1::Job& job : input.jobs) {
    if (job.state() == v1::DONE) done[job.model().name()].push_back(&job);
  }
  Coverage coverage;
  std::map<Priority, Tally> by_priority;
  std::map<std::string, Tally> by_arch_type, by_template;
  for (const TrackedModel& tracked : input.registry.models) {
    std::vector<const v1::Job*> jobs;
    if (auto found = done.find(tracked.name); found != done.end()) {
      jobs = std::move(found->second);
      done.erase(found);
    }
    const ModelCoverage& model =
        coverage.models.emplace_back(CoverModel(tracked, input, std::move(jobs), /*tracked=*/true));
    Count(model, coverage.total);
    Count(model, by_priority[tracked.priority]);
    Count(model, by_arch_type[tracked.arch_type]);
    Count(model, by_template[model.template_name.empty() ? "(none yet)" : model.template_name]);
  }
  for (auto& [priority, tally] : by_priority) {
    coverage.by_priority.emplace_back(std::string(PriorityName(priority)), std::move(tally));
  }
  coverage.by_arch_type.assign(by_arch_type.begin(), by_arch_type.end());
  coverage.by_template.assign(by_template.begin(), by_template.end());
  coverage.by_device = CountByDevice(coverage.models);
  for (auto& [name, jobs] : done) {
    TrackedModel model;
    model.name = name;
    model.arch_type = jobs.back()->model().arch_type();
    coverage.untracked.push_back(CoverModel(std::move(model), input, std::move(jobs), /*tracked=*/false));
  }
  return coverage;
}

CheckCount CountChecks(const v1::Job& job, const v1::CatalogueEntry* entry) {
  std::set<std::pair<std::string, std::string>> applied, possible;
  for (const v1::CaseResult& one : job.result().case_()) {
    for (const v1::CheckResult& check : one.check()) {
      possible.emplace(one.name(), check.name());
      if (check.outcome() != v1::SKIPPED) applied.emplace(one.name(), check.name());
    }
  }
  if (entry != nullptr) {
    for (const v1::NotApplicable& absent : entry->not_applicable()) {
      possible.emplace(absent.case_name(), absent.check());
    }
  }
  return {applied.size(), possible.size()};
}

}  // namespace assay::report

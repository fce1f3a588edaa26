#include "bench/mutation_score.h"

#include <ATen/ops/index.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/checks.h"
#include "engine/diagnosis.h"
#include "engine/tensors.h"
#include "engine/tolerance.h"
#include "engine/validate.h"
#include "engine/weights.h"

namespace assay::mutation {
namespace {

using Tensors = std::vector<at::Tensor>;
constexpr double kFar = std::numeric_limits<double>::infinity();

struct Movement {
  double by_bound = 0;
  double by_error = 0;
  void Take(const Movement& other) {
    by_bound = std::max(by_bound, other.by_bound);
    by_error = std::max(by_error, other.by_error);
  }
};

at::Tensor Seen(const at::Tensor& output, const at::Tensor& seen) {
  if (!seen.defined() || output.dim() < 2 || output.size(0) != seen.size(0) ||
      output.size(1) != seen.size(1)) {
    return output;
  }
  return at::index(output, {seen});
}

double LegitimateMax(const v1::GoldenOutput& golden) {
  for (const v1::LegitimateError& one : golden.legitimate()) {
    if (one.dtype() == v1::FLOAT) return one.max();
  }
  return golden.float64_error();
}

Movement Compare(const v1::Program& program, const Tensors& found, const Tensors& right,
                 const at::Tensor& seen) {
  Movement movement;
  if (found.size() != right.size()) return {kFar, kFar};
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].sizes() != right[i].sizes()) return {kFar, kFar};
    const v1::GoldenOutput& golden = program.golden().outputs(static_cast<int>(i));
    const at::Tensor a = Seen(found[i], seen), b = Seen(right[i], seen);
    const auto bound = engine::BoundFor({}, engine::Placement{}, &golden, right[i]);
    const auto difference = engine::Compare(a, b);
    if (!bound.ok() || !difference.ok()) return {kFar, kFar};
    if (difference->error == 0) continue;
    Movement one;
    one.by_bound = difference->error / bound->max;
    if (bound->derived) one.by_bound = std::max(one.by_bound, difference->rms / bound->rms);
    one.by_error = difference->error / LegitimateMax(golden);
    if (std::isnan(one.by_bound)) one = {kFar, kFar};
    movement.Take(one);
  }
  return movement;
}

std::vector<std::string> NamesOf(const std::vector<v1::CheckResult>& results) {
  std::vector<std::string> names;
  for (const v1::CheckResult& result : results) names.push_back(result.name());
  return names;
}

bool AllFinite(const Tensors& outputs) {
  return std::none_of(outputs.begin(), outputs.end(),
                      [](const at::Tensor& output) { return engine::HasNonFinite(output, true); });
}

absl::StatusOr<std::unique_ptr<engine::Plan>> Ready(const v1::Program& program,
                                                    const engine::Weights& weights) {
  ASSAY_RETURN_IF_ERROR(engine::ValidateGraph(program));
  ASSAY_ASSIGN_OR_RETURN(auto plan, engine::Plan::Build(program, engine::Placement{}));
  ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
  return plan;
}

}  // namespace

bool IsStructural(const v1::Check& check) { return !check.has_golden() && !check.has_answers(); }

absl::StatusOr<std::unique_ptr<Subject>> Subject::Make(v1::Program program, v1::Case checks, int fresh) {
  std::unique_ptr<Subject> subject(new Subject(std::move(program), std::move(checks)));
  try {
    c10::InferenceMode inference;
    ASSAY_RETURN_IF_ERROR(subject->Prepare(fresh));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
  return subject;
}

absl::Status Subject::Prepare(int fresh) {
  for (const v1::GoldenInput& input : program_.golden().inputs()) *inputs_only_.add_inputs() = input;
  ASSAY_ASSIGN_OR_RETURN(weights_, engine::MockWeights(program_.manifest(), program_.manifest().mock_seed()));
  ASSAY_ASSIGN_OR_RETURN(const auto plan, Ready(program_, weights_));
  ASSAY_ASSIGN_OR_RETURN(inputs_, engine::GoldenInputs(program_));
  ASSAY_ASSIGN_OR_RETURN(right_, plan->Run(inputs_));
  for (const bool structural : {false, true}) {
    const auto failing = Failing(program_, *plan, right_, weights_, program_.manifest(), structural);
    if (failing.empty()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the right program", structural ? ", without a golden," : "", " does not pass ",
                     absl::StrJoin(failing, "; ", [](std::string* out, const v1::CheckResult& result) {
                       absl::StrAppend(out, result.name(), ": ", result.message());
                     })));
  }
  for (int i = 0; i < fresh; ++i) {
    Sample sample;
    ASSAY_ASSIGN_OR_RETURN(sample.given, MakeFreshInputs(program_, inputs_, i));
    auto right = plan->Run(sample.given.inputs);
    // An input that the model cannot take (a row without a token) tells nothing.
    if (!right.ok() || !AllFinite(*right)) continue;
    sample.right = *std::move(right);
    fresh_.push_back(std::move(sample));
  }
  if (fresh_.empty()) return absl::FailedPreconditionError("no fresh input gives finite outputs");
  return absl::OkStatus();
}

std::vector<v1::CheckResult> Subject::Failing(const v1::Program& program, const engine::Plan& plan,
                                              const Tensors& outputs, const engine::Weights& weights,
                                              const v1::Manifest& source, bool structural) const {
  engine::BoundCase bound{program,
                          structural ? inputs_only_ : program_.golden(),
                          plan,
                          v1::MOCK,
                          program.manifest().mock_seed(),
                          inputs_,
                          outputs};
  bound.tensors = &weights;
  bound.reload = [&] { return engine::MockWeights(source, source.mock_seed()); };
  std::vector<v1::CheckResult> failing;
  for (const v1::Check& check : checks_.check()) {
    if (structural && !IsStructural(check)) continue;
    v1::CheckResult result = engine::RunCheck(check, bound);
    if (result.outcome() != v1::PASSED && result.outcome() != v1::SKIPPED)
      failing.push_back(std::move(result));
  }
  return failing;
}

Trial Subject::Try(const Fault& fault) const {
  Trial trial;
  trial.fault = fault;
  const auto refuse = [&](const absl::Status& status) { trial.refused = std::string(status.message()); };
  try {
    c10::InferenceMode inference;
    const auto planted = Plant(program_, fault);
    if (!planted.ok()) return refuse(planted.status()), trial;
    engine::Weights weights = weights_;
    if (fault.weight >= 0) {
      auto made = engine::MockWeights(planted->manifest(), planted->manifest().mock_seed());
      if (!made.ok()) return refuse(made.status()), trial;
      weights = *std::move(made);
    }
    const auto plan = Ready(*planted, weights);
    if (!plan.ok()) return refuse(plan.status()), trial;
    const auto outputs = (*plan)->Run(inputs_);
    if (!outputs.ok()) return refuse(outputs.status()), trial;
    Movement moved;
    for (const Sample& sample : fresh_) {
      const auto found = (*plan)->Run(sample.given.inputs);
      moved.Take(found.ok() ? Compare(program_, *found, sample.right, sample.given.seen)
                            : Movement{kFar, kFar});
    }
    trial.moved = moved.by_bound;
    trial.moved_by_error = moved.by_error;
    trial.own_moved = Compare(program_, *outputs, right_, at::Tensor()).by_bound;
    if (!trial.matters()) return trial;
    trial.caught =
        NamesOf(Failing(*planted, **plan, *outputs, weights, planted->manifest(), /*structural=*/false));
    trial.structural =
        NamesOf(Failing(*planted, **plan, *outputs, weights, planted->manifest(), /*structural=*/true));
    trial.seen_when_loaded = !trial.structural.empty();
    if (fault.weight >= 0 && !trial.seen_when_loaded) {
      const auto seen =
          Failing(*planted, **plan, *outputs, weights, program_.manifest(), /*structural=*/true);
      trial.seen_when_loaded = !seen.empty();
    }
    trial.golden = std::any_of(checks_.check().begin(), checks_.check().end(), [&](const v1::Check& check) {
      return check.has_golden() && std::count(trial.caught.begin(), trial.caught.end(), check.name()) > 0;
    });
    if (!trial.golden) return trial;
    const auto divergence =
        engine::FirstDivergence(planted->graph(), program_.golden(), **plan, inputs_,
                                engine::DivergenceShare(program_.golden(), engine::Placement{}));
    if (divergence.ok() && divergence->has_value()) {
      trial.diagnosed = (*divergence)->node();
      const std::vector<std::string> places = Places(program_, fault);
      trial.placed = std::count(places.begin(), places.end(), trial.diagnosed) > 0;
    }
  } catch (const c10::Error& error) {
    trial.refused = error.what_without_backtrace();
  }
  return trial;
}

}  // namespace assay::mutation

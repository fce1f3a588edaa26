#include "coordinator/report/criteria.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/report/words.h"

namespace assay::report {
namespace {

std::string Share(size_t part, size_t of) {
  return absl::StrCat(part, " of ", of, " (", Percent(part, of), ")");
}

// Holds for each model of `asked`; not met where nothing is asked, for then nothing is shown.
template <typename Holds>
Criterion ForEach(int number, absl::string_view text, absl::string_view what,
                  const std::vector<const ModelCoverage*>& asked, Holds holds) {
  Criterion criterion;
  criterion.number = number;
  criterion.text = std::string(text);
  for (const ModelCoverage* model : asked) {
    if (!holds(*model)) criterion.open.push_back(model->model.name);
  }
  criterion.met = !asked.empty() && criterion.open.empty();
  criterion.figures = absl::StrCat(Share(asked.size() - criterion.open.size(), asked.size()), " ", what);
  return criterion;
}

Criterion RealWeights(const std::vector<const ModelCoverage*>& medium) {
  Criterion criterion;
  criterion.number = 3;
  criterion.text = "At least 25 % of the medium-priority models pass with real weights";
  size_t real = 0, unverified = 0, structural = 0, synthetic = 0;
  for (const ModelCoverage* model : medium) {
    if (model->real_passed()) {
      ++real;
      continue;
    }
    criterion.open.push_back(model->model.name);
    if (model->real == RealGrade::kUnverified) ++unverified;
    if (model->real == RealGrade::kStructural) ++structural;
    if (model->real == RealGrade::kSynthetic) ++synthetic;
  }
  const size_t needed = (medium.size() + 3) / 4;
  criterion.met = !medium.empty() && real >= needed;
  if (criterion.met) criterion.open.clear();
  criterion.figures = absl::StrCat(
      Share(real, medium.size()),
      " medium-priority models pass with trained weights that are verified and compared with a reference; ",
      needed, " are needed. Not counted: ", unverified, " with unverified weights, ", structural, " with ",
      kNoGolden, ", ", synthetic, " with synthetic weights");
  return criterion;
}

Criterion RoadmapUpdated(const ReportInput& input) {
  Criterion criterion;
  criterion.number = 4;
  criterion.text = "The roadmap is updated";
  const v1::Batch* newest = nullptr;
  size_t ended = 0;
  for (const v1::Batch& batch : input.batches) {
    if (!batch.has_end_time()) continue;
    ++ended;
    if (newest == nullptr || std::make_pair(TimeOf(batch.end_time()), batch.batch_id()) >
                                 std::make_pair(TimeOf(newest->end_time()), newest->batch_id())) {
      newest = &batch;
    }
  }
  criterion.met = newest != nullptr;
  criterion.figures = newest == nullptr ? "no batch has ended, so there is nothing to update it from"
                                        : absl::StrFormat(
                                              "computed from all results whenever it is asked for; %d "
                                              "batch(es) ended, the newest, %s, at %s",
                                              ended, newest->name(), TimeText(newest->end_time()));
  return criterion;
}

}  // namespace

std::vector<Criterion> JudgePlan(const Coverage& coverage, const ReportInput& input) {
  std::vector<const ModelCoverage*> planned, medium, hyphenated;
  for (const ModelCoverage& model : coverage.models) {
    if (model.model.named_by_plan) planned.push_back(&model);
    if (model.model.priority == Priority::kMedium) medium.push_back(&model);
    if (model.model.named_by_plan && absl::StrContains(model.original_name, "-"))
      hyphenated.push_back(&model);
  }
  std::vector<Criterion> criteria;
  criteria.push_back(
      ForEach(1, absl::StrCat("All ", planned.size(), " models that the plan names have test files"),
              "named models have a generated test", planned,
              [](const ModelCoverage& model) { return model.generated; }));
  criteria.push_back(ForEach(2, absl::StrCat("All ", planned.size(), " test files pass the syntax check"),
                             "named models have a test that was verified before it ran", planned,
                             [](const ModelCoverage& model) { return model.generated; }));
  criteria.push_back(RealWeights(medium));
  criteria.push_back(RoadmapUpdated(input));
  criteria.push_back(
      ForEach(5, "All hyphenated names are handled",
              "models with a hyphen in their own name have a generated test under an underscore name",
              hyphenated, [](const ModelCoverage& model) { return model.generated; }));
  criteria.push_back(ForEach(6, "Medium-priority coverage reaches 100 %",
                             "medium-priority models are covered", medium,
                             [](const ModelCoverage& model) { return model.covered; }));
  return criteria;
}

}  // namespace assay::report

#include "coordinator/report/plan.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"

namespace assay::report {
namespace {

// One a batch; its report of batch 1 gives 2025-05-15 for the whole, the plan itself 2025-05-01.
const std::map<uint32_t, absl::CivilDay>& DueDays() {
  static const auto* const days = new std::map<uint32_t, absl::CivilDay>{
      {1, absl::CivilDay(2025, 4, 5)},  {2, absl::CivilDay(2025, 4, 10)}, {3, absl::CivilDay(2025, 4, 15)},
      {4, absl::CivilDay(2025, 4, 20)}, {5, absl::CivilDay(2025, 4, 25)}, {6, absl::CivilDay(2025, 5, 1)}};
  return *days;
}

struct Usual {
  absl::string_view template_name, task;
};

// For a model without a catalogue entry: what the plan mostly uses for its architecture type.
Usual UsualFor(absl::string_view arch_type) {
  if (arch_type == "decoder_only") return {"gpt2", "text-generation"};
  if (arch_type == "encoder_decoder") return {"t5", "text2text-generation"};
  if (arch_type == "vision") return {"vit", "image-classification"};
  if (arch_type == "vision_text") return {"blip", "image-to-text"};
  if (arch_type == "multimodal") return {"llava", "image-to-text"};
  if (arch_type == "speech") return {"wav2vec2", "automatic-speech-recognition"};
  return {"bert", "fill-mask"};
}

}  // namespace

std::vector<std::string> Contradictions() {
  return {
      absl::StrCat("The plan counts ", kClaimedImplemented, " of ", kClaimedTracked,
                   " models implemented and ", kClaimedMissing, " missing in all, and yet ",
                   kClaimedMediumMissing, " missing of medium priority alone."),
      absl::StrCat("After batch 1 it counts ", kClaimedAfterBatch1, " of ", kClaimedTracked, " and ",
                   kClaimedRemainingAfterBatch1, " remaining, and yet ", kPlannedAfterBatch1,
                   " models follow in batches 2 to 6."),
      "The plan sets 2025-05-01 for the whole, its report of batch 1 says 2025-05-15. The earlier one is "
      "used.",
  };
}

std::string ProgressText(const PlannedBatch& batch) {
  const std::string days = absl::StrCat(batch.days_late, batch.days_late == 1 ? " day" : " days");
  switch (batch.progress) {
    case Progress::kDone:
      return absl::StrCat("done ", absl::FormatCivilTime(batch.done_on),
                          batch.days_late > 0 ? absl::StrCat(", ", days, " late") : "");
    case Progress::kOpen:
      return "open";
    case Progress::kOverdue:
      return absl::StrCat("overdue by ", days);
  }
  return "unknown";
}

std::vector<PlannedBatch> HoldPlanAgainst(const Coverage& coverage, absl::Time now) {
  std::map<uint32_t, PlannedBatch> batches;
  std::map<uint32_t, absl::Time> last_covered;
  for (const ModelCoverage& model : coverage.models) {
    if (model.model.batch == 0) continue;
    PlannedBatch& batch = batches[model.model.batch];
    batch.number = model.model.batch;
    batch.models.push_back(model.model.name);
    if (!model.covered) batch.missing.push_back(model.model.name);
    auto [last, first] = last_covered.try_emplace(batch.number, model.first_covered);
    last->second = std::max(last->second, model.first_covered);
  }
  const absl::CivilDay today = absl::ToCivilDay(now, absl::UTCTimeZone());
  std::vector<PlannedBatch> result;
  for (auto& [number, batch] : batches) {
    if (auto due = DueDays().find(number); due != DueDays().end()) {
      batch.has_date = true;
      batch.due = due->second;
    }
    if (batch.missing.empty()) {
      batch.progress = Progress::kDone;
      batch.done_on = absl::ToCivilDay(last_covered[number], absl::UTCTimeZone());
      if (batch.has_date && batch.done_on > batch.due) batch.days_late = batch.done_on - batch.due;
    } else if (batch.has_date && today > batch.due) {
      batch.progress = Progress::kOverdue;
      batch.days_late = today - batch.due;
    }
    result.push_back(std::move(batch));
  }
  return result;
}

std::vector<NextModel> NextModels(const Coverage& coverage, size_t size) {
  std::vector<const ModelCoverage*> missing;
  for (const ModelCoverage& model : coverage.models) {
    if (!model.covered) missing.push_back(&model);
  }
  std::stable_sort(missing.begin(), missing.end(), [](const ModelCoverage* a, const ModelCoverage* b) {
    // A batch of 0 means none, and comes after the plan's.
    return std::make_pair(a->model.priority, a->model.batch - 1) <
           std::make_pair(b->model.priority, b->model.batch - 1);
  });
  if (missing.size() > size) missing.resize(size);
  std::vector<NextModel> next;
  for (const ModelCoverage* model : missing) {
    NextModel& one = next.emplace_back();
    one.name = model->model.name;
    one.original_name = model->original_name;
    one.arch_type = model->model.arch_type;
    one.priority = model->model.priority;
    one.why = model->why_missing;
    if (model->entry != nullptr) {
      one.catalogued = true;
      one.template_name = model->entry->template_();
      one.task = model->entry->task();
    } else {
      const Usual usual = UsualFor(one.arch_type);
      one.template_name = std::string(usual.template_name);
      one.task = std::string(usual.task);
    }
  }
  return next;
}

}  // namespace assay::report

#include "coordinator/report/renderers.h"
#include "nlohmann/json.hpp"

namespace assay::report {

absl::StatusOr<std::string> RenderNextBatch(const Scope& scope, uint32_t size) {
  const std::vector<NextModel> next = NextModels(scope.coverage, size);
  if (next.empty())
    return absl::FailedPreconditionError("every tracked model is covered: there is no next batch");
  nlohmann::ordered_json batch = nlohmann::ordered_json::object();
  for (const NextModel& model : next) {
    nlohmann::ordered_json one = {
        {"name", model.name}, {"template", model.template_name}, {"task", model.task}};
    if (!model.original_name.empty()) one["original_name"] = model.original_name;
    batch[model.arch_type].push_back(std::move(one));
  }
  return batch.dump(2) + "\n";
}

}  // namespace assay::report

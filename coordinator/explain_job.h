// What `assay why` tells of a job.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/explain.h"
#include "coordinator/roster.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// `pools`: those configured, each as one of its workers would be. NOT_FOUND: no such job.
absl::StatusOr<v1::ExplainJobResponse> ExplainJob(Store& store, const Roster& roster,
                                                  const std::vector<WorkerView>& pools,
                                                  const std::string& job_id);

}  // namespace assay::coordinator

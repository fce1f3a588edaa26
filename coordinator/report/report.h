// Reports: what is tracked, what was run, what is covered. Computed from names and recorded results alone, by
// pure functions: the same input gives the same bytes. All functions are thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/coordinator.pb.h"
#include "coordinator/report/registry.h"

namespace assay::report {

struct ReportInput {
  Registry registry;
  std::map<std::string, v1::CatalogueEntry> catalogue;  // by model name
  // Everything that is recorded, in any order, also where the report is about one batch: coverage is always
  // computed over all of it.
  std::vector<v1::Batch> batches;
  std::vector<v1::Job> jobs;
  absl::Time now;        // "as of", and what target dates are held against
  std::string batch_id;  // empty: over everything
};

// `size` is for NEXT_BATCH alone: how many models; 0 means 10. ROADMAP and NEXT_BATCH are over everything,
// whatever batch_id says.
//   NOT_FOUND            batch_id names no batch of the input.
//   INVALID_ARGUMENT     unknown format.
//   FAILED_PRECONDITION  NEXT_BATCH, and every tracked model is covered.
absl::StatusOr<std::string> RenderReport(const ReportInput& input, v1::ReportFormat format,
                                         uint32_t size = 0);

}  // namespace assay::report

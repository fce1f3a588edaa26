// What `assay gate` found, in each format. Pure and thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/gate.pb.h"

namespace assay::cli {

// How many models have each verdict.
struct GateCounts {
  size_t same = 0, within = 0, changed = 0, not_comparable = 0;
  size_t all() const { return same + within + changed + not_comparable; }
};
GateCounts Count(const v1::GateReport& report);
GateCounts Count(const v1::BisectReport& report);

// INVALID_ARGUMENT: no such format ("text", "json", "junit", "markdown", "html").
absl::StatusOr<std::string> Render(const v1::GateReport& report, const std::string& format);
absl::StatusOr<std::string> Render(const v1::BisectReport& report, const std::string& format);

}  // namespace assay::cli

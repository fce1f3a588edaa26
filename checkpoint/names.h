// Names of tensors: which are allowed, and which are close to each other. Pure, safe from any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace assay::checkpoint {

// INVALID_ARGUMENT: empty, longer than 512 bytes, or with control characters. Names end up in reports.
absl::Status CheckTensorName(absl::string_view name);

// The candidate nearest to each of the first `limit` names by edit distance over dotted parts; empty where
// none is close. Looks at no more than 20,000 candidates.
std::vector<std::string> NearestNames(const std::vector<std::string>& names,
                                      const std::vector<std::string>& candidates, size_t limit);

}  // namespace assay::checkpoint

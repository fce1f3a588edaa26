// What may be a repository's id and a revision: both become parts of paths and URLs.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hub/hub.h"

namespace assay::hub {

// INVALID_ARGUMENT, with the rule.
absl::Status CheckId(absl::string_view id);
absl::Status CheckRevision(absl::string_view revision);

}  // namespace assay::hub

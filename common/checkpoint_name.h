// What may name a checkpoint on the hub, and a revision of it: both become parts of paths and URLs. Pure,
// safe from any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace assay {

// "owner/name", or "name" alone, as the oldest repositories have it. INVALID_ARGUMENT, with the rule.
absl::Status CheckCheckpointId(absl::string_view id);

// A branch, tag or commit, also "refs/pr/3". INVALID_ARGUMENT, with the rule.
absl::Status CheckRevision(absl::string_view revision);

}  // namespace assay

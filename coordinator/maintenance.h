// assay-coordinator prune and assay-coordinator backup: what operators do beside coordinators that serve.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay::coordinator {

// The URL of the store's database: `argument` of the command line, else ASSAY_DATABASE; empty where neither
// has one. INVALID_ARGUMENT: it cannot be read, or has a password and stands where every user sees it.
absl::StatusOr<std::string> DatabaseOf(const std::string& argument);

bool IsMaintenance(absl::string_view command);
// argv[1] is such a command. Its exit code.
int RunMaintenance(int argc, char** argv);

}  // namespace assay::coordinator

// What a process of Assay says when it ends; the same table for every binary.
#pragma once

#include "absl/status/status.h"

namespace assay {

enum ExitCode : int {
  kExitOk = 0,
  kExitChanged = 1,         // `assay gate`: a model's numbers changed
  kExitUsage = 2,           // bad arguments or bad input
  kExitTestsFailed = 3,     // some test did not pass
  kExitNoTests = 4,         // nothing was run
  kExitInfrastructure = 5,  // the machinery failed, not a model
  kExitInterrupted = 8,
};

// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, UNAUTHENTICATED and
// PERMISSION_DENIED are the user's to mend: kExitUsage. CANCELLED is kExitInterrupted. All else is
// kExitInfrastructure.
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace assay

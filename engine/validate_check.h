// What may be asked of a program, judged by its manifest and before any run.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// Index of the input or output of that name. INVALID_ARGUMENT names `field`, which asked for it, and the
// names that there are.
absl::StatusOr<int> FindInput(const v1::Manifest& manifest, absl::string_view field, const std::string& name);
absl::StatusOr<int> FindOutput(const v1::Manifest& manifest, absl::string_view field,
                               const std::string& name);

// OK if every name that the check uses is in the manifest and its figures can be meant; INVALID_ARGUMENT
// names the check and the field. Needs no run, so that a wrong test is refused before any time is spent.
absl::Status ValidateCheck(const v1::Check& check, const v1::Manifest& manifest);

}  // namespace assay::engine

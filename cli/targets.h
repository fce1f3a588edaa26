// Targets as they are written on the command line.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/batch.pb.h"

namespace assay::cli {

// "cuda-bfloat16", "cpu" (in float32), "auto-float16". INVALID_ARGUMENT for anything else, saying what is
// wanted.
absl::StatusOr<v1::Target> ParseTarget(const std::string& word);

}  // namespace assay::cli

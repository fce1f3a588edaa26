// Where templates/ and models/ are.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace assay::cli {

// The executable's own path.
std::filesystem::path ExecutablePath();

// `given`, where it is not empty; else $ASSAY_CONTENT_DIR; else the first folder that holds templates/ and
// models/ of: share/assay beside the executable's bin/, the source tree that the executable was built in, the
// working folder. NOT_FOUND, naming what was looked at.
absl::StatusOr<std::filesystem::path> FindContentDir(const std::string& given);

}  // namespace assay::cli

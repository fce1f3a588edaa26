// One logger for every binary: lines to standard error, so that standard output stays the program's answer.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "spdlog/spdlog.h"

namespace assay {

// level: "debug", "info", "warn" or "error"; INVALID_ARGUMENT for anything else. Call once, at start.
absl::Status StartLogging(absl::string_view program, absl::string_view level);

}  // namespace assay

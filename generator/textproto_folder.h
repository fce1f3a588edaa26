// A folder of *.textproto files, each named after what it declares.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace assay::generator {

// Calls `take` with the path and content of every *.textproto of `dir` (not of folders below it), in the
// order of their names, until one fails. NOT_FOUND where there is no such folder, INVALID_ARGUMENT where a
// file is larger than kMaxTextBytes or no regular file.
absl::Status ForEachTextProto(
    const std::filesystem::path& dir,
    const std::function<absl::Status(const std::string& file, absl::string_view text)>& take);

// "models/catalogue/bert.textproto" -> "bert".
std::string StemOf(absl::string_view file);

}  // namespace assay::generator

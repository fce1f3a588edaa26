// A folder of *.textproto files, each named after what it declares.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "generator/rules.h"

namespace assay::generator {

// Calls `take` with the path and content of every *.textproto of `dir` (not of folders below it), in the
// order of their names, until one fails. NOT_FOUND where there is no such folder, INVALID_ARGUMENT where a
// file is larger than kMaxTextBytes or no regular file.
absl::Status ForEachTextProto(
    const std::filesystem::path& dir,
    const std::function<absl::Status(const std::string& file, absl::string_view text)>& take);

// What a file declares is named as the file is: "bert" in "models/catalogue/bert.textproto". Appends a
// problem with the field `name` where it is not.
void ExamineNameInFile(absl::string_view name, absl::string_view file, std::vector<Problem>* problems);

}  // namespace assay::generator

// Verifies generated tests. Pure, safe from any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "assay/v1/coordinator.pb.h"

namespace assay::generator {

// Every error of a test file, in the order of their places; empty: the file is exactly what FormatTest writes
// for a valid test. `file` is its path; the last part must be TestFileName. `text` is its content. The first
// syntax error alone, or all semantic errors, or the first place that is not canonical. line and column count
// from 1, columns in bytes; FileError.field is like "case[1].check[0].golden.tolerance".
std::vector<v1::FileError> VerifyTest(absl::string_view file, absl::string_view text);

// "file:line:column: field: message".
std::string FormatFileError(const v1::FileError& error);

}  // namespace assay::generator

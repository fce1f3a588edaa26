// What can be said of a test before its programs are read.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// INVALID_ARGUMENT names the case where the test could prove nothing, contradicts itself, or has a field that
// this engine does not know and which might be what the test is about.
absl::Status ValidateTest(const v1::ModelTest& test);

// Every check of the case against the program that it runs (ValidateCheck); INVALID_ARGUMENT names the case.
absl::Status ValidateChecks(const v1::Case& test_case, const v1::Manifest& manifest);

// Why the case compares with no golden, as the test says: the reason of the absent check that is its
// golden's. Empty: the test does not say.
std::string ReasonForNoGolden(const v1::ModelTest& test, const v1::Case& test_case);

}  // namespace assay::engine

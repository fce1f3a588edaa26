// Whether a host's result answers all that its test asks.
#pragma once

#include <string>

#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::worker {

// What is wrong with a result that says PASSED: a case or check of `test` that it lacks or has twice, one
// that did not pass, a case with a checkpoint to load that was skipped. Empty: nothing, or it does not say
// PASSED. A skipped case needs no checks.
std::string FaultOfPass(const v1::ModelTest& test, const v1::TestResult& result);

}  // namespace assay::worker

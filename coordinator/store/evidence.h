// What a result must bear out before it counts as what it says. Pure.
#pragma once

#include "assay/v1/result.pb.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {

// The result, or an INFRASTRUCTURE_ERROR that says what is wrong with it:
//   - an outcome that no worker may decide (none, CANCELLED);
//   - SKIPPED, where the batch names a checkpoint: what was asked for is had or is an error;
//   - an export that PASSED without naming its program and the checkpoint that was asked for;
//   - a test that PASSED without a case that passed, or with a case or check that did neither pass nor was
//     skipped, or with a checkpoint that no case loaded;
//   - a test that PASSED on other content than its attempt was given, by digest, or that calls weights pinned
//     that are not.
// `record`'s newest attempt is the one that the result is of.
v1::TestResult Examined(const JobRecord& record, v1::TestResult result);

}  // namespace assay::coordinator

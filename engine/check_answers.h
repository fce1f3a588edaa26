// What a run answers, against what eager answered and what is known.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/checks.h"
#include "engine/finding.h"

namespace assay::engine {

// Every answer of the checkpoint's golden, read off the run: it must be what eager answered, which must be
// what the golden's own outputs say, and what is known of it. Does not hold where a known answer names none
// of the golden, or an answer has nothing to be compared with. Has nothing to say (Finding::nothing) where
// the golden has no answer and none is known. INVALID_ARGUMENT: the case has no checkpoint's golden. Throws
// c10::Error where LibTorch does.
absl::StatusOr<Finding> CheckAnswers(const v1::Check::Answers& answers, const BoundCase& bound);

// What the case's run answers, for a person, whether a check asks or not. An answer that cannot be read is
// left out: the check that asks for it says why. No exceptions.
std::vector<v1::AnswerResult> AnswersOf(const BoundCase& bound, const v1::Case& test_case);

}  // namespace assay::engine

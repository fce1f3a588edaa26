// Checks that run a variant of the program (docs/variants.md). Each has nothing to check, with the reason,
// where the program has no such variant.
#pragma once

#include "absl/status/statusor.h"
#include "engine/checks.h"
#include "engine/finding.h"

namespace assay::engine {

// The program with sdpa attention gives the main program's outputs. INVALID_ARGUMENT where it has no sdpa
// attention, or the main one has: then nothing would be compared.
absl::StatusOr<Finding> CheckSdpa(const v1::Check::Sdpa& check, const BoundCase& bound);

// Prefill and steps over the golden's own tokens give the main program's rows.
absl::StatusOr<Finding> CheckKvCache(const v1::Check::KvCache& check, const BoundCase& bound);

// Greedy decoding writes the recorded tokens, and each step's two largest numbers are the recorded ones.
// Nothing to check (NOT_COMPARABLE) at dtypes other than float32, whose rounding decides between tokens.
absl::StatusOr<Finding> CheckGenerate(const BoundCase& bound);

// What eager gave for each shape.
absl::StatusOr<Finding> CheckDynamicShapes(const v1::Check::DynamicShapes& check, const BoundCase& bound);

}  // namespace assay::engine

// Checks that run a variant of the program (docs/variants.md). Each has nothing to check, with the reason,
// where the program has no such variant.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checks.h"
#include "engine/finding.h"

namespace assay::engine {

// The program with sdpa attention gives the main program's outputs. INVALID_ARGUMENT where it has no sdpa
// attention, or the main one has: then nothing would be compared.
absl::StatusOr<Finding> CheckSdpa(const v1::Check::Sdpa& check, const BoundCase& bound);

// Prefill and steps over the golden's own tokens give the main program's rows; so do rows of different
// lengths that are padded on the left, where the variant has such, or the note says why it has not. With a
// checkpoint's golden these are its own prompts.
absl::StatusOr<Finding> CheckKvCache(const v1::Check::KvCache& check, const BoundCase& bound);

// Greedy decoding writes the recorded tokens, and each step's two largest numbers are the recorded ones. With
// a checkpoint's golden it is the checkpoint's own generate that was recorded, row by row, without padding.
// Nothing to check (NOT_COMPARABLE) at dtypes other than float32, whose rounding decides between tokens.
absl::StatusOr<Finding> CheckGenerate(const BoundCase& bound);

// Shows each program that the check runs as a case of its own: bound, with the inputs of its first run, and
// the trace of eager's there, where one was recorded. Until `see` gives false. A variant that is not there
// has none.
absl::Status ForEachVariantPart(
    const v1::Check& check, const BoundCase& bound,
    const std::function<absl::StatusOr<bool>(const std::string& name, const BoundCase& part)>& see);

// What eager gave for each shape.
absl::StatusOr<Finding> CheckDynamicShapes(const v1::Check::DynamicShapes& check, const BoundCase& bound);

}  // namespace assay::engine

// The smallest part of a program that still shows a difference.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/checks.h"

namespace assay::engine {

struct Reduced {
  // The first operator that differs, with those before it of which nothing is recorded. Its inputs are the
  // values that the failing run gave them, by value, and they all agree with the golden's trace; weights are
  // made by their rules, or are inputs where the rules do not show the difference. Its golden is what the
  // trace has of that operator: a few elements, the mean and the largest magnitude, which the part computes
  // as its outputs.
  v1::Program program;
  std::string story;  // for a person: what was kept, and how it was shown to fail
  size_t nodes = 0;   // of the whole program's
};

// `bound` is of a golden check that failed. The part was run on its own, at the same placement, and failed
// there. FAILED_PRECONDITION: no traced value differs here, or the part alone does not fail, or there is no
// trace. RESOURCE_EXHAUSTED: its inputs would be more than 192 MiB.
absl::StatusOr<Reduced> Reduce(const BoundCase& bound);

}  // namespace assay::engine

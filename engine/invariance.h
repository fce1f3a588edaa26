// Where an invariance breaks: two runs whose inputs differ as a check alters them, and the first operator in
// whose value something moves that must not.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/checks.h"

namespace assay::engine {

// The two runs of a check, and what of their values must be the same.
struct AlteredRuns {
  std::vector<at::Tensor> base, altered;  // inputs, on the placement
  // Dimensions of these sizes are positions of a sequence, of which these may move and no others.
  std::set<int64_t> lengths;
  int64_t from_start = 0;
  int64_t from_end = 0;
  // The base's row that the altered run has alone, where the batch is what differs; -1: it is not.
  int64_t row = -1;
  int64_t batch = 0;
};

// Causality, padding and batch invariance; nullopt: another check, or one that cannot be applied.
std::optional<AlteredRuns> AlteredRunsOf(const v1::Check& check, const BoundCase& bound);

// Index of the first node in whose value, restricted to what must not move (every dimension of such a
// length), something does: by more than a share of its largest magnitude. Values of other shapes are passed
// over. Sets error and detail of `divergence`. RESOURCE_EXHAUSTED: the values of a run are more than 1 GiB.
absl::StatusOr<std::optional<uint32_t>> FirstLeak(const BoundCase& bound, const AlteredRuns& runs,
                                                  v1::Divergence& divergence);

}  // namespace assay::engine

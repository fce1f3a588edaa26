// Where two recordings of one model part. docs/gate.md, "Where". Internal to the gate.
#pragma once

#include "absl/status/status.h"
#include "assay/v1/gate.pb.h"

namespace assay::engine {

// How two recorded values differ.
struct ValueDifference {
  bool exact = true;  // every figure agrees to the bit
  double error =
      0;  // largest difference of the figures that are kept; infinite where NaN or infinities differ
  std::string detail;  // which figure, and both numbers
};
ValueDifference CompareValues(const v1::RecordedValue& from, const v1::RecordedValue& to);

// Fills divergence, counterpart, first_other_bits, also, only_from and only_to: where the outputs of `to` in
// `different` (indexes) begin to differ. A value may be off by `share` of the largest magnitude among itself
// and what it was computed from. RESOURCE_EXHAUSTED: too large; NOT_FOUND: nothing recorded differs.
absl::Status Place(const v1::Recording& from, const v1::Recording& to, const std::vector<int>& different,
                   double share, v1::GateResult& result);

}  // namespace assay::engine

// The weights of one program under the names and in the forms of another version of the same model.
#pragma once

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/recording.h"

namespace assay::engine {

// The weights that go through `from`, for `to`. For each weight of `to` the first of these rules that applies
// (docs/gate.md, "The same weights"):
// - the same name and shape; or the name that it is tied under on either side;
// - experts one by one in `from`, stacked in `to`: names and shapes say which (kStacked in weight_map.cc);
// - renamed: the same shape, last part and numbers in the name; of all such the one that shares most parts of
// the
//   name in order, best in both directions and without a tie;
// - a persistent buffer that is a constant of `from` by the same name, or whose values are no random ones.
// A random value of `from` that is a constant of `to` by the same name replaces that one in `to`.
// Notes tell everything but the first rule. FAILED_PRECONDITION names what no rule is for: nothing is guessed
// at.
absl::StatusOr<GivenWeights> MapWeights(const v1::Program& from, const GivenWeights& given, v1::Program& to);

}  // namespace assay::engine

// How people name a checkpoint. Pure functions, safe from any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/test.pb.h"

namespace assay::generator {

// "owner/name", "owner/name@revision" or an absolute folder (which has no revision: an '@' is part of its
// path) -> id and revision. INVALID_ARGUMENT says what is wrong: no such form, "..", a relative folder, a
// revision that no branch, tag or commit could have, control characters.
absl::StatusOr<v1::CheckpointRef> ParseCheckpointName(absl::string_view text);

// The model name that stands for a checkpoint: the last part of its id, lower-case, every run of characters
// that are no letter or digit "_", none at the ends: "sentence-transformers/all-MiniLM-L6-v2" ->
// "all_minilm_l6_v2". INVALID_ARGUMENT where nothing is left of it, or it is too long.
absl::StatusOr<std::string> NameOfCheckpoint(absl::string_view id);

}  // namespace assay::generator

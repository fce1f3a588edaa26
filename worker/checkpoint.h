// Where a model's real weights lie on this node.
#pragma once

#include <filesystem>

#include "absl/strings/string_view.h"

namespace assay::worker {

// <root>/<id> where it is a folder, else empty: also for an empty root, and for an id that is not a hub's
// "name" or "owner/name" of letters, digits, '.', '_' and '-' (it comes from a catalogue and must not name
// anything outside the root).
std::filesystem::path FindCheckpoint(const std::filesystem::path& root, absl::string_view id);

}  // namespace assay::worker

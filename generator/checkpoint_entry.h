// Checkpoints that the project knows: models/checkpoints/*.textproto. Pure functions of files and values,
// safe from any thread.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::generator {

// One entry's file, strictly parsed. INVALID_ARGUMENT names `file` and each field that is wrong: the name
// must be the file's stem, the checkpoint an id of the hub, a weights digest 64 lower-case hex digits, a
// sample's files plain names, and every known answer one that a sample gives. Whether its template exists is
// for whoever holds the templates.
absl::StatusOr<v1::CheckpointEntry> ParseCheckpointEntry(absl::string_view file, absl::string_view text);

// Every *.textproto of `dir`, by checkpoint id; empty for an empty folder. The first error found, with its
// file: as above, or two entries of one checkpoint. NOT_FOUND where there is no such folder. The digest of an
// entry is the SHA-256 of its file's bytes, `<name>.textproto`.
absl::StatusOr<std::map<std::string, v1::CheckpointEntry>> LoadCheckpointEntries(
    const std::filesystem::path& dir);

// What the project vouches for: both digests of `checkpoint` become those of its entry (null: there is none).
// Nothing changes where its weights are pinned already, nor for a revision beside main: that one has other
// weights.
void PinByEntry(const v1::CheckpointEntry* entry, v1::CheckpointRef& checkpoint);

}  // namespace assay::generator

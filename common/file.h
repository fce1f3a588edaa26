// Whole files in and out. Errors name the path.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay {

// NOT_FOUND where there is no such file, INVALID_ARGUMENT where it is larger than max_bytes or no regular
// file, else what the system says.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// Never leaves a half-written file: writes beside it, syncs, renames. Missing folders are made.
// `durable` also syncs, so that the file survives a power cut when this returns.
absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view content,
                                 bool durable = false);
// As above, durable, and never readable by anybody but its owner (mode 0600).
absl::Status WriteSecretFile(const std::filesystem::path& path, absl::string_view content);

// True where `path` is `folder` or below it, by their names alone: give both canonical.
bool LiesBelow(const std::filesystem::path& path, const std::filesystem::path& folder);

}  // namespace assay

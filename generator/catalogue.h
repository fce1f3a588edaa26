// The catalogue: what is known of each model. Pure functions of files and values, safe from any thread.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/catalogue.pb.h"

namespace assay::generator {

// One entry's file, strictly parsed. INVALID_ARGUMENT names `file` and what is wrong; the entry's name must
// be the file's stem. Whether its template and the checks it speaks of exist is for Generate to say.
absl::StatusOr<v1::CatalogueEntry> ParseCatalogueEntry(absl::string_view file, absl::string_view text);

// Every *.textproto of `dir` by name; empty for an empty folder. The first error found, with its file.
// The digest of an entry is the SHA-256 of its file's bytes.
absl::StatusOr<std::map<std::string, v1::CatalogueEntry>> LoadCatalogue(const std::filesystem::path& dir);

}  // namespace assay::generator

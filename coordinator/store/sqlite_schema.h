// The tables of the embedded store, and how older files become today's.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/store/sqlite.h"

namespace assay::coordinator {

inline constexpr int kSchemaVersion = 6;

// Makes the tables in an empty database; brings an older version's forward, in one transaction, with all that
// they hold. FAILED_PRECONDITION, naming `path`: a newer Assay wrote it. `wanted`, from 2: as an Assay of
// that version would have done.
absl::Status PrepareSchema(Database& database, const std::string& path, int wanted = kSchemaVersion);

}  // namespace assay::coordinator

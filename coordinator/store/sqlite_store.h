// The store of one coordinator: a SQLite file in WAL mode with full synchronisation. What Commit returned OK
// for survives kill -9 and a power cut. The schema's version is PRAGMA user_version.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// FAILED_PRECONDITION: a newer Assay wrote the file. DATA_LOSS: it is no database, or a broken one. `clock`
// must outlive the store.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, uint32_t max_attempts,
                                                       const Clock* clock = &Clock::System());

}  // namespace assay::coordinator

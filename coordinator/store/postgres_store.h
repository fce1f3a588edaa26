// The store on a PostgreSQL server, 15 or later, in the schema `assay` of a database. What Commit returned OK
// for survives whatever the server's own commit survives.
//
// One coordinator holds the database at a time, by an advisory lock of its session: a pooler between them
// must keep sessions whole.
//
// Where the connection is lost, the transaction fails with UNAVAILABLE and the next Begin connects again.
// Each transaction that writes also counts itself, so that one whose COMMIT was not answered is not guessed
// at: Commit connects again and asks, and returns what is true. Only where the server stays away for longer
// than `outcome_patience` does it return UNAVAILABLE for what may yet turn out to be committed. Whoever
// repeats the operations then gets the first answers (by request id, by attempt), and the next Commit tells
// of the batches that the lost one touched; leases that nobody was told of end as lost ones, and a case
// result may be twice among the events. Leases do not run while the database is away.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

struct PostgresPatience {
  // How long another coordinator may take to let go of the database, e.g. one that was just killed.
  absl::Duration lock = absl::Seconds(5);
  // How long Commit waits for a server that went away while it committed.
  absl::Duration outcome = absl::Seconds(10);
};

// INVALID_ARGUMENT: see CheckPostgresUrl (postgres.h). FAILED_PRECONDITION: another coordinator holds the
// database, a newer Assay wrote it, its encoding is not UTF8, or the server is older than 15. UNAVAILABLE: it
// cannot be reached.
absl::StatusOr<std::unique_ptr<Store>> OpenPostgresStore(const std::string& url, uint32_t max_attempts,
                                                         const PostgresPatience& patience = {});

}  // namespace assay::coordinator

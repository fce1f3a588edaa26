// The store on a PostgreSQL server, 15 or later, in the schema `assay` of a database. What Commit returned OK
// for survives whatever the server's own commit survives.
//
// A transaction of many jobs waits for the server as little as it can: where much is queued the queue is read
// while results are counted, writes are sent as they come up, and where no other coordinator has written for
// a minute nothing is locked that the write itself can compare.
//
// Any number of coordinators hold a database at a time, each by a store of its own; a pooler between them
// must keep sessions whole. Jobs are locked before batches, each in the order of their ids, or passed over
// where another one has them; where two wait for each other all the same, the server takes one back, which is
// ABORTED, and its writer runs it again. Times of leases are the server's. What a coordinator has locked and
// does not go on with for ten seconds is given back.
//
// Leases do not run while nobody can write that workers live: while the server is away, or no coordinator is
// there. Each transaction that writes says when it did; whoever connects, again or for the first time, moves
// the end of all leases by as much as has passed since the last one of any coordinator. So one that starts or
// comes back beside others that serve moves nothing to speak of, and the leases of its own workers have run:
// to them it was away. A worker that died shortly before may be given the time between two heartbeats more.
//
// Where the connection is lost, the transaction fails with UNAVAILABLE and the next Begin connects again.
// Each transaction that writes also counts itself, so that one whose COMMIT was not answered is not guessed
// at: Commit connects again and asks, and returns what is true. Only where the server stays away for longer
// than `outcome_patience` does it return UNAVAILABLE for what may yet turn out to be committed. Whoever
// repeats the operations then gets the first answers (by request id, by attempt), and the next Commit tells
// of the batches that the lost one touched; leases that nobody was told of end as lost ones, and a case
// result may be twice among the events.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

struct PostgresPatience {
  // How long the server may take to end an earlier session of this store, before it is tried again.
  absl::Duration lock = absl::Seconds(5);
  // How long Commit waits for a server that went away while it committed.
  absl::Duration outcome = absl::Seconds(10);
};

// What a store is opened for.
enum class PostgresUse {
  kEverything,
  kSubmissions,  // SubmitBatch and what goes with it alone, beside the same coordinator's other store
};

// INVALID_ARGUMENT: see CheckPostgresUrl (postgres.h). FAILED_PRECONDITION: a newer Assay wrote the
// database, its encoding is not UTF8, or the server is older than 15. UNAVAILABLE: it
// cannot be reached.
absl::StatusOr<std::unique_ptr<Store>> OpenPostgresStore(const std::string& url, uint32_t max_attempts,
                                                         const PostgresPatience& patience = {},
                                                         PostgresUse use = PostgresUse::kEverything);

}  // namespace assay::coordinator

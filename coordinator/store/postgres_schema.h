// The tables of the PostgreSQL store, in the schema `assay`, and how older ones become today's.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/store/postgres.h"

namespace assay::coordinator {

// The n-th (from 1) makes version n of version n - 1; version 0 has nothing. One that was released is never
// changed again.
const std::vector<std::string>& PostgresSchemaSteps();

// Takes the steps that the database has not taken yet, in one transaction, with all that its tables hold.
// Several at once wait for each other. FAILED_PRECONDITION: it took more steps than there are (a newer Assay
// wrote it), or its encoding is not UTF8.
absl::Status MigratePostgres(PostgresConnection& connection, const std::vector<std::string>& steps);

}  // namespace assay::coordinator

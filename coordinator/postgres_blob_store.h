// Blobs in the database of the PostgreSQL store, so that coordinators share them without sharing a folder.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/blob_store.h"

namespace assay::coordinator {

// The tables are those of the store (postgres_schema.h), which is opened first. A blob comes and goes in
// pieces of 1 MiB, each in a statement of its own, over at most a few connections that all uploads and
// downloads share; it is there when its last piece is, and not before. What a killed coordinator leaves
// behind is named by nothing and goes with the next Sweep. UNAVAILABLE while the database is away.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenPostgresBlobStore(const std::string& url);

}  // namespace assay::coordinator

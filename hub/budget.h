// Room on the disk: what Assay downloaded is kept below a budget by evicting what has not been used for
// longest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "hub/cache.h"
#include "hub/hub.h"

namespace assay::hub {

// Before a download: makes room for `files` of `commit` that are not there yet, and notes them as Assay's, so
// that another process counts them from now on. The caller holds `commit`'s use (RepoCache::UseFile, shared).
//
// Never evicted: a snapshot whose use somebody holds, a blob whose lock somebody holds, and, unless
// budget_covers_all, blobs that Assay did not download. RESOURCE_EXHAUSTED: budget or disk is too small, with
// the figures.
absl::Status MakeRoom(const HubOptions& options, const RepoCache& repo, const std::string& commit,
                      const std::vector<RemoteFile>& files, const std::function<bool()>& cancelled);

}  // namespace assay::hub

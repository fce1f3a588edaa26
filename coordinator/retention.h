// What a coordinator forgets, so that neither database nor blobs grow for ever.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// Tokens and certificates that have ended stay listed for so long, so that whoever shows one is told why it
// is refused.
inline constexpr absl::Duration kKeepTokens = absl::Hours(24 * 30);

// Unset: that keeps nothing by itself. At least one of the first two is set.
struct Retention {
  std::optional<uint32_t> keep_runs;       // of each model on each target: the last so many jobs
  std::optional<absl::Duration> keep_for;  // batches that ended within this time
  absl::Duration keep_audit = absl::Hours(24 * 365);
  absl::Duration keep_workers = absl::Hours(24 * 30);  // that have not been seen for so long
  absl::Duration keep_tokens = kKeepTokens;
  absl::Duration keep_blobs =
      absl::Hours(24);  // that nothing names, since they were last stored or looked up
};

struct Pruned {
  size_t batches = 0, jobs = 0, workers = 0, tokens = 0;
  SweptBlobs blobs;
};

// Runs work on the store in a transaction of its own, and waits; an error takes the transaction back.
using InTransaction = std::function<absl::Status(const std::function<absl::Status(Store&)>& work)>;

// Drops the tokens, and the records of certificates, that ended more than `keep` ago; how many. What has no
// end stays, also where it was revoked.
absl::StatusOr<size_t> DropEndedTokens(const InTransaction& run, absl::Duration keep);

// Drops each batch that has ended and of which no job is to be kept, whole: its jobs, events and answers;
// then the blobs that no job names any more. A job is kept that is among the last runs of its model and
// target, whose batch ended lately enough, or that coverage rests on; what each report says of coverage stays
// as it is, which is computed before anything is dropped. Many short transactions: coordinators serve
// meanwhile. INVALID_ARGUMENT: a retention that keeps nothing.
absl::StatusOr<Pruned> Prune(const InTransaction& run, BlobStore& blobs, const Content& content,
                             const Retention& retention);

}  // namespace assay::coordinator

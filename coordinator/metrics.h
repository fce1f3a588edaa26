// What a coordinator tells Prometheus. Every name, what it means, and whether it is of this coordinator (sum
// over them) or of the store that all of them share (take the largest) is in docs/observability.md.
//
// Labels are bounded: methods, codes, outcomes, devices and classes are the vocabulary's; pools are named by
// workers' labels, of which the first kMaxPools count and the others are "other".
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/result.pb.h"
#include "coordinator/store/store.h"

namespace prometheus {
class Collectable;
}

namespace assay::coordinator {

inline constexpr size_t kMaxPools = 32;

// What of a job's route its queue is told apart by: "any", "selector", "memory" or "memory+selector".
std::string RouteClass(absl::string_view route);

// Thread-safe; nothing waits.
class CoordinatorMetrics {
 public:
  CoordinatorMetrics();
  ~CoordinatorMetrics();

  // What happens.
  void GroupCommitted(size_t requests, absl::Duration took);
  void GroupFailed();
  void JobAssigned(v1::Stage stage, absl::Duration waited);
  void ResultAnswered(v1::Outcome outcome, bool counted);
  void LeasesExpired(size_t attempts);
  void BatchesTouched(size_t batches);
  void BlobReceived(size_t bytes);
  void BlobSent(size_t bytes);
  void WatchersChanged(int by);
  void WatchEventsSent(size_t events);
  void RpcEnded(const std::string& method, int code, absl::Duration took, bool streaming);

  // Clocks: how far ahead of this machine's the store's and a worker's are.
  void StoreClock(absl::Duration ahead);

  // Of the certificate that this coordinator shows; not served where there is none.
  void CertificateEnds(absl::Time at);

  // What is asked when Prometheus asks, of the store and the workers at hand. `ask` must not wait: it has
  // `done` called when it knows, or never where the store is away.
  struct Snapshot {
    std::vector<JobCount> jobs;              // of the store: all coordinators see the same
    std::vector<v1::WorkerSummary> workers;  // connected to this coordinator
    absl::Time now;                          // by the store's clock
  };
  using Ask = std::function<void(std::function<void(absl::StatusOr<Snapshot>)> done)>;
  void AskAtScrape(Ask ask);

  // To be served. `collected` lives on its own.
  std::shared_ptr<prometheus::Collectable> collected() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace assay::coordinator

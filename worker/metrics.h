// What a worker tells Prometheus; every name is explained in docs/observability.md. And what becomes of an
// attempt's stages: their times as metrics, and their spans.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/worker.pb.h"

namespace prometheus {
class Collectable;
}

namespace assay::worker {

// Thread-safe; nothing waits.
class WorkerMetrics {
 public:
  WorkerMetrics();
  ~WorkerMetrics();

  void AttemptEnded(v1::Stage stage, v1::Outcome outcome);
  void StageTook(const std::string& stage, absl::Duration took);
  // device: "cpu" or "cuda".
  void HostStarted(const std::string& device);
  void HostLost(const std::string& device);

  // Of the certificate that this worker shows; not served where there is none.
  void CertificateEnds(absl::Time at);

  // What is asked when Prometheus asks.
  struct Snapshot {
    bool connected = false;  // to a coordinator
    uint64_t running = 0;    // attempts taken and not finished
    uint64_t spooled = 0;    // results that no coordinator has acknowledged
    uint64_t cache_bytes = 0;
    uint64_t cache_budget = 0;
    uint64_t disk_free = 0;  // of the state folder's file system
    uint32_t free_slots = 0;
    std::vector<v1::DeviceSlots> devices;
    std::map<std::string, uint64_t> memory_used;  // bytes by device id, whoever uses them; where it is known
  };
  // Null: nobody answers any more; returns when nobody asks either.
  void AskAtScrape(std::function<Snapshot()> ask);

  // To be served. `collected` lives on its own.
  std::shared_ptr<prometheus::Collectable> collected() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Which stages an attempt went through, and when. Handed over with the attempt; not thread-safe.
class StageClock {
 public:
  struct Passed {
    const char* stage;
    absl::Time start;
    absl::Time end;
  };

  // Ends the stage before it. `stage` lives for ever.
  void Enter(const char* stage) {
    const absl::Time now = absl::Now();
    End(now);
    stage_ = stage;
    since_ = now;
  }
  // Ends the last one, and gives them all.
  const std::vector<Passed>& Stop() {
    End(absl::Now());
    return passed_;
  }

 private:
  void End(absl::Time now) {
    if (stage_ != nullptr) passed_.push_back({stage_, since_, now});
    stage_ = nullptr;
  }

  const char* stage_ = nullptr;
  absl::Time since_;
  std::vector<Passed> passed_;
};

// The stage in which an attempt is with its test host.
inline constexpr char kHostStage[] = "host";

// Of an attempt that has ended with `result`: metrics (where `metrics` is not null), and below the attempt's
// span one span a stage; below that of the host what the test host did, its cases and their parts, by the
// times that it reports.
void TellAttempt(const v1::Assignment& assignment, const std::vector<StageClock::Passed>& stages,
                 const v1::TestResult& result, const std::string& worker, WorkerMetrics* metrics);

}  // namespace assay::worker

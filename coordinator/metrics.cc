#include "coordinator/metrics.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/metrics.h"
#include "coordinator/services/grpc_status.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"

namespace assay::coordinator {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// How long a scrape waits for the store. A store that is away must not take the other figures with it.
constexpr absl::Duration kScrapePatience = absl::Milliseconds(800);
// Several that scrape at once are told the same.
constexpr absl::Duration kFresh = absl::Seconds(1);

const prometheus::Histogram::BucketBoundaries& Requests() {
  static const auto& bounds =
      *new prometheus::Histogram::BucketBoundaries{1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
  return bounds;
}

std::string Lower(absl::string_view text) { return absl::AsciiStrToLower(text); }

const char* StageName(v1::Stage stage) { return stage == v1::STAGE_EXPORT ? "export" : "test"; }

std::string DeviceName(v1::DeviceChoice device) { return Lower(v1::DeviceChoice_Name(device)); }

// "default": the job leaves it to its template, or a store of an earlier release does not say.
std::string DtypeName(v1::Dtype dtype) {
  if (dtype == v1::DTYPE_UNSPECIFIED) return "default";
  const std::string name = v1::Dtype_Name(dtype);
  return Lower(absl::StripPrefix(name, "DTYPE_"));
}

ClientMetric Gauge(std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  return metric;
}

std::string PoolOf(const v1::WorkerSummary& worker) {
  if (!worker.pool().empty()) return worker.pool();
  for (const std::string& label : worker.label()) {
    if (absl::StartsWith(label, "pool=")) return label.substr(5);
  }
  return "none";
}

}  // namespace

std::string RouteClass(absl::string_view route) {
  // As RouteOf (needs.h) writes it: labels behind a plus, the rest is of memory.
  bool memory = false, selector = false;
  for (absl::string_view word : absl::StrSplit(route, ' ', absl::SkipEmpty())) {
    (absl::StartsWith(word, "+") ? selector : memory) = true;
  }
  if (memory) return selector ? "memory+selector" : "memory";
  return selector ? "selector" : "any";
}

// Beside the registry, what is asked for at each scrape.
struct CoordinatorMetrics::State final : prometheus::Collectable {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Histogram& commit_seconds =
      AddHistogram(*registry, "assay_store_commit_seconds",
                   "Time of a group's transaction, from its first request to its commit", QuickSeconds());
  prometheus::Histogram& group_requests =
      AddHistogram(*registry, "assay_store_group_requests", "Requests that shared a commit", Requests());
  prometheus::Counter& store_errors =
      AddCounter(*registry, "assay_store_errors_total", "Transactions that the store took back");
  prometheus::Counter& touched = AddCounter(*registry, "assay_batch_changes_total",
                                            "Batches with new events, each counted once a commit");
  prometheus::Counter& expired = AddCounter(*registry, "assay_leases_expired_total",
                                            "Attempts taken from workers that were not heard of in time");
  prometheus::Counter& blobs_in =
      AddCounter(*registry, "assay_blob_bytes_total", "Content of blobs that moved", {{"direction", "in"}});
  prometheus::Counter& blobs_out =
      AddCounter(*registry, "assay_blob_bytes_total", "Content of blobs that moved", {{"direction", "out"}});
  prometheus::Gauge& watchers =
      AddGauge(*registry, "assay_watchers", "Streams of WatchBatch that are open here");
  prometheus::Counter& watch_events =
      AddCounter(*registry, "assay_watch_events_total", "Events sent to watchers");
  prometheus::Gauge& clock_ahead = AddGauge(*registry, "assay_store_clock_offset_seconds",
                                            "How far the store's clock is ahead of this machine's");
  std::array<prometheus::Histogram*, 2> dispatch_seconds{};
  std::map<std::pair<v1::Outcome, bool>, prometheus::Counter*> results;

  mutable absl::Mutex mutex;
  std::map<std::string, prometheus::Histogram*> rpc_seconds ABSL_GUARDED_BY(mutex);
  std::map<std::pair<std::string, int>, prometheus::Counter*> rpcs ABSL_GUARDED_BY(mutex);
  Ask ask ABSL_GUARDED_BY(mutex);

  struct Answer {
    absl::Mutex mutex;
    bool there ABSL_GUARDED_BY(mutex) = false;
    absl::StatusOr<Snapshot> snapshot ABSL_GUARDED_BY(mutex) = absl::UnavailableError("not asked");
    absl::Time at ABSL_GUARDED_BY(mutex);
  };
  mutable absl::Mutex asking;
  mutable std::shared_ptr<Answer> answer ABSL_GUARDED_BY(asking);

  State() {
    for (const v1::Stage stage : {v1::STAGE_EXPORT, v1::STAGE_TEST}) {
      dispatch_seconds[stage == v1::STAGE_EXPORT ? 0 : 1] = &AddHistogram(
          *registry, "assay_dispatch_seconds", "From being queued for the first time to the first assignment",
          LongSeconds(), {{"stage", StageName(stage)}});
    }
    for (int i = v1::PASSED; i <= v1::Outcome_MAX; ++i) {
      const auto outcome = static_cast<v1::Outcome>(i);
      for (const bool counted : {true, false}) {
        results[{outcome, counted}] = &AddCounter(
            *registry, "assay_results_total", "Results that were answered, by what they say",
            {{"outcome", Lower(v1::Outcome_Name(outcome))}, {"counted", counted ? "true" : "false"}});
      }
    }
  }

  std::shared_ptr<Answer> Asked() const {
    absl::MutexLock lock(&asking);
    if (answer != nullptr) {
      absl::MutexLock answer_lock(&answer->mutex);
      // One that is still awaited is awaited by all: a store that is away is not asked again and again.
      if (!answer->there || absl::Now() - answer->at < kFresh) return answer;
    }
    answer = std::make_shared<Answer>();
    Ask how;
    {
      absl::MutexLock state_lock(&mutex);
      how = ask;
    }
    if (how != nullptr) {
      how([to = answer](absl::StatusOr<Snapshot> snapshot) {
        absl::MutexLock answer_lock(&to->mutex);
        to->snapshot = std::move(snapshot);
        to->at = absl::Now();
        to->there = true;
      });
    }
    return answer;
  }

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families = registry->Collect();
    const std::shared_ptr<Answer> asked = Asked();
    absl::MutexLock lock(&asked->mutex);
    asked->mutex.AwaitWithTimeout(absl::Condition(&asked->there), kScrapePatience);
    const bool up = asked->there && asked->snapshot.ok();
    families.push_back({"assay_store_up",
                        "1: the store answers; 0: it does not, and what it alone knows is left out",
                        MetricType::Gauge,
                        {Gauge({}, up ? 1 : 0)}});
    if (up) AddSnapshot(*asked->snapshot, families);
    return families;
  }

  static void AddSnapshot(const Snapshot& snapshot, std::vector<MetricFamily>& families) {
    struct Class {
      double jobs = 0;
      double oldest = 0;
    };
    using Key =
        std::tuple<std::string, std::string, std::string, std::string>;  // device, dtype, stage, route class
    std::map<Key, Class> queued, running;
    // Served with 0 too, so that graphs and alerts have something to look at.
    for (const char* device : {"cpu", "cuda", "auto"}) {
      queued[{device, "float32", "test", "any"}];
      running[{device, "float32", "test", "any"}];
    }
    queued[{"cpu", "float32", "export", "any"}];
    running[{"cpu", "float32", "export", "any"}];
    for (const JobCount& count : snapshot.jobs) {
      auto& into = count.state == v1::QUEUED ? queued : running;
      Class& sum = into[{DeviceName(count.device), DtypeName(count.dtype),
                         StageName(count.needs_exporter ? v1::STAGE_EXPORT : v1::STAGE_TEST),
                         RouteClass(count.route)}];
      sum.jobs += static_cast<double>(count.jobs);
      sum.oldest = std::max(sum.oldest, absl::ToDoubleSeconds(snapshot.now - count.oldest));
    }
    MetricFamily depth{"assay_queue_jobs",
                       "Jobs that wait (of the store: take the largest over coordinators)",
                       MetricType::Gauge,
                       {}};
    MetricFamily age{"assay_queue_oldest_seconds",
                     "Age of the oldest batch with a job that waits (of the store: take the largest)",
                     MetricType::Gauge,
                     {}};
    MetricFamily at_work{"assay_running_attempts",
                         "Attempts that hold a lease (of the store: take the largest)",
                         MetricType::Gauge,
                         {}};
    const auto labels = [](const Key& key) {
      return std::vector<ClientMetric::Label>{{"device", std::get<0>(key)},
                                              {"dtype", std::get<1>(key)},
                                              {"stage", std::get<2>(key)},
                                              {"route", std::get<3>(key)}};
    };
    for (const auto& [key, sum] : queued) {
      depth.metric.push_back(Gauge(labels(key), sum.jobs));
      age.metric.push_back(Gauge(labels(key), sum.oldest));
    }
    for (const auto& [key, sum] : running) at_work.metric.push_back(Gauge(labels(key), sum.jobs));
    families.push_back(std::move(depth));
    families.push_back(std::move(age));
    families.push_back(std::move(at_work));

    struct Pool {
      double connected = 0, cordoned = 0, draining = 0;
    };
    std::map<std::string, Pool> pools;
    pools["none"];
    for (const v1::WorkerSummary& worker : snapshot.workers) {
      std::string pool = PoolOf(worker);
      if (pools.count(pool) == 0 && pools.size() >= kMaxPools) pool = "other";
      Pool& count = pools[pool];
      ++count.connected;
      count.cordoned += worker.cordoned() ? 1 : 0;
      count.draining += worker.draining() ? 1 : 0;
    }
    MetricFamily connected{
        "assay_workers_connected", "Workers whose stream this coordinator holds", MetricType::Gauge, {}};
    MetricFamily cordoned{"assay_workers_cordoned",
                          "Of these, those that get nothing new until they are uncordoned",
                          MetricType::Gauge,
                          {}};
    MetricFamily draining{"assay_workers_draining",
                          "Of these, those that finish what they run and leave",
                          MetricType::Gauge,
                          {}};
    for (const auto& [name, pool] : pools) {
      connected.metric.push_back(Gauge({{"pool", name}}, pool.connected));
      cordoned.metric.push_back(Gauge({{"pool", name}}, pool.cordoned));
      draining.metric.push_back(Gauge({{"pool", name}}, pool.draining));
    }
    families.push_back(std::move(connected));
    families.push_back(std::move(cordoned));
    families.push_back(std::move(draining));
  }
};

CoordinatorMetrics::CoordinatorMetrics() : state_(std::make_shared<State>()) {}
CoordinatorMetrics::~CoordinatorMetrics() { AskAtScrape(nullptr); }

void CoordinatorMetrics::GroupCommitted(size_t requests, absl::Duration took) {
  state_->commit_seconds.Observe(absl::ToDoubleSeconds(took));
  state_->group_requests.Observe(static_cast<double>(requests));
}
void CoordinatorMetrics::GroupFailed() { state_->store_errors.Increment(); }
void CoordinatorMetrics::JobAssigned(v1::Stage stage, absl::Duration waited) {
  state_->dispatch_seconds[stage == v1::STAGE_EXPORT ? 0 : 1]->Observe(absl::ToDoubleSeconds(waited));
}
void CoordinatorMetrics::ResultAnswered(v1::Outcome outcome, bool counted) {
  const auto found = state_->results.find({outcome, counted});
  if (found != state_->results.end()) found->second->Increment();
}
void CoordinatorMetrics::LeasesExpired(size_t attempts) {
  state_->expired.Increment(static_cast<double>(attempts));
}
void CoordinatorMetrics::BatchesTouched(size_t batches) {
  state_->touched.Increment(static_cast<double>(batches));
}
void CoordinatorMetrics::BlobReceived(size_t bytes) {
  state_->blobs_in.Increment(static_cast<double>(bytes));
}
void CoordinatorMetrics::BlobSent(size_t bytes) { state_->blobs_out.Increment(static_cast<double>(bytes)); }
void CoordinatorMetrics::WatchersChanged(int by) { state_->watchers.Increment(by); }
void CoordinatorMetrics::WatchEventsSent(size_t events) {
  state_->watch_events.Increment(static_cast<double>(events));
}
void CoordinatorMetrics::StoreClock(absl::Duration ahead) {
  state_->clock_ahead.Set(absl::ToDoubleSeconds(ahead));
}

void CoordinatorMetrics::CertificateEnds(absl::Time at) {
  AddGauge(*state_->registry, "assay_certificate_end_timestamp_seconds",
           "When the certificate that this process shows ends, in Unix time")
      .Set(absl::ToDoubleSeconds(at - absl::UnixEpoch()));
}

void CoordinatorMetrics::RpcEnded(const std::string& method, int code, absl::Duration took, bool streaming) {
  prometheus::Counter* count = nullptr;
  prometheus::Histogram* seconds = nullptr;
  {
    absl::MutexLock lock(&state_->mutex);
    prometheus::Counter*& known = state_->rpcs[{method, code}];
    if (known == nullptr) {
      known =
          &AddCounter(*state_->registry, "assay_rpcs_total", "Calls that ended, by method and status code",
                      {{"method", method}, {"code", CodeName(code)}});
    }
    count = known;
    if (!streaming) {
      prometheus::Histogram*& timed = state_->rpc_seconds[method];
      if (timed == nullptr) {
        timed = &AddHistogram(*state_->registry, "assay_rpc_seconds", "Time of calls that are no streams",
                              QuickSeconds(), {{"method", method}});
      }
      seconds = timed;
    }
  }
  count->Increment();
  if (seconds != nullptr) seconds->Observe(absl::ToDoubleSeconds(took));
}

void CoordinatorMetrics::AskAtScrape(Ask ask) {
  absl::MutexLock lock(&state_->mutex);
  state_->ask = std::move(ask);
}

std::shared_ptr<prometheus::Collectable> CoordinatorMetrics::collected() const { return state_; }

}  // namespace assay::coordinator

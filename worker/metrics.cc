#include "worker/metrics.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/metrics.h"
#include "common/trace.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"

namespace assay::worker {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const char* StageName(v1::Stage stage) { return stage == v1::STAGE_EXPORT ? "export" : "test"; }

// The parts of a test that its host reports.
constexpr const char* kParts[] = {"load", "run", "check"};

double PartSeconds(const v1::CaseResult& c, int part) {
  return part == 0 ? c.load_seconds() : part == 1 ? c.run_seconds() : c.check_seconds();
}

}  // namespace

struct WorkerMetrics::State final : prometheus::Collectable {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  std::map<std::pair<v1::Stage, v1::Outcome>, prometheus::Counter*> attempts;
  mutable absl::Mutex mutex;
  std::map<std::string, prometheus::Histogram*> stages ABSL_GUARDED_BY(mutex);
  mutable absl::Mutex asking;  // held while `ask` runs, so that it is not taken away meanwhile
  std::function<Snapshot()> ask ABSL_GUARDED_BY(asking);

  State() {
    for (const v1::Stage stage : {v1::STAGE_EXPORT, v1::STAGE_TEST}) {
      for (int i = v1::PASSED; i <= v1::Outcome_MAX; ++i) {
        const auto outcome = static_cast<v1::Outcome>(i);
        attempts[{stage, outcome}] = &AddCounter(
            *registry, "assay_worker_attempts_total", "Attempts that ended here",
            {{"stage", StageName(stage)}, {"outcome", absl::AsciiStrToLower(v1::Outcome_Name(outcome))}});
      }
    }
    for (const char* stage :
         {"fetch", "generate", "find", "wait", "host", "export", "load", "run", "check"}) {
      (void)Stage(stage);
    }
    for (const char* device : {"cpu", "cuda"}) {
      (void)Starts(device);
      (void)Losses(device);
    }
  }

  prometheus::Histogram& Stage(const std::string& stage) {
    absl::MutexLock lock(&mutex);
    prometheus::Histogram*& known = stages[stage];
    if (known == nullptr) {
      known = &AddHistogram(*registry, "assay_worker_stage_seconds",
                            "Time that attempts spend in a stage; load, run and check are parts of host",
                            LongSeconds(), {{"stage", stage}});
    }
    return *known;
  }
  prometheus::Counter& Starts(const std::string& device) {
    return AddCounter(*registry, "assay_worker_host_starts_total", "Test hosts that got ready",
                      {{"device", device}});
  }
  prometheus::Counter& Losses(const std::string& device) {
    return AddCounter(*registry, "assay_worker_host_losses_total",
                      "Test hosts that died, hung or were replaced; each is started again",
                      {{"device", device}});
  }

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families = registry->Collect();
    absl::MutexLock lock(&asking);
    if (ask == nullptr) return families;
    const Snapshot snapshot = ask();
    const auto add = [&families](const char* name, const char* help, double value) {
      ClientMetric metric;
      metric.gauge.value = value;
      families.push_back({name, help, MetricType::Gauge, {metric}});
    };
    add("assay_worker_connected", "1: a coordinator has welcomed this worker and the stream stands",
        snapshot.connected ? 1 : 0);
    add("assay_worker_running_attempts", "Attempts taken and not finished",
        static_cast<double>(snapshot.running));
    add("assay_worker_spooled_results", "Results that no coordinator has acknowledged yet",
        static_cast<double>(snapshot.spooled));
    add("assay_worker_cache_bytes", "Content of the blob cache", static_cast<double>(snapshot.cache_bytes));
    add("assay_worker_cache_budget_bytes", "What the blob cache may hold",
        static_cast<double>(snapshot.cache_budget));
    add("assay_worker_disk_free_bytes", "Free space of the file system with the state folder",
        static_cast<double>(snapshot.disk_free));
    add("assay_worker_free_slots", "Attempts that could start at once", snapshot.free_slots);
    MetricFamily slots{"assay_worker_device_slots", "Tests at once on a device", MetricType::Gauge, {}};
    MetricFamily memory{"assay_worker_device_memory_bytes", "Memory of a device", MetricType::Gauge, {}};
    MetricFamily used{"assay_worker_device_memory_used_bytes",
                      "Memory of a GPU that is in use, whoever uses it, as its driver says",
                      MetricType::Gauge,
                      {}};
    int number = 0;
    for (const v1::DeviceSlots& device : snapshot.devices) {
      ClientMetric metric;
      // By place, not by the driver's id: a series a device of this node, bounded and the same after a swap.
      metric.label = {{"device", absl::StrCat(number++)}, {"kind", device.device().kind()}};
      metric.gauge.value = device.slots();
      slots.metric.push_back(metric);
      metric.gauge.value = static_cast<double>(device.memory_bytes() > 0 ? device.memory_bytes()
                                                                         : device.device().memory_bytes());
      memory.metric.push_back(metric);
      if (const auto known = snapshot.memory_used.find(device.device().id());
          known != snapshot.memory_used.end()) {
        metric.gauge.value = static_cast<double>(known->second);
        used.metric.push_back(metric);
      }
    }
    families.push_back(std::move(slots));
    families.push_back(std::move(memory));
    if (!used.metric.empty()) families.push_back(std::move(used));
    return families;
  }
};

WorkerMetrics::WorkerMetrics() : state_(std::make_shared<State>()) {}
WorkerMetrics::~WorkerMetrics() { AskAtScrape(nullptr); }

void WorkerMetrics::AttemptEnded(v1::Stage stage, v1::Outcome outcome) {
  const auto found =
      state_->attempts.find({stage == v1::STAGE_EXPORT ? v1::STAGE_EXPORT : v1::STAGE_TEST, outcome});
  if (found != state_->attempts.end()) found->second->Increment();
}
void WorkerMetrics::StageTook(const std::string& stage, absl::Duration took) {
  state_->Stage(stage).Observe(absl::ToDoubleSeconds(took));
}
void WorkerMetrics::HostStarted(const std::string& device) { state_->Starts(device).Increment(); }
void WorkerMetrics::HostLost(const std::string& device) { state_->Losses(device).Increment(); }

void WorkerMetrics::CertificateEnds(absl::Time at) {
  AddGauge(*state_->registry, "assay_certificate_end_timestamp_seconds",
           "When the certificate that this process shows ends, in Unix time")
      .Set(absl::ToDoubleSeconds(at - absl::UnixEpoch()));
}

void WorkerMetrics::AskAtScrape(std::function<Snapshot()> ask) {
  absl::MutexLock lock(&state_->asking);
  state_->ask = std::move(ask);
}

std::shared_ptr<prometheus::Collectable> WorkerMetrics::collected() const { return state_; }

void TellAttempt(const v1::Assignment& assignment, const std::vector<StageClock::Passed>& stages,
                 const v1::TestResult& result, const std::string& worker, WorkerMetrics* metrics) {
  if (metrics != nullptr) {
    metrics->AttemptEnded(assignment.stage(), result.outcome());
    for (const StageClock::Passed& passed : stages)
      metrics->StageTook(passed.stage, passed.end - passed.start);
    for (const v1::CaseResult& c : result.case_()) {
      for (int part = 0; part < 3; ++part) {
        if (PartSeconds(c, part) > 0) metrics->StageTook(kParts[part], absl::Seconds(PartSeconds(c, part)));
      }
    }
  }
  Tracer& tracer = Tracer::Global();
  const std::optional<TraceContext> attempt =
      tracer.on() ? TraceContext::Parse(assignment.traceparent()) : std::nullopt;
  if (!attempt || !attempt->sampled) return;
  const std::vector<std::pair<std::string, std::string>> attributes = {
      {"assay.batch", assignment.batch_id()},
      {"assay.job", assignment.attempt().job_id()},
      {"assay.attempt", absl::StrCat(assignment.attempt().attempt())},
      {"assay.worker", worker}};
  const auto record = [&](const TraceContext& parent, const char* service, const std::string& name,
                          absl::Time start, absl::Time end, const std::string& error) {
    Span span;
    span.context = parent.Child();
    span.parent = parent.span;
    span.service = service;
    span.name = name;
    span.start = start;
    span.end = end;
    span.attributes = attributes;
    span.error = error;
    const TraceContext context = span.context;
    tracer.Record(std::move(span));
    return context;
  };
  const auto error_of = [](v1::Outcome outcome, const std::string& message) {
    const bool fine = outcome == v1::PASSED || outcome == v1::SKIPPED;
    return fine ? std::string() : absl::StrCat(v1::Outcome_Name(outcome), ": ", message);
  };
  for (const StageClock::Passed& passed : stages) {
    const bool last = &passed == &stages.back();
    const TraceContext stage = record(*attempt, "assay-worker", passed.stage, passed.start, passed.end,
                                      last ? error_of(result.outcome(), result.message()) : "");
    if (passed.stage != kHostStage) continue;
    // The host tells how long things took, not when they began: they follow each other, and end when it ends.
    double all = 0;
    for (const v1::CaseResult& c : result.case_()) all += c.seconds();
    const absl::Duration length = absl::Seconds(std::max(all, result.seconds()));
    absl::Time at = std::max(passed.start, passed.end - length);
    const TraceContext test =
        record(stage, "assay-host", "test", at, passed.end, error_of(result.outcome(), result.message()));
    at = std::max(at, passed.end - absl::Seconds(all));
    for (const v1::CaseResult& c : result.case_()) {
      const absl::Time end = at + absl::Seconds(c.seconds());
      const TraceContext of_case =
          record(test, "assay-host", c.name(), at, end, error_of(c.outcome(), c.message()));
      absl::Time part_start = end - absl::Seconds(c.load_seconds() + c.run_seconds() + c.check_seconds());
      for (int part = 0; part < 3; ++part) {
        const absl::Time part_end = part_start + absl::Seconds(PartSeconds(c, part));
        if (part_end > part_start) record(of_case, "assay-host", kParts[part], part_start, part_end, "");
        part_start = part_end;
      }
      at = end;
    }
  }
}

}  // namespace assay::worker

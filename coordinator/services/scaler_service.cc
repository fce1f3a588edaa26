#include "coordinator/services/scaler_service.h"

#include <cmath>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

constexpr char kMetric[] = "assay-workers";
// Before a sum of shares counts as one more worker.
constexpr double kRounding = 1e-6;

}  // namespace

absl::StatusOr<std::vector<double>> ReadWanted(Store& store, const v1::Pools& pools) {
  // No more of each kind than all pools together could run: more would not make them larger.
  size_t most = 1;
  for (const v1::Pool& pool : pools.pool()) most += size_t{pool.max_workers()} * pool.slots();
  ASSAY_ASSIGN_OR_RETURN(const std::vector<QueuedJob> queued, store.Queued(most));
  std::map<std::tuple<Priority, v1::DeviceChoice, bool, std::string>, Waiting> kinds;
  for (const QueuedJob& job : queued) {
    auto [kind, fresh] = kinds.try_emplace({job.priority, job.device, job.needs_exporter, job.route});
    if (fresh) kind->second.ask = AskOf(job);
    ++kind->second.jobs;
  }
  std::vector<Waiting> waiting;  // the urgent first
  for (auto& [key, kind] : kinds) waiting.push_back(std::move(kind));
  std::map<std::string, double> running;
  ASSAY_ASSIGN_OR_RETURN(const std::vector<RunningAttempt> attempts, store.Running());
  if (!attempts.empty()) {
    std::map<std::string, const v1::Pool*> pool_of_worker;
    ASSAY_ASSIGN_OR_RETURN(const std::vector<WorkerRecord> workers, store.ListWorkers());
    for (const WorkerRecord& worker : workers) {
      for (const std::string& label : worker.summary.label()) {
        for (const v1::Pool& pool : pools.pool()) {
          if (label == absl::StrCat("pool=", pool.name())) pool_of_worker[worker.summary.name()] = &pool;
        }
      }
    }
    for (const RunningAttempt& attempt : attempts) {
      auto pool = pool_of_worker.find(attempt.worker);
      if (pool == pool_of_worker.end()) continue;
      Ask ask{attempt.device, /*needs_exporter=*/false, {}};
      (attempt.device == v1::CPU ? ask.requirement.memory : ask.requirement.gpu_memory) = attempt.memory;
      const double share = ShareOf(ask, *pool->second);
      running[pool->second->name()] += share > 0 ? share : 1.0 / pool->second->slots();
    }
  }
  return WorkersWanted(pools, waiting, running);
}

// One StreamIsActive. Told from any thread; what is told while it writes is written after, the newest alone.
class ScalerService::Stream final : public grpc::ServerWriteReactor<externalscaler::IsActiveResponse> {
 public:
  Stream(ScalerService* service, int pool) : pool(pool), service_(service) {}

  void Tell(bool active) {
    absl::MutexLock lock(&mutex_);
    if (finished_ || told_ == active) return;
    told_ = active;
    owed_ = true;
    Write();
  }
  void End(const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (ok) Write();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    std::shared_ptr<Stream> last;
    absl::MutexLock lock(&service_->mutex_);
    for (auto it = service_->streams_.begin(); it != service_->streams_.end(); ++it) {
      if (it->get() != this) continue;
      last = *it;  // its own mutex is not held: it may go with this
      service_->streams_.erase(it);
      break;
    }
  }

  const int pool;

 private:
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_ || !owed_) return;
    owed_ = false;
    writing_ = true;
    response_.set_result(*told_);
    StartWrite(&response_);
  }

  ScalerService* const service_;
  absl::Mutex mutex_;
  externalscaler::IsActiveResponse response_;
  std::optional<bool> told_ ABSL_GUARDED_BY(mutex_);
  bool owed_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<int> ScalerService::PoolOf(const externalscaler::ScaledObjectRef& ref) const {
  auto named = ref.scalermetadata().find("pool");
  if (named == ref.scalermetadata().end()) {
    return absl::InvalidArgumentError("scalerMetadata has no \"pool\": name one of those of --pools");
  }
  for (int i = 0; i < pools_.pool_size(); ++i) {
    if (pools_.pool(i).name() == named->second) return i;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no pool '", named->second, "' is configured (--pools of the coordinator)"));
}

void ScalerService::Wanted(std::function<void(absl::StatusOr<std::vector<double>>)> done) {
  dispatcher_->AskFleet<std::vector<double>>(
      [this](Store& store, Fleet&) { return ReadWanted(store, pools_); }, std::move(done));
}

grpc::ServerUnaryReactor* ScalerService::IsActive(grpc::CallbackServerContext* context,
                                                  const externalscaler::ScaledObjectRef* request,
                                                  externalscaler::IsActiveResponse* response) {
  auto* reactor = context->DefaultReactor();
  const absl::StatusOr<int> pool = PoolOf(*request);
  if (!pool.ok()) {
    reactor->Finish(ToGrpc(pool.status()));
    return reactor;
  }
  Wanted([reactor, response, pool = *pool](absl::StatusOr<std::vector<double>> wanted) {
    if (wanted.ok()) response->set_result((*wanted)[pool] > 0);
    reactor->Finish(ToGrpc(wanted.status()));
  });
  return reactor;
}

grpc::ServerWriteReactor<externalscaler::IsActiveResponse>* ScalerService::StreamIsActive(
    grpc::CallbackServerContext*, const externalscaler::ScaledObjectRef* request) {
  const absl::StatusOr<int> pool = PoolOf(*request);
  auto stream = std::make_shared<Stream>(this, pool.ok() ? *pool : 0);
  {
    absl::MutexLock lock(&mutex_);
    streams_.insert(stream);
  }
  if (!pool.ok()) {
    stream->End(ToGrpc(pool.status()));
  } else {
    Refresh();
  }
  return stream.get();
}

void ScalerService::Refresh() {
  {
    absl::MutexLock lock(&mutex_);
    if (streams_.empty() || asking_) return;
    asking_ = true;
  }
  Wanted([this](absl::StatusOr<std::vector<double>> wanted) {
    std::set<std::shared_ptr<Stream>> streams;
    {
      absl::MutexLock lock(&mutex_);
      asking_ = false;
      streams = streams_;
    }
    if (!wanted.ok()) return;  // what was told last holds until the store answers again
    for (const auto& stream : streams) stream->Tell((*wanted)[stream->pool] > 0);
  });
}

void ScalerService::EndAll() {
  std::set<std::shared_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    streams = streams_;
  }
  for (const auto& stream : streams) {
    stream->End(
        grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator is shutting down: connect again"));
  }
}

grpc::ServerUnaryReactor* ScalerService::GetMetricSpec(grpc::CallbackServerContext* context,
                                                       const externalscaler::ScaledObjectRef* request,
                                                       externalscaler::GetMetricSpecResponse* response) {
  auto* reactor = context->DefaultReactor();
  const absl::StatusOr<int> pool = PoolOf(*request);
  if (pool.ok()) {
    externalscaler::MetricSpec& spec = *response->add_metricspecs();
    spec.set_metricname(kMetric);
    spec.set_targetsize(1);
    spec.set_targetsizefloat(1);
  }
  reactor->Finish(ToGrpc(pool.status()));
  return reactor;
}

grpc::ServerUnaryReactor* ScalerService::GetMetrics(grpc::CallbackServerContext* context,
                                                    const externalscaler::GetMetricsRequest* request,
                                                    externalscaler::GetMetricsResponse* response) {
  auto* reactor = context->DefaultReactor();
  const absl::StatusOr<int> pool = PoolOf(request->scaledobjectref());
  if (!pool.ok()) {
    reactor->Finish(ToGrpc(pool.status()));
    return reactor;
  }
  Wanted([reactor, response, pool = *pool](absl::StatusOr<std::vector<double>> wanted) {
    if (wanted.ok()) {
      externalscaler::MetricValue& value = *response->add_metricvalues();
      value.set_metricname(kMetric);
      value.set_metricvaluefloat((*wanted)[pool]);
      value.set_metricvalue(static_cast<int64_t>(std::ceil((*wanted)[pool] - kRounding)));
    }
    reactor->Finish(ToGrpc(wanted.status()));
  });
  return reactor;
}

}  // namespace assay::coordinator

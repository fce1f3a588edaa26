#include "worker/agent.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/build_info.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "google/protobuf/util/time_util.h"
#include "worker/acceptance.h"
#include "worker/attempt_runner.h"
#include "worker/blob_client.h"
#include "worker/control_stream.h"
#include "worker/coordinator_artifacts.h"
#include "worker/courier.h"
#include "worker/labels.h"
#include "worker/metrics.h"
#include "worker/node_info.h"
#include "worker/nvml.h"
#include "worker/state_folder.h"

namespace assay::worker {
namespace {

// How long a draining agent waits for a connection that it has not.
constexpr absl::Duration kReconnectGrace = absl::Seconds(1);

absl::Status Validate(AgentOptions& options, std::vector<std::string>& addresses) {
  addresses = absl::StrSplit(options.coordinator, ',', absl::SkipWhitespace());
  for (std::string& address : addresses) {
    address = std::string(absl::StripAsciiWhitespace(address));
    if (address.find(':') == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("coordinator '", address, "' is not host:port"));
    }
  }
  if (addresses.empty()) return absl::InvalidArgumentError("no coordinator is named");
  if (options.name.empty()) return absl::InvalidArgumentError("the worker has no name");
  if (options.state_dir.empty()) return absl::InvalidArgumentError("no state folder is named");
  if (options.slots < 1 || options.slots > 1024) return absl::InvalidArgumentError("slots: 1 to 1024");
  if (options.gpu_slots > 64) return absl::InvalidArgumentError("GPU slots: 0 to 64");
  MakePathsAbsolute(options);
  return absl::OkStatus();
}

class RunningAgent final : public Agent, public StreamOwner, public AttemptListener {
 public:
  RunningAgent(AgentOptions options, Fd lock) : options_(std::move(options)), lock_(std::move(lock)) {}
  ~RunningAgent() override { Stop(); }

  absl::Status Begin(std::vector<std::string> addresses) {
    ASSAY_ASSIGN_OR_RETURN(labels_, Labels::Open(options_.labels, options_.label_file));
    ASSAY_ASSIGN_OR_RETURN(spool_, Spool::Open(options_.state_dir / "spool"));
    courier_ = std::make_unique<Courier>(spool_.get());
    ASSAY_ASSIGN_OR_RETURN(
        cache_,
        BlobCache::Open(options_.state_dir / "blobs", options_.cache_bytes,
                        [this](const std::vector<std::string>& digests, BlobReceiver& receiver) {
                          return stream_->Call([&](const auto& channel, grpc::ClientContext& context) {
                            return DownloadBlobs(channel, context, digests, receiver);
                          });
                        }));
    artifacts_ = std::make_unique<CoordinatorArtifacts>(
        cache_.get(), [this]() -> ControlStream& { return *stream_; }, options_.fetch_limit);
    ASSAY_ASSIGN_OR_RETURN(runner_, AttemptRunner::Start(options_, cache_.get(), artifacts_.get(), this));
    acceptance_ = std::make_unique<Acceptance>(
        options_.state_dir / "acceptance.textproto",
        [this](v1::Assignment test, std::function<void(v1::TestResult)> done) {
          runner_->RunApart(std::move(test), std::move(done));
        },
        [this](const v1::AcceptanceReport& report) {
          // Where no coordinator hears it now, the next Hello tells it.
          if (stream_->protocol() < 2) return;
          v1::WorkerMessage message;
          *message.mutable_acceptance() = report;
          stream_->Send(std::move(message));
        });
    ControlStreamOptions stream;
    stream.addresses = std::move(addresses);
    stream.credentials = options_.credentials;
    stream.min_backoff = options_.min_backoff;
    stream.max_backoff = options_.max_backoff;
    {
      absl::MutexLock lock(&mutex_);
      stream_ = std::make_unique<ControlStream>(std::move(stream), this);
      courier_->Start(stream_.get());
      begun_ = true;
    }
    drainer_ = std::thread([this] { DrainLoop(); });
    if (options_.metrics != nullptr) options_.metrics->AskAtScrape([this] { return Look(); });
    return absl::OkStatus();
  }

  void Drain() override {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(draining_, true)) return;
    }
    spdlog::info("draining: {} attempts run, {} results are not acknowledged", runner_->Running().size(),
                 courier_->owed());
    stream_->BeatNow();
  }

  void ReadLabels() override {
    labels_->Current(/*always=*/true);
    stream_->BeatNow();
  }

  void Wait() override {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&over_));
  }

  void Stop() override {
    if (options_.metrics != nullptr) options_.metrics->AskAtScrape(nullptr);
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    // Attempts end first, without results; then what is finished is spooled; then the stream goes.
    if (stream_ != nullptr) stream_->Stop();
    if (runner_ != nullptr) runner_->Stop();
    if (courier_ != nullptr) courier_->Stop();
    absl::MutexLock join(&join_mutex_);
    if (drainer_.joinable()) drainer_.join();
    absl::MutexLock lock(&mutex_);
    over_ = true;
  }

  size_t unacknowledged() const override { return courier_->owed(); }

 private:
  WorkerMetrics::Snapshot Look() const {
    WorkerMetrics::Snapshot snapshot;
    snapshot.connected = stream_->AwaitConnected(absl::InfinitePast());
    snapshot.running = runner_->Running().size();
    snapshot.spooled = courier_->owed();
    snapshot.cache_bytes = cache_->bytes();
    snapshot.cache_budget = options_.cache_bytes;
    std::error_code error;
    const std::filesystem::space_info space = std::filesystem::space(options_.state_dir, error);
    if (!error) snapshot.disk_free = space.available;
    snapshot.free_slots = runner_->FreeSlots();
    snapshot.devices = runner_->Devices(kNewestProtocol);
    const bool has_gpu =
        std::any_of(snapshot.devices.begin(), snapshot.devices.end(),
                    [](const v1::DeviceSlots& device) { return device.device().kind() == "cuda"; });
    if (!has_gpu) return snapshot;
    // One that cannot be asked just now is left out: there is no figure for it.
    if (const absl::StatusOr<std::vector<NvmlGpu>> gpus = AskNvml(); gpus.ok()) {
      for (const NvmlGpu& gpu : *gpus) snapshot.memory_used[gpu.info.id()] = gpu.memory_used;
    }
    return snapshot;
  }

  // StreamOwner
  v1::Hello MakeHello(uint32_t protocol) override {
    AwaitBegun();
    v1::Hello hello;
    hello.set_protocol(protocol);
    hello.set_worker(options_.name);
    hello.set_instance(instance_);
    hello.set_build(absl::StrCat("assay ", BuildVersion()));
    *hello.mutable_time() =
        google::protobuf::util::TimeUtil::NanosecondsToTimestamp(absl::GetCurrentTimeNanos());
    *hello.mutable_node() = node_;
    for (std::string& build : runner_->TorchBuilds()) hello.mutable_node()->add_torch_build(std::move(build));
    const std::vector<std::string> labels = LabelsNow();
    hello.mutable_label()->Assign(labels.begin(), labels.end());
    for (v1::DeviceSlots& device : runner_->Devices(protocol)) *hello.add_device() = std::move(device);
    if (std::optional<v1::AcceptanceReport> report = acceptance_->Holding(runner_->DeviceInfos())) {
      *hello.mutable_acceptance() = *std::move(report);
    }
    for (const AttemptKey& key : Held()) *hello.add_attempt() = RefOf(key);
    const std::string paused = WhyPaused();
    absl::MutexLock lock(&mutex_);
    hello.set_draining(draining_ || !paused.empty());  // until the first heartbeat, which tells them apart
    drain_told_ = drain_answered_ = false;             // nothing was said on this connection
    told_labels_ = labels;
    return hello;
  }

  v1::Heartbeat MakeHeartbeat() override {
    v1::Heartbeat heartbeat;
    for (const AttemptKey& key : Held()) *heartbeat.add_attempt() = RefOf(key);
    const std::vector<std::string> labels = LabelsNow();
    heartbeat.set_paused(WhyPaused());
    // To a coordinator that does not know of pausing it drains, for a while.
    const bool as_drain = !heartbeat.paused().empty() && stream_->protocol() < 2;
    bool other_labels;
    absl::Duration limit;
    {
      absl::MutexLock lock(&mutex_);
      heartbeat.set_draining(draining_ || as_drain);
      drain_told_ = drain_told_ || draining_;
      other_labels = labels != told_labels_;
      limit = std::max(options_.ack_limit, lease_);
    }
    const bool takes = !heartbeat.draining() && heartbeat.paused().empty();
    heartbeat.set_free_slots(takes ? runner_->FreeSlots() : 0);
    if (other_labels) *heartbeat.mutable_labels()->mutable_label() = {labels.begin(), labels.end()};
    if (courier_->Overdue(limit)) {
      spdlog::warn("a result was not acknowledged for {}; connecting again", absl::FormatDuration(limit));
      stream_->Reconnect();
    } else if (other_labels && stream_->protocol() < 2) {
      spdlog::info("connecting again, to tell the changed labels");
      stream_->Reconnect();
    }
    return heartbeat;
  }

  void Welcomed(const v1::Welcome& welcome) override {
    {
      absl::MutexLock lock(&mutex_);
      lease_ = absl::Milliseconds(welcome.lease_ms());
    }
    courier_->SendAll();
    stream_->BeatNow();
  }

  void Desired(const v1::DesiredState& desired) override {
    for (const v1::AttemptRef& ref : desired.abandon()) {
      runner_->Abandon(KeyOf(ref));
      courier_->Drop(KeyOf(ref));
    }
    if (desired.drain()) Drain();
    if (desired.has_accept() && !acceptance_->Sweep(desired.accept(), runner_->DeviceInfos())) {
      spdlog::warn("acceptance {} is not begun: another sweep is under way", desired.accept().id());
    }
    // While draining too: what was under way when the coordinator heard of it is sooner done here than lost.
    runner_->Take(desired);
    absl::MutexLock lock(&mutex_);
    drain_answered_ = drain_answered_ || drain_told_;
  }

  void Acknowledged(const v1::ResultAck& ack) override {
    if (!ack.counted()) {
      LogWith(spdlog::level::info,
              {{"job", ack.attempt().job_id()},
               {"attempt", absl::StrCat(ack.attempt().attempt())},
               {"worker", options_.name},
               {"reason", ack.reason()}},
              "result not counted");
    }
    courier_->Drop(KeyOf(ack.attempt()));
  }

  // AttemptListener
  void AttemptProgressed(const v1::AttemptEvent& event) override {
    v1::WorkerMessage message;
    *message.mutable_event() = event;
    stream_->Send(std::move(message));
  }

  void AttemptFinished(SpooledResult result) override {
    const v1::AttemptRef& attempt = result.result.attempt();
    LogWith(spdlog::level::debug,
            {{"batch", attempt.job_id().substr(0, attempt.job_id().find('.'))},
             {"job", attempt.job_id()},
             {"attempt", absl::StrCat(attempt.attempt())},
             {"worker", options_.name},
             {"outcome", v1::Outcome_Name(result.result.result().outcome())}},
            "attempt finished");
    {
      // A download that Stop() cut short is no outcome: the attempt is for another worker.
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    courier_->Deliver(std::move(result));
  }

  bool IsFinished(const AttemptKey& key) override { return courier_->Owes(key); }

  void CapacityChanged() override {
    absl::MutexLock lock(&mutex_);
    if (begun_) stream_->BeatNow();
  }

  bool AwaitCoordinator(absl::Time deadline) override { return stream_->AwaitConnected(deadline); }

  std::vector<std::string> LabelsNow() {
    std::vector<std::string> labels = labels_->Current();
    if (const Exporter* exporter = runner_->exporter(); exporter != nullptr) {
      labels.push_back(absl::StrCat("exporter=", exporter->identity().transformers));
    }
    return labels;
  }

  // Why nothing new is to be taken for now; empty: it is. Looked at with every heartbeat.
  std::string WhyPaused() {
    std::string why = courier_->SpoolTrouble();
    if (!why.empty()) {
      courier_->RetrySpool();
      why = absl::StrCat("results cannot be spooled: ", why);
    } else {
      std::error_code error;
      const std::filesystem::space_info space = std::filesystem::space(options_.state_dir, error);
      if (error) {
        why = absl::StrCat("state folder ", options_.state_dir.string(), ": ", error.message());
      } else if (space.available < options_.min_free_bytes) {
        why = absl::StrCat("state folder ", options_.state_dir.string(), " is full: ", space.available >> 20,
                           " MiB are free, ", options_.min_free_bytes >> 20, " are needed");
      }
    }
    absl::MutexLock lock(&mutex_);
    if (why.empty() != paused_.empty()) {
      if (why.empty()) {
        spdlog::info("taking tests again");
      } else {
        spdlog::error("taking nothing new: {}", why);
      }
    }
    paused_ = why;
    return why;
  }

  // What a coordinator must know of. An attempt that finishes is owed before it stops to run: asked in this
  // order, none is missed.
  std::vector<AttemptKey> Held() const {
    std::vector<AttemptKey> held = runner_->Running();
    const std::vector<AttemptKey> owed = courier_->Owed();
    held.insert(held.end(), owed.begin(), owed.end());
    std::sort(held.begin(), held.end());
    held.erase(std::unique(held.begin(), held.end()), held.end());
    return held;
  }

  void AwaitBegun() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&begun_));
  }

  void DrainLoop() {
    {
      absl::MutexLock lock(&mutex_);
      auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return draining_ || stopping_; };
      mutex_.Await(absl::Condition(&wanted));
      if (stopping_) return;
    }
    AwaitDrainAnswered();
    if (!runner_->AwaitIdle()) return;
    if (!courier_->AwaitNothingOwed(absl::Now() + options_.drain_limit)) {
      spdlog::error("{} results are not acknowledged; they stay in {}", courier_->owed(),
                    (options_.state_dir / "spool").string());
    }
    stream_->Leave();
    stream_->AwaitEnd(absl::Now() + absl::Seconds(5));
    absl::MutexLock lock(&mutex_);
    over_ = true;
  }

  // A coordinator that has not heard of the drain may just be assigning something. It answers every heartbeat
  // of a draining worker with what it wants: after that, nothing new comes. Bounded, and not for long where
  // no coordinator is there: what it sent on a stream that broke is lost with the stream. Not at all where no
  // coordinator is there and there is nothing to tell it.
  void AwaitDrainAnswered() {
    absl::Duration limit = options_.drain_limit;
    {
      absl::MutexLock lock(&mutex_);
      if (lease_ > absl::ZeroDuration()) limit = std::min(limit, lease_);
    }
    const absl::Time start = absl::Now();
    absl::Time alone_since = start;
    while (true) {
      const absl::Time now = absl::Now();
      if (stream_->AwaitConnected(absl::InfinitePast())) {
        alone_since = now;
      } else if (!stream_->IsOpen() && runner_->Running().empty() && courier_->owed() == 0) {
        return;
      }
      if (now - start >= limit || now - alone_since >= kReconnectGrace) {
        spdlog::warn("no coordinator has answered the drain within {}", absl::FormatDuration(now - start));
        return;
      }
      absl::MutexLock lock(&mutex_);
      auto answered = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return drain_answered_ || stopping_; };
      if (mutex_.AwaitWithTimeout(absl::Condition(&answered), std::min(limit, absl::Milliseconds(50)))) {
        return;
      }
    }
  }

  const AgentOptions options_;
  const Fd lock_;
  const std::string instance_ = NewUuid();
  const v1::NodeInfo node_ = DescribeNode();
  std::unique_ptr<Labels> labels_;
  std::unique_ptr<Spool> spool_;
  std::unique_ptr<Courier> courier_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<CoordinatorArtifacts> artifacts_;
  std::unique_ptr<Acceptance> acceptance_;  // outlives the runner, whose threads call it
  std::unique_ptr<AttemptRunner> runner_;
  std::unique_ptr<ControlStream> stream_;

  mutable absl::Mutex mutex_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;  // all of the above stand
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_told_ ABSL_GUARDED_BY(mutex_) = false;      // a heartbeat of this connection said so, and
  bool drain_answered_ ABSL_GUARDED_BY(mutex_) = false;  // a DesiredState came after it
  std::vector<std::string> told_labels_ ABSL_GUARDED_BY(mutex_);  // in this connection's Hello
  std::string paused_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration lease_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex join_mutex_;
  std::thread drainer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Agent>> Agent::Start(AgentOptions options) {
  std::vector<std::string> addresses;
  ASSAY_RETURN_IF_ERROR(Validate(options, addresses));
  ASSAY_ASSIGN_OR_RETURN(Fd lock, LockFolder(options.state_dir));
  auto agent = std::make_unique<RunningAgent>(std::move(options), std::move(lock));
  ASSAY_RETURN_IF_ERROR(agent->Begin(std::move(addresses)));
  return agent;
}

}  // namespace assay::worker

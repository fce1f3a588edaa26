#include "worker/attempt_runner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/attempt.h"
#include "worker/control_stream.h"
#include "worker/lane.h"
#include "worker/steady.h"

namespace assay::worker {
namespace {

// Two, so that one slow download does not hold up an attempt whose blobs are here. Checkpoints are fetched by
// threads of their own, for as long as that takes.
constexpr int kPreparers = 2;

constexpr int kFinders = 4;

}  // namespace

v1::TestResult ResultOf(v1::Outcome outcome, std::string message) {
  v1::TestResult result;
  result.set_outcome(outcome);
  result.set_message(std::move(message));
  return result;
}

AttemptRunner::AttemptRunner(const AgentOptions& options, BlobCache* cache, Artifacts* artifacts,
                             AttemptListener* listener)
    : options_(options), cache_(cache), artifacts_(artifacts), listener_(listener) {}

absl::StatusOr<std::unique_ptr<AttemptRunner>> AttemptRunner::Start(const AgentOptions& options,
                                                                    BlobCache* cache, Artifacts* artifacts,
                                                                    AttemptListener* listener) {
  std::unique_ptr<AttemptRunner> runner(new AttemptRunner(options, cache, artifacts, listener));
  ASSAY_RETURN_IF_ERROR(runner->StartCheckpoints());
  ASSAY_RETURN_IF_ERROR(runner->StartHosts());
  AttemptRunner* const r = runner.get();
  for (int i = 0; i < kPreparers; ++i) r->threads_.emplace_back([r] { r->PrepareLoop(); });
  for (int i = 0; i < kFinders; ++i) {
    r->threads_.emplace_back([r] { r->Serve(r->to_find_, &AttemptRunner::FindCheckpointOf); });
  }
  for (uint32_t i = 0; r->exporter_ != nullptr && i < r->exporter_->options().slots; ++i) {
    r->threads_.emplace_back([r] { r->Serve(r->to_export_, &AttemptRunner::Export); });
  }
  return runner;
}

AttemptRunner::~AttemptRunner() { Stop(); }

void AttemptRunner::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  for (const auto& device : devices_) {
    for (const auto& lane : device->lanes) lane->host->Stop();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void AttemptRunner::Take(const v1::DesiredState& desired) {
  absl::MutexLock lock(&mutex_);
  for (const v1::Assignment& assignment : desired.start()) {
    auto attempt = std::make_shared<Attempt>();
    attempt->key = KeyOf(assignment.attempt());
    attempt->assignment = assignment;
    // Under the lock that a finished attempt leaves attempts_ under: it is found in one place or the other.
    if (attempts_.count(attempt->key) > 0 || listener_->IsFinished(attempt->key)) continue;
    attempts_[attempt->key] = attempt;
    to_prepare_.push_back(std::move(attempt));
  }
}

void AttemptRunner::Abandon(const AttemptKey& key) {
  absl::MutexLock lock(&mutex_);
  auto at = attempts_.find(key);
  if (at == attempts_.end()) return;
  const std::shared_ptr<Attempt> attempt = std::move(at->second);
  attempts_.erase(at);
  attempt->abandoned = true;
  for (auto* waiting : {&to_prepare_, &to_find_, &to_export_}) std::erase(*waiting, attempt);
  std::erase(ready_, attempt);
  // Its slot is taken until the host says that it has stopped.
  if (attempt->lane != nullptr) attempt->lane->host->Cancel(attempt->id);
}

std::vector<AttemptKey> AttemptRunner::Running() const {
  absl::MutexLock lock(&mutex_);
  std::vector<AttemptKey> keys;
  for (const auto& [key, attempt] : attempts_) {
    if (attempt->apart == nullptr) keys.push_back(key);
  }
  return keys;
}

bool AttemptRunner::AwaitIdle() const {
  absl::MutexLock lock(&mutex_);
  auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || std::all_of(attempts_.begin(), attempts_.end(),
                                   [](const auto& entry) { return entry.second->apart != nullptr; });
  };
  mutex_.Await(absl::Condition(&over));
  return !stopped_;
}

uint32_t AttemptRunner::FreeSlots() const {
  absl::MutexLock lock(&mutex_);
  int64_t free = 0;
  for (const auto& device : devices_) {
    for (const auto& lane : device->lanes) free += lane->up ? lane->capacity : 0;
  }
  free -= static_cast<int64_t>(attempts_.size());
  for (const auto& [id, attempt] : with_host_) free -= attempt->abandoned ? 1 : 0;
  return static_cast<uint32_t>(std::max<int64_t>(free, 0));
}

std::vector<v1::DeviceSlots> AttemptRunner::Devices(uint32_t protocol) const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::DeviceSlots> slots;
  for (const auto& device : devices_) {
    slots.emplace_back();
    *slots.back().mutable_device() = device->Info();
    // Who counts by slots alone would give a GPU more than fits together.
    slots.back().set_slots(device->is_gpu && protocol < 2 ? 1 : device->room.slots());
    slots.back().set_memory_bytes(device->room.memory_bytes());
  }
  return slots;
}

std::vector<v1::DeviceInfo> AttemptRunner::DeviceInfos() const {
  std::vector<v1::DeviceInfo> infos;
  for (const v1::DeviceSlots& device : Devices(kNewestProtocol)) infos.push_back(device.device());
  return infos;
}

std::vector<std::string> AttemptRunner::TorchBuilds() const {
  absl::MutexLock lock(&mutex_);
  std::set<std::string> builds;
  for (const auto& device : devices_) {
    for (const auto& lane : device->lanes) {
      if (!lane->ready.torch_version().empty()) builds.insert(lane->ready.torch_version());
    }
  }
  return {builds.begin(), builds.end()};
}

void AttemptRunner::Serve(Queue& queue, void (AttemptRunner::*step)(const std::shared_ptr<Attempt>&)) {
  while (true) {
    std::shared_ptr<Attempt> attempt;
    {
      absl::MutexLock lock(&mutex_);
      auto something = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || !queue.empty(); };
      mutex_.Await(absl::Condition(&something));
      if (stopped_) return;
      attempt = std::move(queue.front());
      queue.pop_front();
    }
    (this->*step)(attempt);
  }
}

void AttemptRunner::PrepareLoop() {
  while (true) {
    std::shared_ptr<Attempt> attempt;
    std::vector<std::string> ahead;
    {
      absl::MutexLock lock(&mutex_);
      auto something = [this]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || !to_prepare_.empty(); };
      mutex_.Await(absl::Condition(&something));
      if (stopped_) return;
      attempt = std::move(to_prepare_.front());
      to_prepare_.pop_front();
      for (const auto& next : to_prepare_) {
        if (std::exchange(next->fetched_ahead, true)) continue;
        for (std::string& digest : BlobsOf(next->assignment)) ahead.push_back(std::move(digest));
      }
    }
    if (!ahead.empty()) {
      // One call for the blobs of all that wait. Its errors come up again with the attempt they belong to.
      for (std::string& digest : BlobsOf(attempt->assignment)) ahead.push_back(std::move(digest));
      (void)Fetch(*attempt, ahead);
    }
    Prepare(attempt);
  }
}

absl::StatusOr<std::vector<Blob>> AttemptRunner::Fetch(const Attempt& attempt,
                                                       const std::vector<std::string>& digests) {
  const absl::Time give_up = SteadyNow() + options_.fetch_limit;
  for (absl::Duration pause = absl::Milliseconds(20);; pause = std::min(pause * 2, absl::Seconds(2))) {
    absl::StatusOr<std::vector<Blob>> blobs = cache_->Get(digests);
    if (blobs.ok() || !absl::IsUnavailable(blobs.status())) return blobs;
    // A coordinator that restarts is no reason to fail an attempt.
    if (!listener_->AwaitCoordinator(absl::Now() + (give_up - SteadyNow()))) return blobs;
    absl::MutexLock lock(&mutex_);
    auto over = [this, &attempt]()
                    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || attempt.abandoned; };
    if (mutex_.AwaitWithTimeout(absl::Condition(&over), std::min(pause, give_up - SteadyNow())) ||
        SteadyNow() >= give_up) {
      return blobs;
    }
  }
}

void AttemptRunner::Prepare(const std::shared_ptr<Attempt>& self) {
  Attempt& attempt = *self;
  const v1::Assignment& assignment = attempt.assignment;
  attempt.stages.Enter("fetch");
  absl::StatusOr<std::vector<Blob>> blobs = Fetch(attempt, BlobsOf(assignment));
  if (!blobs.ok()) {
    return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR,
                                 absl::StrCat("its files cannot be fetched: ", blobs.status().ToString())));
  }
  attempt.blobs = *std::move(blobs);
  attempt.stages.Enter("generate");
  PreparedFrom from;
  const auto read = [&attempt](const std::string& digest) -> absl::StatusOr<std::string> {
    for (const Blob& blob : attempt.blobs) {
      if (blob.digest() == digest) return blob.Read();
    }
    return absl::InvalidArgumentError("the assignment names no template");
  };
  for (auto [digest, text] : {std::pair{&assignment.catalogue_digest(), &from.catalogue_text},
                              std::pair{&assignment.checkpoint_entry_digest(), &from.entry_text}}) {
    if (digest->empty()) continue;
    absl::StatusOr<std::string> content = read(*digest);
    if (!content.ok()) return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR, content.status().ToString()));
    *text = *std::move(content);
  }
  if (assignment.stage() == v1::STAGE_EXPORT) return PrepareExport(self, from);
  absl::StatusOr<std::string> template_text = read(assignment.template_digest());
  if (!template_text.ok()) {
    return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR, template_text.status().ToString()));
  }
  from.template_text = *std::move(template_text);
  absl::StatusOr<PreparedTest> prepared = PrepareTest(assignment, from);
  if (!prepared.ok()) {
    const bool unreadable = absl::IsDataLoss(prepared.status());
    return Finish(self, ResultOf(unreadable ? v1::INFRASTRUCTURE_ERROR : v1::FAILED,
                                 std::string(prepared.status().message())));
  }
  attempt.prepared = *std::move(prepared);
  const v1::ModelTest& test = attempt.prepared.test;
  if (assignment.program_digest().empty() && !test.has_trained()) {
    return Finish(self, ResultOf(v1::UNSUPPORTED,
                                 absl::StrCat("there is no program for model ", assignment.model().name())));
  }
  if (const std::string& id = assignment.device_id(); !id.empty()) {
    const Device* device = DeviceById(id);
    if (device == nullptr) {
      return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR,
                                   absl::StrCat("worker ", options_.name, " has no device ", id)));
    }
    const v1::DeviceChoice wanted = test.set_up().device();
    if ((wanted == v1::CUDA && !device->is_gpu) || (wanted == v1::CPU && device->is_gpu)) {
      return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR,
                                   absl::StrCat("the test wants ", v1::DeviceChoice_Name(wanted),
                                                " and was placed on device ", id)));
    }
  }
  if (test.set_up().device() == v1::CUDA && !has_gpu_) {
    return Finish(
        self, ResultOf(v1::UNSUPPORTED, absl::StrCat("worker ", options_.name, " offers no CUDA device")));
  }
  absl::MutexLock lock(&mutex_);
  if (attempt.abandoned) return;
  if (test.has_trained()) {
    to_find_.push_back(self);
  } else {
    attempt.checkpoint_dir = FindCheckpoint(options_.checkpoint_root, test.checkpoint()).string();
    AwaitSlot(self);
  }
}

void AttemptRunner::TellStarted(const Attempt& attempt) {
  if (attempt.apart != nullptr) return;
  v1::AttemptEvent event;
  *event.mutable_attempt() = attempt.assignment.attempt();
  event.mutable_started();
  listener_->AttemptProgressed(event);
}

void AttemptRunner::OnTestEvent(const std::string& id, const v1::HostEvent& event) {
  v1::AttemptEvent progress;
  {
    absl::MutexLock lock(&mutex_);
    auto at = with_host_.find(id);
    if (at == with_host_.end() || at->second->abandoned) return;
    if (event.has_log()) at->second->log.Append(event.log().text());
    if (!event.has_case_result() || at->second->apart != nullptr) return;
    *progress.mutable_attempt() = at->second->assignment.attempt();
  }
  *progress.mutable_case_result() = event.case_result();
  FitCaseResult(*progress.mutable_case_result());
  listener_->AttemptProgressed(progress);
}

void AttemptRunner::RunApart(v1::Assignment assignment, std::function<void(v1::TestResult)> done) {
  auto attempt = std::make_shared<Attempt>();
  attempt->key = KeyOf(assignment.attempt());
  attempt->assignment = std::move(assignment);
  attempt->apart = std::move(done);
  absl::MutexLock lock(&mutex_);
  if (!attempts_.emplace(attempt->key, attempt).second) return;
  to_prepare_.push_back(std::move(attempt));
}

// What the host says of the device stands, with what only the driver's library knows.
void AttemptRunner::SayDevice(const Device& device, v1::Provenance& provenance) const {
  const v1::DeviceInfo info = device.Info();
  if (device.gpu.simulated) {
    *provenance.mutable_device() = info;
    provenance.mutable_device()->set_kind("simulated");
    return;
  }
  if (provenance.device().kind().empty()) *provenance.mutable_device() = info;
  provenance.mutable_device()->set_id(info.id());
  if (!device.is_gpu || provenance.device().kind() != info.kind()) return;
  provenance.mutable_device()->set_mig_profile(info.mig_profile());
  provenance.mutable_device()->set_driver(info.driver());
}

void AttemptRunner::Finish(const std::shared_ptr<Attempt>& attempt, v1::TestResult result) {
  const v1::Assignment& assignment = attempt->assignment;
  SpooledResult spooled;
  v1::Provenance& provenance = *result.mutable_provenance();
  // Where no host ran. What a host says that it ran stands, for the coordinator to compare with what was
  // given.
  if (provenance.template_digest().empty()) provenance.set_template_digest(assignment.template_digest());
  if (provenance.catalogue_digest().empty()) provenance.set_catalogue_digest(assignment.catalogue_digest());
  if (provenance.program_digest().empty()) provenance.set_program_digest(assignment.program_digest());
  provenance.set_test_digest(attempt->prepared.digest);
  provenance.set_worker(options_.name);
  provenance.set_dtype(attempt->prepared.test.set_up().dtype());
  bool abandoned;
  {
    absl::MutexLock lock(&mutex_);
    abandoned = attempt->abandoned;
    if (attempt->lane != nullptr) {
      const v1::HostReady& ready = attempt->lane->ready;
      if (provenance.engine_build().empty()) provenance.set_engine_build(ready.engine_build());
      if (provenance.torch_version().empty()) provenance.set_torch_version(ready.torch_version());
      SayDevice(*attempt->lane->device, provenance);
    }
    spooled.log = attempt->log.Take();
  }
  if (attempt->apart != nullptr) {
    {
      absl::MutexLock lock(&mutex_);
      if (attempts_.erase(attempt->key) == 0 || stopped_) return;
    }
    return attempt->apart(std::move(result));
  }
  const std::vector<StageClock::Passed>& stages = attempt->stages.Stop();
  if (!abandoned) {
    TellAttempt(assignment, stages, result, options_.name, options_.metrics);
    for (const StageClock::Passed& stage : stages) {
      v1::StageTime& time = *result.add_stage();
      time.set_stage(stage.stage);
      time.set_seconds(absl::ToDoubleSeconds(stage.end - stage.start));
    }
    if (FitResult(result)) {
      spdlog::warn("result of job {} was cut to fit into a message", attempt->key.first);
    }
    *spooled.result.mutable_attempt() = assignment.attempt();
    *spooled.result.mutable_result() = std::move(result);
    listener_->AttemptFinished(std::move(spooled));
    absl::MutexLock lock(&mutex_);
    auto at = attempts_.find(attempt->key);
    if (at != attempts_.end() && at->second == attempt) attempts_.erase(at);
  }
}

}  // namespace assay::worker

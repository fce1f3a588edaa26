#include "worker/lane.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/attempt.h"
#include "worker/complete.h"

namespace assay::worker {
namespace {

// A slot of its own for every so much of a GPU's memory, where nobody says how many.
constexpr uint64_t kBytesPerSlot = uint64_t{8} << 30;
constexpr uint32_t kMostSlots = 4;
// What a process takes of a GPU before it has a tensor there (its context, the libraries' code): about half a
// GiB by NVIDIA's documentation and others' experience; not yet measured here.
constexpr uint64_t kContextBytes = uint64_t{1} << 29;

uint32_t SlotsOf(const Gpu& gpu, uint32_t wanted) {
  // Without its memory nobody can say what fits beside what.
  if (gpu.info.memory_bytes() == 0) return 1;
  if (wanted > 0) return wanted;
  return static_cast<uint32_t>(std::clamp<uint64_t>(gpu.info.memory_bytes() / kBytesPerSlot, 1, kMostSlots));
}

// Of the GPU's memory, what its tests may take together.
uint64_t MemoryOf(const Gpu& gpu, uint32_t slots, const std::optional<uint64_t>& reserve) {
  const uint64_t kept = reserve.value_or(kContextBytes * (slots + 1));
  return gpu.info.memory_bytes() > kept ? gpu.info.memory_bytes() - kept : 0;
}

}  // namespace

void AttemptRunner::Lane::HostStarted(const v1::HostReady& started) {
  for (const std::string& warning : started.warning()) spdlog::warn("test host: {}", warning);
  if (auto* metrics = runner_->options_.metrics; metrics != nullptr) {
    metrics->HostStarted(device->gpu.info.kind());
  }
  {
    absl::MutexLock lock(&runner_->mutex_);
    ready = started;
    up = true;
    runner_->Dispatch();
  }
  runner_->listener_->CapacityChanged();
}

void AttemptRunner::Lane::HostLost(const std::string&) {
  if (auto* metrics = runner_->options_.metrics; metrics != nullptr) {
    metrics->HostLost(device->gpu.info.kind());
  }
  {
    absl::MutexLock lock(&runner_->mutex_);
    up = false;
  }
  runner_->listener_->CapacityChanged();
}

v1::DeviceInfo AttemptRunner::Device::Info() const {
  v1::DeviceInfo info = gpu.info;
  if (gpu.simulated) return info;
  for (const v1::DeviceInfo& seen : lanes.front()->ready.device()) {
    if (seen.kind() != info.kind()) continue;
    if (info.name().empty()) info.set_name(seen.name());
    if (info.capability().empty()) info.set_capability(seen.capability());
    if (info.memory_bytes() == 0) info.set_memory_bytes(seen.memory_bytes());
    info.set_driver(DriverOf(info.driver(), seen.driver()));
  }
  return info;
}

bool AttemptRunner::Device::Found() const {
  const auto& seen = lanes.front()->ready.device();
  return gpu.simulated || std::any_of(seen.begin(), seen.end(), [this](const v1::DeviceInfo& device) {
           return device.kind() == gpu.info.kind();
         });
}

std::unique_ptr<AttemptRunner::Device> AttemptRunner::StartDevice(
    const Gpu& gpu, bool is_gpu, const std::vector<std::string>& environment) {
  const uint32_t slots = is_gpu ? SlotsOf(gpu, options_.gpu_slots) : options_.slots;
  auto device =
      std::make_unique<Device>(gpu, is_gpu, slots, MemoryOf(gpu, slots, options_.gpu_memory_reserve));
  TestHostOptions host;
  host.binary = options_.host_binary;
  if (gpu.simulated) {
    host.arguments = {"--resident"};
  } else if (is_gpu) {
    host.arguments = {"--device", "cuda"};
  }
  host.environment = WithVisibleGpus(environment, gpu.visible);
  host.start_limit = options_.host_start_limit;
  host.grace = options_.host_grace;
  for (uint32_t i = 0; i < (is_gpu ? slots : 1); ++i) {
    device->lanes.push_back(std::make_unique<Lane>(this, device.get(), is_gpu ? 1 : slots));
    Lane& lane = *device->lanes.back();
    lane.host = std::make_unique<TestHost>(host, &lane);
  }
  return device;
}

absl::Status AttemptRunner::StartHosts() {
  std::vector<std::string> environment = ScrubEnvironment(OwnEnvironment());
  std::vector<Gpu> found;
  if (!options_.cpu_only) {
    if (options_.gpus.has_value()) {
      found = *options_.gpus;
    } else {
      absl::StatusOr<std::vector<Gpu>> asked = FindGpus(environment);
      if (!asked.ok()) {
        return absl::Status(
            asked.status().code(),
            absl::StrCat(asked.status().message(), "; mend that, or leave GPUs alone (--cpu-only)"));
      }
      found = *std::move(asked);
    }
  }
  // LibTorch's symbols are bound once, at the host's start; bound lazily, every child would bind them anew.
  environment.push_back("LD_BIND_NOW=1");
  Gpu cpu;
  cpu.info.set_kind("cpu");
  cpu.info.set_id("cpu");
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(StartDevice(cpu, false, environment));
  for (const Gpu& gpu : found) devices.push_back(StartDevice(gpu, true, environment));
  for (auto& device : devices) {
    absl::Status up = device->lanes.front()->host->WaitUntilReady();
    if (!device->is_gpu) ASSAY_RETURN_IF_ERROR(up);
    if (up.ok()) {
      absl::MutexLock lock(&mutex_);
      if (!device->Found()) up = absl::FailedPreconditionError("its test host found no CUDA device");
    }
    if (!up.ok()) {
      spdlog::error("GPU {} is left out: {}", device->id(), up.ToString());
      for (const auto& lane : device->lanes) lane->host->Stop();
      continue;
    }
    has_gpu_ = has_gpu_ || device->is_gpu;
    devices_.push_back(std::move(device));
  }
  return absl::OkStatus();
}

AttemptRunner::Device* AttemptRunner::DeviceById(const std::string& id) const {
  for (const auto& device : devices_) {
    if (device->id() == id) return device.get();
  }
  return nullptr;
}

void AttemptRunner::AwaitSlot(const std::shared_ptr<Attempt>& attempt) {
  attempt->stages.Enter("wait");
  ready_.push_back(attempt);
  Dispatch();
}

void AttemptRunner::Dispatch() {
  // In their order: what finds no room keeps those behind it off the devices that it could use, so that a
  // test that needs a whole GPU is not passed by small ones for ever.
  std::set<const Device*> kept;
  for (auto at = ready_.begin(); at != ready_.end() && kept.size() < devices_.size();) {
    Attempt& attempt = **at;
    Device* best = nullptr;
    for (const auto& device : devices_) {
      if (kept.count(device.get()) > 0 || !CouldRunOn(attempt, *device)) continue;
      if (!device->room.Fits(attempt.assignment.memory_bytes())) continue;
      if (best == nullptr || device->room.taken_slots() < best->room.taken_slots()) best = device.get();
    }
    if (best == nullptr) {
      for (const auto& device : devices_) {
        if (CouldRunOn(attempt, *device)) kept.insert(device.get());
      }
      ++at;
      continue;
    }
    Lane* free = nullptr;
    for (const auto& lane : best->lanes) {
      if (lane->running >= lane->capacity) continue;
      if (free == nullptr || (lane->up && !free->up)) free = lane.get();
    }
    std::shared_ptr<Attempt> taken = std::move(*at);
    at = ready_.erase(at);
    Launch(*free, std::move(taken));
  }
}

bool AttemptRunner::CouldRunOn(const Attempt& attempt, const Device& device) const {
  if (!attempt.assignment.device_id().empty()) return attempt.assignment.device_id() == device.id();
  const bool on_gpu = attempt.prepared.test.set_up().device() != v1::CPU && has_gpu_;
  return on_gpu == device.is_gpu;
}

void AttemptRunner::Launch(Lane& lane, std::shared_ptr<Attempt> attempt) {
  ++lane.running;
  lane.device->room.Take(attempt->assignment.memory_bytes());
  attempt->lane = &lane;
  attempt->id = absl::StrCat(++last_id_);
  attempt->stages.Enter(kHostStage);
  v1::RunTest run;
  run.set_id(attempt->id);
  *run.mutable_test() = attempt->prepared.test;
  // There is no GPU behind it; its result says so.
  if (lane.device->gpu.simulated) run.mutable_test()->mutable_set_up()->set_device(v1::CPU);
  run.set_program_path(attempt->PathOf(attempt->assignment.program_digest()));
  for (const v1::Case& c : attempt->prepared.test.case_()) {
    for (const std::string* digest : {&c.program_digest(), &c.golden_digest()}) {
      if (digest->empty()) continue;
      v1::BlobFile& file = *run.add_file();
      file.set_digest(*digest);
      file.set_path(attempt->PathOf(*digest));
    }
  }
  run.set_checkpoint_dir(attempt->checkpoint_dir);
  run.set_hub_verified(attempt->hub_verified);
  run.set_want_output_digests(attempt->apart != nullptr);
  run.set_profile(attempt->assignment.model().profile());
  lane.host->Run(std::move(run));
  // Under the lock, so that it comes before the test's own events.
  TellStarted(*attempt);
  with_host_[attempt->id] = std::move(attempt);
}

void AttemptRunner::OnTestFinished(Lane& lane, const std::string& id, v1::TestResult result) {
  std::shared_ptr<Attempt> attempt;
  Device& device = *lane.device;
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return;
    auto at = with_host_.find(id);
    if (at == with_host_.end()) return;
    attempt = std::move(at->second);
    with_host_.erase(at);
    --lane.running;
    device.room.Give(attempt->assignment.memory_bytes());
    // Before anything else is given to it.
    if (device.is_gpu && result.device_kept_memory_bytes() > options_.gpu_kept_limit) {
      lane.up = false;
      lane.host->Replace(absl::StrFormat("kept %d MiB of the memory of %s after a test; %d are allowed",
                                         result.device_kept_memory_bytes() >> 20, device.id(),
                                         options_.gpu_kept_limit >> 20));
    }
    Dispatch();
  }
  if (const std::string fault = FaultOfPass(attempt->prepared.test, result); !fault.empty()) {
    result.set_outcome(v1::INFRASTRUCTURE_ERROR);
    result.set_message(absl::StrCat("the host's result ", fault));
  }
  Finish(attempt, std::move(result));
}

}  // namespace assay::worker

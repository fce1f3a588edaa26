// A device of the node and the test hosts that run on it. For the runner's own files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/attempt_runner.h"
#include "worker/gpus.h"
#include "worker/room.h"

namespace assay::worker {

// One test host: of the CPU the only one, which runs a test in each slot; of a GPU one a slot.
class AttemptRunner::Lane final : public HostListener {
 public:
  Lane(AttemptRunner* runner, Device* device, uint32_t capacity)
      : device(device), capacity(capacity), runner_(runner) {}

  void HostStarted(const v1::HostReady& started) override;
  void HostLost(const std::string& why) override;
  void TestEvent(const std::string& id, const v1::HostEvent& event) override {
    runner_->OnTestEvent(id, event);
  }
  void TestFinished(const std::string& id, v1::TestResult result) override {
    runner_->OnTestFinished(*this, id, std::move(result));
  }

  Device* const device;
  const uint32_t capacity;
  // Guarded by AttemptRunner::mutex_, as are the next two.
  v1::HostReady ready;
  bool up = false;
  uint32_t running = 0;  // tests with the host, abandoned ones included
  std::unique_ptr<TestHost> host;

 private:
  AttemptRunner* const runner_;
};

struct AttemptRunner::Device {
  Device(Gpu of, bool is_gpu, uint32_t slots, uint64_t memory_bytes)
      : gpu(std::move(of)), is_gpu(is_gpu), room(slots, memory_bytes, is_gpu) {}

  // The device with what its host knows of it besides; guarded by AttemptRunner::mutex_.
  v1::DeviceInfo Info() const;
  // True where the first host has found the device.
  bool Found() const;
  const std::string& id() const { return gpu.info.id(); }

  const Gpu gpu;  // of the CPU: its kind and id
  const bool is_gpu;
  Room room;  // guarded by AttemptRunner::mutex_
  std::vector<std::unique_ptr<Lane>> lanes;
};

}  // namespace assay::worker

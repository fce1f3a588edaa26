// Which job goes where: pure functions over what waits, what runs and who is there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/store/store.h"

namespace assay::coordinator {

// Slots of one kind of device.
struct SlotCount {
  uint32_t total = 0;
  uint32_t free = 0;
  // Attempts that may be given ahead of a slot, so that the next test is ready when one is free.
  uint32_t ahead = 0;
};

// A worker as the scheduler sees it.
struct WorkerView {
  std::string name;
  SlotCount cpu;
  SlotCount cuda;
  bool draining = false;  // takes no more
  bool exporter = false;  // can make programs and goldens of checkpoints
};

struct Placement {
  std::string job_id;
  std::string worker;
  bool operator==(const Placement&) const = default;
};

// The slots that a job of this device choice takes at a worker: AUTO is a GPU where the worker has one, else
// the CPU. May have a total of 0.
const SlotCount& SlotsFor(v1::DeviceChoice device, const WorkerView& worker);
SlotCount& SlotsFor(v1::DeviceChoice device, WorkerView& worker);

// Fills free slots, in this order: priority; then the submitter with the fewest attempts running, those
// placed here included; then the job expected to take longest, then the one submitted first. A job goes to a
// worker that has a GPU if it may, then to the one that has its checkpoint at hand, then, being a test, to
// one that is no exporter, then to the one with most free slots. It does not go back to a worker that failed
// it while another that could take it is connected. Exports go to exporters alone. `running`: attempts that
// hold a lease, by submitter. No placement exceeds a worker's free slots, and nothing that could be placed is
// left while a slot for it is free.
std::vector<Placement> Schedule(std::vector<QueuedJob> queued, std::map<std::string, uint32_t> running,
                                std::vector<WorkerView> workers);

// Why a job whose stage takes this device, or needs an exporter, waits although slots may be free; empty
// where a connected worker could take it, now or later.
std::string WhyNobodyTakes(v1::DeviceChoice device, bool needs_exporter,
                           const std::vector<WorkerView>& workers);

// True where a connected worker could take an export, now or later.
bool SomeoneExports(const std::vector<WorkerView>& workers);

}  // namespace assay::coordinator

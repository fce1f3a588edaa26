// What is free on the workers that are connected: slots and memory of every device, kept in order, so that a
// place for a job is found without looking at every worker.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "assay/v1/coordinator.pb.h"
#include "coordinator/needs.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// A GPU, a slice of one, or the CPU of a node.
struct DeviceView {
  std::string id;  // as the worker names it; empty: the worker chooses
  bool cuda = false;
  uint32_t slots = 0;
  uint32_t ahead = 0;  // attempts beyond its slots, so that the next test is ready when one is free
  // What attempts may take together; 0: memory is not counted, slots alone are.
  uint64_t memory = 0;
  // The most that one attempt may need; 0: not known, and anything goes.
  uint64_t largest = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
};

// A worker as the scheduler sees it.
struct WorkerView {
  std::string name;
  std::vector<std::string> labels;  // "key" or "key=value"
  std::vector<DeviceView> devices;
  std::string closed;     // why it takes nothing new: "is draining", "is cordoned"; empty: it does
  bool exporter = false;  // can make programs and goldens of checkpoints
};

// As it described itself. One of protocol 1 chooses its GPU itself, so that its GPUs are one device here,
// counted by slots; one of protocol 2 has each of its own. `ahead_per_slot`: for devices whose memory is not
// counted.
WorkerView ViewOf(const std::string& name, uint32_t protocol,
                  const google::protobuf::RepeatedPtrField<std::string>& labels,
                  const google::protobuf::RepeatedPtrField<v1::DeviceSlots>& devices,
                  uint32_t ahead_per_slot);

// True where the worker carries the label, or, for "gpu=WORD" and a worker without a label gpu=…, where WORD
// is one of the words of the device's name: "gpu=H100" is met by "NVIDIA H100 80GB HBM3".
bool Carries(const WorkerView& worker, const DeviceView& device, const std::string& label);

// Whether the device could take such a job at some time, whatever runs on it now. Of a job of device AUTO: a
// GPU where the worker has one, else the CPU.
bool CouldTake(const WorkerView& worker, const DeviceView& device, v1::DeviceChoice choice,
               bool needs_exporter, const Requirement& requirement);

// Where an attempt goes, and what it takes there.
struct Spot {
  std::string worker;
  std::string device_id;
  bool cuda = false;
  uint64_t memory = 0;  // 0: memory is not counted there
};

// Not thread-safe.
class Slots {
 public:
  // Adds the worker, or describes it anew; what was taken of it stays taken.
  void Put(WorkerView worker);
  void Remove(const std::string& worker);
  // nullptr where there is none.
  const WorkerView* Find(const std::string& worker) const;

  // Counts an attempt at this job; one that it was counted for before is given back. More than there is may
  // be taken: what runs, runs.
  void Take(const std::string& job_id, const Spot& spot);
  // Nothing happens where the job has taken none.
  void GiveBack(const std::string& job_id);

  // The place for this job now; nullopt: there is none. In this order: a GPU where the job may have one; the
  // worker that has its checkpoint at hand; the smallest device that is large enough (of GPUs, for a job of
  // unknown need, the largest that nothing runs on); a worker that is no exporter, unless it must be one; the
  // device with most free slots. Not one that failed the job while another that could take it is open.
  // `ahead`: into what may be given beyond slots.
  std::optional<Spot> Place(const QueuedJob& job, const Requirement& requirement, bool ahead) const;

  // Over workers that are open: slots, slots that are free, and attempts that may be given ahead.
  size_t total() const { return total_; }
  size_t free() const { return free_; }
  size_t ahead() const { return ahead_; }
  const std::map<std::string, WorkerView>& views() const { return views_; }

  struct DeviceUse {
    uint32_t attempts = 0;
    uint64_t memory = 0;
  };
  // Of the worker's devices, in their order; empty: there is no such worker.
  std::vector<DeviceUse> UseOf(const std::string& worker) const;

 private:
  struct Device {
    const WorkerView* worker = nullptr;
    const DeviceView* view = nullptr;
    size_t index = 0;
    DeviceUse use;

    uint32_t free() const { return use.attempts < view->slots ? view->slots - use.attempts : 0; }
    uint32_t room_ahead() const;
  };
  // Exporters last, the freest first, then by name.
  struct Entry {
    bool exporter = false;
    uint32_t room = 0;
    Device* device = nullptr;
    bool operator<(const Entry& other) const;
  };
  // By memory of the device, of GPUs; the others are all under 0.
  using Shelf = std::map<uint64_t, std::set<Entry>>;
  // Devices with room, of those that jobs of one kind look through.
  struct Shelves {
    Shelf cuda, cpu, cpu_without_gpu, exporter_cpu;
  };
  struct Held {
    std::string worker;
    size_t device = 0;
    uint64_t memory = 0;
  };

  // Of a device that is open: what it is filed under changes, of which 0 is not at all.
  void Move(Device& device, Shelves& shelves, uint32_t from, uint32_t to);
  void Shelve(Device& device);
  void Unshelve(Device& device);
  std::vector<Shelf*> ShelvesOf(const Device& device, Shelves& shelves);
  void Count(const std::string& worker, size_t device, uint64_t memory, int attempts);
  static bool Fits(const Device& device, const QueuedJob& job, const Requirement& requirement, bool ahead);
  static uint64_t Amount(const Device& device, const Requirement& requirement);
  bool HasElsewhere(const QueuedJob& job, const Requirement& requirement) const;
  const Device* OnShelf(const Shelf& shelf, const QueuedJob& job, const Requirement& requirement, bool ahead,
                        bool avoid_tried) const;
  const Device* AtExporterOf(const QueuedJob& job, const Requirement& requirement, bool cuda, bool ahead,
                             bool avoid_tried) const;

  std::map<std::string, WorkerView> views_;
  std::unordered_map<std::string, std::vector<std::unique_ptr<Device>>> devices_;  // by worker
  std::unordered_map<std::string, Held> held_;                                     // by job
  Shelves now_, later_;
  size_t total_ = 0, free_ = 0, ahead_ = 0;
};

}  // namespace assay::coordinator

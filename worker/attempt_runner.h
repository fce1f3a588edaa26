// Runs attempts: fetches their blobs, generates their tests, and keeps the slots of this node's devices busy.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/worker.pb.h"
#include "worker/agent.h"
#include "worker/blob_cache.h"
#include "worker/checkpoint.h"
#include "worker/export_stage.h"
#include "worker/exporter.h"
#include "worker/gpus.h"
#include "worker/prepare.h"
#include "worker/result_limits.h"
#include "worker/spool.h"
#include "worker/test_host.h"

namespace assay::worker {

// Where an attempt's story goes. Called on the runner's threads.
class AttemptListener {
 public:
  virtual ~AttemptListener() = default;
  // In order for an attempt. Must not call the runner, whose lock may be held.
  virtual void AttemptProgressed(const v1::AttemptEvent& event) = 0;
  // Exactly once for an attempt that is neither abandoned nor stopped. The runner still names the attempt
  // until this returns.
  virtual void AttemptFinished(SpooledResult result) = 0;
  // AttemptFinished() was called for it, and a coordinator may not know yet. Must not call the runner.
  virtual bool IsFinished(const AttemptKey& key) = 0;
  // A host came or went, and its slots with it. That a result frees a slot needs no word.
  virtual void CapacityChanged() = 0;
  // Waits until blobs may be had again; false: give up.
  virtual bool AwaitCoordinator(absl::Time deadline) = 0;
};

// Thread-safe.
class AttemptRunner {
 public:
  // Starts the hosts, one for the CPU and one for each slot of a GPU, and waits for the first of each device.
  // Errors as Agent::Start. A GPU whose host does not start is left out, with a logged error. All that is
  // pointed to outlives the runner.
  static absl::StatusOr<std::unique_ptr<AttemptRunner>> Start(const AgentOptions& options, BlobCache* cache,
                                                              Artifacts* artifacts,
                                                              AttemptListener* listener);
  ~AttemptRunner();  // as Stop()

  // An attempt that runs already stays as it is, and one that has finished does not run again.
  void Take(const v1::DesiredState& desired);
  // Stops it and reports nothing. Nothing for an attempt that does not run.
  void Abandon(const AttemptKey& key);

  std::vector<AttemptKey> Running() const;
  // Until no attempt runs (true), or Stop() was called.
  bool AwaitIdle() const;
  // How many more attempts could start at once. Attempts beyond that wait here for a slot, in their order,
  // with their blobs fetched and their tests generated.
  uint32_t FreeSlots() const;
  // As they are announced to a coordinator of that protocol.
  std::vector<v1::DeviceSlots> Devices(uint32_t protocol) const;
  std::vector<v1::DeviceInfo> DeviceInfos() const;
  std::vector<std::string> TorchBuilds() const;
  // Runs a test that is no attempt: nothing of it is told to the listener or a coordinator, and its result
  // carries output digests. `assignment.attempt` is a key of the caller's own, not in use. `done` hears the
  // result, once, on a thread of the runner, unless the runner is stopped first.
  void RunApart(v1::Assignment assignment, std::function<void(v1::TestResult)> done);
  // Null where this worker takes no export stages.
  const Exporter* exporter() const { return exporter_.get(); }
  void Stop();

 private:
  struct Attempt;
  struct Device;
  class Lane;

  using Queue = std::deque<std::shared_ptr<Attempt>>;

  AttemptRunner(const AgentOptions& options, BlobCache* cache, Artifacts* artifacts,
                AttemptListener* listener);
  // The hub's client, and the exporter where there is one.
  absl::Status StartCheckpoints();
  absl::Status StartHosts();
  std::unique_ptr<Device> StartDevice(const Gpu& gpu, bool is_gpu,
                                      const std::vector<std::string>& environment);
  Device* DeviceById(const std::string& id) const;
  bool CouldRunOn(const Attempt& attempt, const Device& device) const;
  void SayDevice(const Device& device, v1::Provenance& provenance) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One thread of those that take the attempts of a queue one step further.
  void Serve(Queue& queue, void (AttemptRunner::*step)(const std::shared_ptr<Attempt>&));
  void PrepareLoop();
  void Prepare(const std::shared_ptr<Attempt>& self);
  void PrepareExport(const std::shared_ptr<Attempt>& self, const PreparedFrom& from);
  void FindCheckpointOf(const std::shared_ptr<Attempt>& self);
  void Export(const std::shared_ptr<Attempt>& self);
  bool IsOver(const Attempt& attempt) const;  // abandoned, or the runner is stopped
  void AwaitSlot(const std::shared_ptr<Attempt>& attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellStarted(const Attempt& attempt);
  absl::StatusOr<std::vector<Blob>> Fetch(const Attempt& attempt, const std::vector<std::string>& digests);
  void Dispatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Launch(Lane& lane, std::shared_ptr<Attempt> attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(const std::shared_ptr<Attempt>& attempt, v1::TestResult result);
  // From the lanes.
  void OnTestEvent(const std::string& id, const v1::HostEvent& event);
  void OnTestFinished(Lane& lane, const std::string& id, v1::TestResult result);

  const AgentOptions options_;
  BlobCache* const cache_;
  Artifacts* const artifacts_;
  AttemptListener* const listener_;
  std::unique_ptr<CheckpointFinder> finder_;      // constant after Start, as are the next two
  std::unique_ptr<Exporter> exporter_;            // null: no export stages
  std::unique_ptr<ExportStage> stage_;            // likewise
  std::vector<std::unique_ptr<Device>> devices_;  // constant after Start; the CPU is the first
  bool has_gpu_ = false;                          // likewise

  mutable absl::Mutex mutex_;
  std::map<AttemptKey, std::shared_ptr<Attempt>> attempts_ ABSL_GUARDED_BY(mutex_);
  Queue to_prepare_ ABSL_GUARDED_BY(mutex_);
  Queue to_find_ ABSL_GUARDED_BY(mutex_);
  Queue to_export_ ABSL_GUARDED_BY(mutex_);
  Queue ready_ ABSL_GUARDED_BY(mutex_);  // for a slot
  std::unordered_map<std::string, std::shared_ptr<Attempt>> with_host_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace assay::worker

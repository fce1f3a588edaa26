// The workers that are connected, what each of them runs as far as the coordinator knows, and what goes to
// them. All of it can be rebuilt from what workers say when they connect.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "assay/v1/worker.pb.h"
#include "coordinator/schedule.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// A worker's stream, as seen from here. Thread-safe; neither call waits.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void Send(v1::CoordinatorMessage message) = 0;
  // Ends the stream once what was sent is out. What comes after is dropped.
  virtual void Close(absl::Status status) = 0;
};

struct Session {
  std::shared_ptr<WorkerLink> link;
  v1::Hello hello;
  bool draining = false;
  absl::Time last_heard;
  std::map<std::string, RunningAttempt> running;  // by job id
};

// Not thread-safe: the writer's thread owns it.
class Fleet {
 public:
  // The stream that the worker had before, if any: its owner should close it.
  std::shared_ptr<WorkerLink> Join(std::shared_ptr<WorkerLink> link, v1::Hello hello, absl::Time now);
  // False: it was not (or is no longer) the worker's stream.
  bool Leave(const WorkerLink* link);
  // nullptr where there is none.
  Session* Find(const std::string& worker);
  Session* Find(const WorkerLink* link);

  void Occupy(const RunningAttempt& attempt);
  // Of whatever worker. Nothing happens where the job's attempt there is another one.
  void Free(const v1::AttemptRef& attempt);

  // Of those heard of after `silent_before`: what is sent to the others may never arrive. `ahead_per_slot`:
  // attempts that a worker may hold beyond its slots, a slot.
  std::vector<WorkerView> Views(absl::Time silent_before, uint32_t ahead_per_slot) const;
  const std::map<std::string, Session>& sessions() const { return sessions_; }

 private:
  std::map<std::string, Session> sessions_;  // by worker
};

}  // namespace assay::coordinator

// The workers that are connected here, what each of them runs as far as the coordinator knows, and what goes
// to them. All of it can be rebuilt from what workers say when they connect.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "assay/v1/worker.pb.h"
#include "coordinator/slots.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// Of the worker protocol; those before it are served, too.
inline constexpr uint32_t kNewestProtocol = 3;

// A worker's stream, as seen from here. Thread-safe; neither call waits.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  // Its name, as its Hello said; constant from then on.
  virtual const std::string& worker() const = 0;
  // When the certificate ends that it showed; unset: it showed none.
  virtual std::optional<absl::Time> certificate_end() const { return std::nullopt; }
  virtual void Send(v1::CoordinatorMessage message) = 0;
  // Ends the stream once what was sent is out. What comes after is dropped.
  virtual void Close(absl::Status status) = 0;
};

struct Session {
  std::shared_ptr<WorkerLink> link;
  v1::Hello hello;        // with the labels and the acceptance report that it told last
  uint32_t protocol = 1;  // as agreed
  absl::Time last_heard;
  std::map<std::string, RunningAttempt> running;  // by job id

  // Why it gets nothing new. Change them through the fleet.
  bool draining = false;
  bool silent = false;  // what is sent to it may never arrive
  std::string paused;   // as it said itself
  std::string cordon;   // the reason; with `cordoned`
  bool cordoned = false;

  std::vector<v1::ResultAck> acks;  // of committed results, to go with what is sent next
  std::set<std::string> told;       // orders, by id, that were sent on this stream
  bool drains = false;              // by a heartbeat: a Hello says so, too, of a worker that has only paused
};

// Not thread-safe: the writer's thread owns it.
class Fleet {
 public:
  struct Options {
    uint32_t ahead_per_slot = 1;
    bool require_acceptance = false;  // nothing for a worker that was not accepted with its present devices
  };
  Fleet() : Fleet(Options()) {}
  explicit Fleet(Options options) : options_(options) {}

  // The stream that the worker had before, if any: its owner should close it.
  std::shared_ptr<WorkerLink> Join(std::shared_ptr<WorkerLink> link, v1::Hello hello, absl::Time now);
  // False: it was not (or is no longer) the worker's stream.
  bool Leave(const WorkerLink* link);
  // nullptr where there is none.
  Session* Find(const std::string& worker);
  Session* Find(const WorkerLink* link);

  // What a heartbeat says. True: the worker may take something now that it could not take before, or takes
  // nothing now that it could.
  bool Heard(Session& session, const v1::Heartbeat& heartbeat, absl::Time now);
  // Those not heard of after `before` get nothing until they are.
  void Silence(absl::Time before);
  // Reasons by worker, of all that are cordoned. True: something changed for one that is connected here.
  bool Cordon(const std::map<std::string, std::string>& cordons);
  void Accepted(Session& session, v1::AcceptanceReport report);
  // What an operator ordered of it.
  void Tell(Session& session, const WorkerOrder& order);
  // Asks the worker to run it; until it has reported its acceptance is RUNNING.
  void OrderSweep(Session& session, const v1::AcceptanceRequest& request);

  // Tells the worker what it should be doing, and acknowledges what waits to be. Nothing is sent where there
  // is nothing to tell.
  void Send(Session& session, v1::DesiredState desired);
  // Of committed results, or of such as can never be; `together`: they came in one message. From protocol 3
  // on they wait for the next Send: all they do is let the worker forget, and a message costs more than they
  // do.
  void Acknowledge(Session& session, std::vector<v1::ResultAck> acks, bool together);

  void Occupy(const RunningAttempt& attempt);
  // Of whatever worker. Nothing happens where the job's attempt there is another one.
  void Free(const v1::AttemptRef& attempt);

  Slots& slots() { return slots_; }
  const Slots& slots() const { return slots_; }
  const std::map<std::string, Session>& sessions() const { return sessions_; }

 private:
  // After what it takes, or how it describes itself, has changed. True: it has.
  bool Describe(const Session& session);

  const Options options_;
  std::map<std::string, Session> sessions_;  // by worker
  std::unordered_map<const WorkerLink*, std::string> worker_of_link_;
  std::unordered_map<std::string, std::string> worker_of_job_;
  std::map<std::string, std::string> cordons_;
  Slots slots_;
};

// Nothing is left to be told: the worker does it, or is another process than the one that is meant.
bool IsFollowed(const WorkerOrder& order, const Session& session);

// What the attempt takes of the worker that it runs at.
Spot SpotOf(const RunningAttempt& attempt, const WorkerView& worker);

// True where the report is of these devices, each with the driver that it has now, and says ACCEPTED.
bool IsAccepted(const v1::AcceptanceReport& report,
                const google::protobuf::RepeatedPtrField<v1::DeviceSlots>& devices);

// Why a worker that says this of itself takes nothing new; empty: it does.
std::string WhyClosed(bool draining, bool cordoned, const std::string& cordon_reason,
                      const std::string& paused, bool unaccepted);

}  // namespace assay::coordinator

#include "coordinator/fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace assay::coordinator {
namespace {

// Keep a message of the control stream well under 1 MiB.
constexpr size_t kMaxStartBytesAMessage = 512 << 10;
constexpr size_t kMaxRefsAMessage = 1024;  // of jobs to abandon, and of acknowledgements

}  // namespace

Spot SpotOf(const RunningAttempt& attempt, const WorkerView& worker) {
  const bool has_gpu = std::any_of(worker.devices.begin(), worker.devices.end(),
                                   [](const DeviceView& device) { return device.cuda && device.slots > 0; });
  return {attempt.worker, attempt.device_id,
          attempt.device == v1::CUDA || (attempt.device == v1::AUTO && has_gpu), attempt.memory};
}

bool IsAccepted(const v1::AcceptanceReport& report,
                const google::protobuf::RepeatedPtrField<v1::DeviceSlots>& devices) {
  if (report.state() != v1::AcceptanceReport::ACCEPTED) return false;
  return std::all_of(devices.begin(), devices.end(), [&](const v1::DeviceSlots& slots) {
    const v1::DeviceInfo& device = slots.device();
    return slots.slots() == 0 ||
           std::any_of(report.device().begin(), report.device().end(), [&](const v1::DeviceInfo& accepted) {
             return accepted.kind() == device.kind() && accepted.id() == device.id() &&
                    accepted.name() == device.name() && accepted.driver() == device.driver();
           });
  });
}

std::string WhyClosed(bool draining, bool cordoned, const std::string& cordon_reason,
                      const std::string& paused, bool unaccepted) {
  if (cordoned)
    return cordon_reason.empty() ? "is cordoned" : absl::StrCat("is cordoned (", cordon_reason, ")");
  if (draining) return "is draining";
  if (unaccepted) return "was not accepted with its present devices and drivers";
  if (!paused.empty()) return absl::StrCat("takes nothing new: ", paused);
  return "";
}

bool Fleet::Describe(const Session& session) {
  const std::string& name = session.hello.worker();
  WorkerView view =
      ViewOf(name, session.protocol, session.hello.label(), session.hello.device(), options_.ahead_per_slot);
  view.closed = session.silent
                    ? "was not heard of for a while"
                    : WhyClosed(session.draining, session.cordoned, session.cordon, session.paused,
                                options_.require_acceptance &&
                                    !IsAccepted(session.hello.acceptance(), session.hello.device()));
  const WorkerView* before = slots_.Find(name);
  if (before != nullptr && before->closed == view.closed && before->labels == view.labels &&
      before->devices.size() == view.devices.size()) {
    return false;  // devices never change on a stream
  }
  slots_.Put(std::move(view));
  return true;
}

std::shared_ptr<WorkerLink> Fleet::Join(std::shared_ptr<WorkerLink> link, v1::Hello hello, absl::Time now) {
  const std::string name = hello.worker();
  Session& session = sessions_[name];
  std::shared_ptr<WorkerLink> before = session.link == link ? nullptr : session.link;
  if (session.link != nullptr) worker_of_link_.erase(session.link.get());
  for (const auto& [job, attempt] : session.running) worker_of_job_.erase(job);
  slots_.Remove(name);
  session = Session();
  session.link = std::move(link);
  session.draining = hello.draining();
  session.last_heard = now;
  session.protocol = std::clamp<uint32_t>(hello.protocol(), 1, kNewestProtocol);
  session.hello = std::move(hello);
  if (auto cordon = cordons_.find(name); cordon != cordons_.end()) {
    session.cordoned = true;
    session.cordon = cordon->second;
  }
  worker_of_link_[session.link.get()] = name;
  Describe(session);
  return before;
}

bool Fleet::Leave(const WorkerLink* link) {
  Session* session = Find(link);
  if (session == nullptr) return false;
  const std::string name = session->hello.worker();
  for (const auto& [job, attempt] : session->running) worker_of_job_.erase(job);
  worker_of_link_.erase(link);
  slots_.Remove(name);
  sessions_.erase(name);
  return true;
}

Session* Fleet::Find(const std::string& worker) {
  auto found = sessions_.find(worker);
  return found == sessions_.end() ? nullptr : &found->second;
}

Session* Fleet::Find(const WorkerLink* link) {
  auto found = worker_of_link_.find(link);
  return found == worker_of_link_.end() ? nullptr : Find(found->second);
}

bool Fleet::Heard(Session& session, const v1::Heartbeat& heartbeat, absl::Time now) {
  session.last_heard = now;
  session.silent = false;
  session.draining = session.drains = heartbeat.draining();
  session.paused = heartbeat.paused();
  if (heartbeat.has_labels()) *session.hello.mutable_label() = heartbeat.labels().label();
  return Describe(session);
}

void Fleet::Silence(absl::Time before) {
  for (auto& [name, session] : sessions_) {
    if (session.silent || session.last_heard > before) continue;
    session.silent = true;
    Describe(session);
  }
}

bool Fleet::Cordon(const std::map<std::string, std::string>& cordons) {
  if (cordons == cordons_) return false;
  cordons_ = cordons;
  bool changed = false;
  for (auto& [name, session] : sessions_) {
    auto cordon = cordons_.find(name);
    session.cordoned = cordon != cordons_.end();
    session.cordon = session.cordoned ? cordon->second : "";
    changed |= Describe(session);
  }
  return changed;
}

bool IsFollowed(const WorkerOrder& order, const Session& session) {
  if (order.wanted.instance() != session.hello.instance()) return true;
  if (order.wanted.drain()) return session.drains;
  const v1::AcceptanceReport& report = session.hello.acceptance();
  return report.id() == order.wanted.accept().id() && report.state() != v1::AcceptanceReport::RUNNING;
}

void Fleet::Tell(Session& session, const WorkerOrder& order) {
  session.told.insert(order.id);
  if (order.wanted.has_accept()) OrderSweep(session, order.wanted.accept());
  if (!order.wanted.drain()) return;
  v1::CoordinatorMessage message;
  message.mutable_desired()->set_drain(true);
  session.link->Send(std::move(message));
}

void Fleet::Send(Session& session, v1::DesiredState desired) {
  int start = 0, abandon = 0;
  auto rest = session.acks.begin();
  while (start < desired.start_size() || abandon < desired.abandon_size() || rest != session.acks.end()) {
    v1::CoordinatorMessage message;
    v1::DesiredState& part = *message.mutable_desired();
    for (size_t n = 0; abandon < desired.abandon_size() && n < kMaxRefsAMessage; ++n, ++abandon) {
      *part.add_abandon() = std::move(*desired.mutable_abandon(abandon));
    }
    for (size_t n = 0; rest != session.acks.end() && n < kMaxRefsAMessage; ++n, ++rest) {
      *part.add_ack() = std::move(*rest);
    }
    for (size_t bytes = 0; start < desired.start_size() && bytes < kMaxStartBytesAMessage; ++start) {
      bytes += desired.start(start).ByteSizeLong();
      *part.add_start() = std::move(*desired.mutable_start(start));
    }
    session.link->Send(std::move(message));
  }
  session.acks.clear();
}

void Fleet::Acknowledge(Session& session, std::vector<v1::ResultAck> acks, bool together) {
  if (session.protocol >= 3) {
    std::move(acks.begin(), acks.end(), std::back_inserter(session.acks));
    // It waits for them, before it leaves.
    if (session.draining || session.acks.size() >= kMaxRefsAMessage) Send(session, {});
    return;
  }
  v1::CoordinatorMessage message;
  for (v1::ResultAck& ack : acks) {
    *(together ? message.mutable_acks()->add_ack() : message.mutable_ack()) = std::move(ack);
  }
  session.link->Send(std::move(message));
}

void Fleet::Accepted(Session& session, v1::AcceptanceReport report) {
  // A worker runs one sweep at a time: one that was ordered while another ran was not begun, and is told
  // again.
  if (report.state() != v1::AcceptanceReport::RUNNING) session.told.clear();
  *session.hello.mutable_acceptance() = std::move(report);
  Describe(session);
}

void Fleet::OrderSweep(Session& session, const v1::AcceptanceRequest& request) {
  v1::AcceptanceReport report;
  report.set_id(request.id());
  report.set_state(v1::AcceptanceReport::RUNNING);
  Accepted(session, std::move(report));
  v1::CoordinatorMessage message;
  *message.mutable_desired()->mutable_accept() = request;
  session.link->Send(std::move(message));
}

void Fleet::Occupy(const RunningAttempt& attempt) {
  Session* session = Find(attempt.worker);
  if (session == nullptr) return;
  const std::string& job = attempt.attempt.job_id();
  if (auto before = worker_of_job_.find(job);
      before != worker_of_job_.end() && before->second != attempt.worker) {
    if (Session* other = Find(before->second)) other->running.erase(job);
  }
  session->running[job] = attempt;
  worker_of_job_[job] = attempt.worker;
  slots_.Take(job, SpotOf(attempt, *slots_.Find(attempt.worker)));
}

void Fleet::Free(const v1::AttemptRef& attempt) {
  auto found = worker_of_job_.find(attempt.job_id());
  if (found == worker_of_job_.end()) return;
  Session* session = Find(found->second);
  if (session == nullptr) return;
  auto running = session->running.find(attempt.job_id());
  if (running == session->running.end() || running->second.attempt.attempt() != attempt.attempt()) return;
  session->running.erase(running);
  worker_of_job_.erase(found);
  slots_.GiveBack(attempt.job_id());
}

}  // namespace assay::coordinator

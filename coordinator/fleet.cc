#include "coordinator/fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace assay::coordinator {
namespace {

bool LabelsAnExporter(const std::string& label) {
  return label == "exporter" || absl::StartsWith(label, "exporter=");
}

}  // namespace

std::shared_ptr<WorkerLink> Fleet::Join(std::shared_ptr<WorkerLink> link, v1::Hello hello, absl::Time now) {
  Session& session = sessions_[hello.worker()];
  std::shared_ptr<WorkerLink> before = session.link == link ? nullptr : session.link;
  session.link = std::move(link);
  session.draining = hello.draining();
  session.last_heard = now;
  session.running.clear();
  session.hello = std::move(hello);
  return before;
}

bool Fleet::Leave(const WorkerLink* link) {
  Session* session = Find(link);
  if (session == nullptr) return false;
  sessions_.erase(std::string(session->hello.worker()));
  return true;
}

Session* Fleet::Find(const std::string& worker) {
  auto found = sessions_.find(worker);
  return found == sessions_.end() ? nullptr : &found->second;
}

Session* Fleet::Find(const WorkerLink* link) {
  for (auto& [name, session] : sessions_) {
    if (session.link.get() == link) return &session;
  }
  return nullptr;
}

void Fleet::Occupy(const RunningAttempt& attempt) {
  if (Session* session = Find(attempt.worker)) session->running[attempt.attempt.job_id()] = attempt;
}

void Fleet::Free(const v1::AttemptRef& attempt) {
  for (auto& [name, session] : sessions_) {
    auto found = session.running.find(attempt.job_id());
    if (found == session.running.end() || found->second.attempt.attempt() != attempt.attempt()) continue;
    session.running.erase(found);
  }
}

std::vector<WorkerView> Fleet::Views(absl::Time silent_before, uint32_t ahead_per_slot) const {
  std::vector<WorkerView> views;
  for (const auto& [name, session] : sessions_) {
    if (session.last_heard <= silent_before) continue;
    WorkerView& view = views.emplace_back();
    view.name = name;
    view.draining = session.draining;
    view.exporter = std::any_of(session.hello.label().begin(), session.hello.label().end(), LabelsAnExporter);
    for (const v1::DeviceSlots& device : session.hello.device()) {
      SlotCount& count = device.device().kind() == "cuda" ? view.cuda : view.cpu;
      count.total += device.slots();
    }
    for (SlotCount* count : {&view.cpu, &view.cuda}) {
      count->free = count->total;
      count->ahead = count->total * ahead_per_slot;
    }
    for (const auto& [job, attempt] : session.running) {
      SlotCount& count = SlotsFor(attempt.device, view);
      uint32_t& taken_from = count.free > 0 ? count.free : count.ahead;
      if (taken_from > 0) --taken_from;
    }
  }
  return views;
}

}  // namespace assay::coordinator

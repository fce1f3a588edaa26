#include "coordinator/roster.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "common/status_macros.h"
#include "coordinator/access/token.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

constexpr char kPoolLabel[] = "pool=";

std::string PoolOf(const v1::WorkerSummary& worker) {
  for (const std::string& label : worker.label()) {
    if (absl::StartsWith(label, kPoolLabel)) return label.substr(sizeof(kPoolLabel) - 1);
  }
  return "";
}

// One that has renewed its certificate shows the new one when it connects the next time, at the latest when
// the old one ends.
absl::Status FindRenewals(Store& store, std::vector<v1::WorkerSummary>& workers) {
  const bool any = std::any_of(workers.begin(), workers.end(), [](const v1::WorkerSummary& worker) {
    return worker.connected() && worker.has_certificate_expire_time();
  });
  if (!any) return absl::OkStatus();
  ASSAY_ASSIGN_OR_RETURN(const std::vector<TokenRecord> tokens, store.ListTokens());
  std::map<std::string, google::protobuf::Timestamp> newest;
  for (const TokenRecord& token : tokens) {
    if (!IsCertificateRecord(token) || token.info.has_revoke_time()) continue;
    google::protobuf::Timestamp& end = newest[token.info.name()];
    if (token.info.expire_time().seconds() > end.seconds()) end = token.info.expire_time();
  }
  for (v1::WorkerSummary& worker : workers) {
    const auto found = newest.find(worker.name());
    if (found == newest.end() || !worker.has_certificate_expire_time()) continue;
    if (found->second.seconds() > worker.certificate_expire_time().seconds()) {
      *worker.mutable_certificate_expire_time() = found->second;
    }
  }
  return absl::OkStatus();
}

}  // namespace

v1::WorkerSummary SummaryOf(const Session& session, const std::string& coordinator, absl::Time last_seen) {
  const v1::Hello& hello = session.hello;
  v1::WorkerSummary summary;
  summary.set_name(hello.worker());
  summary.set_build(hello.build());
  *summary.mutable_label() = hello.label();
  *summary.mutable_device() = hello.device();
  summary.set_draining(session.draining);
  *summary.mutable_last_seen() = ToTimestamp(last_seen);
  summary.set_pool(PoolOf(summary));
  summary.set_coordinator(coordinator);
  summary.set_protocol(session.protocol);
  if (hello.has_node()) *summary.mutable_node() = hello.node();
  if (hello.has_acceptance()) *summary.mutable_acceptance() = hello.acceptance();
  if (const auto end = session.link->certificate_end()) {
    *summary.mutable_certificate_expire_time() = ToTimestamp(*end);
  }
  return summary;
}

absl::StatusOr<Roster> ReadRoster(Store& store, const Fleet& fleet, const std::string& coordinator,
                                  bool require_acceptance) {
  Roster roster;
  const absl::Time now = store.Now();
  ASSAY_ASSIGN_OR_RETURN(std::vector<WorkerRecord> records, store.ListWorkers());
  ASSAY_ASSIGN_OR_RETURN(const auto cordons, store.ListCordons());
  ASSAY_ASSIGN_OR_RETURN(const std::vector<RunningAttempt> running, store.Running());
  for (WorkerRecord& record : records) {
    auto here = fleet.sessions().find(record.summary.name());
    v1::WorkerSummary& worker = roster.workers.emplace_back();
    std::string paused;
    if (here != fleet.sessions().end()) {
      worker = SummaryOf(here->second, coordinator, here->second.last_heard);
      worker.set_connected(true);
      paused = here->second.paused;
    } else {
      worker = std::move(record.summary);
      worker.set_connected(record.coordinator != coordinator && record.believed_until > now);
      worker.set_coordinator(record.coordinator);
      worker.set_pool(PoolOf(worker));
    }
    if (auto cordon = cordons.find(worker.name()); cordon != cordons.end()) {
      worker.set_cordoned(true);
      worker.set_cordon_reason(cordon->second);
    }
    if (!worker.connected()) continue;
    WorkerView view = ViewOf(worker.name(), worker.protocol(), worker.label(), worker.device(), 0);
    view.closed = WhyClosed(worker.draining(), worker.cordoned(), worker.cordon_reason(), paused,
                            require_acceptance && !IsAccepted(worker.acceptance(), worker.device()));
    roster.slots.Put(std::move(view));
  }
  ASSAY_RETURN_IF_ERROR(FindRenewals(store, roster.workers));
  std::map<std::string, std::vector<std::string>> jobs;
  for (const RunningAttempt& attempt : running) {
    jobs[attempt.worker].push_back(attempt.attempt.job_id());
    if (roster.slots.Find(attempt.worker) != nullptr) {
      roster.slots.Take(attempt.attempt.job_id(), SpotOf(attempt, *roster.slots.Find(attempt.worker)));
    }
  }
  for (v1::WorkerSummary& worker : roster.workers) {
    if (!worker.connected()) continue;
    for (const std::string& job : jobs[worker.name()]) worker.add_running_job(job);
    const WorkerView& view = *roster.slots.Find(worker.name());
    const std::vector<Slots::DeviceUse> uses = roster.slots.UseOf(worker.name());
    for (v1::DeviceSlots& device : *worker.mutable_device()) {
      for (size_t i = 0; i < uses.size(); ++i) {
        if (view.devices[i].id.empty() || view.devices[i].id != device.device().id()) continue;
        device.set_used_slots(uses[i].attempts);
        device.set_used_memory_bytes(uses[i].memory);
      }
    }
  }
  return roster;
}

absl::Status TakeCordons(Store& store, Fleet& fleet) {
  ASSAY_ASSIGN_OR_RETURN(const auto cordons, store.ListCordons());
  fleet.Cordon(cordons);
  return absl::OkStatus();
}

}  // namespace assay::coordinator

#include "cli/worker_commands.h"

#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/output.h"
#include "coordinator/needs.h"
#include "coordinator/report/words.h"

namespace assay::cli {
namespace {

using coordinator::MemoryText;

constexpr absl::Duration kPoll = absl::Milliseconds(200);
constexpr absl::Duration kLongestSweep = absl::Minutes(10);

ExitCode WriteOr(const absl::Status& status) { return status.ok() ? kExitOk : Complain(status); }

// "4 slots cuda NVIDIA L4 24 GiB (2 taken, 12 GiB)".
std::string DeviceText(const v1::DeviceSlots& slots) {
  const v1::DeviceInfo& device = slots.device();
  const uint64_t memory = slots.memory_bytes() > 0 ? slots.memory_bytes() : device.memory_bytes();
  std::string text =
      absl::StrCat(slots.slots(), " x ", device.kind(), device.name().empty() ? "" : " ", device.name());
  if (!device.mig_profile().empty()) absl::StrAppend(&text, " MIG ", device.mig_profile());
  if (memory > 0) absl::StrAppend(&text, " ", MemoryText(memory));
  if (slots.used_slots() > 0) {
    absl::StrAppend(
        &text, " (", slots.used_slots(), " taken",
        slots.used_memory_bytes() > 0 ? absl::StrCat(", ", MemoryText(slots.used_memory_bytes())) : "", ")");
  }
  return text;
}

// "draining, cordoned (smells of burning)".
std::string StateText(const v1::WorkerSummary& worker) {
  std::string text = !worker.connected() ? "gone" : worker.draining() ? "draining" : "connected";
  if (worker.cordoned()) absl::StrAppend(&text, ", cordoned");
  if (!worker.cordon_reason().empty()) absl::StrAppend(&text, " (", worker.cordon_reason(), ")");
  return text;
}

const char* AcceptanceText(const v1::AcceptanceReport& report) {
  switch (report.state()) {
    case v1::AcceptanceReport::RUNNING:
      return "running";
    case v1::AcceptanceReport::ACCEPTED:
      return "accepted";
    case v1::AcceptanceReport::REJECTED:
      return "rejected";
    default:
      return "-";
  }
}

ExitCode Tell(const absl::StatusOr<v1::WorkerSummary>& worker) {
  if (!worker.ok()) return Complain(worker.status());
  return WriteOr(Write("", absl::StrCat(worker->name(), "  ", StateText(*worker), "\n")));
}

}  // namespace

ExitCode WorkersCommand(const ConnectionOptions& options, bool json) {
  Connection connection(options);
  absl::StatusOr<v1::ListWorkersResponse> workers = connection.ListWorkers();
  if (!workers.ok()) return Complain(workers.status());
  if (json) {
    absl::StatusOr<std::string> text = ToJson(*workers);
    return text.ok() ? WriteOr(Write("", *text)) : Complain(text.status());
  }
  std::vector<std::vector<std::string>> rows = {{"WORKER", "STATE", "DEVICES", "RUNNING", "LABELS",
                                                 "ACCEPTANCE", "COORDINATOR", "PROTOCOL", "LAST SEEN (UTC)",
                                                 "BUILD"}};
  for (const v1::WorkerSummary& worker : workers->worker()) {
    std::vector<std::string> devices;
    for (const v1::DeviceSlots& device : worker.device()) devices.push_back(DeviceText(device));
    rows.push_back({worker.name(), StateText(worker), absl::StrJoin(devices, ", "),
                    absl::StrCat(worker.running_job_size()), absl::StrJoin(worker.label(), ", "),
                    AcceptanceText(worker.acceptance()), worker.coordinator(),
                    worker.protocol() == 0 ? "" : absl::StrCat(worker.protocol()),
                    report::TimeText(worker.last_seen()), worker.build()});
  }
  return WriteOr(Write("", Table(rows)));
}

ExitCode WhyCommand(const ConnectionOptions& options, const std::string& job_id, bool json) {
  Connection connection(options);
  absl::StatusOr<v1::ExplainJobResponse> why = connection.ExplainJob(job_id);
  if (!why.ok()) return Complain(why.status());
  if (json) {
    absl::StatusOr<std::string> text = ToJson(*why);
    return text.ok() ? WriteOr(Write("", *text)) : Complain(text.status());
  }
  std::string text = absl::StrCat(why->job().job_id(), "  ", report::JobWord(why->job()), "  ",
                                  report::TargetOf(why->job()), "\n");
  for (const std::string& reason : why->reason()) absl::StrAppend(&text, "  ", reason, "\n");
  if (why->job().state() == v1::QUEUED && why->jobs_ahead() > 0) {
    absl::StrAppend(&text, "  ", why->jobs_ahead(), why->jobs_ahead() == 1 ? " job goes" : " jobs go",
                    " before it\n");
  }
  if (why->worker_size() > 0) {
    std::vector<std::vector<std::string>> rows = {{"WORKER", "COULD RUN IT", "WHY NOT"}};
    for (const v1::WorkerFit& fit : why->worker()) {
      rows.push_back({absl::StrCat(fit.pool() ? "pool " : "", fit.name()), fit.could_run() ? "yes" : "no",
                      fit.why_not()});
    }
    absl::StrAppend(&text, "\n", Table(rows));
  }
  return WriteOr(Write("", text));
}

ExitCode CordonCommand(const ConnectionOptions& options, const std::string& worker,
                       const std::string& reason) {
  return Tell(Connection(options).Cordon(worker, reason));
}

ExitCode UncordonCommand(const ConnectionOptions& options, const std::string& worker) {
  return Tell(Connection(options).Uncordon(worker));
}

ExitCode DrainCommand(const ConnectionOptions& options, const std::string& worker) {
  return Tell(Connection(options).Drain(worker));
}

ExitCode AcceptCommand(const ConnectionOptions& options, const std::string& name, uint32_t repetitions) {
  Connection connection(options);
  absl::StatusOr<std::string> id = connection.Accept(name, repetitions);
  if (!id.ok()) return Complain(id.status());
  const absl::Time give_up = absl::Now() + kLongestSweep;
  while (absl::Now() < give_up) {
    absl::StatusOr<v1::ListWorkersResponse> workers = connection.ListWorkers();
    if (!workers.ok()) return Complain(workers.status());
    for (const v1::WorkerSummary& worker : workers->worker()) {
      if (worker.name() != name) continue;
      const v1::AcceptanceReport& report = worker.acceptance();
      if (!worker.connected()) {
        return Complain(
            absl::UnavailableError(absl::StrCat("worker '", name, "' has left before its sweep ended")));
      }
      if (report.id() != *id || report.state() == v1::AcceptanceReport::RUNNING) break;
      std::string text = absl::StrCat(name, "  ", AcceptanceText(report), "  ", report.runs(), " tests in ",
                                      report::SecondsText(report.seconds()), "\n");
      for (const v1::AcceptanceFinding& finding : report.finding()) {
        absl::StrAppend(&text, "  ", finding.model(), " on ", finding.device_id(), ", repetition ",
                        finding.repetition(), ": ", v1::Outcome_Name(finding.outcome()), " ",
                        finding.message(), "\n");
      }
      if (absl::Status status = Write("", text); !status.ok()) return Complain(status);
      return report.state() == v1::AcceptanceReport::ACCEPTED ? kExitOk : kExitTestsFailed;
    }
    absl::SleepFor(kPoll);
  }
  return Complain(
      absl::DeadlineExceededError(absl::StrCat("the sweep of worker '", name, "' has not ended")));
}

}  // namespace assay::cli

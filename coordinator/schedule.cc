#include "coordinator/schedule.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace assay::coordinator {
namespace {

// Of one submitter at one priority: longest first.
using Line = std::deque<QueuedJob>;

bool CouldRun(const QueuedJob& job, const WorkerView& worker) {
  return !worker.draining && SlotsFor(job.device, worker).total > 0 &&
         (worker.exporter || !job.needs_exporter);
}

bool Tried(const QueuedJob& job, const WorkerView& worker) {
  return std::find(job.tried.begin(), job.tried.end(), worker.name) != job.tried.end();
}

// nullptr: no slot for it now.
WorkerView* BestWorker(const QueuedJob& job, std::vector<WorkerView>& workers) {
  const bool has_elsewhere = std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) {
    return CouldRun(job, worker) && !Tried(job, worker);
  });
  WorkerView* best = nullptr;
  auto rank = [&](const WorkerView& worker) {
    return std::make_tuple(job.device == v1::AUTO && worker.cuda.total > 0, worker.name == job.exported_by,
                           worker.exporter == job.needs_exporter, SlotsFor(job.device, worker).free);
  };
  for (WorkerView& worker : workers) {
    if (!CouldRun(job, worker) || SlotsFor(job.device, worker).free == 0) continue;
    if (has_elsewhere && Tried(job, worker)) continue;
    if (best == nullptr || rank(worker) > rank(*best)) best = &worker;
  }
  return best;
}

// Takes the first job of the line that some worker has a slot for.
std::optional<Placement> PlaceFirst(Line& line, std::vector<WorkerView>& workers) {
  for (auto job = line.begin(); job != line.end(); ++job) {
    WorkerView* worker = BestWorker(*job, workers);
    if (worker == nullptr) continue;
    --SlotsFor(job->device, *worker).free;
    Placement placement{job->job_id, worker->name};
    line.erase(job);
    return placement;
  }
  return std::nullopt;
}

// Fills the workers' free slots with at most `limit` of the jobs, which are in their order; counts what it
// takes and whose it is.
std::vector<Placement> Fill(const std::vector<QueuedJob>& queued, std::map<std::string, uint32_t>& running,
                            std::vector<WorkerView>& workers, size_t limit) {
  std::map<Priority, std::map<std::string, Line>> lines;
  for (const QueuedJob& job : queued) lines[job.priority][job.submitter].push_back(job);
  std::vector<Placement> placements;
  for (auto& [priority, by_submitter] : lines) {
    while (!by_submitter.empty() && placements.size() < limit) {
      auto next =
          std::min_element(by_submitter.begin(), by_submitter.end(), [&](const auto& a, const auto& b) {
            return std::make_tuple(running[a.first], a.second.front().order) <
                   std::make_tuple(running[b.first], b.second.front().order);
          });
      std::optional<Placement> placement = PlaceFirst(next->second, workers);
      if (placement) {
        ++running[next->first];
        placements.push_back(*std::move(placement));
      }
      if (!placement || next->second.empty()) by_submitter.erase(next);
    }
  }
  return placements;
}

}  // namespace

const SlotCount& SlotsFor(v1::DeviceChoice device, const WorkerView& worker) {
  if (device == v1::CUDA) return worker.cuda;
  if (device == v1::CPU) return worker.cpu;
  return worker.cuda.total > 0 ? worker.cuda : worker.cpu;
}

SlotCount& SlotsFor(v1::DeviceChoice device, WorkerView& worker) {
  return const_cast<SlotCount&>(SlotsFor(device, static_cast<const WorkerView&>(worker)));
}

std::vector<Placement> Schedule(std::vector<QueuedJob> queued, std::map<std::string, uint32_t> running,
                                std::vector<WorkerView> workers) {
  std::sort(workers.begin(), workers.end(),
            [](const WorkerView& a, const WorkerView& b) { return a.name < b.name; });
  std::sort(queued.begin(), queued.end(), [](const QueuedJob& a, const QueuedJob& b) {
    return std::make_tuple(a.priority, -a.expected_seconds, a.order) <
           std::make_tuple(b.priority, -b.expected_seconds, b.order);
  });
  std::vector<Placement> placements = Fill(queued, running, workers, queued.size());

  size_t slots = 0;
  for (WorkerView& worker : workers) {
    if (!worker.draining) slots += worker.cpu.total + worker.cuda.total;
    worker.cpu.free = worker.cpu.ahead;
    worker.cuda.free = worker.cuda.ahead;
  }
  std::set<std::string> placed;
  for (const Placement& placement : placements) placed.insert(placement.job_id);
  queued.erase(std::remove_if(queued.begin(), queued.end(),
                              [&](const QueuedJob& job) { return placed.count(job.job_id) > 0; }),
               queued.end());
  if (queued.size() > slots) {
    for (Placement& ahead : Fill(queued, running, workers, queued.size() - slots)) {
      placements.push_back(std::move(ahead));
    }
  }
  return placements;
}

std::string WhyNobodyTakes(v1::DeviceChoice device, bool needs_exporter,
                           const std::vector<WorkerView>& workers) {
  bool draining_could = false, exporter_seen = false;
  for (const WorkerView& worker : workers) {
    if (needs_exporter && !worker.exporter) continue;
    exporter_seen |= worker.exporter;
    if (SlotsFor(device, worker).total == 0) continue;
    if (!worker.draining) return "";
    draining_could = true;
  }
  if (needs_exporter && !exporter_seen) return "needs a worker labelled exporter; none is connected";
  if (workers.empty()) return "no worker is connected";
  if (draining_could) return "every worker that could take it is draining";
  return absl::StrCat("no connected ", needs_exporter ? "exporter" : "worker", " has a ",
                      device == v1::CUDA ? "cuda" : "cpu", " slot");
}

bool SomeoneExports(const std::vector<WorkerView>& workers) {
  return WhyNobodyTakes(v1::CPU, /*needs_exporter=*/true, workers).empty();
}

}  // namespace assay::coordinator

#include "coordinator/explain.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// How many names are told before "and N more".
constexpr size_t kNamed = 3;

const char* DeviceWord(v1::DeviceChoice device) { return device == v1::CUDA ? "cuda" : "cpu"; }

std::string Named(const std::vector<std::string>& parts) {
  if (parts.size() <= kNamed) return absl::StrJoin(parts, ", ");
  return absl::StrCat(absl::StrJoin(parts.begin(), parts.begin() + kNamed, ", "), " and ",
                      parts.size() - kNamed, " more");
}

// Devices of the worker that the job's kind may run on, by the worker's own rule.
std::vector<const DeviceView*> DevicesFor(const Ask& ask, const WorkerView& worker) {
  std::vector<const DeviceView*> devices;
  for (const DeviceView& device : worker.devices) {
    if (CouldTake(worker, device, ask.device, ask.needs_exporter, Requirement())) devices.push_back(&device);
  }
  return devices;
}

bool CarriesAll(const Ask& ask, const WorkerView& worker, const DeviceView& device) {
  return std::all_of(ask.requirement.selector.begin(), ask.requirement.selector.end(),
                     [&](const std::string& label) { return Carries(worker, device, label); });
}

bool IsEnough(const Ask& ask, const DeviceView& device) {
  const uint64_t needs = device.cuda ? ask.requirement.gpu_memory : ask.requirement.memory;
  return device.largest == 0 || Suffices(device.largest, needs, ask.requirement.predicted);
}

std::string MemoryNeeded(const Ask& ask, bool cuda) {
  return absl::StrCat("needs ", MemoryText(cuda ? ask.requirement.gpu_memory : ask.requirement.memory),
                      " of ", cuda ? "GPU memory" : "memory",
                      ask.requirement.predicted ? " (predicted)" : "");
}

}  // namespace

Ask AskOf(const v1::Job& job) {
  return {DeviceOf(job), StageOf(job) == v1::STAGE_EXPORT, RequirementOf(job)};
}

Ask AskOf(const QueuedJob& job) {
  Ask ask{job.device, job.needs_exporter, {}};
  if (absl::StatusOr<Requirement> requirement = ParseRoute(job.route); requirement.ok()) {
    ask.requirement = *std::move(requirement);
  }
  return ask;
}

std::string WhyNever(const Ask& ask, const WorkerView& worker) {
  if (ask.needs_exporter && !worker.exporter) return "is no exporter";
  const std::vector<const DeviceView*> devices = DevicesFor(ask, worker);
  if (devices.empty()) return absl::StrCat("has no ", DeviceWord(ask.device), " slot");
  uint64_t largest = 0;
  bool carried = false, cuda = false;
  for (const DeviceView* device : devices) {
    if (!CarriesAll(ask, worker, *device)) continue;
    carried = true;
    cuda = device->cuda;
    if (IsEnough(ask, *device)) return "";
    largest = std::max(largest, device->largest);
  }
  if (carried) {
    return absl::StrCat(MemoryNeeded(ask, cuda), cuda ? "; its largest GPU has " : "; it has ",
                        MemoryText(largest));
  }
  std::vector<std::string> lacking;
  for (const std::string& label : ask.requirement.selector) {
    if (std::none_of(devices.begin(), devices.end(),
                     [&](const DeviceView* device) { return Carries(worker, *device, label); })) {
      lacking.push_back(label);
    }
  }
  if (lacking.empty()) return "has no device that carries all labels";
  return absl::StrCat(lacking.size() == 1 ? "lacks label " : "lacks labels ", absl::StrJoin(lacking, ", "));
}

std::string WhyNobodyTakes(const Ask& ask, const std::vector<const WorkerView*>& workers,
                           const std::vector<WorkerView>& pools) {
  std::vector<std::string> closed, could;
  bool exporter_seen = false, device_seen = false, labels_seen = false, cuda = false;
  uint64_t largest = 0;
  auto look = [&](const WorkerView& worker) {
    exporter_seen |= worker.exporter;
    for (const DeviceView* device : DevicesFor(ask, worker)) {
      device_seen = true;
      if (!CarriesAll(ask, worker, *device)) continue;
      labels_seen = true;
      if (device->largest > largest) {
        largest = device->largest;
        cuda = device->cuda;
      }
    }
    return WhyNever(ask, worker).empty();
  };
  for (const WorkerView* worker : workers) {
    if (!look(*worker)) continue;
    if (worker->closed.empty()) return "";
    closed.push_back(absl::StrCat(worker->name, " ", worker->closed));
  }
  for (const WorkerView& pool : pools) {
    if (look(pool)) could.push_back(absl::StrCat("'", pool.name, "'"));
  }
  std::string why;
  if (!closed.empty()) {
    why = absl::StrCat("every connected worker that could take it takes nothing new: ", Named(closed));
  } else if (!could.empty()) {
    why = "no connected worker could take it";
  }
  if (!could.empty()) {
    absl::StrAppend(&why, "; a worker of pool ", absl::StrJoin(could, " or "),
                    " could: none is connected and open");
  }
  if (!why.empty()) return why;

  const char* what = pools.empty() ? "no connected " : "no connected or configured ";
  if (ask.needs_exporter && !exporter_seen) return "needs a worker labelled exporter; none is connected";
  if (workers.empty() && pools.empty()) return "no worker is connected";
  if (!device_seen) {
    return absl::StrCat(what, ask.needs_exporter ? "exporter" : "worker", " has a ", DeviceWord(ask.device),
                        " slot");
  }
  if (!labels_seen) {
    return absl::StrCat(what, "worker with a ", DeviceWord(ask.device), " slot carries ",
                        ask.requirement.selector.size() == 1 ? "the label " : "all of the labels ",
                        absl::StrJoin(ask.requirement.selector, ", "));
  }
  return absl::StrCat(MemoryNeeded(ask, cuda), "; the largest connected or configured pool",
                      ask.requirement.selector.empty()
                          ? ""
                          : absl::StrCat(" with ", absl::StrJoin(ask.requirement.selector, ", ")),
                      " has ", MemoryText(largest));
}

bool SomeoneExports(const std::vector<const WorkerView*>& workers) {
  return WhyNobodyTakes({v1::CPU, /*needs_exporter=*/true, {}}, workers, {}).empty();
}

std::vector<const WorkerView*> PointersTo(const std::map<std::string, WorkerView>& views) {
  std::vector<const WorkerView*> pointers;
  for (const auto& [name, view] : views) pointers.push_back(&view);
  return pointers;
}

std::vector<const WorkerView*> PointersTo(const std::vector<WorkerView>& views) {
  std::vector<const WorkerView*> pointers;
  for (const WorkerView& view : views) pointers.push_back(&view);
  return pointers;
}

}  // namespace assay::coordinator

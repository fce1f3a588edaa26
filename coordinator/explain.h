// Why a job waits, in words: from what workers and configured pools could take. Pure.
#pragma once

#include <string>
#include <vector>

#include "coordinator/slots.h"

namespace assay::coordinator {

// The stage of a job, as far as it says where the job can go.
struct Ask {
  v1::DeviceChoice device = v1::AUTO;
  bool needs_exporter = false;
  Requirement requirement;
};
Ask AskOf(const v1::Job& job);
// Of a route that cannot be read: nothing but the device.
Ask AskOf(const QueuedJob& job);

// "needs 40 GiB of GPU memory, stated; its largest GPU has 24 GiB", "has no cuda slot", "lacks label
// gpu=H100"; empty: it could take the job at some time, were it not closed.
std::string WhyNever(const Ask& ask, const WorkerView& worker);

// Why the job waits although slots may be free: "needs 40 GiB of GPU memory; the largest connected or
// configured pool has 24 GiB"; empty where a connected worker could take it, now or later. `pools`: those
// configured, each as one of its workers would be; those that could take it while no connected worker can are
// named.
std::string WhyNobodyTakes(const Ask& ask, const std::vector<const WorkerView*>& workers,
                           const std::vector<WorkerView>& pools);

// True where one of them could take an export, now or later.
bool SomeoneExports(const std::vector<const WorkerView*>& workers);

std::vector<const WorkerView*> PointersTo(const std::map<std::string, WorkerView>& views);
std::vector<const WorkerView*> PointersTo(const std::vector<WorkerView>& views);

}  // namespace assay::coordinator

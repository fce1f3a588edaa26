// Which job goes where: a pure function over what waits, what runs and what is free.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/slots.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

struct Placement {
  std::string job_id;
  std::string worker;
  std::string device_id;  // empty: the worker chooses
  bool cuda = false;
  uint64_t memory = 0;  // of the device that it takes; 0: it is not counted
  bool operator==(const Placement&) const = default;
};

// Fills free slots, in this order: priority; then the submitter with the fewest attempts running, those
// placed here included, of two the one whose oldest job is older; then the job expected to take longest, then
// the one submitted first. Where a job goes says Slots::Place. Then, while more jobs wait than there are
// slots, what may be given ahead of them. `running`: attempts that hold a lease, by submitter. `beyond`: jobs
// that wait and are not in `queued`. No device is given more than its slots and memory, and nothing that
// could be placed is left while there is a slot for it: a job that has to wait for a large GPU holds up no
// other.
//
// `slots` is as before when it returns: what is really given is for the caller to take. Costs a few
// microseconds a placement, and as much for each (device, route) of which nothing could be placed.
std::vector<Placement> Schedule(const std::vector<QueuedJob>& queued, std::map<std::string, uint32_t> running,
                                Slots& slots, size_t beyond = 0);

}  // namespace assay::coordinator

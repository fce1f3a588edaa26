// Every worker of the fleet, whichever coordinator holds its stream: what the store knows, and of those that
// are connected here what they said last.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/fleet.h"
#include "coordinator/slots.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// As it describes itself on its stream; without `connected` and what runs there.
v1::WorkerSummary SummaryOf(const Session& session, const std::string& coordinator, absl::Time last_seen);

struct Roster {
  // In the order of their names; connected now or not. Devices say what of them is taken.
  std::vector<v1::WorkerSummary> workers;
  // Of those that are connected, with what runs there.
  Slots slots;
};

// One that another coordinator holds counts as connected for as long as the store believes it.
// `require_acceptance` as in Fleet::Options.
absl::StatusOr<Roster> ReadRoster(Store& store, const Fleet& fleet, const std::string& coordinator,
                                  bool require_acceptance);

// Lets the fleet know the store's cordons, which another coordinator may have changed.
absl::Status TakeCordons(Store& store, Fleet& fleet);

}  // namespace assay::coordinator

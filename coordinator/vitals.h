// Whether this coordinator can do its work: its store answers, and its clock agrees with the store's. What it
// finds goes to gRPC's health service, the metrics and the log.
#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "common/clock.h"
#include "coordinator/metrics.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

// Thread-safe.
class Vitals {
 public:
  // A store that has not answered for so long is away.
  static constexpr absl::Duration kPatience = absl::Seconds(3);
  // Clocks that are further apart are wrong: lease times are the store's, but records of one machine and
  // another's logs then do not fit together.
  static constexpr absl::Duration kClockTolerance = absl::Seconds(2);

  // `changed` is told whenever it changes whether the store is there, beginning with that it is. `metrics`
  // may be null. `writer` is stopped before this ends.
  Vitals(Writer* writer, const Clock* clock, CoordinatorMetrics* metrics,
         std::function<void(bool up)> changed);

  // Asks the store, unless it owes an answer; to be called now and then. Does not wait.
  void Look();

 private:
  struct State;
  std::shared_ptr<State> state_;
  Writer* const writer_;
};

}  // namespace assay::coordinator

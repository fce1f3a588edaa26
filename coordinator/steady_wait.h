// Time that passes evenly, whatever is done to the wall clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"

namespace assay::coordinator {

// Of the machine, counted from some moment.
class SteadyClock final : public Clock {
 public:
  static const SteadyClock& Get() {
    static const SteadyClock& clock = *new SteadyClock;
    return clock;
  }
  absl::Time Now() const override {
    return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

// As absl's Mutex::AwaitWithTimeout, which waits until a moment of the wall clock: returns whether
// `condition` holds, at the latest `limit` by the steady clock after the call. It is looked at every `step`;
// the mutex is free meanwhile.
inline bool AwaitSteadily(absl::Mutex& mutex, const absl::Condition& condition, absl::Duration limit,
                          absl::Duration step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  const auto end = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limit);
  while (!condition.Eval()) {
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds::zero()) return false;
    mutex.Unlock();
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, absl::ToChronoNanoseconds(step)));
    mutex.Lock();
  }
  return true;
}

}  // namespace assay::coordinator

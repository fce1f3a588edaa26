// Time for limits and pauses: it goes on evenly when the machine's clock is set.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/time/time.h"
#include "worker/subprocess.h"

namespace assay::worker {

// Only to be compared with others of its kind: its zero is no date.
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// Milliseconds for poll(2) until `deadline`, a SteadyNow(); -1 for ever.
inline int PollTimeout(absl::Time deadline, absl::Time now = SteadyNow()) {
  if (deadline == absl::InfiniteFuture()) return -1;
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - now) + 1, 0, 3'600'000));
}

// Something to wait for with a limit in steady time, which absl::Mutex has not: its limits are dates.
// Thread-safe.
class Bell {
 public:
  Bell() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  // Ends one Wait(): the one under way, or the next.
  void Ring() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(event_.get(), &one, sizeof(one));
  }
  // Until it is rung or `deadline` has passed; may return early.
  void Wait(absl::Time deadline) {
    pollfd bell{event_.get(), POLLIN, 0};
    ::poll(&bell, 1, PollTimeout(deadline));
    Clear();
  }
  void Clear() {
    uint64_t rung;
    [[maybe_unused]] const ssize_t got = ::read(event_.get(), &rung, sizeof(rung));
  }
  int fd() const { return event_.get(); }

 private:
  Fd event_;
};

}  // namespace assay::worker

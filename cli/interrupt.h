// Ctrl-C and SIGTERM, taken as a wish to leave.
#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace assay::cli {

// While one lives, the first SIGINT or SIGTERM runs its callback, once, on a thread of its own, instead of
// ending the process; a second ends the process at once with kExitInterrupted. At most one at a time.
// Thread-safe.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Runs `callback` when the signal comes, or now if it has come. Replaces the callback before it. When this
  // returns, the callback before it does not run any more.
  void OnRaise(std::function<void()> callback);

 private:
  struct Signals;
  void Raise();

  absl::Mutex mutex_;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> callback_ ABSL_GUARDED_BY(mutex_);
  Signals* signals_;
};

}  // namespace assay::cli

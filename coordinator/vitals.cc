#include "coordinator/vitals.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/logging.h"

namespace assay::coordinator {

struct Vitals::State {
  const Clock* clock = nullptr;
  CoordinatorMetrics* metrics = nullptr;
  std::function<void(bool)> changed;

  absl::Mutex mutex;
  bool up ABSL_GUARDED_BY(mutex) = true;
  bool asked ABSL_GUARDED_BY(mutex) = false;
  absl::Time asked_at ABSL_GUARDED_BY(mutex);  // by the machine's clock
  bool clock_warned ABSL_GUARDED_BY(mutex) = false;

  void SetUp(bool now_up, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (std::exchange(up, now_up) == now_up) return;
    if (now_up) {
      spdlog::info("the store answers again");
    } else {
      spdlog::error("the store does not answer: {}", why.ToString());
    }
    changed(now_up);
  }

  void Heard(absl::StatusOr<absl::Duration> ahead) {
    absl::MutexLock lock(&mutex);
    asked = false;
    SetUp(ahead.ok(), ahead.status());
    if (!ahead.ok()) return;
    if (metrics != nullptr) metrics->StoreClock(*ahead);
    const bool wrong = absl::AbsDuration(*ahead) > kClockTolerance;
    if (wrong && !clock_warned) {
      spdlog::warn(
          "the store's clock is {} {} this machine's: see to time synchronisation (leases are counted by the "
          "store's)",
          absl::FormatDuration(absl::AbsDuration(*ahead)),
          *ahead > absl::ZeroDuration() ? "ahead of" : "behind");
    } else if (!wrong && clock_warned) {
      spdlog::info("the store's clock and this machine's agree again");
    }
    clock_warned = wrong;
  }
};

Vitals::Vitals(Writer* writer, const Clock* clock, CoordinatorMetrics* metrics,
               std::function<void(bool)> changed)
    : state_(std::make_shared<State>()), writer_(writer) {
  state_->clock = clock;
  state_->metrics = metrics;
  state_->changed = std::move(changed);
}

void Vitals::Look() {
  {
    absl::MutexLock lock(&state_->mutex);
    if (state_->asked) {
      if (absl::Now() - state_->asked_at > kPatience) {
        state_->SetUp(false, absl::DeadlineExceededError("it has not answered for some seconds"));
      }
      return;
    }
    state_->asked = true;
    state_->asked_at = absl::Now();
  }
  writer_->Ask<absl::Duration>(
      [clock = state_->clock](Store& store) -> absl::StatusOr<absl::Duration> {
        return store.Now() - clock->Now();
      },
      [state = state_](absl::StatusOr<absl::Duration> ahead) { state->Heard(std::move(ahead)); });
}

}  // namespace assay::coordinator

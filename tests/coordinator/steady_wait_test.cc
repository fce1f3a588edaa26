#include "coordinator/steady_wait.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace {

// How far the wall clock of this process is ahead of the kernel's. For whoever waits until a moment of it,
// the kernel's is set back by as much.
std::atomic<time_t> wall_clock_ahead = 0;

}  // namespace

// In place of the C library's, in this program.
extern "C" int clock_gettime(clockid_t clock, struct timespec* time) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, time);
  if (result != 0) return -1;
  if (clock == CLOCK_REALTIME) time->tv_sec += wall_clock_ahead;
  return 0;
}

namespace assay::coordinator {
namespace {

TEST(SteadyWaitTest, AClockThatIsSetBackDoesNotProlongIt) {
  const absl::Time before = absl::Now();
  wall_clock_ahead = 3600;
  ASSERT_GE(absl::Now() - before, absl::Minutes(59)) << "the clock is not the one that was replaced";
  absl::Mutex mutex;
  bool never = false;
  mutex.Lock();
  // By the wall clock this would take an hour.
  EXPECT_FALSE(AwaitSteadily(mutex, absl::Condition(&never), absl::Milliseconds(5), absl::Milliseconds(1)));
  mutex.Unlock();
  wall_clock_ahead = 0;
}

TEST(SteadyWaitTest, EndsWhenTheConditionHolds) {
  absl::Mutex mutex;
  bool raised = false;
  std::thread raises([&] {
    absl::MutexLock lock(&mutex);
    raised = true;
  });
  mutex.Lock();
  EXPECT_TRUE(AwaitSteadily(mutex, absl::Condition(&raised), absl::Hours(1), absl::Milliseconds(1)));
  mutex.Unlock();
  raises.join();
}

}  // namespace
}  // namespace assay::coordinator

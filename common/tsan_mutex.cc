// ThreadSanitizer does not see what a mutex of Debian's Abseil orders, since that library is not
// instrumented. In a build with ASSAY_SANITIZE=thread the linker leads every call of ours through here
// (--wrap), and the order is told to it. Nothing else changes.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

using absl::Condition;
using absl::Duration;
using absl::Mutex;
using absl::Time;

#define REAL(name) __real_##name
#define WRAP(name) __wrap_##name
#define LOCK _ZN4absl7debian35Mutex4LockEv
#define UNLOCK _ZN4absl7debian35Mutex6UnlockEv
#define TRY_LOCK _ZN4absl7debian35Mutex7TryLockEv
#define AWAIT _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
#define AWAIT_TIMEOUT _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
#define AWAIT_DEADLINE _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
#define EXPAND(macro, name) macro(name)

extern "C" {

void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

void EXPAND(REAL, LOCK)(Mutex* mutex);
void EXPAND(REAL, UNLOCK)(Mutex* mutex);
bool EXPAND(REAL, TRY_LOCK)(Mutex* mutex);
void EXPAND(REAL, AWAIT)(Mutex* mutex, const Condition& condition);
bool EXPAND(REAL, AWAIT_TIMEOUT)(Mutex* mutex, const Condition& condition, Duration timeout);
bool EXPAND(REAL, AWAIT_DEADLINE)(Mutex* mutex, const Condition& condition, Time deadline);

struct IgnoreReads {
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

void EXPAND(WRAP, LOCK)(Mutex* mutex) {
  {
    IgnoreReads ignore;
    EXPAND(REAL, LOCK)(mutex);
  }
  __tsan_acquire(mutex);
}

void EXPAND(WRAP, UNLOCK)(Mutex* mutex) {
  __tsan_release(mutex);
  IgnoreReads ignore;
  EXPAND(REAL, UNLOCK)(mutex);
}

bool EXPAND(WRAP, TRY_LOCK)(Mutex* mutex) {
  const bool locked = EXPAND(REAL, TRY_LOCK)(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

// The condition is looked at by whichever thread unlocks: what it reads is released before the wait.
void EXPAND(WRAP, AWAIT)(Mutex* mutex, const Condition& condition) {
  __tsan_release(mutex);
  {
    IgnoreReads ignore;
    EXPAND(REAL, AWAIT)(mutex, condition);
  }
  __tsan_acquire(mutex);
}

bool EXPAND(WRAP, AWAIT_TIMEOUT)(Mutex* mutex, const Condition& condition, Duration timeout) {
  __tsan_release(mutex);
  bool holds;
  {
    IgnoreReads ignore;
    holds = EXPAND(REAL, AWAIT_TIMEOUT)(mutex, condition, timeout);
  }
  __tsan_acquire(mutex);
  return holds;
}

bool EXPAND(WRAP, AWAIT_DEADLINE)(Mutex* mutex, const Condition& condition, Time deadline) {
  __tsan_release(mutex);
  bool holds;
  {
    IgnoreReads ignore;
    holds = EXPAND(REAL, AWAIT_DEADLINE)(mutex, condition, deadline);
  }
  __tsan_acquire(mutex);
  return holds;
}

}  // extern "C"

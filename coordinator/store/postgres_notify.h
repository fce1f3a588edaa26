// How the coordinators that share a database wake each other: NOTIFY on a connection of its own, outside of
// the transactions that commit results, which it would make wait for each other.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/store/postgres.h"

namespace assay::coordinator {

// Nothing depends on a ring being heard: whoever listens is told to look at everything once every `poll`, and
// whenever rings may have been lost (the connection was; a pooler may swallow them without a word).
class PostgresBell {
 public:
  struct Options {
    // At most one NOTIFY in this time, however many rings there are.
    absl::Duration between = absl::Milliseconds(5);
    absl::Duration poll = absl::Seconds(1);
  };
  // On the bell's thread: these batches have something new, or, without a value, anything may.
  using Heard = std::function<void(const std::optional<std::set<std::string>>& batches)>;

  // `url`: as CheckPostgresUrl (postgres.h) takes it. Connects by itself, and again.
  PostgresBell(std::string url, Options options, Heard heard);
  // `heard` is not called any more.
  ~PostgresBell();
  PostgresBell(const PostgresBell&) = delete;
  PostgresBell& operator=(const PostgresBell&) = delete;

  // For the others to look at these batches and at the queue, soon. Does not wait. Thread-safe.
  void Ring(const std::set<std::string>& batches);

 private:
  void Loop();
  absl::Status Connect();
  // What was rung for since the last time, in one NOTIFY.
  absl::Status Send(const std::set<std::string>& batches);
  absl::Status Listen();
  // Until there is something to read or to send, or `until`.
  void Wait(absl::Time until);

  const std::string url_;
  const Options options_;
  const Heard heard_;
  int wake_ = -1;  // eventfd

  absl::Mutex mutex_;
  std::set<std::string> rung_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<PostgresConnection> connection_;  // of the thread, as what follows
  absl::Time last_sent_ = absl::InfinitePast();
  std::thread thread_;
};

}  // namespace assay::coordinator

// The parent's side: a process a test, with limits on time and memory, and an outcome whatever becomes of it.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "assay/v1/host.pb.h"
#include "host/child.h"

namespace assay::host {

struct ProcessOptions {
  Runner runner;
  Describer describe;
  // false: a fresh child forked for each test, any number at a time (CPU).
  // true: one child runs test after test, since CUDA does not survive a fork and takes long to start; it is
  // forked before this process touches CUDA, and again after a test that did not end well.
  bool resident = false;
  bool allow_cuda = false;
  DeviceMeter device;  // of the resident child
  // Used where a test's Limits say 0.
  uint32_t default_timeout_ms = 60'000;
  uint64_t default_memory_bytes = uint64_t{4} << 30;
  // A delegated cgroup v2 folder that passed PrepareDelegated: the kernel then keeps a fresh child's limit,
  // too. Empty: resident memory is only looked at. Not for resident processes, whose tests differ in limits.
  std::string cgroup;
  // Resident memory is looked at this often.
  std::chrono::milliseconds memory_interval{20};
  // Of a test's output, this much is passed on; the rest is read and dropped.
  size_t log_bytes = size_t{1} << 20;
};

// Single-threaded, like the whole process: it forks. Give descriptors of AppendPollFds to poll with
// NextTimeout, then call Step.
class TestProcesses {
 public:
  // `emit` hears every event with its id; the last one of an id is its result.
  TestProcesses(ProcessOptions options, std::function<void(const v1::HostEvent&)> emit);
  // Kills what still runs, without a word.
  ~TestProcesses();
  TestProcesses(const TestProcesses&) = delete;
  TestProcesses& operator=(const TestProcesses&) = delete;

  // A resident process that runs another test keeps this one waiting.
  void Start(const v1::RunTest& request);

  // Kills the test; its outcome is CANCELLED. An id that is not known has ended already: nothing happens.
  void Cancel(absl::string_view id);

  // Starts the resident child without a test, for its HostReady. No-op without `resident`.
  void StartResident();

  void AppendPollFds(std::vector<pollfd>& fds) const;
  // Milliseconds until Step has something to do even though nothing is readable; -1 for never.
  int NextTimeout() const;
  // Reads what is there, ends what has run too long or grown too large, reaps what is dead.
  void Step();

  // Tests that have no result yet.
  size_t running() const;

 private:
  struct Child;
  using Time = std::chrono::steady_clock::time_point;

  Child* Fork(const v1::RunTest* request);
  void Begin(Child& child, const v1::RunTest& request);
  void ReadEvents(Child& child);
  void ReadOutput(Child& child);
  void TakeEvent(Child& child, v1::HostEvent event);
  void WatchMemory(Child& child);
  void Stop(Child& child, v1::Outcome outcome, std::string message);
  void Reap(Child& child);
  void FinishTest(Child& child, v1::TestResult result);

  const ProcessOptions options_;
  const std::function<void(const v1::HostEvent&)> emit_;
  std::vector<std::unique_ptr<Child>> children_;
  std::deque<v1::RunTest> waiting_;  // for the resident child
  Time next_memory_look_{};
};

}  // namespace assay::host

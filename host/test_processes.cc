#include "host/test_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/framing.h"
#include "common/logging.h"
#include "host/memory.h"
#include "host/memory_group.h"
#include "host/pipe.h"

namespace assay::host {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr size_t kTailBytes = 4096;
// Chunks stay well under the limit of a frame and of a control message.
constexpr size_t kChunkBytes = size_t{64} << 10;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

void CloseFd(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

// In the child: standard streams and the two pipes at fixed places, nothing else that the parent had open.
void KeepOnly(int output, int events, int requests) {
  int out = fcntl(output, F_DUPFD, 20);
  int event = fcntl(events, F_DUPFD, 20);
  int request = requests >= 0 ? fcntl(requests, F_DUPFD, 20) : -1;
  int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  dup2(event, 3);
  if (request >= 0) dup2(request, 4);
  unsigned first = request >= 0 ? 5 : 4;
  if (close_range(first, ~0u, 0) != 0) {
    for (int fd = static_cast<int>(first); fd < 1024; ++fd) close(fd);
  }
}

}  // namespace

struct TestProcesses::Child {
  pid_t pid = -1;
  int events = -1;    // read end
  int output = -1;    // read end; standard output and error
  int requests = -1;  // write end, of a resident child
  FrameReader frames{kMaxMessageBytes};
  uint64_t inherited_bytes = 0;  // what it held when it was forked
  std::unique_ptr<MemoryGroup> group;
  bool gone = false;      // reaped
  bool retiring = false;  // resident: no further test

  // Of the test that runs in it; id is empty where none does.
  std::string id;
  bool testing = false;
  Time start{};
  Time deadline{};
  uint64_t timeout_ms = 0;
  uint64_t memory_limit = 0;
  uint64_t memory_before = 0;  // held when the test began
  uint64_t peak = 0;
  std::vector<v1::CaseResult> cases;
  std::string current_case;
  std::string last_case;
  std::string tail;
  size_t logged = 0;
  // Why it was killed; nullopt where it was not.
  std::optional<std::pair<v1::Outcome, std::string>> stopped;
};

TestProcesses::TestProcesses(ProcessOptions options, std::function<void(const v1::HostEvent&)> emit)
    : options_(std::move(options)), emit_(std::move(emit)) {}

TestProcesses::~TestProcesses() {
  for (auto& child : children_) {
    if (!child->gone) {
      kill(child->pid, SIGKILL);
      waitpid(child->pid, nullptr, 0);
    }
    CloseFd(child->events);
    CloseFd(child->output);
    CloseFd(child->requests);
  }
}

void TestProcesses::Start(const v1::RunTest& request) {
  if (!options_.resident) {
    Fork(&request);
    return;
  }
  waiting_.push_back(request);
  StartResident();
}

void TestProcesses::StartResident() {
  if (!options_.resident) return;
  Child* resident = nullptr;
  for (auto& child : children_) {
    if (!child->gone && !child->retiring) resident = child.get();
  }
  // One process holds a GPU at a time: its successor waits until it has let go.
  if (!resident && children_.empty()) resident = Fork(nullptr);
  if (!resident || resident->testing || waiting_.empty()) return;
  v1::RunTest request = std::move(waiting_.front());
  waiting_.pop_front();
  Begin(*resident, request);
  // A child that is gone shows by the end of its events; the test then gets its outcome there.
  (void)WriteFrame(resident->requests, request);
}

TestProcesses::Child* TestProcesses::Fork(const v1::RunTest* request) {
  auto owned = std::make_unique<Child>();
  Child& child = *owned;
  int events[2] = {-1, -1}, output[2] = {-1, -1}, requests[2] = {-1, -1};
  bool piped = pipe2(events, O_CLOEXEC) == 0 && pipe2(output, O_CLOEXEC) == 0 &&
               (request || pipe2(requests, O_CLOEXEC) == 0);
  child.inherited_bytes = ReadMemoryUse(0).value_or(MemoryUse{}).own_bytes;
  pid_t parent = getpid();
  fflush(nullptr);  // else the child would write what waits in our buffers too
  pid_t pid = piped ? fork() : -1;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // it died before we asked to die with it
    KeepOnly(output[1], events[1], requests[0]);
    ChildOptions run{options_.runner,
                     options_.describe,
                     options_.allow_cuda ? ProtectionFor::kCuda : ProtectionFor::kCpu,
                     options_.allow_cuda,
                     request ? DeviceMeter() : options_.device,
                     /*events_fd=*/3,
                     /*requests_fd=*/request ? -1 : 4};
    RunChild(run, request);
  }
  std::string trouble = pid < 0 ? strerror(errno) : "";
  for (int fd : {events[1], output[1], requests[0]}) {
    if (fd >= 0) close(fd);
  }
  child.pid = pid;
  child.events = events[0];
  child.output = output[0];
  child.requests = requests[1];
  children_.push_back(std::move(owned));
  if (request) Begin(child, *request);
  if (pid > 0 && request && !options_.cgroup.empty()) {
    auto group =
        MemoryGroup::Make(options_.cgroup, absl::StrCat("test-", parent, "-", pid), child.memory_limit);
    absl::Status joined = group.ok() ? (*group)->Add(pid) : group.status();
    if (joined.ok()) {
      child.group = *std::move(group);
    } else {
      // The watch on resident memory holds in any case.
      spdlog::warn("memory is only watched: {}", std::string(joined.message()));
    }
  }
  if (pid < 0) {
    child.gone = child.retiring = true;
    CloseFd(child.events);
    CloseFd(child.output);
    CloseFd(child.requests);
    v1::TestResult result;
    result.set_outcome(v1::INFRASTRUCTURE_ERROR);
    result.set_message(absl::StrCat("cannot make a process for the test: ", trouble));
    if (child.testing) FinishTest(child, std::move(result));
    return &child;
  }
  fcntl(child.events, F_SETFL, O_NONBLOCK);
  fcntl(child.output, F_SETFL, O_NONBLOCK);
  return &child;
}

void TestProcesses::Begin(Child& child, const v1::RunTest& request) {
  const v1::Limits& limits = request.test().limits();
  child.id = request.id();
  child.testing = true;
  child.start = SteadyClock::now();
  child.timeout_ms = limits.timeout_ms() ? limits.timeout_ms() : options_.default_timeout_ms;
  child.deadline = child.start + std::chrono::milliseconds(child.timeout_ms);
  child.memory_limit = limits.memory_bytes() ? limits.memory_bytes() : options_.default_memory_bytes;
  child.memory_before = child.inherited_bytes;
  if (options_.resident) {
    if (auto use = ReadMemoryUse(child.pid)) child.memory_before = use->own_bytes;
  }
  child.peak = 0;
  child.cases.clear();
  child.current_case.clear();
  child.last_case.clear();
  child.tail.clear();
  child.logged = 0;
  child.stopped.reset();
}

void TestProcesses::Cancel(absl::string_view id) {
  for (auto& child : children_) {
    if (child->testing && child->id == id) Stop(*child, v1::CANCELLED, "cancelled");
  }
  for (auto waiting = waiting_.begin(); waiting != waiting_.end(); ++waiting) {
    if (waiting->id() != id) continue;
    v1::HostEvent event;
    event.set_id(waiting->id());
    event.mutable_result()->set_outcome(v1::CANCELLED);
    event.mutable_result()->set_message("cancelled before it began");
    waiting_.erase(waiting);
    emit_(event);
    return;
  }
}

void TestProcesses::AppendPollFds(std::vector<pollfd>& fds) const {
  for (const auto& child : children_) {
    if (child->events >= 0) fds.push_back({child->events, POLLIN, 0});
    if (child->output >= 0) fds.push_back({child->output, POLLIN, 0});
  }
}

int TestProcesses::NextTimeout() const {
  Time now = SteadyClock::now();
  int64_t soonest = -1;
  auto at = [&](Time when) {
    int64_t ms = std::chrono::ceil<std::chrono::milliseconds>(when - now).count();
    ms = std::max<int64_t>(ms, 0);
    soonest = soonest < 0 ? ms : std::min(soonest, ms);
  };
  for (const auto& child : children_) {
    if (child->testing && !child->stopped) {
      at(child->deadline);
      at(next_memory_look_);
    }
    // Its pipes are closed, so that it is about to be gone and nothing else will wake us.
    if (child->events < 0) at(now + std::chrono::milliseconds(1));
  }
  return static_cast<int>(std::min<int64_t>(soonest, 60'000));
}

void TestProcesses::Step() {
  // By index: finishing a resident's test may fork a successor into children_.
  for (size_t i = 0; i < children_.size(); ++i) {
    Child& child = *children_[i];
    if (child.output >= 0) ReadOutput(child);
    if (child.events >= 0) ReadEvents(child);
    if (child.testing && !child.stopped && SteadyClock::now() >= child.deadline) {
      Stop(child, v1::TIMED_OUT, absl::StrCat("ran longer than ", child.timeout_ms, " ms"));
    }
  }
  if (SteadyClock::now() >= next_memory_look_) {
    for (auto& child : children_) {
      if (child->testing && !child->stopped && !child->gone) WatchMemory(*child);
    }
    next_memory_look_ = SteadyClock::now() + options_.memory_interval;
  }
  for (size_t i = 0; i < children_.size(); ++i) {
    if (children_[i]->events < 0 && !children_[i]->gone) Reap(*children_[i]);
  }
  children_.erase(
      std::remove_if(children_.begin(), children_.end(), [](const auto& child) { return child->gone; }),
      children_.end());
  if (!waiting_.empty()) StartResident();
}

size_t TestProcesses::running() const {
  return waiting_.size() + static_cast<size_t>(std::count_if(children_.begin(), children_.end(),
                                                             [](const auto& c) { return c->testing; }));
}

void TestProcesses::WatchMemory(Child& child) {
  std::optional<MemoryUse> use = ReadMemoryUse(child.pid);
  if (!use) return;
  uint64_t own = use->own_bytes > child.memory_before ? use->own_bytes - child.memory_before : 0;
  child.peak = std::max(child.peak, own);
  if (own > child.memory_limit) {
    Stop(child, v1::OUT_OF_MEMORY,
         absl::StrFormat("holds %d MiB of memory; its limit is %d MiB", own >> 20, child.memory_limit >> 20));
  }
}

void TestProcesses::Stop(Child& child, v1::Outcome outcome, std::string message) {
  if (child.gone || child.stopped) return;
  child.stopped.emplace(outcome, std::move(message));
  child.retiring = true;
  kill(child.pid, SIGKILL);
}

void TestProcesses::ReadOutput(Child& child) {
  char buffer[1 << 16];
  for (;;) {
    ssize_t got = read(child.output, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      CloseFd(child.output);
      return;
    }
    absl::string_view text(buffer, static_cast<size_t>(got));
    child.tail.append(text.data(), text.size());
    if (child.tail.size() > kTailBytes) child.tail.erase(0, child.tail.size() - kTailBytes);
    if (!child.testing || child.logged >= options_.log_bytes) continue;
    bool cut = child.logged + text.size() > options_.log_bytes;
    if (cut) text = text.substr(0, options_.log_bytes - child.logged);
    child.logged += text.size();
    v1::HostEvent event;
    event.set_id(child.id);
    event.mutable_log()->set_text(std::string(text.substr(0, kChunkBytes)));
    emit_(event);
    if (cut) {
      child.logged = options_.log_bytes;
      event.mutable_log()->set_text("\n[the output goes on; the rest was dropped]\n");
      emit_(event);
    }
  }
}

void TestProcesses::ReadEvents(Child& child) {
  char buffer[1 << 16];
  std::string frame;
  for (;;) {
    ssize_t got = read(child.events, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      CloseFd(child.events);
      return;
    }
    child.frames.Append({buffer, static_cast<size_t>(got)});
    for (;;) {
      absl::StatusOr<bool> whole = child.frames.Next(frame);
      v1::HostEvent event;
      if (!whole.ok() || (*whole && !event.ParseFromString(frame))) {
        Stop(child, v1::CRASHED, "its process wrote what is no event: its memory may be damaged");
        CloseFd(child.events);
        return;
      }
      if (!*whole) break;
      TakeEvent(child, std::move(event));
      if (child.events < 0) return;
    }
  }
}

void TestProcesses::TakeEvent(Child& child, v1::HostEvent event) {
  if (event.kind_case() == v1::HostEvent::kReady) {
    emit_(event);
    return;
  }
  if (!child.testing || child.stopped) return;  // said too late to count
  if (event.kind_case() == v1::HostEvent::kResult) {
    FinishTest(child, std::move(*event.mutable_result()));
    return;
  }
  if (event.kind_case() == v1::HostEvent::kCaseStarted) {
    child.current_case = child.last_case = event.case_started().name();
  }
  if (event.kind_case() == v1::HostEvent::kCaseResult) {
    child.cases.push_back(event.case_result());
    child.current_case.clear();
  }
  event.set_id(child.id);
  emit_(event);
}

void TestProcesses::Reap(Child& child) {
  int status = 0;
  pid_t reaped = waitpid(child.pid, &status, WNOHANG);
  if (reaped == 0) return;  // it is on its way; NextTimeout brings us back
  child.gone = true;
  if (child.output >= 0) {
    ReadOutput(child);
    CloseFd(child.output);
  }
  CloseFd(child.requests);
  if (!child.testing) return;

  v1::TestResult result;
  if (child.stopped) {
    result.set_outcome(child.stopped->first);
    result.set_message(child.stopped->second);
  } else if (child.group && child.group->KilledForMemory()) {
    result.set_outcome(v1::OUT_OF_MEMORY);
    result.set_message(absl::StrFormat("the kernel refused it more memory than its limit of %d MiB",
                                       child.memory_limit >> 20));
  } else if (reaped == child.pid && WIFSIGNALED(status)) {
    int signal_number = WTERMSIG(status);
    result.set_outcome(v1::CRASHED);
    result.set_signal(signal_number);
    result.set_message(absl::StrFormat("killed by signal %d (%s)%s", signal_number, strsignal(signal_number),
                                       signal_number == SIGKILL ? ", from outside: by a person, or by the "
                                                                  "kernel when the machine ran out of memory"
                                                                : ""));
  } else {
    result.set_outcome(v1::CRASHED);
    result.set_message(absl::StrCat("its process ended without a result, with exit status ",
                                    WIFEXITED(status) ? WEXITSTATUS(status) : -1));
  }
  for (const v1::CaseResult& done : child.cases) *result.add_case_() = done;
  if (!child.current_case.empty()) {
    v1::CaseResult& broken = *result.add_case_();
    broken.set_name(child.current_case);
    broken.set_outcome(result.outcome());
    broken.set_message(result.message());
    v1::HostEvent event;
    event.set_id(child.id);
    *event.mutable_case_result() = broken;
    emit_(event);
  }
  FinishTest(child, std::move(result));
}

void TestProcesses::FinishTest(Child& child, v1::TestResult result) {
  // What it printed before its result is heard before its result.
  if (child.output >= 0) ReadOutput(child);
  if (result.last_case().empty()) result.set_last_case(child.last_case);
  if (result.outcome() != v1::PASSED) result.set_output_tail(child.tail);
  result.set_peak_memory_bytes(std::max(result.peak_memory_bytes(), child.peak));
  result.set_seconds(SecondsSince(child.start));
  child.testing = false;
  if (options_.resident && result.outcome() != v1::PASSED && result.outcome() != v1::SKIPPED &&
      result.outcome() != v1::UNSUPPORTED) {
    child.retiring = true;
    CloseFd(child.requests);  // it ends when it next reads
  }
  v1::HostEvent event;
  event.set_id(child.id);
  *event.mutable_result() = std::move(result);
  emit_(event);
}

}  // namespace assay::host

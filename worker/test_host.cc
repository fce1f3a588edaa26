#include "worker/test_host.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "worker/steady.h"

namespace assay::worker {
namespace {

constexpr size_t kOutputTailBytes = 4096;
// How long a process that closed its events may take to end.
constexpr absl::Duration kEndLimit = absl::Seconds(1);

// The host whose loop this thread is.
thread_local const TestHost* own_host = nullptr;

// Printable ASCII, tab and newline stay: a host's last words go into UTF-8 fields.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c)) && c != '\n' && c != '\t') c = '?';
  }
  return text;
}

}  // namespace

TestHost::TestHost(TestHostOptions options, HostListener* listener)
    : options_(std::move(options)), listener_(listener), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  thread_ = std::thread([this] { Loop(); });
}

TestHost::~TestHost() { Stop(); }

absl::Status TestHost::WaitUntilReady() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&first_start_known_));
  return first_start_;
}

void TestHost::Run(v1::RunTest request) {
  {
    absl::MutexLock lock(&mutex_);
    commands_.emplace_back(std::move(request));
  }
  Wake();
}

void TestHost::Replace(std::string why) {
  {
    absl::MutexLock lock(&mutex_);
    commands_.emplace_back(Replacement{std::move(why)});
  }
  Wake();
}

void TestHost::Cancel(std::string id) {
  {
    absl::MutexLock lock(&mutex_);
    commands_.emplace_back(std::move(id));
  }
  Wake();
}

void TestHost::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  Wake();
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void TestHost::Wake() {
  // The loop looks at its commands before it waits, so that its own calls need no wake.
  if (own_host == this) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t wrote = ::write(wake_.get(), &one, sizeof(one));
}

bool TestHost::Stopped() {
  absl::MutexLock lock(&mutex_);
  return stopped_;
}

void TestHost::SetFirstStart(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  if (first_start_known_) return;
  first_start_ = std::move(status);
  first_start_known_ = true;
}

void TestHost::Loop() {
  own_host = this;
  // A process that died must not take the worker with it when its input is written to: EPIPE instead.
  sigset_t pipe_signal;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, nullptr);

  int failed_starts = 0;
  absl::Duration backoff = options_.min_backoff;
  while (!Stopped()) {
    bool ready = false;
    output_tail_.clear();
    std::string why = Serve(ready);
    if (Stopped()) break;
    if (std::string tail(absl::StripAsciiWhitespace(output_tail_)); !tail.empty()) {
      absl::StrAppend(&why, "; its last output: ", Printable(tail));
    }
    spdlog::warn("test host {}", why);
    failed_starts = ready ? 0 : failed_starts + 1;
    backoff = ready ? options_.min_backoff : std::min(backoff * 2, options_.max_backoff);
    SetFirstStart(absl::FailedPreconditionError(
        absl::StrCat("test host ", options_.binary.string(), " cannot start: it ", why)));
    listener_->HostLost(why);
    EndRunning(why);
    TakeCommands();
    if (failed_starts >= options_.start_attempts) EndPending(why);

    const absl::Time again = SteadyNow() + backoff;
    for (absl::Time now = SteadyNow(); now < again && !Stopped(); now = SteadyNow()) {
      pollfd wake{wake_.get(), POLLIN, 0};
      ::poll(&wake, 1, static_cast<int>(absl::ToInt64Milliseconds(again - now)) + 1);
      TakeCommands();
      if (failed_starts >= options_.start_attempts) EndPending(why);
    }
  }
  SetFirstStart(absl::CancelledError("stopped"));
}

std::string TestHost::Serve(bool& ready) {
  std::vector<std::string> arguments = {"--events-fd", absl::StrCat(kEventsFd)};
  arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
  auto started = Subprocess::Start(options_.binary, arguments, options_.environment);
  if (!started.ok()) return absl::StrCat("did not start: ", started.status().message());
  Subprocess& process = **started;
  frames_ = FrameReader();
  outgoing_.clear();
  replace_.clear();
  const absl::Time start_deadline = SteadyNow() + options_.start_limit;

  while (true) {
    TakeCommands();
    if (Stopped()) return "was stopped";
    const absl::Time now = SteadyNow();
    if (!replace_.empty() && running_.empty()) {
      process.KillAndReap();
      return replace_;
    }
    if (ready && replace_.empty()) SendPending();
    if (!ready && now >= start_deadline) {
      process.KillAndReap();
      return absl::StrCat("was not ready after ", absl::FormatDuration(options_.start_limit));
    }
    if (MarkOverdue(now)) {
      process.KillAndReap();
      return "did not answer within a test's limit and was killed";
    }
    if (absl::Status written = WriteRequests(process); !written.ok()) {
      spdlog::debug("test host: {}", written.ToString());  // what it died of is told below
    }

    const absl::Time next = ready ? NextDeadline() : std::min(start_deadline, NextDeadline());
    pollfd fds[] = {
        {wake_.get(), POLLIN, 0},
        {process.events().get(), POLLIN, 0},
        {process.output().get(), POLLIN, 0},
        {process.ended().get(), POLLIN, 0},
        {outgoing_.empty() ? -1 : process.input().get(), POLLOUT, 0},
    };
    if (::poll(fds, std::size(fds), PollTimeout(next, now)) < 0) continue;  // EINTR
    if (fds[2].revents != 0) ReadOutput(process);
    if (fds[1].revents != 0 || fds[3].revents != 0) {
      const absl::Status read = ReadEvents(process, ready);
      if (absl::IsDataLoss(read)) {
        process.KillAndReap();
        return absl::StrCat("sent garbage and was killed: ", read.message());
      }
    }
    const bool closed = !process.events().open();
    if (closed && fds[3].revents == 0) {
      // Pipes are closed a moment before a process has ended: wait for what it has to say about that.
      ::poll(&fds[3], 1, static_cast<int>(absl::ToInt64Milliseconds(kEndLimit)));
    }
    if (fds[3].revents != 0) {
      ReadOutput(process);
      return absl::StrCat("died: ", DescribeWaitStatus(process.KillAndReap()));
    }
    if (closed) {
      process.KillAndReap();
      return "closed its events and was killed";
    }
  }
}

void TestHost::TakeCommands() {
  uint64_t drained;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &drained, sizeof(drained));
  // Until there are none: a listener that hears of a cancelled test here may give the next one at once.
  while (true) {
    std::deque<Command> commands;
    {
      absl::MutexLock lock(&mutex_);
      commands.swap(commands_);
    }
    if (commands.empty()) return;
    for (Command& command : commands) {
      if (auto* run = std::get_if<v1::RunTest>(&command)) {
        pending_.push_back(std::move(*run));
      } else if (auto* replace = std::get_if<Replacement>(&command)) {
        replace_ = std::move(replace->why);
      } else {
        TakeCancel(std::get<std::string>(command));
      }
    }
  }
}

void TestHost::TakeCancel(const std::string& id) {
  if (auto found = running_.find(id); found != running_.end()) {
    if (std::exchange(found->second.cancelled, true)) return;
    found->second.deadline = SteadyNow() + options_.grace;
    v1::HostRequest request;
    request.mutable_cancel()->set_id(id);
    AppendFrame(request, outgoing_);
    return;
  }
  auto waiting = std::find_if(pending_.begin(), pending_.end(), [&](const auto& p) { return p.id() == id; });
  if (waiting == pending_.end()) return;
  pending_.erase(waiting);
  v1::TestResult result;
  result.set_outcome(v1::CANCELLED);
  listener_->TestFinished(id, std::move(result));
}

void TestHost::SendPending() {
  for (v1::RunTest& run : pending_) {
    const uint32_t timeout_ms = run.test().limits().timeout_ms();
    Running state;
    state.limit = timeout_ms > 0 ? absl::Milliseconds(timeout_ms) : options_.default_timeout;
    state.deadline = SteadyNow() + state.limit + options_.grace;
    running_[run.id()] = std::move(state);
    v1::HostRequest request;
    *request.mutable_run() = std::move(run);
    AppendFrame(request, outgoing_);
  }
  pending_.clear();
}

absl::Status TestHost::WriteRequests(Subprocess& process) {
  size_t done = 0;
  absl::Status status;
  while (done < outgoing_.size()) {
    const ssize_t wrote = ::write(process.input().get(), outgoing_.data() + done, outgoing_.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      if (errno != EAGAIN) status = absl::ErrnoToStatus(errno, "cannot write to the test host");
      break;
    }
    done += static_cast<size_t>(wrote);
  }
  outgoing_.erase(0, status.ok() ? done : outgoing_.size());
  return status;
}

void TestHost::ReadOutput(Subprocess& process) {
  char buffer[4096];
  ssize_t got;
  while ((got = ::read(process.output().get(), buffer, sizeof(buffer))) > 0 || (got < 0 && errno == EINTR)) {
    if (got < 0) continue;
    spdlog::debug("test host: {}", Printable(std::string(buffer, static_cast<size_t>(got))));
    output_tail_.append(buffer, static_cast<size_t>(got));
    if (output_tail_.size() > kOutputTailBytes) output_tail_.erase(0, output_tail_.size() - kOutputTailBytes);
  }
  if (got == 0) process.output().Close();
}

absl::Status TestHost::ReadEvents(Subprocess& process, bool& ready) {
  char buffer[65536];
  std::string frame;
  while (true) {
    const ssize_t got = ::read(process.events().get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::OkStatus();  // EAGAIN: all read
    if (got == 0) {
      process.events().Close();
      return absl::OkStatus();
    }
    frames_.Append(absl::string_view(buffer, static_cast<size_t>(got)));
    while (true) {
      absl::StatusOr<bool> whole = frames_.Next(frame);
      if (!whole.ok()) return whole.status();
      if (!*whole) break;
      v1::HostEvent event;
      if (!event.ParseFromString(frame)) return absl::DataLossError("an event that is no HostEvent");
      if (absl::Status handled = Handle(event, ready); !handled.ok()) return handled;
    }
    // A short read has emptied the pipe: no need to ask again.
    if (static_cast<size_t>(got) < sizeof(buffer)) return absl::OkStatus();
  }
}

absl::Status TestHost::Handle(const v1::HostEvent& event, bool& ready) {
  if (event.has_ready()) {
    if (ready) return absl::DataLossError("a second HostReady");
    ready = true;
    listener_->HostStarted(event.ready());
    SetFirstStart(absl::OkStatus());
    return absl::OkStatus();
  }
  if (!ready) return absl::DataLossError("an event before HostReady");
  auto found = running_.find(event.id());
  if (found == running_.end()) return absl::DataLossError("an event of a test that does not run");
  switch (event.kind_case()) {
    case v1::HostEvent::kCaseStarted:
      found->second.last_case = event.case_started().name();
      listener_->TestEvent(event.id(), event);
      return absl::OkStatus();
    case v1::HostEvent::kCaseResult:
    case v1::HostEvent::kLog:
      listener_->TestEvent(event.id(), event);
      return absl::OkStatus();
    case v1::HostEvent::kResult: {
      if (event.result().outcome() == v1::OUTCOME_UNSPECIFIED) {
        return absl::DataLossError("a result without an outcome");
      }
      running_.erase(found);
      listener_->TestFinished(event.id(), event.result());
      return absl::OkStatus();
    }
    default:
      return absl::DataLossError("an event without a kind");
  }
}

bool TestHost::MarkOverdue(absl::Time now) {
  bool any = false;
  for (auto& [id, state] : running_) {
    state.overdue = now >= state.deadline;
    any = any || state.overdue;
  }
  return any;
}

absl::Time TestHost::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, state] : running_) next = std::min(next, state.deadline);
  return next;
}

void TestHost::EndRunning(const std::string& why) {
  for (auto& [id, state] : std::exchange(running_, {})) {
    v1::TestResult result;
    result.set_last_case(state.last_case);
    result.set_output_tail(Printable(output_tail_));
    if (state.cancelled) {
      result.set_outcome(v1::CANCELLED);
    } else if (state.overdue) {
      result.set_outcome(v1::TIMED_OUT);
      result.set_message(absl::StrCat("the test host was silent for its limit of ",
                                      absl::FormatDuration(state.limit), " and ",
                                      absl::FormatDuration(options_.grace), " more; it was killed"));
    } else {
      result.set_outcome(v1::INFRASTRUCTURE_ERROR);
      result.set_message(absl::StrCat("the test host ", why));
    }
    listener_->TestFinished(id, std::move(result));
  }
}

void TestHost::EndPending(const std::string& why) {
  for (v1::RunTest& run : std::exchange(pending_, {})) {
    v1::TestResult result;
    result.set_outcome(v1::INFRASTRUCTURE_ERROR);
    result.set_message(absl::StrCat("no test host: it ", why));
    listener_->TestFinished(run.id(), std::move(result));
  }
}

}  // namespace assay::worker

#include "tests/host/host_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace assay::host {
namespace {

constexpr int kPatienceMs = 60'000;

[[noreturn]] void Die(const std::string& why) {
  fprintf(stderr, "host process: %s\n", why.c_str());
  abort();
}

pid_t Spawn(const std::vector<std::string>& arguments, const std::vector<std::string>& environment, int in,
            int out, int events) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  if (in >= 0) dup2(in, STDIN_FILENO);
  if (out >= 0) {
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
  }
  if (events >= 0) {
    int copy = fcntl(events, F_DUPFD, 50);
    dup2(copy, 9);
  }
  close_range(events >= 0 ? 10 : 3, ~0u, 0);
  std::vector<std::string> words{HostBinary()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  for (const std::string& variable : environment) putenv(strdup(variable.c_str()));
  execv(argv[0], argv.data());
  _exit(127);
}

int ExitCode(int status) { return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status); }

}  // namespace

std::string HostBinary() {
  const char* build = getenv("ASSAY_BUILD_DIR");
  if (!build) Die("ASSAY_BUILD_DIR is not set: run through ctest");
  return absl::StrCat(build, "/bin/assay-host");
}

Finished RunHost(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) {
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) Die("pipe");
  pid_t pid = Spawn(arguments, environment, -1, output[1], -1);
  close(output[1]);
  Finished finished;
  char buffer[4096];
  for (ssize_t got; (got = read(output[0], buffer, sizeof buffer)) > 0;) {
    finished.output.append(buffer, static_cast<size_t>(got));
  }
  close(output[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  finished.exit_code = ExitCode(status);
  return finished;
}

HostProcess::HostProcess(const std::vector<std::string>& arguments) {
  signal(SIGPIPE, SIG_IGN);
  int requests[2], events[2];
  if (pipe2(requests, O_CLOEXEC) != 0 || pipe2(events, O_CLOEXEC) != 0) Die("pipe");
  std::vector<std::string> words{"--events-fd", "9"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  pid_ = Spawn(words, {}, requests[0], -1, events[1]);
  close(requests[0]);
  close(events[1]);
  requests_ = requests[1];
  events_ = events[0];
}

HostProcess::~HostProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  CloseRequests();
  close(events_);
}

void HostProcess::Send(const v1::HostRequest& request) {
  std::string bytes;
  AppendFrame(request, bytes);
  SendBytes(bytes);
}

void HostProcess::SendBytes(const std::string& bytes) {
  if (!WriteAll(requests_, bytes).ok()) Die("it takes no requests");
}

void HostProcess::CloseRequests() {
  if (requests_ >= 0) close(requests_);
  requests_ = -1;
}

v1::HostEvent HostProcess::Next() {
  std::string frame;
  for (;;) {
    absl::StatusOr<bool> whole = frames_.Next(frame);
    if (!whole.ok()) Die(whole.status().ToString());
    v1::HostEvent event;
    if (*whole) {
      if (!event.ParseFromString(frame)) Die("no event");
      return event;
    }
    pollfd ready{events_, POLLIN, 0};
    if (poll(&ready, 1, kPatienceMs) <= 0) Die("no event for a minute");
    char buffer[1 << 16];
    ssize_t got = read(events_, buffer, sizeof buffer);
    if (got <= 0) return event;
    frames_.Append({buffer, static_cast<size_t>(got)});
  }
}

v1::TestResult HostProcess::ResultOf(const std::string& id, std::vector<v1::HostEvent>* seen) {
  for (;;) {
    v1::HostEvent event = Next();
    if (event.kind_case() == v1::HostEvent::KIND_NOT_SET) Die("the stream ended before the result of " + id);
    if (seen) seen->push_back(event);
    if (event.id() == id && event.has_result()) return event.result();
  }
}

void HostProcess::WaitForCase(const std::string& id) {
  for (;;) {
    v1::HostEvent event = Next();
    if (event.kind_case() == v1::HostEvent::KIND_NOT_SET) Die("the stream ended before a case of " + id);
    if (event.id() == id && event.has_result()) Die(id + " ended: " + event.result().ShortDebugString());
    if (event.id() == id && event.has_case_started()) return;
  }
}

std::vector<pid_t> HostProcess::Children() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/task/", pid_, "/children"));
  std::vector<pid_t> children;
  for (pid_t child; file >> child;) children.push_back(child);
  return children;
}

void HostProcess::Kill(int signal_number) { kill(pid_, signal_number); }

int HostProcess::Wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return ExitCode(status);
}

bool WaitUntilGone(pid_t pid) {
  int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  pollfd gone{fd, POLLIN, 0};
  bool ended = poll(&gone, 1, kPatienceMs) > 0;
  close(fd);
  return ended;
}

}  // namespace assay::host

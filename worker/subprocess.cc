#include "worker/subprocess.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

extern char** environ;

namespace assay::worker {
namespace {

struct Pipe {
  Fd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

void DoNotBlock(const Fd& fd) { ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK); }

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Between fork and exec in a process with threads: only what signal-safety(7) allows.
[[noreturn]] void BecomeChild(const char* binary, char* const* argv, char* const* envp, pid_t parent,
                              int input, int output, int events, int failure) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // the parent died before the line above
  // The pipes' own numbers may be among 0..4: lift them out of the way first.
  input = ::fcntl(input, F_DUPFD, 10);
  output = ::fcntl(output, F_DUPFD, 10);
  events = ::fcntl(events, F_DUPFD, 10);
  failure = ::fcntl(failure, F_DUPFD, 10);
  ::dup2(input, 0);
  ::dup2(output, 1);
  ::dup2(output, 2);
  ::dup2(events, kEventsFd);
  ::dup2(failure, kEventsFd + 1);
  ::fcntl(kEventsFd + 1, F_SETFD, FD_CLOEXEC);
  ::syscall(SYS_close_range, kEventsFd + 2, ~0U, 0);
  // What a parent ignores stays ignored over exec.
  for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(binary, argv, envp);
  const int why = errno;
  [[maybe_unused]] const ssize_t told = ::write(kEventsFd + 1, &why, sizeof(why));
  ::_exit(127);
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    Close();
    fd_ = other.Release();
  }
  return *this;
}

void Fd::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::vector<std::string> OwnEnvironment() {
  std::vector<std::string> entries;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) entries.emplace_back(*entry);
  return entries;
}

std::vector<std::string> ScrubEnvironment(const std::vector<std::string>& environment) {
  static constexpr absl::string_view kNames[] = {
      "PATH",   "LD_LIBRARY_PATH", "LANG",         "LC_ALL",      "TZ",
      "TMPDIR", "UBSAN_OPTIONS",   "ASAN_OPTIONS", "TSAN_OPTIONS"};
  static constexpr absl::string_view kPrefixes[] = {"CUDA_", "NVIDIA_"};
  std::vector<std::string> kept;
  for (const std::string& entry : environment) {
    const absl::string_view name = absl::string_view(entry).substr(0, entry.find('='));
    bool keep = false;
    for (absl::string_view known : kNames) keep = keep || name == known;
    for (absl::string_view prefix : kPrefixes) keep = keep || absl::StartsWith(name, prefix);
    if (keep) kept.push_back(entry);
  }
  return kept;
}

absl::StatusOr<std::unique_ptr<Subprocess>> Subprocess::Start(const std::filesystem::path& binary,
                                                              const std::vector<std::string>& arguments,
                                                              const std::vector<std::string>& environment) {
  auto input = MakePipe(), output = MakePipe(), events = MakePipe(), failure = MakePipe();
  for (const auto* pipe : {&input, &output, &events, &failure}) {
    if (!pipe->ok()) return pipe->status();
  }
  std::vector<std::string> words = {binary.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = Pointers(words), envp = Pointers(environment);

  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "cannot fork");
  if (pid == 0) {
    BecomeChild(binary.c_str(), argv.data(), envp.data(), parent, input->read.get(), output->write.get(),
                events->write.get(), failure->write.get());
  }
  ::setpgid(pid, pid);  // also here, so that a kill of the group cannot come too early
  std::unique_ptr<Subprocess> child(new Subprocess);
  child->pid_ = pid;
  child->ended_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!child->ended_.open()) return absl::ErrnoToStatus(errno, "cannot watch the child");
  child->input_ = std::move(input->write);
  child->output_ = std::move(output->read);
  child->events_ = std::move(events->read);
  failure->write.Close();
  int why = 0;
  ssize_t got;
  while ((got = ::read(failure->read.get(), &why, sizeof(why))) < 0 && errno == EINTR) {
  }
  if (got == sizeof(why)) return absl::ErrnoToStatus(why, absl::StrCat("cannot run ", binary.string()));
  for (const Fd* fd : {&child->input_, &child->output_, &child->events_}) DoNotBlock(*fd);
  return child;
}

Subprocess::~Subprocess() { KillAndReap(); }

int Subprocess::KillAndReap() {
  if (pid_ > 0) {
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, &wait_status_, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }
  return wait_status_;
}

std::string DescribeWaitStatus(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    return absl::StrCat("signal ", WTERMSIG(wait_status), " (", ::strsignal(WTERMSIG(wait_status)), ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(wait_status));
}

}  // namespace assay::worker

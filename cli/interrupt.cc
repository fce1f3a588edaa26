#include "cli/interrupt.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "common/exit_code.h"

namespace assay::cli {
namespace {

// Written by the handler, read by the thread: the only thing that a handler may safely do.
std::atomic<int> wake_fd{-1};
std::atomic<int> count{0};

void HandleSignal(int) {
  const int saved = errno;
  if (count.fetch_add(1) > 0) _exit(kExitInterrupted);
  const char byte = 1;
  [[maybe_unused]] ssize_t written = write(wake_fd.load(), &byte, 1);
  errno = saved;
}

}  // namespace

struct Interrupt::Signals {
  int pipe[2] = {-1, -1};
  struct sigaction old_int = {}, old_term = {};
  std::thread thread;
};

Interrupt::Interrupt() : signals_(new Signals) {
  if (pipe2(signals_->pipe, O_CLOEXEC) != 0) {  // no descriptors left: signals end the process as ever
    signals_->pipe[0] = signals_->pipe[1] = -1;
    return;
  }
  count = 0;
  wake_fd = signals_->pipe[1];
  signals_->thread = std::thread([this] {
    char byte = 0;
    ssize_t got;
    do {
      got = read(signals_->pipe[0], &byte, 1);
    } while (got < 0 && errno == EINTR);
    if (got == 1 && byte == 1) Raise();
  });
  struct sigaction action = {};
  action.sa_handler = HandleSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &signals_->old_int);
  sigaction(SIGTERM, &action, &signals_->old_term);
}

Interrupt::~Interrupt() {
  if (signals_->thread.joinable()) {
    sigaction(SIGINT, &signals_->old_int, nullptr);
    sigaction(SIGTERM, &signals_->old_term, nullptr);
    const char stop = 0;
    [[maybe_unused]] ssize_t written = write(signals_->pipe[1], &stop, 1);
    signals_->thread.join();
    close(signals_->pipe[0]);
    close(signals_->pipe[1]);
  }
  delete signals_;
}

void Interrupt::OnRaise(std::function<void()> callback) {
  absl::MutexLock lock(&mutex_);
  callback_ = std::move(callback);
  if (raised_ && callback_) callback_();
}

void Interrupt::Raise() {
  absl::MutexLock lock(&mutex_);
  raised_ = true;
  if (callback_) callback_();
}

}  // namespace assay::cli

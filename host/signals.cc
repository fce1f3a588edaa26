#include "host/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

namespace assay::host {
namespace {

int pipe_ends[2] = {-1, -1};

void OnStop(int) { [[maybe_unused]] ssize_t written = write(pipe_ends[1], "", 1); }

}  // namespace

int StopSignals() {
  if (pipe_ends[0] >= 0) return pipe_ends[0];
  if (pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) != 0) return -1;  // poll ignores a negative descriptor
  struct sigaction action {};
  action.sa_handler = OnStop;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return pipe_ends[0];
}

}  // namespace assay::host

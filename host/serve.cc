#include "host/serve.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/framing.h"
#include "common/status_macros.h"
#include "host/pipe.h"
#include "host/signals.h"

namespace assay::host {
namespace {

absl::Status Take(const v1::HostRequest& request, TestProcesses& processes) {
  switch (request.kind_case()) {
    case v1::HostRequest::kRun:
      if (request.run().id().empty()) return absl::InvalidArgumentError("a test to run has no id");
      processes.Start(request.run());
      return absl::OkStatus();
    case v1::HostRequest::kCancel:
      processes.Cancel(request.cancel().id());
      return absl::OkStatus();
    case v1::HostRequest::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a request of an unknown kind: worker and host are of different builds");
}

}  // namespace

absl::Status Serve(const ServeOptions& options) {
  absl::Status broken;
  auto send = [&](const v1::HostEvent& event) { broken.Update(WriteFrame(options.events_fd, event)); };

  std::vector<std::string> warnings =
      RefusedProtections(options.processes.allow_cuda ? ProtectionFor::kCuda : ProtectionFor::kCpu);
  for (std::string& warning : warnings) warning = absl::StrCat("the kernel refuses a protection: ", warning);
  StopSignals();  // from here on, a closed pipe is an error
  bool said = false;
  TestProcesses processes(options.processes, [&](const v1::HostEvent& event) {
    if (event.kind_case() != v1::HostEvent::kReady) return send(event);
    // From a resident process, which alone may ask for the device; a later one has nothing new to say.
    if (said) return;
    said = true;
    v1::HostEvent ready = event;
    for (const std::string& warning : warnings) ready.mutable_ready()->add_warning(warning);
    send(ready);
  });
  if (options.processes.resident) {
    processes.StartResident();
  } else {
    v1::Provenance who = options.processes.describe(v1::CPU);
    v1::HostEvent ready;
    ready.mutable_ready()->set_engine_build(who.engine_build());
    ready.mutable_ready()->set_torch_version(who.torch_version());
    *ready.mutable_ready()->add_device() = who.device();
    for (const std::string& warning : warnings) ready.mutable_ready()->add_warning(warning);
    send(ready);
  }

  fcntl(options.requests_fd, F_SETFL, fcntl(options.requests_fd, F_GETFL) | O_NONBLOCK);
  FrameReader requests(kMaxMessageBytes);
  std::string frame;
  char buffer[1 << 16];
  std::vector<pollfd> fds;
  while (broken.ok()) {
    fds.assign({{options.requests_fd, POLLIN, 0}, {StopSignals(), POLLIN, 0}});
    processes.AppendPollFds(fds);
    if (poll(fds.data(), fds.size(), processes.NextTimeout()) < 0 && errno != EINTR) {
      return absl::InternalError(absl::StrCat("poll: ", errno));
    }
    if (fds[1].revents != 0) return absl::CancelledError("told to stop by a signal");
    // Results first, so that a slot is seen to be free before it is filled.
    processes.Step();
    if (fds[0].revents == 0) continue;
    ssize_t got = read(options.requests_fd, buffer, sizeof buffer);
    if (got == 0) return requests.empty() ? absl::OkStatus() : absl::InvalidArgumentError("half a request");
    if (got < 0) continue;
    requests.Append({buffer, static_cast<size_t>(got)});
    for (;;) {
      absl::StatusOr<bool> whole = requests.Next(frame);
      if (!whole.ok()) return absl::InvalidArgumentError(whole.status().message());
      if (!*whole) break;
      v1::HostRequest request;
      if (!request.ParseFromString(frame)) return absl::InvalidArgumentError("a request that is no message");
      ASSAY_RETURN_IF_ERROR(Take(request, processes));
    }
  }
  return broken;
}

}  // namespace assay::host

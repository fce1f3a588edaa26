#include "host/child.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/framing.h"
#include "host/memory.h"
#include "host/pipe.h"

namespace assay::host {
namespace {

class PipeSink final : public engine::TestSink {
 public:
  explicit PipeSink(int fd) : fd_(fd) {}

  void CaseStarted(absl::string_view name) override {
    v1::HostEvent event;
    event.mutable_case_started()->set_name(std::string(name));
    Send(event);
  }
  void CaseFinished(const v1::CaseResult& result) override {
    v1::HostEvent event;
    *event.mutable_case_result() = result;
    Send(event);
  }
  // A test's own lines go the way of all output, so that their order with what libraries print is kept.
  void Log(absl::string_view text) override { fwrite(text.data(), 1, text.size(), stderr); }
  void Send(const v1::HostEvent& event) {
    fflush(nullptr);
    // Without a parent there is no one to run for.
    if (!WriteFrame(fd_, event).ok()) _exit(1);
  }

 private:
  const int fd_;
};

v1::TestResult RunOne(const ChildOptions& options, const v1::RunTest& request, PipeSink& sink) {
  engine::RunOptions run;
  run.program_path = request.program_path();
  run.checkpoint_dir = request.checkpoint_dir();
  run.allow_cuda = options.allow_cuda;
  v1::TestResult result;
  try {
    result = options.runner(request.test(), run, sink);
  } catch (const std::bad_alloc&) {
    result.set_outcome(v1::OUT_OF_MEMORY);
    result.set_message("an allocation was refused");
  } catch (const std::exception& error) {
    // RunTest promises that none comes here: the engine is broken, not the model.
    result.set_outcome(v1::CRASHED);
    result.set_message(absl::StrCat("exception: ", error.what()));
  }
  return result;
}

}  // namespace

void RunChild(const ChildOptions& options, const v1::RunTest* test) {
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD}) signal(signal_number, SIG_DFL);
  uint64_t inherited = ReadMemoryUse(0).value_or(MemoryUse{}).own_bytes;
  // Refusals were reported by the host at its start.
  Protect(options.protection);
  PipeSink sink(options.events_fd);

  auto run = [&](const v1::RunTest& request) {
    v1::HostEvent event;
    *event.mutable_result() = RunOne(options, request, sink);
    if (std::optional<MemoryUse> use = ReadMemoryUse(0)) {
      event.mutable_result()->set_peak_memory_bytes(
          use->own_peak_bytes > inherited ? use->own_peak_bytes - inherited : 0);
    }
    sink.Send(event);
  };
  if (test) {
    run(*test);
    _exit(0);
  }

  v1::Provenance who = options.describe(options.allow_cuda ? v1::CUDA : v1::CPU);
  v1::HostEvent ready;
  ready.mutable_ready()->set_engine_build(who.engine_build());
  ready.mutable_ready()->set_torch_version(who.torch_version());
  if (who.has_device()) *ready.mutable_ready()->add_device() = who.device();
  sink.Send(ready);
  FrameReader requests(kMaxMessageBytes);
  std::string frame;
  char buffer[1 << 16];
  for (ssize_t got; (got = read(options.requests_fd, buffer, sizeof buffer)) > 0;) {
    requests.Append({buffer, static_cast<size_t>(got)});
    for (;;) {
      absl::StatusOr<bool> whole = requests.Next(frame);
      if (!whole.ok()) _exit(2);
      if (!*whole) break;
      v1::RunTest request;
      if (!request.ParseFromString(frame)) _exit(2);
      run(request);
    }
  }
  _exit(0);
}

}  // namespace assay::host

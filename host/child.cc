#include "host/child.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/framing.h"
#include "host/memory.h"
#include "host/pipe.h"
#include "host/readable.h"

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
    Look();
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

  // The largest that this process's own memory can have been, as far as it is known now.
  void Look() {
    std::optional<MemoryUse> use = ReadMemoryUse(0);
    if (!use) return;
    // What was said while a checkpoint was mapped stands, unless the process has grown since: once it is
    // unmapped, its pages can no longer be told from the process's own in the peak of both.
    if (use->resident_peak_bytes > resident_peak_) own_peak_ = std::max(own_peak_, use->own_peak_bytes);
    resident_peak_ = std::max(resident_peak_, use->resident_peak_bytes);
    own_peak_ = std::max(own_peak_, use->own_bytes);
  }
  uint64_t own_peak() const { return own_peak_; }

 private:
  const int fd_;
  uint64_t own_peak_ = 0;
  uint64_t resident_peak_ = 0;
};

void MeasureDevice(const ChildOptions& options, v1::TestResult& result) {
  if (!options.device.give_back) return;
  try {
    const engine::DeviceMemory memory = options.device.give_back();
    result.set_device_peak_memory_bytes(memory.peak_bytes);
    result.set_device_kept_memory_bytes(memory.kept_bytes);
  } catch (const std::exception& error) {
    if (result.outcome() != v1::PASSED && result.outcome() != v1::SKIPPED) return;
    // Work that was still under way failed: what was seen of it proves nothing. Not a success, so that this
    // process is replaced.
    result.set_outcome(v1::CRASHED);
    result.set_message(absl::StrCat("the device failed after the test: ", error.what()));
  }
}

v1::TestResult RunOne(const ChildOptions& options, const v1::RunTest& request, PipeSink& sink) {
  engine::RunOptions run;
  run.program_path = request.program_path();
  run.checkpoint_dir = request.checkpoint_dir();
  for (const v1::BlobFile& file : request.file()) run.files[file.digest()] = file.path();
  run.hub_verified = request.hub_verified();
  run.want_output_digests = request.want_output_digests();
  run.profile = request.profile();
  run.allow_cuda = options.allow_cuda;
  v1::TestResult result;
  try {
    if (options.device.start) options.device.start();
    result = options.runner(request.test(), run, sink);
  } catch (const std::bad_alloc&) {
    result.set_outcome(v1::OUT_OF_MEMORY);
    result.set_message("an allocation was refused");
  } catch (const std::exception& error) {
    // RunTest promises that none comes here: the engine is broken, not the model.
    result.set_outcome(v1::CRASHED);
    result.set_message(absl::StrCat("exception: ", error.what()));
  }
  MeasureDevice(options, result);
  return result;
}

}  // namespace

void RunChild(const ChildOptions& options, const v1::RunTest* test) {
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD}) signal(signal_number, SIG_DFL);
  uint64_t inherited = ReadMemoryUse(0).value_or(MemoryUse{}).own_bytes;
  // Refusals were reported by the host at its start.
  // What a resident child's later tests will read is not known yet.
  const bool sees_only_its_own = test && options.protection == ProtectionFor::kCpu;
  const ShownFiles files{sees_only_its_own ? ReadableFor(*test) : std::vector<std::string>(), {}};
  Protect(options.protection);
  if (sees_only_its_own) ShowOnly(files);
  PipeSink sink(options.events_fd);

  auto run = [&](const v1::RunTest& request) {
    v1::HostEvent event;
    *event.mutable_result() = RunOne(options, request, sink);
    sink.Look();
    event.mutable_result()->set_peak_memory_bytes(sink.own_peak() > inherited ? sink.own_peak() - inherited
                                                                              : 0);
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

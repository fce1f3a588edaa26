// Speaks the protocol of assay-host and runs nothing. What it does with a test is in the test's name, up to
// the first underscore:
//   pass      a log line, one case, PASSED        fail     FAILED
//   quiet     PASSED without log or case          crash    the whole process ends by SIGSEGV
//   hold      waits to be cancelled               hang     never answers, not even to a cancel
//   gate      PASSED once the named pipe in the test's `deviation` has been opened for writing
//   garbage   bytes that are no frame             unframed a frame that is no HostEvent
//   stranger  an event of a test that does not run
//   echo      PASSED, with what it was given as message
//   keep      PASSED, and keeps 1 GiB of its GPU's memory
//   flip      PASSED; a third run in this process gives another bit in its output, as silent corruption would
//   lie       PASSED, without the last check of its last case
//   big       a result of 3 MiB
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "assay/v1/host.pb.h"
#include "common/framing.h"
#include "worker/subprocess.h"

namespace {

using assay::AppendFrame;
using assay::FrameReader;
namespace v1 = assay::v1;

std::mutex mutex;
int events_fd = -1;
std::string device = "cpu";
std::set<std::string> held;

void WriteBytes(const std::string& bytes) {
  std::lock_guard lock(mutex);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(events_fd, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) _exit(9);
    done += static_cast<size_t>(wrote);
  }
}

void Emit(const v1::HostEvent& event) {
  std::string bytes;
  AppendFrame(event, bytes);
  WriteBytes(bytes);
}

std::set<std::string> wants_digests;         // ids
std::map<std::string, v1::ModelTest> tests;  // by id
std::map<std::string, int> runs;             // of tests that flip, by name

// A PASSED that holds all that its test asks; what an honest host sends.
void FillIn(const v1::ModelTest& test, v1::TestResult& result) {
  for (const v1::Case& asked : test.case_()) {
    v1::CaseResult& got = *result.add_case_();
    got.set_name(asked.name());
    got.set_outcome(asked.weights() == v1::REAL && !test.has_trained() ? v1::SKIPPED : v1::PASSED);
    for (const v1::Check& check : asked.check()) {
      if (got.outcome() == v1::SKIPPED) break;
      got.add_check()->set_name(check.name());
      got.mutable_check()->rbegin()->set_outcome(v1::PASSED);
    }
    if (got.outcome() == v1::PASSED) got.set_evidence(v1::GOLDEN);
  }
}

void Finish(const std::string& id, v1::Outcome outcome, const std::string& message = "", bool lie = false,
            const std::string& program = "", const std::string& output = "same bits",
            uint64_t kept_bytes = 0) {
  v1::HostEvent event;
  event.set_id(id);
  event.mutable_result()->set_outcome(outcome);
  event.mutable_result()->set_message(message);
  {
    std::lock_guard lock(mutex);
    if (outcome == v1::PASSED) FillIn(tests[id], *event.mutable_result());
    for (v1::CaseResult& one : *event.mutable_result()->mutable_case_()) {
      if (wants_digests.count(id) == 0 || one.outcome() != v1::PASSED) continue;
      one.add_output_digest()->set_name("logits");
      one.mutable_output_digest(0)->set_digest(output);
    }
  }
  event.mutable_result()->set_device_kept_memory_bytes(kept_bytes);
  if (lie) event.mutable_result()->mutable_case_()->rbegin()->mutable_check()->RemoveLast();
  event.mutable_result()->mutable_provenance()->mutable_device()->set_kind(device);
  event.mutable_result()->mutable_provenance()->set_program_digest(program);
  Emit(event);
}

void StartCase(const std::string& id, const std::string& name) {
  v1::HostEvent event;
  event.set_id(id);
  event.mutable_case_started()->set_name(name);
  Emit(event);
}

std::string Given(const v1::RunTest& run) {
  std::string text = absl::StrCat("device=", device, "\npid=", ::getpid(),
                                  "\nset_up=", v1::DeviceChoice_Name(run.test().set_up().device()),
                                  "\nprogram=", run.program_path(), "\ncheckpoint=", run.checkpoint_dir(),
                                  "\nhub_verified=", run.hub_verified(), "\n");
  for (const v1::BlobFile& file : run.file())
    absl::StrAppend(&text, "file ", file.digest(), " ", file.path(), "\n");
  for (const std::string& entry : assay::worker::OwnEnvironment())
    absl::StrAppend(&text, "env ", entry, "\n");
  return text;
}

void Run(const v1::RunTest& run) {
  const std::string& id = run.id();
  {
    std::lock_guard lock(mutex);
    tests[id] = run.test();
    if (run.want_output_digests()) wants_digests.insert(id);
  }
  const std::string kind = run.test().name().substr(0, run.test().name().find('_'));
  if (kind == "quiet") return Finish(id, v1::PASSED);
  StartCase(id, "test_model_with_mock");
  if (kind == "pass" || kind == "fail") {
    v1::HostEvent event;
    event.set_id(id);
    event.mutable_log()->set_text(absl::StrCat("log of ", run.test().name(), "\n"));
    Emit(event);
    const v1::Outcome outcome = kind == "pass" ? v1::PASSED : v1::FAILED;
    event.mutable_case_result()->set_name("test_model_with_mock");
    event.mutable_case_result()->set_outcome(outcome);
    Emit(event);
    Finish(id, outcome);
  } else if (kind == "crash") {
    fprintf(stderr, "about to crash\n");
    signal(SIGSEGV, SIG_DFL);  // a sanitizer would make an exit code of it
    raise(SIGSEGV);
  } else if (kind == "hold") {
    std::lock_guard lock(mutex);
    held.insert(id);
  } else if (kind == "gate") {
    std::thread([id, gate = run.test().deviation()] {
      const int fd = ::open(gate.c_str(), O_RDONLY);  // until somebody opens it for writing
      if (fd >= 0) Finish(id, v1::PASSED);
    }).detach();
  } else if (kind == "garbage") {
    WriteBytes(std::string(16, '\xff'));
  } else if (kind == "unframed") {
    WriteBytes(std::string("\x03\xff\xff\xff", 4));
  } else if (kind == "stranger") {
    Finish("nobody", v1::PASSED);
  } else if (kind == "echo") {
    Finish(id, v1::PASSED, Given(run));
  } else if (kind == "keep") {
    Finish(id, v1::PASSED, absl::StrCat("pid=", ::getpid()), false, "", "same bits", uint64_t{1} << 30);
  } else if (kind == "flip") {
    int run_number;
    {
      std::lock_guard lock(mutex);
      run_number = ++runs[run.test().name()];
    }
    Finish(id, v1::PASSED, "", false, "", run_number == 3 ? "one other bit" : "same bits");
  } else if (kind == "lie") {
    Finish(id, v1::PASSED, "", true);
  } else if (kind == "stray") {
    Finish(id, v1::PASSED, "", false, "another program");
  } else if (kind == "big") {
    Finish(id, v1::FAILED, std::string(size_t{3} << 20, 'x'));
  }  // hang: nothing
}

void Take(const v1::HostRequest& request) {
  if (request.has_run()) return Run(request.run());
  {
    std::lock_guard lock(mutex);
    if (held.erase(request.cancel().id()) == 0) return;
  }
  Finish(request.cancel().id(), v1::CANCELLED);
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--events-fd") == 0) events_fd = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--device") == 0) device = argv[i + 1];
  }
  v1::HostEvent ready;
  ready.mutable_ready()->set_engine_build("fake engine");
  ready.mutable_ready()->set_torch_version("0.0");
  ready.mutable_ready()->add_device()->set_kind(device);
  Emit(ready);
  FrameReader frames;
  char buffer[4096];
  ssize_t got;
  std::string frame;
  while ((got = ::read(0, buffer, sizeof(buffer))) > 0) {
    frames.Append(absl::string_view(buffer, static_cast<size_t>(got)));
    while (frames.Next(frame).value()) {
      v1::HostRequest request;
      if (!request.ParseFromString(frame)) return 8;
      Take(request);
    }
  }
  _exit(0);
}

// What becomes of a test whose process crashes, hangs, eats memory, is killed, babbles or lies. The runner is
// the test's own, so that no field of a test file needs to be able to do any of it.
#include "host/test_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/matchers.h"

namespace assay::host {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Behaviours by the test's name, for the runner below.
v1::TestResult Behave(const v1::ModelTest& test, const engine::RunOptions&, engine::TestSink& sink) {
  v1::TestResult result;
  auto finish_case = [&](const std::string& name) {
    sink.CaseStarted(name);
    v1::CaseResult done;
    done.set_name(name);
    done.set_outcome(v1::PASSED);
    sink.CaseFinished(done);
    *result.add_case_() = done;
  };
  finish_case("first");
  sink.CaseStarted("second");
  const std::string& name = test.name();
  if (name == "crash") raise(SIGSEGV);
  if (name == "abort") {
    fprintf(stderr, "the last words\n");
    abort();
  }
  if (name == "leave") _exit(7);
  if (name == "killed") kill(getpid(), SIGKILL);
  if (name == "throw") throw std::runtime_error("engine broken");
  if (name == "refused") throw std::bad_alloc();
  if (name == "hang") {
    for (;;) pause();
  }
  if (name == "eat") {
    for (;;) {
      auto* page = static_cast<volatile char*>(malloc(1 << 20));
      for (size_t i = 0; i < (1 << 20); i += 4096) page[i] = 1;
    }
  }
  if (name == "use 64 MiB") {
    char* block = static_cast<char*>(malloc(64 << 20));
    memset(block, 1, 64 << 20);
    result.set_message(absl::StrCat("block ", static_cast<int>(block[12345])));
    free(block);
  }
  if (name == "babble") {
    for (int i = 0; i < 100'000; ++i) printf("line %d of much\n", i);
  }
  if (name == "garbage") {
    // Straight into the pipe of events, as a stray write of a broken library would.
    for (int fd = 3; fd < 10; ++fd) {
      if (write(fd, "\xff\xff\xff\xff\xff\xff", 6) == 6) break;
    }
    for (;;) pause();
  }
  if (name == "pid") result.set_message(absl::StrCat(getpid()));
  if (name == "fail") {
    result.set_outcome(v1::FAILED);
    return result;
  }
  sink.Log("said by the test\n");
  finish_case("second");
  result.set_outcome(v1::PASSED);
  return result;
}

v1::Provenance DescribeNothing(v1::DeviceChoice) { return {}; }

v1::RunTest Request(const std::string& name, uint32_t timeout_ms = 60'000, uint64_t memory = 0) {
  v1::RunTest request;
  request.set_id(name);
  request.mutable_test()->set_name(name);
  request.mutable_test()->mutable_limits()->set_timeout_ms(timeout_ms);
  request.mutable_test()->mutable_limits()->set_memory_bytes(memory);
  return request;
}

class TestProcessesTest : public ::testing::Test {
 protected:
  TestProcesses& Processes() {
    if (!processes_) {
      options_.runner = Behave;
      options_.describe = DescribeNothing;
      processes_.emplace(options_, [this](const v1::HostEvent& event) { events_.push_back(event); });
    }
    return *processes_;
  }
  void StepOnce() {
    std::vector<pollfd> fds;
    Processes().AppendPollFds(fds);
    poll(fds.data(), fds.size(), Processes().NextTimeout());
    Processes().Step();
  }
  void FinishAll() {
    while (Processes().running() > 0) StepOnce();
  }
  v1::TestResult Run(const v1::RunTest& request) {
    Processes().Start(request);
    FinishAll();
    return Result(request.id());
  }
  v1::TestResult Result(const std::string& id) {
    v1::TestResult result;
    int results = 0;
    for (const v1::HostEvent& event : events_) {
      if (event.id() != id || !event.has_result()) continue;
      result = event.result();
      ++results;
    }
    EXPECT_EQ(results, 1) << "results of " << id;
    return result;
  }
  std::string LogOf(const std::string& id) {
    std::string log;
    for (const v1::HostEvent& event : events_) {
      if (event.id() == id && event.has_log()) log += event.log().text();
    }
    return log;
  }

  ProcessOptions options_;
  std::vector<v1::HostEvent> events_;
  std::optional<TestProcesses> processes_;
};

TEST_F(TestProcessesTest, EventsComeInTheOrderOfTheTestWithTheResultLast) {
  EXPECT_EQ(Run(Request("fine")).outcome(), v1::PASSED);
  std::vector<std::string> kinds;
  for (const v1::HostEvent& event : events_) {
    EXPECT_EQ(event.id(), "fine");
    if (event.has_case_started()) kinds.push_back("start " + event.case_started().name());
    if (event.has_case_result()) kinds.push_back("end " + event.case_result().name());
    if (event.has_result()) kinds.push_back("result");
  }
  EXPECT_THAT(
      kinds, ElementsAre("start first", "end first", "start second", "start second", "end second", "result"));
  EXPECT_TRUE(events_.back().has_result());
  EXPECT_EQ(LogOf("fine"), "said by the test\n");
}

TEST_F(TestProcessesTest, ACrashNamesSignalCaseAndWhatWasDone) {
  v1::TestResult result = Run(Request("crash"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), SIGSEGV);
  EXPECT_EQ(result.last_case(), "second");
  ASSERT_EQ(result.case__size(), 2);
  EXPECT_EQ(result.case_(0).outcome(), v1::PASSED);
  EXPECT_EQ(result.case_(1).name(), "second");
  EXPECT_EQ(result.case_(1).outcome(), v1::CRASHED);
}

TEST_F(TestProcessesTest, ACrashShowsTheLastOutput) {
  v1::TestResult result = Run(Request("abort"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), SIGABRT);
  EXPECT_THAT(result.output_tail(), HasSubstr("the last words"));
}

TEST_F(TestProcessesTest, AProcessThatLeavesWithoutAResultCrashed) {
  v1::TestResult result = Run(Request("leave"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), 0);
  EXPECT_THAT(result.message(), HasSubstr("exit status 7"));
}

TEST_F(TestProcessesTest, AKillFromOutsideIsACrashWithSignalNine) {
  v1::TestResult result = Run(Request("killed"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), SIGKILL);
}

TEST_F(TestProcessesTest, AHangEndsAtTheTestsLimit) {
  v1::TestResult result = Run(Request("hang", /*timeout_ms=*/50));
  EXPECT_EQ(result.outcome(), v1::TIMED_OUT);
  EXPECT_THAT(result.message(), HasSubstr("50 ms"));
  EXPECT_EQ(result.last_case(), "second");
}

TEST_F(TestProcessesTest, AHangWithoutALimitEndsAtTheHostsLimit) {
  options_.default_timeout_ms = 60;
  EXPECT_THAT(Run(Request("hang", 0)).message(), HasSubstr("60 ms"));
}

TEST_F(TestProcessesTest, GrowingBeyondTheTestsMemoryIsOutOfMemory) {
  v1::TestResult result = Run(Request("eat", 60'000, uint64_t{96} << 20));
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY);
  EXPECT_THAT(result.message(), HasSubstr("limit is 96 MiB"));
  EXPECT_GT(result.peak_memory_bytes(), uint64_t{96} << 20);
  EXPECT_EQ(result.last_case(), "second");
}

TEST_F(TestProcessesTest, ARefusedAllocationIsOutOfMemory) {
  EXPECT_EQ(Run(Request("refused")).outcome(), v1::OUT_OF_MEMORY);
}

TEST_F(TestProcessesTest, PeakMemoryCountsWhatWasFreedAgain) {
  v1::TestResult result = Run(Request("use 64 MiB"));
  EXPECT_EQ(result.outcome(), v1::PASSED);
  EXPECT_GE(result.peak_memory_bytes(), uint64_t{60} << 20);
  EXPECT_LE(result.peak_memory_bytes(), uint64_t{100} << 20);
}

TEST_F(TestProcessesTest, AnExceptionOfABrokenEngineIsACrash) {
  v1::TestResult result = Run(Request("throw"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_THAT(result.message(), HasSubstr("engine broken"));
}

TEST_F(TestProcessesTest, OutputIsBoundedAndItsEndKept) {
  options_.log_bytes = 10'000;
  Processes().Start(Request("babble"));
  FinishAll();
  EXPECT_EQ(Result("babble").outcome(), v1::PASSED);
  std::string log = LogOf("babble");
  EXPECT_LT(log.size(), 10'100u);
  EXPECT_THAT(log, HasSubstr("line 0 of much"));
  EXPECT_THAT(log, HasSubstr("the rest was dropped"));
}

TEST_F(TestProcessesTest, AStreamOfGarbageEndsTheProcess) {
  v1::TestResult result = Run(Request("garbage"));
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_THAT(result.message(), HasSubstr("no event"));
}

TEST_F(TestProcessesTest, CancelEndsARunningTest) {
  Processes().Start(Request("hang"));
  while (events_.size() < 3) StepOnce();  // it is in its second case
  Processes().Cancel("someone else");
  Processes().Cancel("hang");
  FinishAll();
  v1::TestResult result = Result("hang");
  EXPECT_EQ(result.outcome(), v1::CANCELLED);
  EXPECT_EQ(result.last_case(), "second");
}

TEST_F(TestProcessesTest, TestsRunSideBySideAndOneThatDiesHarmsNone) {
  for (const char* name : {"hang", "crash", "fine", "abort", "pid"}) Processes().Start(Request(name));
  while (Processes().running() > 1) StepOnce();
  EXPECT_EQ(Result("fine").outcome(), v1::PASSED);
  EXPECT_EQ(Result("crash").outcome(), v1::CRASHED);
  EXPECT_EQ(Result("abort").outcome(), v1::CRASHED);
  EXPECT_EQ(Result("pid").outcome(), v1::PASSED);
  Processes().Cancel("hang");
  FinishAll();
}

TEST_F(TestProcessesTest, ChildrenDieWithTheirOwner) {
  Processes().Start(Request("hang"));
  while (events_.size() < 3) StepOnce();
  processes_.reset();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);  // no child is left
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(TestProcessesTest, AResidentProcessRunsTestAfterTest) {
  options_.resident = true;
  v1::RunTest second = Request("pid");
  second.set_id("again");
  Processes().Start(Request("pid"));
  Processes().Start(second);
  FinishAll();
  EXPECT_EQ(Result("pid").outcome(), v1::PASSED);
  EXPECT_EQ(Result("pid").message(), Result("again").message()) << "another process";
}

TEST_F(TestProcessesTest, AResidentProcessIsReplacedAfterACrashAndTheNextTestRuns) {
  options_.resident = true;
  v1::RunTest second = Request("pid");
  second.set_id("again");
  Processes().Start(Request("pid"));
  Processes().Start(Request("crash"));
  Processes().Start(second);
  Processes().Start(Request("hang", 50));
  Processes().Start(Request("fine"));
  FinishAll();
  EXPECT_EQ(Result("crash").outcome(), v1::CRASHED);
  EXPECT_EQ(Result("crash").signal(), SIGSEGV);
  EXPECT_EQ(Result("again").outcome(), v1::PASSED);
  EXPECT_NE(Result("pid").message(), Result("again").message());
  EXPECT_EQ(Result("hang").outcome(), v1::TIMED_OUT);
  EXPECT_EQ(Result("fine").outcome(), v1::PASSED);
}

TEST_F(TestProcessesTest, AResidentProcessIsReplacedAfterAFailure) {
  options_.resident = true;
  v1::RunTest second = Request("pid");
  second.set_id("again");
  Processes().Start(Request("pid"));
  Processes().Start(Request("fail"));
  Processes().Start(second);
  FinishAll();
  EXPECT_EQ(Result("fail").outcome(), v1::FAILED);
  EXPECT_NE(Result("pid").message(), Result("again").message());
}

TEST_F(TestProcessesTest, AResidentProcessTellsWhatItTookOfTheDeviceAndWhatItKept) {
  options_.resident = true;
  // What a test took is known to be this test's: each begins anew.
  static int measured = 0;
  options_.device = {[] { measured = 5; },
                     [] {
                       return engine::DeviceMemory{uint64_t{1000} + measured++, 64};
                     }};
  v1::RunTest second = Request("pid");
  second.set_id("again");
  Processes().Start(Request("pid"));
  Processes().Start(second);
  FinishAll();
  for (const char* id : {"pid", "again"}) {
    EXPECT_EQ(Result(id).device_peak_memory_bytes(), 1005);
    EXPECT_EQ(Result(id).device_kept_memory_bytes(), 64);
  }
}

// A kernel's error often comes to light only when somebody waits for the device.
TEST_F(TestProcessesTest, ADeviceThatFailsAfterAPassMakesItNoPassAndAnotherProcess) {
  options_.resident = true;
  options_.device = {[] {},
                     []() -> engine::DeviceMemory { throw std::runtime_error("an illegal memory access"); }};
  v1::RunTest second = Request("pid");
  second.set_id("again");
  Processes().Start(Request("pid"));
  Processes().Start(second);
  FinishAll();
  EXPECT_EQ(Result("pid").outcome(), v1::CRASHED);
  EXPECT_EQ(Result("pid").message(), "the device failed after the test: an illegal memory access");
  EXPECT_EQ(Result("again").outcome(), v1::CRASHED);
}

TEST_F(TestProcessesTest, ATestThatWaitsForTheResidentProcessCanBeCancelled) {
  options_.resident = true;
  Processes().Start(Request("hang"));
  Processes().Start(Request("fine"));
  Processes().Cancel("fine");
  EXPECT_EQ(Result("fine").outcome(), v1::CANCELLED);
  Processes().Cancel("hang");
  FinishAll();
  EXPECT_EQ(Result("hang").outcome(), v1::CANCELLED);
}

}  // namespace
}  // namespace assay::host

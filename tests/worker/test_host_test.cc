#include "worker/test_host.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "tests/matchers.h"

namespace assay::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Longer than anything here takes; only a fault makes a test wait for it.
constexpr absl::Duration kLong = absl::Seconds(60);

class Recorder final : public HostListener {
 public:
  void HostStarted(const v1::HostReady&) override {
    absl::MutexLock lock(&mutex_);
    ++starts_;
  }
  void HostLost(const std::string& why) override {
    absl::MutexLock lock(&mutex_);
    losses_.push_back(why);
  }
  void TestEvent(const std::string& id, const v1::HostEvent& event) override {
    absl::MutexLock lock(&mutex_);
    events_[id].push_back(event);
  }
  void TestFinished(const std::string& id, v1::TestResult result) override {
    if (on_finished) on_finished(id);
    absl::MutexLock lock(&mutex_);
    results_[id].push_back(std::move(result));
  }
  std::function<void(const std::string& id)> on_finished;  // set before the host starts
  // The result, and that it is the only one so far.
  v1::TestResult Result(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return results_.count(id) > 0; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) {
      ADD_FAILURE() << "test " << id << " has no result";
      return {};
    }
    EXPECT_EQ(results_[id].size(), 1);
    return results_[id].front();
  }
  void AwaitEvent(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return events_.count(id) > 0; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong));
  }
  std::vector<v1::HostEvent> Events(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    return events_[id];
  }
  int starts() {
    absl::MutexLock lock(&mutex_);
    return starts_;
  }
  std::vector<std::string> losses() {
    absl::MutexLock lock(&mutex_);
    return losses_;
  }

 private:
  absl::Mutex mutex_;
  int starts_ = 0;
  std::vector<std::string> losses_;
  std::map<std::string, std::vector<v1::HostEvent>> events_;
  std::map<std::string, std::vector<v1::TestResult>> results_;
};

class TestHostTest : public ::testing::Test {
 protected:
  static TestHostOptions Options() {
    TestHostOptions options;
    options.binary = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin/fake-host";
    options.environment = ScrubEnvironment({"PATH=/bin", "SECRET=x"});
    options.start_limit = kLong;
    options.grace = kLong;
    options.min_backoff = absl::Milliseconds(1);
    options.max_backoff = absl::Milliseconds(5);
    return options;
  }
  void Start(const TestHostOptions& options = Options()) {
    host_ = std::make_unique<TestHost>(options, &recorder_);
  }
  // The test's name is its id's behaviour; see fake_host.cc.
  void Run(const std::string& id, uint32_t timeout_ms = 60'000, const std::string& deviation = "") {
    v1::RunTest run;
    run.set_id(id);
    run.mutable_test()->set_name(id);
    run.mutable_test()->set_deviation(deviation);
    run.mutable_test()->mutable_limits()->set_timeout_ms(timeout_ms);
    run.set_program_path("/programs/x");
    run.set_checkpoint_dir("/checkpoints/y");
    host_->Run(std::move(run));
  }
  std::filesystem::path Script(const std::string& text) {
    const std::filesystem::path path = folder_ / "host.sh";
    std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
    ::chmod(path.c_str(), 0755);
    return path;
  }
  TestHostTest() : folder_(::testing::TempDir() + "/test_host_test." + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~TestHostTest() override {
    host_.reset();
    std::filesystem::remove_all(folder_);
  }

  const std::filesystem::path folder_;
  Recorder recorder_;
  std::unique_ptr<TestHost> host_;
};

TEST_F(TestHostTest, PassesEventsOnInTheirOrder) {
  Start();
  ASSERT_THAT(host_->WaitUntilReady(), IsOk());
  Run("pass_1");
  EXPECT_EQ(recorder_.Result("pass_1").outcome(), v1::PASSED);
  const std::vector<v1::HostEvent> events = recorder_.Events("pass_1");
  ASSERT_EQ(events.size(), 3);
  EXPECT_TRUE(events[0].has_case_started());
  EXPECT_EQ(events[1].log().text(), "log of pass_1\n");
  EXPECT_EQ(events[2].case_result().outcome(), v1::PASSED);
}

TEST_F(TestHostTest, GivesTheHostPathsButNoSecrets) {
  Start();
  Run("echo");
  EXPECT_THAT(recorder_.Result("echo").message(),
              AllOf(HasSubstr("program=/programs/x"), HasSubstr("checkpoint=/checkpoints/y"),
                    HasSubstr("env PATH=/bin"), Not(HasSubstr("SECRET"))));
}

TEST_F(TestHostTest, RunsManyTestsAtOnceInOneProcess) {
  Start();
  for (int i = 0; i < 200; ++i) Run("pass_" + std::to_string(i));
  for (int i = 0; i < 200; ++i)
    EXPECT_EQ(recorder_.Result("pass_" + std::to_string(i)).outcome(), v1::PASSED);
  EXPECT_EQ(recorder_.starts(), 1);
}

// Fault: the process itself dies.
TEST_F(TestHostTest, TestsOfAProcessThatDiesAreInfrastructureErrorsAndTheNextTestRuns) {
  Start();
  Run("hold_1");
  recorder_.AwaitEvent("hold_1");
  Run("crash");
  for (const char* id : {"hold_1", "crash"}) {
    const v1::TestResult result = recorder_.Result(id);
    EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
    EXPECT_THAT(result.message(), AllOf(HasSubstr("test host died: signal 11"), HasSubstr("about to crash")));
    EXPECT_EQ(result.last_case(), "test_model_with_mock");
  }
  Run("pass");
  EXPECT_EQ(recorder_.Result("pass").outcome(), v1::PASSED);
  EXPECT_EQ(recorder_.starts(), 2);
}

// Fault: the process lives but answers nothing.
TEST_F(TestHostTest, AHostThatIsSilentPastTheLimitIsKilledAndTheTestTimedOut) {
  TestHostOptions options = Options();
  options.grace = absl::Milliseconds(50);
  Start(options);
  Run("hold_1");
  recorder_.AwaitEvent("hold_1");
  Run("hang", 1);
  const v1::TestResult result = recorder_.Result("hang");
  EXPECT_EQ(result.outcome(), v1::TIMED_OUT);
  EXPECT_EQ(result.last_case(), "test_model_with_mock");
  EXPECT_EQ(recorder_.Result("hold_1").outcome(), v1::INFRASTRUCTURE_ERROR) << "had time left";
  Run("pass");
  EXPECT_EQ(recorder_.Result("pass").outcome(), v1::PASSED);
}

TEST_F(TestHostTest, ATestWithoutALimitHasTheDefault) {
  TestHostOptions options = Options();
  options.grace = absl::Milliseconds(1);
  options.default_timeout = absl::Milliseconds(20);
  Start(options);
  Run("hang", 0);
  EXPECT_EQ(recorder_.Result("hang").outcome(), v1::TIMED_OUT);
}

// Faults: bytes that are no frame, frames that are no event, events that cannot be.
TEST_F(TestHostTest, AHostThatTalksNonsenseIsKilled) {
  Start();
  for (const char* id : {"garbage", "unframed", "stranger"}) {
    Run(id);
    const v1::TestResult result = recorder_.Result(id);
    EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR) << id;
    EXPECT_THAT(result.message(), HasSubstr("sent garbage")) << id;
  }
  EXPECT_EQ(recorder_.losses().size(), 3);
  Run("pass");
  EXPECT_EQ(recorder_.Result("pass").outcome(), v1::PASSED);
}

TEST_F(TestHostTest, CancelsATestThatRuns) {
  Start();
  Run("hold");
  recorder_.AwaitEvent("hold");
  host_->Cancel("hold");
  EXPECT_EQ(recorder_.Result("hold").outcome(), v1::CANCELLED);
  EXPECT_EQ(recorder_.starts(), 1);
}

// A test that is cancelled before the process has it ends within the loop's own handling of commands; what
// the listener asks for then must not wait for the next wake.
TEST_F(TestHostTest, ATestGivenWhenAnotherWasCancelledRunsAtOnce) {
  recorder_.on_finished = [this](const std::string& id) {
    if (id.starts_with("hold")) Run("pass_after_" + id);
  };
  Start();
  ASSERT_THAT(host_->WaitUntilReady(), IsOk());
  for (int i = 0; i < 50; ++i) {
    const std::string id = "hold_cancelled_" + std::to_string(i);
    Run(id);
    host_->Cancel(id);
    EXPECT_EQ(recorder_.Result(id).outcome(), v1::CANCELLED);
    EXPECT_EQ(recorder_.Result("pass_after_" + id).outcome(), v1::PASSED);
  }
}

TEST_F(TestHostTest, AHostThatIgnoresACancelIsKilled) {
  TestHostOptions options = Options();
  options.grace = absl::Milliseconds(20);
  Start(options);
  Run("hang");
  recorder_.AwaitEvent("hang");
  host_->Cancel("hang");
  EXPECT_EQ(recorder_.Result("hang").outcome(), v1::CANCELLED);
  EXPECT_EQ(recorder_.losses().size(), 1);
}

TEST_F(TestHostTest, CancellingWhatIsUnknownDoesNothing) {
  Start();
  host_->Cancel("nobody");
  Run("pass");
  EXPECT_EQ(recorder_.Result("pass").outcome(), v1::PASSED);
}

TEST_F(TestHostTest, SaysWhyABinaryCannotStart) {
  TestHostOptions options = Options();
  options.binary = Script("echo 'libtorch_cpu.so: cannot open' >&2; exit 127");
  Start(options);
  EXPECT_THAT(host_->WaitUntilReady(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("exit code 127"), HasSubstr("libtorch_cpu.so: cannot open"))));
}

TEST_F(TestHostTest, SaysThatABinaryIsMissing) {
  TestHostOptions options = Options();
  options.binary = folder_ / "missing";
  Start(options);
  EXPECT_THAT(host_->WaitUntilReady(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("missing")));
}

TEST_F(TestHostTest, AHostThatClosesItsEventsAndLivesOnIsKilled) {
  TestHostOptions options = Options();
  options.binary = Script("exec 3>&-; exec cat");
  Start(options);
  EXPECT_THAT(host_->WaitUntilReady(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("closed its events and was killed")));
}

TEST_F(TestHostTest, AHostThatIsNeverReadyIsGivenUp) {
  TestHostOptions options = Options();
  options.binary = Script("exec cat");
  options.start_limit = absl::Milliseconds(30);
  Start(options);
  EXPECT_THAT(host_->WaitUntilReady(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("was not ready after 30ms")));
}

TEST_F(TestHostTest, TestsDoNotWaitForEverForAHostThatCannotStart) {
  TestHostOptions options = Options();
  options.binary = Script("exit 1");
  options.start_attempts = 3;
  Start(options);
  Run("pass");
  const v1::TestResult result = recorder_.Result("pass");
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("no test host"));
  EXPECT_GE(recorder_.losses().size(), 3);
}

// The process group goes with the host: a child of it that ignores everything dies too.
TEST_F(TestHostTest, StopKillsTheHostAndItsChildren) {
  const std::filesystem::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  TestHostOptions options = Options();
  options.binary =
      Script("(trap '' HUP TERM; exec 3>&-; exec sleep 1000 >'" + pipe.string() + "') & exec cat");
  Start(options);
  std::ifstream reader(pipe);  // opens when the child has opened it
  host_->Stop();
  std::string rest;
  EXPECT_FALSE(std::getline(reader, rest)) << "the pipe ends when its last writer is dead";
}

}  // namespace
}  // namespace assay::worker

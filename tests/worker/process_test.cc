// The real assay-worker process, killed at the worst moments.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tests/matchers.h"
#include "tests/worker/content.h"
#include "tests/worker/fake_coordinator.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

class WorkerProcessTest : public ::testing::Test {
 protected:
  WorkerProcessTest()
      : folder_(::testing::TempDir() + "/worker_process_test." + std::to_string(::getpid())),
        bin_(std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~WorkerProcessTest() override {
    worker_.reset();
    std::filesystem::remove_all(folder_);
  }

  void StartWorker() {
    ASSERT_OK_AND_ASSIGN(
        worker_, Subprocess::Start(bin_ / "assay-worker",
                                   {"--coordinator", coordinator_.address(), "--name", "node", "--state-dir",
                                    (folder_ / "state").string(), "--host-binary",
                                    (bin_ / "fake-host").string(), "--cpu-only"},
                                   OwnEnvironment()));
  }
  // What the process ends with, as in wait(2).
  int AwaitEnd() {
    int status = 0;
    EXPECT_EQ(::waitpid(worker_->pid(), &status, 0), worker_->pid());
    return status;
  }
  v1::Assignment Assign(const std::string& model, const std::string& deviation = "") {
    v1::Assignment assignment = AssignmentOf(model);
    assignment.set_template_digest(coordinator_.AddBlob(std::string(kTemplate)));
    assignment.set_catalogue_digest(coordinator_.AddBlob(CatalogueText(model, deviation)));
    assignment.set_program_digest(coordinator_.AddBlob("program"));
    return assignment;
  }

  const std::filesystem::path folder_, bin_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Subprocess> worker_;
};

// Fault: kill -9 between the end of a test and the acknowledgement of its result.
TEST_F(WorkerProcessTest, AResultSurvivesKillNineAndIsSentOnceAfterTheRestart) {
  coordinator_.Acknowledge(false);
  StartWorker();
  const v1::Assignment assignment = Assign("pass");
  const AttemptKey key = KeyOf(assignment.attempt());
  coordinator_.Start(assignment);
  const v1::AttemptResult first = coordinator_.AwaitResult(key);
  worker_->KillAndReap();

  coordinator_.Acknowledge(true);
  StartWorker();
  const v1::Hello hello = coordinator_.AwaitHello(2);
  EXPECT_NE(hello.instance(), coordinator_.AwaitHello(1).instance());
  ASSERT_EQ(hello.attempt_size(), 1);
  EXPECT_EQ(KeyOf(hello.attempt(0)), key);
  EXPECT_EQ(coordinator_.AwaitResult(key, 2).SerializeAsString(), first.SerializeAsString());
  ::kill(worker_->pid(), SIGTERM);
  EXPECT_EQ(AwaitEnd(), 0);

  StartWorker();
  EXPECT_EQ(coordinator_.AwaitHello(3).attempt_size(), 0);
  EXPECT_EQ(coordinator_.Results(key), 2);
}

// Fault: kill -9 while a test runs. Nothing is made up for it.
TEST_F(WorkerProcessTest, AnAttemptThatWasRunningIsNotClaimedAfterKillNine) {
  StartWorker();
  const v1::Assignment assignment = Assign("hold");
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(KeyOf(assignment.attempt()));
  worker_->KillAndReap();
  StartWorker();
  EXPECT_EQ(coordinator_.AwaitHello(2).attempt_size(), 0);
  EXPECT_EQ(coordinator_.Results(KeyOf(assignment.attempt())), 0);
}

// The host holds the reading end of a pipe of the test's, which says when the host is gone.
TEST_F(WorkerProcessTest, TheTestHostGoesWithItsWorker) {
  const std::string gate = folder_ / "gate";
  ASSERT_EQ(::mkfifo(gate.c_str(), 0600), 0);
  StartWorker();
  coordinator_.Start(Assign("gate", gate));
  const Fd writer(::open(gate.c_str(), O_WRONLY));  // until the host has opened its end
  ASSERT_TRUE(writer.open());
  worker_->KillAndReap();
  pollfd end{writer.get(), 0, 0};
  ASSERT_EQ(::poll(&end, 1, 60'000), 1) << "the host lives on";
  EXPECT_TRUE(end.revents & POLLERR);
}

TEST_F(WorkerProcessTest, SigtermFinishesWhatRuns) {
  const std::string gate = folder_ / "gate";
  ASSERT_EQ(::mkfifo(gate.c_str(), 0600), 0);
  StartWorker();
  const v1::Assignment assignment = Assign("gate", gate);
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(KeyOf(assignment.attempt()));
  ::kill(worker_->pid(), SIGTERM);
  coordinator_.AwaitHeartbeat([](const v1::Heartbeat& beat) { return beat.draining(); });
  { const Fd writer(::open(gate.c_str(), O_WRONLY)); }
  EXPECT_EQ(AwaitEnd(), 0);
  EXPECT_EQ(coordinator_.Results(KeyOf(assignment.attempt())), 1);
}

TEST_F(WorkerProcessTest, ASecondSigtermEndsItAtOnce) {
  StartWorker();
  const v1::Assignment assignment = Assign("hang");
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(KeyOf(assignment.attempt()));
  ::kill(worker_->pid(), SIGTERM);
  coordinator_.AwaitHeartbeat([](const v1::Heartbeat& beat) { return beat.draining(); });
  ::kill(worker_->pid(), SIGTERM);
  const int status = AwaitEnd();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 8);
  EXPECT_EQ(coordinator_.Results(KeyOf(assignment.attempt())), 0);
}

TEST_F(WorkerProcessTest, AWrongOptionIsAUsageError) {
  ASSERT_OK_AND_ASSIGN(worker_,
                       Subprocess::Start(bin_ / "assay-worker", {"--slots", "many"}, OwnEnvironment()));
  EXPECT_EQ(WEXITSTATUS(AwaitEnd()), 2);
}

}  // namespace
}  // namespace assay::worker

// The real assay-worker process, killed at the worst moments.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/matchers.h"
#include "tests/worker/content.h"
#include "tests/worker/fake_coordinator.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What a process serves to Prometheus at the port that the file names.
std::string Scrape(const std::filesystem::path& port_file) {
  int port = 0;
  std::ifstream(port_file) >> port;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  constexpr char kRequest[] = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(::write(fd, kRequest, sizeof(kRequest) - 1), static_cast<ssize_t>(sizeof(kRequest) - 1));
  std::string answer;
  char piece[4096];
  for (ssize_t got; (got = ::read(fd, piece, sizeof(piece))) > 0;)
    answer.append(piece, static_cast<size_t>(got));
  ::close(fd);
  return answer;
}

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

  void StartProgram(const std::string& program, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& environment = OwnEnvironment()) {
    worker_.reset();
    ASSERT_OK_AND_ASSIGN(worker_, Subprocess::Start(bin_ / program, arguments, environment));
  }
  std::vector<std::string> Arguments() const {
    return {"--coordinator", coordinator_.address(),       "--name",        "node",
            "--state-dir",   (folder_ / "state").string(), "--host-binary", (bin_ / "fake-host").string(),
            "--cpu-only"};
  }
  void StartWorker(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = Arguments();
    arguments.insert(arguments.end(), more.begin(), more.end());
    StartProgram("assay-worker", arguments);
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

TEST_F(WorkerProcessTest, ReadsItsLabelsAgainOnSighup) {
  std::ofstream(folder_ / "labels") << "zone=a\n";
  StartWorker({"--label-file", (folder_ / "labels").string()});
  coordinator_.AwaitHello(1);
  coordinator_.AwaitHeartbeat([](const v1::Heartbeat& beat) { return !beat.has_labels(); });
  std::ofstream(folder_ / "labels") << "zone=west\n";
  ::kill(worker_->pid(), SIGHUP);  // the next heartbeat by itself is a minute away
  const v1::Heartbeat beat =
      coordinator_.AwaitHeartbeat([](const v1::Heartbeat& b) { return b.has_labels(); });
  ASSERT_EQ(beat.labels().label_size(), 1);
  EXPECT_EQ(beat.labels().label(0), "zone=west");
}

// The real way to NVIDIA's library, with another one of that name.
TEST_F(WorkerProcessTest, FindsItsGpusThroughNvml) {
  std::filesystem::create_symlink(bin_.parent_path() / "lib/libassay_fake_nvml.so",
                                  folder_ / "libnvidia-ml.so.1");
  std::ofstream(folder_ / "driver") << "driver 550.54.14\n"
                                       "gpu GPU-aaaa 85899345920 9 0 0 NVIDIA H100 80GB HBM3\n"
                                       "gpu GPU-bbbb 85899345920 9 0 1 NVIDIA H100 80GB HBM3\n"
                                       "slice MIG-1111 10737418240 NVIDIA H100 80GB HBM3 MIG 1g.10gb\n";
  std::vector<std::string> environment = {"LD_LIBRARY_PATH=" + folder_.string(),
                                          "ASSAY_FAKE_NVML=" + (folder_ / "driver").string()};
  for (const std::string& entry : OwnEnvironment()) environment.push_back(entry);
  std::vector<std::string> arguments = Arguments();
  std::erase(arguments, "--cpu-only");
  arguments.insert(arguments.end(),
                   {"--gpu-slots", "2", "--gpu-memory-reserve", "1.5", "--metrics-listen", "127.0.0.1:0",
                    "--metrics-port-file", (folder_ / "metrics_port").string()});
  StartProgram("assay-worker", arguments, environment);
  const v1::Hello hello = coordinator_.AwaitHello(1);
  ASSERT_EQ(hello.device_size(), 3);
  const v1::DeviceSlots& gpu = hello.device(1);
  EXPECT_EQ(gpu.device().id(), "GPU-aaaa");
  EXPECT_EQ(gpu.device().name(), "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(gpu.device().driver(), "550.54.14");
  EXPECT_EQ(gpu.slots(), 2);
  EXPECT_EQ(gpu.memory_bytes(), (uint64_t{80} << 30) - (uint64_t{3} << 29));
  EXPECT_EQ(hello.device(2).device().mig_profile(), "1g.10gb");

  // What of their memory is in use changes, and is asked for at each scrape.
  std::ofstream(folder_ / "driver", std::ios::app) << "used GPU-aaaa 1073741824\nused MIG-1111 4096\n";
  const std::string metrics = Scrape(folder_ / "metrics_port");
  EXPECT_THAT(metrics,
              HasSubstr("assay_worker_device_memory_used_bytes{device=\"1\",kind=\"cuda\"} 1073741824"));
  EXPECT_THAT(metrics, HasSubstr("assay_worker_device_memory_used_bytes{device=\"2\",kind=\"cuda\"} 4096"));
  EXPECT_THAT(metrics, Not(HasSubstr("memory_used_bytes{device=\"0\"")));  // the CPU
}

// Nobody who runs the product can make a worker offer what is not there.
TEST_F(WorkerProcessTest, TheProductHasNoSimulatedGpus) {
  std::ofstream(folder_ / "gpus") << "gpu { id: \"GPU-1\" name: \"H100\" memory_bytes: 85899345920 }\n";
  StartWorker({"--devices", (folder_ / "gpus").string()});
  EXPECT_EQ(WEXITSTATUS(AwaitEnd()), 2);
  StartProgram("assay-worker-simulated",
               {"--devices", (folder_ / "gpus").string(), "--coordinator", coordinator_.address(),
                "--state-dir", (folder_ / "state").string(), "--host-binary", (bin_ / "fake-host").string()});
  const v1::Hello hello = coordinator_.AwaitHello(1);
  ASSERT_EQ(hello.device_size(), 2);
  EXPECT_EQ(hello.device(1).device().name(), "SIMULATED H100 (its tests run on the CPU)");
}

TEST_F(WorkerProcessTest, AcceptsItsNodeWithoutACoordinator) {
  const auto accept = [this](const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {"accept",
                                      "--content",
                                      (folder_ / "content").string(),
                                      "--cpu-only",
                                      "--state-dir",
                                      (folder_ / "state").string(),
                                      "--host-binary",
                                      (bin_ / "fake-host").string()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    StartProgram("assay-worker", words);
    return WEXITSTATUS(AwaitEnd());
  };
  for (const char* folder : {"templates", "models/catalogue", "models/programs"}) {
    std::filesystem::create_directories(folder_ / "content" / folder);
  }
  std::string base(kTemplate);
  base.replace(base.find("gpt2"), 4, "base");
  std::ofstream(folder_ / "content/templates/base.textproto") << "abstract: true " << base;
  std::ofstream(folder_ / "content/templates/gpt2.textproto")
      << "name: \"gpt2\" base: \"base\" description: \"decoders\"";
  for (const std::string model : {"pass_a", "flip"}) {
    std::ofstream(folder_ / "content/models/catalogue" / (model + ".textproto")) << CatalogueText(model);
    std::ofstream(folder_ / "content/models/programs" / (model + ".assay")) << "program";
  }
  EXPECT_EQ(accept({"--model", "pass_a"}), 0);
  // The worker that starts next tells it.
  StartWorker();
  EXPECT_EQ(coordinator_.AwaitHello(1).acceptance().state(), v1::AcceptanceReport::ACCEPTED);
  ::kill(worker_->pid(), SIGTERM);
  AwaitEnd();
  // Fault: silent corruption in the third repetition.
  EXPECT_EQ(accept({"--model", "flip"}), 3);
  EXPECT_EQ(accept({"--model", "flip", "--repetitions", "2"}), 0) << "two repetitions do not see it";
  EXPECT_EQ(accept({"--model", "nowhere"}), 2);
}

// Fault: the clock is set, an hour ahead and an hour back, while a test runs.
TEST_F(WorkerProcessTest, AClockThatJumpsNeitherEndsATestNorStopsHeartbeats) {
  const auto jump = [this](int64_t seconds) {
    std::fstream file(folder_ / "offset", std::ios::in | std::ios::out | std::ios::binary);
    file.write(reinterpret_cast<const char*>(&seconds), sizeof(seconds));
  };
  std::ofstream(folder_ / "offset") << std::string(sizeof(int64_t), '\0');
  std::vector<std::string> environment = OwnEnvironment();
  environment.push_back("LD_PRELOAD=" + (bin_.parent_path() / "lib/libassay_clock_jump.so").string());
  const char* sanitizer = getenv("ASAN_OPTIONS");  // of such a build
  environment.erase(
      std::remove_if(environment.begin(), environment.end(),
                     [](const std::string& entry) { return entry.rfind("ASAN_OPTIONS=", 0) == 0; }),
      environment.end());
  environment.push_back(
      absl::StrCat("ASAN_OPTIONS=verify_asan_link_order=0:", sanitizer == nullptr ? "" : sanitizer));
  environment.push_back("ASSAY_CLOCK_OFFSET=" + (folder_ / "offset").string());
  coordinator_.SetHeartbeat(20);
  StartProgram("assay-worker", Arguments(), environment);
  const int64_t before = coordinator_.AwaitHello(1).time().seconds();
  const v1::Assignment held = Assign("hold");
  coordinator_.Start(held);
  coordinator_.AwaitEvent(KeyOf(held.attempt()));
  for (const int64_t hours : {1, -1}) {
    jump(3600 * hours);
    // Whatever waited for a date in between would wait an hour now, or be over at once.
    const size_t told = coordinator_.heartbeats();
    coordinator_.AwaitHeartbeats(told + 5);
    EXPECT_EQ(coordinator_.LastHeartbeat().attempt_size(), 1) << "the test goes on";
    EXPECT_EQ(coordinator_.Results(KeyOf(held.attempt())), 0);
    // That the clock did jump shows in the next Hello.
    coordinator_.GoAway();
    coordinator_.ComeBack();
    const v1::Hello hello = coordinator_.AwaitHello(hours > 0 ? 2 : 3);
    EXPECT_GT(hours * (hello.time().seconds() - before), 3000);
    EXPECT_EQ(hello.attempt_size(), 1);
  }
  coordinator_.Abandon(KeyOf(held.attempt()));
  const v1::Assignment next = Assign("pass");
  coordinator_.Start(next);
  EXPECT_EQ(coordinator_.AwaitResult(KeyOf(next.attempt())).result().outcome(), v1::PASSED);
}

}  // namespace
}  // namespace assay::worker

// The agent as one of many: GPUs by memory, protocols of two releases, several coordinators, labels that
// change, drains and sweeps that a coordinator asks for, a full disk.
#include <fstream>
#include <set>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/matchers.h"
#include "tests/worker/agent_fixture.h"
#include "worker/control_stream.h"
#include "worker/labels.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kGiB = uint64_t{1} << 30;

class FleetTest : public AgentTest {
 protected:
  AgentOptions WithGpus(std::vector<Gpu> gpus) const {
    AgentOptions options = Options();
    options.cpu_only = false;
    options.gpus = std::move(gpus);
    return options;
  }
  v1::Assignment Place(const std::string& model, const std::string& device_id, uint64_t memory_bytes,
                       const std::string& deviation = "") {
    v1::Assignment assignment = Assign(model, deviation);
    assignment.mutable_target()->set_device(v1::CUDA);
    assignment.set_device_id(device_id);
    assignment.set_memory_bytes(memory_bytes);
    return assignment;
  }
  // "pid" of what an echo or keep test says.
  static std::string Said(const v1::TestResult& result, const std::string& key) {
    for (const absl::string_view line : absl::StrSplit(result.message(), '\n')) {
      if (absl::StartsWith(line, key + "=")) return std::string(line.substr(key.size() + 1));
    }
    return "";
  }
  // Whole or not at all, as whoever changes such a file under a running process must.
  void WriteLabels(const std::string& text) {
    std::ofstream(folder_ / "labels.new") << text;
    std::filesystem::rename(folder_ / "labels.new", folder_ / "labels");
  }
  v1::AcceptanceRequest Sweep(const std::vector<std::string>& models, uint32_t repetitions = 3) {
    v1::AcceptanceRequest request;
    request.set_id("sweep");
    request.set_repetitions(repetitions);
    for (const std::string& model : models) {
      *request.add_test() = Assign(model);
      request.mutable_test()->rbegin()->clear_attempt();
    }
    return request;
  }
  v1::AcceptanceReport Accept(const v1::AcceptanceRequest& request) {
    v1::DesiredState desired;
    *desired.mutable_accept() = request;
    coordinator_.Want(desired);
    return coordinator_.AwaitReport();
  }
  // The one of the two that the agent began with.
  FakeCoordinator* AwaitEither(FakeCoordinator& other) {
    while (coordinator_.hellos() + other.hellos() == 0) absl::SleepFor(absl::Milliseconds(1));
    return other.hellos() > 0 ? &other : &coordinator_;
  }
  uint64_t attempts_ = 0;
};

TEST_F(FleetTest, TellsItsNodeAndItsGpusWithMemoryAndSlots) {
  AgentOptions options =
      WithGpus({TestGpu("GPU-a", 80 * kGiB), TestGpu("GPU-b", 10 * kGiB), TestGpu("GPU-c")});
  options.gpu_memory_reserve = 2 * kGiB;
  StartAgent(options);
  const v1::Hello hello = coordinator_.AwaitHello(1);
  EXPECT_GT(hello.node().cpus(), 0);
  EXPECT_THAT(hello.node().torch_build(), ElementsAre("0.0"));
  ASSERT_EQ(hello.device_size(), 4);
  EXPECT_EQ(hello.device(0).device().id(), "cpu");
  EXPECT_EQ(hello.device(1).device().id(), "GPU-a");
  EXPECT_EQ(hello.device(1).slots(), 4);
  EXPECT_EQ(hello.device(1).memory_bytes(), 78 * kGiB);
  EXPECT_EQ(hello.device(2).slots(), 1);
  EXPECT_EQ(hello.device(3).slots(), 1) << "its memory is not known";
}

TEST_F(FleetTest, RunsWhereItIsPlaced) {
  StartAgent(WithGpus({TestGpu("GPU-a", 80 * kGiB), TestGpu("GPU-b", 80 * kGiB)}));
  for (const std::string device : {"GPU-b", "GPU-a", "GPU-b"}) {
    v1::Assignment assignment = Place("echo", device, kGiB);
    assignment.mutable_attempt()->set_attempt(++attempts_);
    const v1::TestResult result = RunOne(assignment);
    EXPECT_THAT(result.message(), HasSubstr("env CUDA_VISIBLE_DEVICES=" + device + "\n"));
    EXPECT_EQ(result.provenance().device().id(), device);
    EXPECT_EQ(result.provenance().device().kind(), "cuda");
  }
}

TEST_F(FleetTest, APlaceThatIsNotHereOrDoesNotFitIsAnInfrastructureError) {
  StartAgent(WithGpus({TestGpu("GPU-a", 80 * kGiB)}));
  v1::TestResult result = RunOne(Place("pass", "GPU-x", kGiB));
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("worker node has no device GPU-x"));
  result = RunOne(Place("pass_x", "cpu", 0));
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("the test wants CUDA and was placed on device cpu"));
}

TEST_F(FleetTest, SmallTestsShareAGpuEachInItsHostAndABigOneWaits) {
  AgentOptions options = WithGpus({TestGpu("GPU-a", 80 * kGiB)});
  options.gpu_slots = 3;
  StartAgent(options);
  const std::string gates[] = {MakeGate(), MakeGate()};
  const std::vector<v1::Assignment> small = {Place("gate_a", "GPU-a", 10 * kGiB, gates[0]),
                                             Place("gate_b", "GPU-a", 10 * kGiB, gates[1])};
  for (const auto& assignment : small) coordinator_.Start(assignment);
  for (const auto& assignment : small) coordinator_.AwaitEvent(Key(assignment));
  // Alone, since nobody knows what it needs; and the next small one does not pass it, though it would fit.
  const v1::Assignment big = Place("pass_big", "GPU-a", 0), late = Place("pass_late", "GPU-a", kGiB);
  // On the CPU, behind what waits: when these have run one after the other, it has had its chance.
  const auto run_on_cpu = [this](const std::string& name) {
    for (int i = 0; i < 3; ++i) {
      v1::Assignment assignment = Assign(name + std::to_string(i));
      assignment.mutable_target()->set_device(v1::CPU);
      RunOne(assignment);
    }
  };
  coordinator_.Start(big);
  run_on_cpu("pass_after_big");  // tests are prepared side by side: it must be the first that waits
  coordinator_.Start(late);
  run_on_cpu("pass_after_late");
  EXPECT_THAT(coordinator_.Events(Key(big)), IsEmpty());
  EXPECT_THAT(coordinator_.Events(Key(late)), IsEmpty());
  for (const auto& gate : gates) Open(gate);
  EXPECT_EQ(coordinator_.AwaitResult(Key(big)).result().outcome(), v1::PASSED);
  EXPECT_EQ(coordinator_.AwaitResult(Key(late)).result().outcome(), v1::PASSED);
}

TEST_F(FleetTest, AHostThatKeepsItsGpusMemoryIsReplaced) {
  AgentOptions options = WithGpus({TestGpu("GPU-a", 80 * kGiB)});
  options.gpu_slots = 1;
  StartAgent(options);
  const std::string first = Said(RunOne(Place("echo_a", "GPU-a", kGiB)), "pid");
  EXPECT_EQ(Said(RunOne(Place("echo_b", "GPU-a", kGiB)), "pid"), first) << "it stays while it gives back";
  const v1::TestResult keeps = RunOne(Place("keep", "GPU-a", kGiB));
  EXPECT_EQ(keeps.outcome(), v1::PASSED) << "the test did nothing wrong";
  EXPECT_EQ(Said(keeps, "pid"), first);
  EXPECT_NE(Said(RunOne(Place("echo_c", "GPU-a", kGiB)), "pid"), first);
}

TEST_F(FleetTest, WhatASimulatedGpuRunsIsNeverTakenForAGpus) {
  Gpu gpu = TestGpu("GPU-a", 80 * kGiB);
  gpu.simulated = true;
  gpu.info.set_name("SIMULATED H100");
  StartAgent(WithGpus({gpu}));
  EXPECT_EQ(coordinator_.AwaitHello(1).device(1).device().kind(), "cuda") << "it is given a GPU's work";
  const v1::TestResult result = RunOne(Place("echo", "GPU-a", kGiB));
  EXPECT_EQ(Said(result, "device"), "cpu");
  EXPECT_EQ(Said(result, "set_up"), "CPU");
  EXPECT_EQ(result.provenance().device().kind(), "simulated");
  EXPECT_EQ(result.provenance().device().name(), "SIMULATED H100");
}

// The release before: one GPU slot, results one by one, no placement.
TEST_F(FleetTest, ACoordinatorOfTheReleaseBeforeIsServedInItsProtocol) {
  coordinator_.Speak(1);
  AgentOptions options = WithGpus({TestGpu("GPU-a", 80 * kGiB)});
  options.slots = 4;
  StartAgent(options);
  const v1::Hello hello = coordinator_.AwaitHello(1);
  EXPECT_EQ(coordinator_.refused(), 1);
  EXPECT_EQ(hello.protocol(), 1);
  EXPECT_EQ(hello.device(1).slots(), 1);
  std::vector<v1::Assignment> assignments;
  for (int i = 0; i < 20; ++i) {
    assignments.push_back(Assign("pass_x"));
    assignments.back().mutable_attempt()->set_job_id("job " + std::to_string(i));
    coordinator_.Start(assignments.back());
  }
  for (const auto& assignment : assignments) coordinator_.AwaitResult(Key(assignment));
  EXPECT_EQ(coordinator_.most_together(), 0);
  // Upgraded meanwhile.
  coordinator_.GoAway();
  coordinator_.Speak(2);
  coordinator_.ComeBack();
  EXPECT_EQ(coordinator_.AwaitHello(2).protocol(), 3);
}

class FleetOfProtocolTest : public FleetTest, public ::testing::WithParamInterface<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Protocols, FleetOfProtocolTest, ::testing::Values(2, 3));

TEST_P(FleetOfProtocolTest, ResultsThatWaitTravelTogether) {
  coordinator_.Speak(GetParam());
  coordinator_.Acknowledge(false);
  StartAgent();
  std::vector<v1::Assignment> assignments;
  for (int i = 0; i < 10; ++i) {
    assignments.push_back(Assign("quiet_x"));
    assignments.back().mutable_attempt()->set_job_id("job " + std::to_string(i));
    coordinator_.Start(assignments.back());
  }
  for (const auto& assignment : assignments) coordinator_.AwaitResult(Key(assignment));
  coordinator_.GoAway();
  coordinator_.Acknowledge(true);
  coordinator_.ComeBack();
  for (const auto& assignment : assignments) coordinator_.AwaitResult(Key(assignment), 2);
  EXPECT_EQ(coordinator_.most_together(), 10);
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0) << "every one of them was acknowledged";
}

TEST_F(FleetTest, DrainsWhenItsCoordinatorSaysSo) {
  StartAgent();
  v1::DesiredState desired;
  desired.set_drain(true);
  coordinator_.Want(desired);
  agent_->Wait();
  coordinator_.AwaitGoodbye();
}

TEST_F(FleetTest, LabelsOfAFileAreToldWhenTheyChange) {
  coordinator_.SetHeartbeat(5);
  AgentOptions options = Options();
  options.label_file = folder_ / "labels";
  WriteLabels("# of this node\nzone=a\n\npool=b\n");
  StartAgent(options);
  EXPECT_THAT(coordinator_.AwaitHello(1).label(), ElementsAre("pool=b", "zone=a"));
  WriteLabels("zone=west\n");
  const v1::Heartbeat beat =
      coordinator_.AwaitHeartbeat([](const v1::Heartbeat& b) { return b.has_labels(); });
  EXPECT_THAT(beat.labels().label(), ElementsAre("pool=a", "zone=west"));
  // Something that is no label changes nothing.
  WriteLabels("zone=east\nnonsense\n");
  coordinator_.GoAway();
  coordinator_.ComeBack();
  EXPECT_THAT(coordinator_.AwaitHello(2).label(), ElementsAre("pool=a", "zone=west"));
}

TEST_F(FleetTest, ToACoordinatorOfTheReleaseBeforeChangedLabelsAreToldByAnotherHello) {
  coordinator_.Speak(1);
  coordinator_.SetHeartbeat(5);
  AgentOptions options = Options();
  options.label_file = folder_ / "labels";
  WriteLabels("zone=a\n");
  StartAgent(options);
  coordinator_.AwaitHello(1);
  WriteLabels("zone=west\n");
  EXPECT_THAT(coordinator_.AwaitHello(2).label(), ElementsAre("pool=a", "zone=west"));
}

TEST_F(FleetTest, ALabelFileThatIsMissingOrWrongIsRefusedAtTheStart) {
  AgentOptions options = Options();
  options.label_file = folder_ / "labels";
  EXPECT_THAT(Agent::Start(options), StatusIs(absl::StatusCode::kNotFound, HasSubstr("labels")));
  WriteLabels("zone=a\nnonsense\n");
  EXPECT_THAT(Agent::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("labels:2: label 'nonsense'")));
}

TEST_F(FleetTest, AFullStateFolderIsSaidAndNothingNewIsWanted) {
  AgentOptions options = Options();
  options.min_free_bytes = uint64_t{1} << 60;
  StartAgent(options);
  EXPECT_TRUE(coordinator_.AwaitHello(1).draining()) << "nothing comes before the first heartbeat";
  const v1::Heartbeat beat = coordinator_.AwaitHeartbeat([](const v1::Heartbeat&) { return true; });
  EXPECT_THAT(beat.paused(), HasSubstr("is full: "));
  EXPECT_FALSE(beat.draining());
  EXPECT_EQ(beat.free_slots(), 0);
}

TEST_F(FleetTest, ToACoordinatorOfTheReleaseBeforeAPauseIsADrain) {
  coordinator_.Speak(1);
  AgentOptions options = Options();
  options.min_free_bytes = uint64_t{1} << 60;
  StartAgent(options);
  EXPECT_TRUE(coordinator_.AwaitHeartbeat([](const v1::Heartbeat&) { return true; }).draining());
}

// Fault: the disk refuses a result, and takes it later.
TEST_F(FleetTest, AResultThatCannotBeSpooledIsSaidKeptAndSpooledLater) {
  coordinator_.SetHeartbeat(5);
  coordinator_.Acknowledge(false);
  StartAgent();
  coordinator_.AwaitHeartbeat(
      [](const v1::Heartbeat& b) { return b.paused().empty() && b.free_slots() == 1; });
  const std::filesystem::path spool = folder_ / "state/spool";
  std::filesystem::remove_all(spool);
  std::ofstream(spool) << "in the way";
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  coordinator_.AwaitResult(Key(assignment));
  const v1::Heartbeat beat =
      coordinator_.AwaitHeartbeat([](const v1::Heartbeat& b) { return !b.paused().empty(); });
  EXPECT_THAT(beat.paused(), HasSubstr("results cannot be spooled"));
  std::filesystem::remove(spool);
  std::filesystem::create_directories(spool);
  while (std::filesystem::is_empty(spool))
    absl::SleepFor(absl::Milliseconds(1));  // until the heartbeat after
  coordinator_.Acknowledge(true);
  coordinator_.GoAway();
  coordinator_.ComeBack();
  EXPECT_FALSE(coordinator_.AwaitHello(2).draining());
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

TEST_F(FleetTest, ANodeWhoseGoldensComeOutTheSameEachTimeIsAccepted) {
  StartAgent(WithGpus({TestGpu("GPU-a", 80 * kGiB)}));
  coordinator_.AwaitHello(1);
  const v1::AcceptanceReport report = Accept(Sweep({"pass_a", "pass_b"}));
  EXPECT_EQ(report.id(), "sweep");
  EXPECT_EQ(report.state(), v1::AcceptanceReport::ACCEPTED);
  EXPECT_EQ(report.runs(), 2 * 2 * 3);
  EXPECT_EQ(report.finding_size(), 0);
  std::set<std::string> devices;
  for (const v1::DeviceInfo& device : report.device()) devices.insert(device.id());
  EXPECT_THAT(devices, ElementsAre("GPU-a", "cpu"));
  // Nothing of it is an attempt.
  EXPECT_EQ(coordinator_.Results({"acceptance sweep: pass_a on cpu", 1}), 0);
  // The next process of the node tells it, until a device changes.
  agent_.reset();
  StartAgent(WithGpus({TestGpu("GPU-a", 80 * kGiB)}));
  EXPECT_EQ(coordinator_.AwaitHello(2).acceptance().id(), "sweep");
  agent_.reset();
  Gpu upgraded = TestGpu("GPU-a", 80 * kGiB);
  upgraded.info.set_driver("560.1");
  StartAgent(WithGpus({upgraded}));
  EXPECT_FALSE(coordinator_.AwaitHello(3).has_acceptance()) << "another driver asks for another sweep";
}

// Fault: a node that computes wrong now and then, and says nothing.
TEST_F(FleetTest, SilentCorruptionIsCaught) {
  StartAgent();
  coordinator_.AwaitHello(1);
  const v1::AcceptanceReport report = Accept(Sweep({"pass_a", "flip"}));
  EXPECT_EQ(report.state(), v1::AcceptanceReport::REJECTED);
  ASSERT_EQ(report.finding_size(), 1);
  EXPECT_EQ(report.finding(0).model(), "flip");
  EXPECT_EQ(report.finding(0).device_id(), "cpu");
  EXPECT_EQ(report.finding(0).outcome(), v1::FAILED);
  EXPECT_THAT(report.finding(0).message(), HasSubstr("gave other bits than repetition"));
  EXPECT_THAT(report.finding(0).message(), HasSubstr("logits of test_model_with_mock"));
}

TEST_F(FleetTest, AGoldenThatDoesNotComeOutRejects) {
  StartAgent();
  coordinator_.AwaitHello(1);
  const v1::AcceptanceReport report = Accept(Sweep({"fail", "crash"}, 2));
  EXPECT_EQ(report.state(), v1::AcceptanceReport::REJECTED);
  EXPECT_EQ(report.runs(), 4);
  EXPECT_EQ(report.finding_size(), 4);
}

TEST_F(FleetTest, ASweepOfNothingRejects) {
  StartAgent();
  coordinator_.AwaitHello(1);
  EXPECT_EQ(Accept(Sweep({})).state(), v1::AcceptanceReport::REJECTED);
}

TEST_F(FleetTest, MovesToAnotherCoordinatorWhenItsOwnGoes) {
  FakeCoordinator other;
  AgentOptions options = Options();
  options.coordinator = coordinator_.address();
  options.coordinator += "," + other.address();
  StartAgent(options);
  // It may have begun with either one.
  FakeCoordinator* first = AwaitEither(other);
  FakeCoordinator* second = first == &other ? &coordinator_ : &other;
  first->GoAway();
  second->AwaitHello(1);
}

TEST(ControlStream, ANameWithSeveralAddressesReachesTheOneThatAnswers) {
  // As DNS would give it: gRPC's own notation for a name with two addresses, of which one is dead.
  struct Owner final : StreamOwner {
    v1::Hello MakeHello(uint32_t protocol) override {
      v1::Hello hello;
      hello.set_protocol(protocol);
      hello.set_worker("node");
      hello.set_instance("1");
      return hello;
    }
    v1::Heartbeat MakeHeartbeat() override { return {}; }
    void Welcomed(const v1::Welcome&) override {}
    void Desired(const v1::DesiredState&) override {}
    void Acknowledged(const v1::ResultAck&) override {}
  } owner;
  FakeCoordinator alive;
  ControlStreamOptions options;
  options.addresses = {"ipv4:127.0.0.1:1," + alive.address()};
  ControlStream stream(options, &owner);
  EXPECT_EQ(alive.AwaitHello(1).worker(), "node");
  stream.Stop();
}

// 200 workers whose coordinator dies come back spread over the time that they have.
TEST(Backoff, SpreadsWorkersAndStaysWithinTheGrace) {
  const AgentOptions defaults;
  absl::BitGen random;
  std::vector<int> tenths(10);
  for (int worker = 0; worker < 2000; ++worker) {
    Backoff backoff(defaults.min_backoff, defaults.max_backoff, 3);
    const absl::Duration pause = backoff.Next(true, random);
    ASSERT_LT(pause, absl::Milliseconds(400)) << "with time left to connect within 500 ms";
    ++tenths[static_cast<size_t>(std::min(9.0, 10 * absl::FDivDuration(pause, defaults.min_backoff)))];
  }
  // 200 in each tenth, with a standard deviation of 13.
  for (const int count : tenths) {
    EXPECT_GT(count, 120);
    EXPECT_LT(count, 280);
  }
}

TEST(Backoff, GrowsOnlyWhenEveryAddressWasTried) {
  absl::BitGen random;
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(5), 3);
  const auto most_of = [&random](Backoff at) {
    absl::Duration most;
    for (int i = 0; i < 1000; ++i) most = std::max(most, Backoff(at).Next(false, random));
    return most;
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_LE(most_of(backoff), absl::Milliseconds(100)) << i;
    backoff.Next(false, random);
  }
  for (const double most : {0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0}) {
    EXPECT_LE(most_of(backoff), absl::Seconds(most));
    EXPECT_GT(most_of(backoff), absl::Seconds(most * 0.9)) << "of 1000, one comes close";
    backoff.Next(false, random);
  }
  EXPECT_LE(backoff.Next(true, random), absl::Milliseconds(100));
}

}  // namespace
}  // namespace assay::worker

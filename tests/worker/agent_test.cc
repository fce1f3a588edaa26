// The agent against a coordinator in this process and test hosts that only pretend.
#include "worker/agent.h"

#include <filesystem>

#include "common/digest.h"
#include "tests/matchers.h"
#include "tests/worker/agent_fixture.h"

namespace assay::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(AgentTest, IntroducesItself) {
  StartAgent();
  const v1::Hello hello = coordinator_.AwaitHello(1);
  EXPECT_EQ(hello.protocol(), 3);
  EXPECT_EQ(hello.worker(), "node");
  EXPECT_THAT(hello.instance(), Not(IsEmpty()));
  ASSERT_EQ(hello.label_size(), 1);
  EXPECT_EQ(hello.label(0), "pool=a");
  ASSERT_EQ(hello.device_size(), 1);
  EXPECT_EQ(hello.device(0).device().kind(), "cpu");
  EXPECT_EQ(hello.device(0).slots(), 1);
  EXPECT_EQ(hello.attempt_size(), 0);
}

TEST_F(AgentTest, RunsATestAndTellsItsStory) {
  StartAgent();
  const v1::Assignment assignment = Assign("pass_one");
  coordinator_.Start(assignment);
  const v1::AttemptResult result = coordinator_.AwaitResult(Key(assignment));
  EXPECT_EQ(result.result().outcome(), v1::PASSED);
  EXPECT_EQ(coordinator_.Blob(result.log_digest()), "log of pass_one\n");
  const v1::Provenance& provenance = result.result().provenance();
  EXPECT_EQ(provenance.template_digest(), assignment.template_digest());
  EXPECT_EQ(provenance.catalogue_digest(), assignment.catalogue_digest());
  EXPECT_EQ(provenance.program_digest(), assignment.program_digest());
  EXPECT_TRUE(IsDigest(provenance.test_digest()));
  EXPECT_EQ(provenance.worker(), "node");
  EXPECT_EQ(provenance.engine_build(), "fake engine");
  EXPECT_EQ(provenance.device().kind(), "cpu");
  const auto events = coordinator_.Events(Key(assignment));
  ASSERT_EQ(events.size(), 2);
  EXPECT_TRUE(events[0].has_started());
  EXPECT_EQ(events[1].case_result().name(), "test_model_with_mock");
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0);
  EXPECT_EQ(coordinator_.Results(Key(assignment)), 1);
}

TEST_F(AgentTest, RunsManyAndFetchesEachBlobOnce) {
  AgentOptions options = Options();
  options.slots = 3;
  StartAgent(options);
  std::vector<v1::Assignment> assignments;
  for (int i = 0; i < 100; ++i) assignments.push_back(Assign(i % 3 == 0 ? "fail_x" : "pass_x"));
  v1::CoordinatorMessage message;
  for (size_t i = 0; i < assignments.size(); ++i) {
    assignments[i].mutable_attempt()->set_job_id("job " + std::to_string(i));
    coordinator_.Start(assignments[i]);
  }
  for (size_t i = 0; i < assignments.size(); ++i) {
    EXPECT_EQ(coordinator_.AwaitResult(Key(assignments[i])).result().outcome(),
              i % 3 == 0 ? v1::FAILED : v1::PASSED);
  }
  EXPECT_LE(coordinator_.downloads(), 4) << "template, program and two entries";
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

TEST_F(AgentTest, GivesTheHostTheProgramAndTheCheckpoint) {
  std::filesystem::create_directories(folder_ / "checkpoints/org/name");
  StartAgent();
  const v1::Assignment assignment = Assign("echo");
  const v1::TestResult result = RunOne(assignment);
  EXPECT_THAT(result.message(), HasSubstr("program=" + (folder_ / "state/blobs" / program_digest_).string()));
  EXPECT_THAT(result.message(), HasSubstr("checkpoint=" + (folder_ / "checkpoints/org/name").string()));
}

TEST_F(AgentTest, AModelWithoutAProgramIsUnsupported) {
  StartAgent();
  v1::Assignment assignment = Assign("pass");
  assignment.clear_program_digest();
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_EQ(result.message(), "there is no program for model pass");
  EXPECT_TRUE(IsDigest(result.provenance().test_digest())) << "a test was generated all the same";
}

TEST_F(AgentTest, WithoutAGpuACudaTestIsUnsupported) {
  StartAgent();
  v1::Assignment assignment = Assign("pass");
  assignment.mutable_target()->set_device(v1::CUDA);
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(result.message(), HasSubstr("no CUDA device"));
}

TEST_F(AgentTest, EveryGpuHasAHostAndTakesTheTestsThatLeaveTheDeviceOpen) {
  AgentOptions options = Options();
  options.cpu_only = false;
  options.gpus = {{TestGpu("GPU-0"), TestGpu("MIG-7")}};
  StartAgent(options);
  const v1::Hello hello = coordinator_.AwaitHello(1);
  ASSERT_EQ(hello.device_size(), 3);
  EXPECT_EQ(hello.device(1).device().kind(), "cuda");
  EXPECT_EQ(hello.device(1).slots(), 1);
  // Two tests at once take both GPUs: each waits at its gate until both have started.
  const std::string gates[] = {MakeGate(), MakeGate()};
  std::vector<v1::Assignment> gated = {Assign("gate_a", gates[0]), Assign("gate_b", gates[1])};
  for (const auto& assignment : gated) coordinator_.Start(assignment);
  for (const auto& assignment : gated) EXPECT_TRUE(coordinator_.AwaitEvent(Key(assignment)).has_started());
  for (const auto& gate : gates) Open(gate);
  for (const auto& assignment : gated) {
    EXPECT_EQ(coordinator_.AwaitResult(Key(assignment)).result().provenance().device().kind(), "cuda");
  }
  EXPECT_THAT(RunOne(Assign("echo")).message(), HasSubstr("device=cuda"));
  v1::Assignment on_cpu = Assign("echo_cpu");
  on_cpu.mutable_target()->set_device(v1::CPU);
  const v1::TestResult result = RunOne(on_cpu);
  EXPECT_THAT(result.message(), HasSubstr("device=cpu"));
  EXPECT_THAT(result.message(), HasSubstr("env CUDA_VISIBLE_DEVICES=\n")) << "the CPU's host sees no GPU";
}

TEST_F(AgentTest, ContentThatIsNotItsDigestIsAnInfrastructureError) {
  StartAgent();
  v1::Assignment assignment = Assign("pass");
  assignment.set_program_digest(Sha256Hex("the right program"));
  coordinator_.AddBlobAs(assignment.program_digest(), "another program");
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("arrived with the digest"));
  EXPECT_EQ(RunOne(Assign("pass_next")).outcome(), v1::PASSED);
}

TEST_F(AgentTest, AMissingBlobIsAnInfrastructureError) {
  StartAgent();
  v1::Assignment assignment = Assign("pass");
  assignment.set_program_digest(Sha256Hex("nowhere"));
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr(assignment.program_digest()));
}

TEST_F(AgentTest, ATestThatCannotBeGeneratedFails) {
  StartAgent();
  v1::Assignment assignment = Assign("pass");
  assignment.mutable_model()->set_arch_type("unheard_of");
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("unheard_of"));
}

TEST_F(AgentTest, AHostThatDiesCostsOneTest) {
  StartAgent();
  const v1::TestResult result = RunOne(Assign("crash"));
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("signal 11"));
  EXPECT_EQ(RunOne(Assign("pass")).outcome(), v1::PASSED);
}

TEST_F(AgentTest, AResultTooLargeForAMessageIsCut) {
  StartAgent();
  const v1::TestResult result = RunOne(Assign("big"));
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_LT(result.ByteSizeLong(), size_t{1} << 20);
  EXPECT_THAT(result.message(), HasSubstr("[cut]"));
}

TEST_F(AgentTest, ALogThatIsRefusedDoesNotKeepTheResultBack) {
  coordinator_.RefuseUploads(true);
  StartAgent();
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  const v1::AttemptResult result = coordinator_.AwaitResult(Key(assignment));
  EXPECT_EQ(result.result().outcome(), v1::PASSED);
  EXPECT_EQ(result.log_digest(), "");
}

TEST_F(AgentTest, ATestWithoutOutputHasNoLog) {
  StartAgent();
  const v1::Assignment assignment = Assign("quiet");
  coordinator_.Start(assignment);
  EXPECT_EQ(coordinator_.AwaitResult(Key(assignment)).log_digest(), "");
}

TEST_F(AgentTest, AnAbandonedAttemptEndsAndIsNotReported) {
  StartAgent();
  const v1::Assignment held = Assign("hold");
  coordinator_.Start(held);
  coordinator_.AwaitEvent(Key(held));
  coordinator_.Abandon(Key(held));
  EXPECT_EQ(RunOne(Assign("pass")).outcome(), v1::PASSED) << "its slot is free again";
  DrainAgent();
  EXPECT_EQ(coordinator_.Results(Key(held)), 0);
}

TEST_F(AgentTest, AnAttemptAbandonedBeforeItHasASlotNeverStarts) {
  StartAgent();
  const v1::Assignment held = Assign("hold"), waiting = Assign("pass_waiting");
  coordinator_.Start(held);
  coordinator_.AwaitEvent(Key(held));
  coordinator_.Start(waiting);
  coordinator_.Abandon(Key(waiting));
  coordinator_.Abandon(Key(held));
  EXPECT_EQ(RunOne(Assign("pass")).outcome(), v1::PASSED);
  EXPECT_THAT(coordinator_.Events(Key(waiting)), IsEmpty());
  EXPECT_EQ(coordinator_.Results(Key(waiting)), 0);
}

TEST_F(AgentTest, AnAttemptThatIsAssignedTwiceRunsOnce) {
  StartAgent();
  const std::string gate = MakeGate();
  const v1::Assignment assignment = Assign("gate", gate);
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(Key(assignment));
  coordinator_.Start(assignment);
  Open(gate);
  coordinator_.AwaitResult(Key(assignment));
  DrainAgent();
  EXPECT_EQ(coordinator_.Events(Key(assignment)).size(), 1);
}

TEST_F(AgentTest, HeartbeatsNameWhatRunsAndTheFreeSlots) {
  coordinator_.SetHeartbeat(5);
  AgentOptions options = Options();
  options.slots = 3;
  StartAgent(options);
  coordinator_.AwaitHeartbeat([](const v1::Heartbeat& beat) { return beat.free_slots() == 3; });
  const v1::Assignment held = Assign("hold");
  coordinator_.Start(held);
  const v1::Heartbeat beat =
      coordinator_.AwaitHeartbeat([](const v1::Heartbeat& b) { return b.attempt_size() == 1; });
  EXPECT_EQ(KeyOf(beat.attempt(0)), Key(held));
  EXPECT_EQ(beat.free_slots(), 2);
  EXPECT_FALSE(beat.draining());
}

// Fault: the coordinator is restarted while a test runs.
TEST_F(AgentTest, AnAttemptGoesOnWhileTheCoordinatorIsAway) {
  StartAgent();
  const std::string gate = MakeGate();
  const v1::Assignment assignment = Assign("gate", gate);
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(Key(assignment));
  coordinator_.GoAway();
  Open(gate);
  coordinator_.ComeBack();
  const v1::Hello hello = coordinator_.AwaitHello(2);
  EXPECT_EQ(hello.instance(), coordinator_.AwaitHello(1).instance());
  ASSERT_EQ(hello.attempt_size(), 1);
  EXPECT_EQ(KeyOf(hello.attempt(0)), Key(assignment));
  EXPECT_EQ(coordinator_.AwaitResult(Key(assignment)).result().outcome(), v1::PASSED);
}

// Fault: the connection breaks after the result was sent and before it was acknowledged.
TEST_F(AgentTest, AResultWithoutAnAnswerIsSentAgainAfterAReconnect) {
  coordinator_.Acknowledge(false);
  StartAgent();
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  coordinator_.AwaitResult(Key(assignment));
  coordinator_.GoAway();
  coordinator_.Acknowledge(true);
  coordinator_.ComeBack();
  EXPECT_EQ(coordinator_.AwaitHello(2).attempt_size(), 1);
  const v1::AttemptResult again = coordinator_.AwaitResult(Key(assignment), 2);
  EXPECT_EQ(coordinator_.Blob(again.log_digest()), "log of pass\n");
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

// Fault: a coordinator, or something between, that swallows results while its stream stands.
TEST_F(AgentTest, AResultThatIsNeverAnsweredMakesTheAgentConnectAgain) {
  coordinator_.SetHeartbeat(5);
  coordinator_.Acknowledge(false);
  AgentOptions options = Options();
  options.ack_limit = absl::Milliseconds(30);
  StartAgent(options);
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  EXPECT_EQ(coordinator_.AwaitHello(2).attempt_size(), 1);
  coordinator_.Acknowledge(true);
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

TEST_F(AgentTest, AResultFinishedWhileDisconnectedIsSentByTheNextAgentOfTheNode) {
  AgentOptions options = Options();
  options.drain_limit = absl::Milliseconds(20);
  StartAgent(options);
  const std::string gate = MakeGate();
  const v1::Assignment assignment = Assign("gate", gate);
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(Key(assignment));
  coordinator_.GoAway();
  Open(gate);
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 1);
  agent_.reset();
  coordinator_.ComeBack();
  StartAgent();
  const v1::Hello hello = coordinator_.AwaitHello(2);
  ASSERT_EQ(hello.attempt_size(), 1);
  EXPECT_EQ(KeyOf(hello.attempt(0)), Key(assignment));
  EXPECT_EQ(coordinator_.AwaitResult(Key(assignment)).result().outcome(), v1::PASSED);
}

TEST_F(AgentTest, TriesItsCoordinatorsInTurn) {
  AgentOptions options = Options();
  options.coordinator = "127.0.0.1:1, " + coordinator_.address();
  StartAgent(options);
  coordinator_.AwaitHello(1);
}

TEST_F(AgentTest, StartsBeforeItsCoordinator) {
  coordinator_.GoAway();
  StartAgent();
  coordinator_.ComeBack();
  EXPECT_EQ(RunOne(Assign("pass")).outcome(), v1::PASSED);
}

TEST_F(AgentTest, ADrainFinishesWhatRunsAndThenLeaves) {
  StartAgent();
  const std::string gate = MakeGate();
  const v1::Assignment assignment = Assign("gate", gate);
  coordinator_.Start(assignment);
  coordinator_.AwaitEvent(Key(assignment));
  agent_->Drain();
  const v1::Heartbeat beat = coordinator_.AwaitHeartbeat([](const v1::Heartbeat& b) { return b.draining(); });
  EXPECT_EQ(beat.attempt_size(), 1);
  EXPECT_EQ(beat.free_slots(), 0);
  Open(gate);
  agent_->Wait();
  coordinator_.AwaitGoodbye();
  EXPECT_EQ(coordinator_.Results(Key(assignment)), 1);
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

// A coordinator that assigns in the instant in which the worker begins to drain.
TEST_F(AgentTest, ADrainRunsWhatWasAssignedInThatInstant) {
  const v1::Assignment assignment = Assign("pass");
  coordinator_.StartWhenDraining(assignment);
  StartAgent();
  coordinator_.AwaitHello(1);
  DrainAgent();
  coordinator_.AwaitGoodbye();
  EXPECT_EQ(coordinator_.Results(Key(assignment)), 1);
}

TEST_F(AgentTest, ADrainWithoutACoordinatorThatAnswersItIsBounded) {
  coordinator_.AnswerDrain(false);
  AgentOptions options = Options();
  options.drain_limit = absl::Milliseconds(20);
  StartAgent(options);
  coordinator_.AwaitHello(1);
  DrainAgent();
  coordinator_.AwaitGoodbye();
}

TEST_F(AgentTest, APassThatLacksACheckIsNoPass) {
  StartAgent();
  const v1::TestResult result = RunOne(Assign("lie"));
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("lacks check golden of case test_model_with_mock"));
}

// The coordinator compares it with what was given.
TEST_F(AgentTest, WhatTheHostSaysThatItRanIsPassedOn) {
  StartAgent();
  EXPECT_EQ(RunOne(Assign("stray")).provenance().program_digest(), "another program");
}

TEST_F(AgentTest, ADrainWithoutAnswersEndsAtItsLimitAndKeepsTheResult) {
  coordinator_.Acknowledge(false);
  AgentOptions options = Options();
  options.drain_limit = absl::Milliseconds(20);
  StartAgent(options);
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  coordinator_.AwaitResult(Key(assignment));
  DrainAgent();
  EXPECT_EQ(agent_->unacknowledged(), 1);
}

TEST_F(AgentTest, StopEndsWhatRunsWithoutAResult) {
  StartAgent();
  const v1::Assignment held = Assign("hang");
  coordinator_.Start(held);
  coordinator_.AwaitEvent(Key(held));
  agent_->Stop();
  agent_->Wait();
  EXPECT_EQ(coordinator_.Results(Key(held)), 0);
  EXPECT_EQ(agent_->unacknowledged(), 0);
}

// A download that Stop cut short must not become an outcome of the job.
TEST_F(AgentTest, StopDuringADownloadLeavesNoResult) {
  coordinator_.HoldDownloads(true);
  StartAgent();
  coordinator_.Start(Assign("pass"));
  coordinator_.AwaitHeldDownload();
  agent_->Stop();
  coordinator_.HoldDownloads(false);
  EXPECT_EQ(agent_->unacknowledged(), 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "state/spool"));
}

// Fault: the coordinator goes away while blobs are on their way.
TEST_F(AgentTest, ADownloadThatBreaksIsTriedAgainWhenTheCoordinatorIsBack) {
  coordinator_.HoldDownloads(true);
  StartAgent();
  const v1::Assignment assignment = Assign("pass");
  coordinator_.Start(assignment);
  coordinator_.AwaitHeldDownload();
  coordinator_.GoAway();
  coordinator_.HoldDownloads(false);
  coordinator_.ComeBack();
  EXPECT_EQ(coordinator_.AwaitResult(Key(assignment)).result().outcome(), v1::PASSED);
}

TEST_F(AgentTest, TwoAgentsNeverShareAStateFolder) {
  StartAgent();
  EXPECT_THAT(Agent::Start(Options()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another worker uses")));
}

TEST_F(AgentTest, SaysWhatIsWrongWithItsOptions) {
  const auto refused = [this](auto change) {
    AgentOptions options = Options();
    change(options);
    return Agent::Start(options).status();
  };
  using Options = AgentOptions;
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(refused([](Options& o) { o.coordinator = " , "; }),
              StatusIs(invalid, HasSubstr("coordinator")));
  EXPECT_THAT(refused([](Options& o) { o.coordinator = "here"; }), StatusIs(invalid, HasSubstr("host:port")));
  EXPECT_THAT(refused([](Options& o) { o.name = ""; }), StatusIs(invalid, HasSubstr("name")));
  EXPECT_THAT(refused([](Options& o) { o.slots = 0; }), StatusIs(invalid, HasSubstr("slots")));
  EXPECT_THAT(refused([](Options& o) { o.labels = {"pool"}; }), StatusIs(invalid, HasSubstr("key=value")));
  EXPECT_THAT(refused([](Options& o) { o.host_binary = "/no/host"; }),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("/no/host")));
}

}  // namespace
}  // namespace assay::worker

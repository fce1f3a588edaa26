// The worker protocol over a real channel, with leases on a clock that only tests move.
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class WorkerServiceTest : public ServerTest {
 protected:
  bool Connected(const std::string& name) {
    grpc::ClientContext context;
    v1::ListWorkersResponse workers;
    EXPECT_TRUE(batches_->ListWorkers(&context, {}, &workers).ok());
    for (const v1::WorkerSummary& worker : workers.worker()) {
      if (worker.name() == name) return worker.connected();
    }
    return false;
  }
  void AwaitDone(const std::string& batch_id, uint32_t jobs) {
    while (Get(batch_id).batch().done() < jobs) absl::SleepFor(absl::Milliseconds(1));
  }
};

TEST_F(WorkerServiceTest, GreetsWithTheTimesToKeep) {
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto welcome = worker.AwaitWelcome();
  ASSERT_TRUE(welcome.has_value());
  EXPECT_EQ(welcome->lease_ms(), 10'000);
  EXPECT_EQ(welcome->heartbeat_ms(), 3'333);
}

TEST_F(WorkerServiceTest, AgreesOnTheNewestProtocolThatBothSpeak) {
  for (const auto& [spoken, agreed] : std::map<uint32_t, uint32_t>{{1, 1}, {2, 2}, {3, 3}, {9, 3}}) {
    v1::Hello hello = HelloOf("w", "i", 1);
    hello.set_protocol(spoken);
    FakeWorker worker(channel_, hello);
    auto welcome = worker.AwaitWelcome();
    ASSERT_TRUE(welcome.has_value());
    EXPECT_EQ(welcome->protocol(), agreed);
  }
}

TEST_F(WorkerServiceTest, SeveralResultsInOneMessageAreAnsweredInOne) {
  const std::string batch = Submit({"bert", "roberta"});
  v1::Hello hello = HelloOf("w", "i", 2);
  hello.set_protocol(2);
  FakeWorker worker(channel_, hello);
  v1::WorkerMessage message;
  for (int i = 0; i < 2; ++i) {
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    v1::AttemptResult& result = *message.mutable_results()->add_result();
    *result.mutable_attempt() = start->attempt();
    *result.mutable_result() = TestResultOf(*start, v1::PASSED);
  }
  *message.mutable_results()->add_result()->mutable_attempt() = Ref("no such job", 1);
  ASSERT_TRUE(worker.Send(message));
  while (worker.acks().empty()) ASSERT_TRUE(worker.Read());
  ASSERT_THAT(worker.acks(), SizeIs(3)) << "all of them in one message";
  EXPECT_TRUE(worker.acks()[0].counted());
  EXPECT_TRUE(worker.acks()[1].counted());
  EXPECT_FALSE(worker.acks()[2].counted());
  EXPECT_THAT(worker.acks()[2].reason(), HasSubstr("no such job"));
  EXPECT_TRUE(Get(batch).batch().has_end_time());
}

// From protocol 3 on an acknowledgement is no message of its own.
TEST_F(WorkerServiceTest, AnAcknowledgementComesWithWhatIsSentNext) {
  const std::string batch = Submit({"bert", "roberta"});
  v1::Hello hello = HelloOf("w", "i", 2);
  hello.set_protocol(3);
  FakeWorker worker(channel_, hello);
  auto first = worker.AwaitStart();
  auto second = worker.AwaitStart();
  ASSERT_TRUE(first.has_value() && second.has_value());

  ASSERT_TRUE(worker.SendResult(*first, v1::PASSED));
  AwaitDone(batch, 1);
  Submit({"gpt2"});
  ASSERT_TRUE(worker.AwaitStart().has_value());
  ASSERT_THAT(worker.acks(), SizeIs(1)) << "in the same message";
  EXPECT_EQ(worker.acks().front().attempt().job_id(), first->attempt().job_id());
  worker.acks().clear();

  const int before = worker.desired();
  ASSERT_TRUE(worker.SendResult(*second, v1::PASSED));
  AwaitDone(batch, 2);
  ASSERT_TRUE(worker.SendHeartbeat({}));
  ASSERT_TRUE(worker.AwaitAck().has_value())
      << "where nothing else is sent, the next heartbeat's answer has it";
  EXPECT_EQ(worker.desired(), before + 1);
}

TEST_F(WorkerServiceTest, AWorkerThatDrainsIsAcknowledgedAtOnce) {
  const std::string batch = Submit({"bert"});
  v1::Hello hello = HelloOf("w", "i", 1);
  hello.set_protocol(3);
  FakeWorker worker(channel_, hello);
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  ASSERT_TRUE(worker.SendHeartbeat({start->attempt()}, /*draining=*/true));
  ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  EXPECT_TRUE(worker.AwaitAck().has_value());
}

TEST_F(WorkerServiceTest, AWorkerReportsOnlyOnWhatItHolds) {
  const std::string batch = Submit({"bert"});
  FakeWorker holder(channel_, HelloOf("holder", "i", 1));
  auto start = holder.AwaitStart();
  ASSERT_TRUE(start.has_value());
  FakeWorker other(channel_, HelloOf("other", "i", 0));
  ASSERT_TRUE(other.SendResult(*start, v1::FAILED));
  auto ack = other.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  EXPECT_THAT(ack->reason(), HasSubstr("not worker 'other's"));
  ASSERT_TRUE(holder.SendResult(*start, v1::PASSED));
  ASSERT_TRUE(holder.AwaitAck().has_value());
  EXPECT_EQ(Get(batch).job(0).result().outcome(), v1::PASSED);
}

TEST_F(WorkerServiceTest, FillsSlotsAndNoMore) {
  Submit({"bert", "roberta", "albert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 2));
  auto first = worker.AwaitStart();
  ASSERT_TRUE(first.has_value() && worker.AwaitStart().has_value());
  ASSERT_TRUE(worker.SendResult(first->attempt(), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  // The third came only when a slot was free, with what the second slot does still unanswered.
  EXPECT_TRUE(worker.AwaitStart().has_value());
  grpc::ClientContext context;
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(batches_->ListWorkers(&context, {}, &workers).ok());
  ASSERT_EQ(workers.worker_size(), 1);
  EXPECT_TRUE(workers.worker(0).connected());
  EXPECT_EQ(workers.worker(0).running_job_size(), 2);
}

TEST_F(WorkerServiceTest, TheNextJobComesAheadWhileManyWait) {
  Submit({"bert", "roberta", "albert", "electra"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto first = worker.AwaitStart(), ahead = worker.AwaitStart();
  ASSERT_TRUE(first.has_value() && ahead.has_value());
  ASSERT_TRUE(worker.SendResult(first->attempt(), v1::PASSED));
  auto third = worker.AwaitStart();
  ASSERT_TRUE(third.has_value());
  ASSERT_TRUE(worker.SendResult(ahead->attempt(), v1::PASSED));
  // The last one waits for a slot. Answered in order: what was decided before is here when this is answered.
  ASSERT_TRUE(worker.AwaitAck() && worker.AwaitAck());
  ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck());
  EXPECT_THAT(worker.starts(), IsEmpty());
  ASSERT_TRUE(worker.SendResult(third->attempt(), v1::PASSED));
  EXPECT_TRUE(worker.AwaitStart());
}

TEST_F(WorkerServiceTest, AJobOfASilentWorkerGoesToAnother) {
  const std::string batch = Submit({"bert"});
  FakeWorker silent(channel_, HelloOf("silent", "i", 1));
  auto lost = silent.AwaitStart();
  ASSERT_TRUE(lost.has_value());
  clock_.Advance(kLease);
  FakeWorker other(channel_, HelloOf("other", "i", 1));
  auto start = other.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->attempt().job_id(), lost->attempt().job_id());
  EXPECT_EQ(start->attempt().attempt(), 2);
  // The first is told to stop, and its result comes too late.
  auto abandon = silent.AwaitAbandon();
  ASSERT_TRUE(abandon.has_value());
  EXPECT_EQ(abandon->attempt(), 1);
  ASSERT_TRUE(silent.SendResult(lost->attempt(), v1::FAILED));
  auto ack = silent.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  EXPECT_THAT(ack->reason(), HasSubstr("attempt 2"));
  ASSERT_TRUE(other.SendResult(start->attempt(), v1::PASSED));
  ASSERT_TRUE(other.AwaitAck().has_value());
  const v1::GetBatchResponse got = Get(batch);
  EXPECT_EQ(got.job(0).result().outcome(), v1::PASSED);
  ASSERT_EQ(got.job(0).attempts_size(), 2);
  EXPECT_EQ(got.job(0).attempts(0).outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(got.job(0).attempts(0).message(), HasSubstr("silent"));
}

TEST_F(WorkerServiceTest, HeartbeatsKeepAnAttempt) {
  const std::string batch = Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(kLease / 2);
    ASSERT_TRUE(worker.SendHeartbeat({start->attempt()}));
    // Answered in order: what comes back after it was seen after the heartbeat.
    ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
  }
  EXPECT_EQ(Get(batch).job(0).attempt(), 1);
  EXPECT_EQ(Get(batch).job(0).state(), v1::RUNNING);
  EXPECT_THAT(worker.abandons(), IsEmpty());
}

TEST_F(WorkerServiceTest, AWorkerThatComesBackKeepsItsAttemptsAndItsResultsCountOnce) {
  const std::string batch = Submit({"bert", "roberta"});
  v1::Assignment finished, running;
  {
    FakeWorker worker(channel_, HelloOf("w", "i", 2));
    auto first = worker.AwaitStart(), second = worker.AwaitStart();
    ASSERT_TRUE(first.has_value() && second.has_value());
    finished = *first;
    running = *second;
    ASSERT_TRUE(worker.SendResult(finished, v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    worker.Break();  // and say that the acknowledgement was lost on the way
  }
  FakeWorker worker(channel_, HelloOf("w", "i", 2, {running.attempt()}));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(worker.SendResult(finished, v1::PASSED));
  auto again = worker.AwaitAck();
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->counted());
  ASSERT_TRUE(worker.SendResult(running, v1::FAILED));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  const v1::GetBatchResponse got = Get(batch);
  EXPECT_EQ(got.batch().done(), 2);
  for (const v1::Job& job : got.job()) EXPECT_EQ(job.attempts_size(), 1);
}

TEST_F(WorkerServiceTest, AJobOfAWorkerWhoseConnectionClosedGoesToAnotherAfterTheGrace) {
  Submit({"bert"});
  {
    FakeWorker dying(channel_, HelloOf("dying", "i", 1));
    ASSERT_TRUE(dying.AwaitStart().has_value());
  }
  FakeWorker taker(channel_, HelloOf("taker", "i", 1));
  ASSERT_TRUE(taker.AwaitWelcome().has_value());
  EXPECT_THAT(taker.starts(), IsEmpty());
  while (Connected("dying")) {
  }
  clock_.Advance(absl::Milliseconds(500));
  auto start = taker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->attempt().attempt(), 2);
}

TEST_F(WorkerServiceTest, ARestartedWorkersJobsAreQueuedAtOnce) {
  Submit({"bert"});
  {
    FakeWorker worker(channel_, HelloOf("w", "before", 1));
    ASSERT_TRUE(worker.AwaitStart().has_value());
  }
  FakeWorker worker(channel_, HelloOf("w", "after", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->attempt().attempt(), 2);
}

TEST_F(WorkerServiceTest, RunningAttemptsSurviveARestartOfTheCoordinator) {
  const std::string batch = Submit({"bert", "roberta"});
  v1::Assignment running;
  {
    FakeWorker worker(channel_, HelloOf("w", "i", 1));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    running = *start;
    server_->Shutdown();
    EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  clock_.Advance(absl::Hours(1));  // a long night
  Restart();
  FakeWorker worker(channel_, HelloOf("w", "i", 1, {running.attempt()}));
  ASSERT_TRUE(worker.SendResult(running, v1::PASSED));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
  EXPECT_THAT(worker.abandons(), IsEmpty());
  auto next = worker.AwaitStart();
  ASSERT_TRUE(next.has_value());
  EXPECT_NE(next->attempt().job_id(), running.attempt().job_id());
}

TEST_F(WorkerServiceTest, AStaleAttemptIsAbandonedWhenItsWorkerComesBack) {
  Submit({"bert"});
  v1::AttemptRef stale;
  {
    FakeWorker worker(channel_, HelloOf("slow", "i", 1));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    stale = start->attempt();
  }
  clock_.Advance(kLease);
  FakeWorker other(channel_, HelloOf("other", "i", 1));
  ASSERT_TRUE(other.AwaitStart().has_value());
  FakeWorker slow(channel_, HelloOf("slow", "i", 1, {stale}));
  auto abandon = slow.AwaitAbandon();
  ASSERT_TRUE(abandon.has_value());
  EXPECT_EQ(abandon->attempt(), 1);
}

TEST_F(WorkerServiceTest, AJobThatTakesItsWorkersDownIsGivenUp) {
  const std::string batch = Submit({"bert"});
  for (int i = 0; i < 3; ++i) {
    FakeWorker worker(channel_, HelloOf(absl::StrCat("w", i), "i", 1));
    ASSERT_TRUE(worker.AwaitStart().has_value());
    clock_.Advance(kLease);
  }
  auto [events, status] = Watch(batch, 0);
  ASSERT_TRUE(status.ok());
  const v1::Job job = Get(batch).job(0);
  EXPECT_EQ(job.result().outcome(), v1::INFRASTRUCTURE_ERROR);
  for (const char* worker : {"w0", "w1", "w2"}) EXPECT_THAT(job.result().message(), HasSubstr(worker));
}

TEST_F(WorkerServiceTest, ADrainingWorkerGetsNothingNew) {
  Submit({"bert"});
  v1::Hello hello = HelloOf("leaving", "i", 1);
  hello.set_draining(true);
  FakeWorker leaving(channel_, hello);
  ASSERT_TRUE(leaving.AwaitWelcome().has_value());
  FakeWorker staying(channel_, HelloOf("staying", "i", 1));
  EXPECT_TRUE(staying.AwaitStart().has_value());
  EXPECT_THAT(leaving.starts(), IsEmpty());
}

// A worker leaves when it knows that nothing is on its way to it any more.
TEST_F(WorkerServiceTest, ADrainingHeartbeatIsAnsweredAfterAllThatWasDecidedBefore) {
  const std::string batch = Submit({"bert", "roberta"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  const int before = worker.desired();
  ASSERT_TRUE(worker.SendHeartbeat({start->attempt()}));
  ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  EXPECT_EQ(worker.desired(), before) << "a heartbeat is no reason to say anything";
  for (int beat = 1; beat <= 2; ++beat) {
    ASSERT_TRUE(worker.SendHeartbeat({start->attempt()}, /*draining=*/true));
    ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    EXPECT_EQ(worker.desired(), before + beat);
  }
  // Its slot is free, and stays so.
  ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  EXPECT_THAT(worker.starts(), IsEmpty());
  EXPECT_EQ(Get(batch).job(1).state(), v1::QUEUED);
}

TEST_F(WorkerServiceTest, APassOnOtherContentThanWasGivenIsNoPass) {
  const std::string batch = Submit({"bert"});
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  v1::TestResult result = TestResultOf(*start, v1::PASSED);
  const std::string other(64, 'a');
  result.mutable_provenance()->set_program_digest(other);
  ASSERT_TRUE(worker.SendResult(start->attempt(), result));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_FALSE(ack->counted());
  const v1::Job job = Get(batch).job(0);
  EXPECT_NE(job.state(), v1::DONE);
  EXPECT_EQ(job.attempts(0).outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(job.attempts(0).message(), HasSubstr(other));
  EXPECT_THAT(job.attempts(0).message(), HasSubstr(start->program_digest()));
  auto again = worker.AwaitStart();
  ASSERT_TRUE(again.has_value());
  ASSERT_TRUE(worker.SendResult(*again, v1::PASSED));
  ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted());
}

TEST_F(WorkerServiceTest, LabelsOfWorkersAreListed) {
  v1::Hello hello = HelloOf("w", "i", 1);
  hello.add_label("zone=a");
  hello.add_label("exporter");
  FakeWorker worker(channel_, hello);
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  grpc::ClientContext context;
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(batches_->ListWorkers(&context, {}, &workers).ok());
  ASSERT_EQ(workers.worker_size(), 1);
  EXPECT_THAT(workers.worker(0).label(), ::testing::ElementsAre("zone=a", "exporter"));
}

TEST_F(WorkerServiceTest, AJobThatNobodyCanTakeSaysWhy) {
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  v1::SubmitBatchRequest request;
  request.set_content(BatchContent({"bert"}));
  request.mutable_target()->set_device(v1::CUDA);
  v1::Batch batch;
  ASSERT_TRUE(Submit(request, &batch).ok());
  EXPECT_THAT(Get(batch.batch_id()).job(0).waiting(), HasSubstr("no connected worker has a cuda slot"));
  v1::Hello with_gpu = HelloOf("gpu", "i", 1);
  with_gpu.mutable_device(0)->mutable_device()->set_kind("cuda");
  FakeWorker gpu(channel_, with_gpu);
  EXPECT_TRUE(gpu.AwaitStart().has_value());
  EXPECT_EQ(Get(batch.batch_id()).job(0).waiting(), "");
}

TEST_F(WorkerServiceTest, ANewStreamOfAWorkerEndsItsOlderOne) {
  FakeWorker older(channel_, HelloOf("w", "i", 1));
  ASSERT_TRUE(older.AwaitWelcome().has_value());
  FakeWorker newer(channel_, HelloOf("w", "i", 1));
  ASSERT_TRUE(newer.AwaitWelcome().has_value());
  EXPECT_EQ(older.Finish().error_code(), grpc::StatusCode::ALREADY_EXISTS);
  Submit({"bert"});
  EXPECT_TRUE(newer.AwaitStart().has_value());
}

TEST_F(WorkerServiceTest, TellsAWorkerThatDoesNotKeepToTheProtocol) {
  FakeWorker hasty(channel_);
  hasty.SendHeartbeat({});
  EXPECT_EQ(hasty.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FakeWorker nameless(channel_, HelloOf("", "i", 1));
  EXPECT_EQ(nameless.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::Hello ancient = HelloOf("w", "i", 1);
  ancient.set_protocol(0);
  FakeWorker older(channel_, ancient);
  EXPECT_EQ(older.Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  FakeWorker talkative(channel_, HelloOf("w", "i", 1));
  v1::WorkerMessage again;
  *again.mutable_hello() = HelloOf("w", "i", 1);
  talkative.Send(again);
  EXPECT_EQ(talkative.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FakeWorker large(channel_, HelloOf("w", "i", 1));
  v1::WorkerMessage huge;
  huge.mutable_result()->mutable_result()->set_message(std::string(2 << 20, 'x'));
  large.Send(huge);
  EXPECT_EQ(large.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace assay::coordinator

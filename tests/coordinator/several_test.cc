// Several coordinators on one PostgreSQL: what one commits, the others' watchers, workers and queues hear of.
#include <map>
#include <set>
#include <thread>

#include "assay/v1/admin.grpc.pb.h"
#include "coordinator/store/postgres_notify.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class SeveralTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    auto other = Server::Start(Options());
    ASSERT_THAT(other, IsOk());
    other_ = *std::move(other);
    other_channel_ =
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", other_->port()), grpc::InsecureChannelCredentials());
  }
  void TearDown() override {
    other_.reset();
    ServerTest::TearDown();
  }
  ServerOptions Options() const override {
    ServerOptions options = ServerTest::Options();
    options.data_dir.clear();
    options.database = url_;
    options.lease_tick = tick_;
    options.poll = poll_;
    return options;
  }
  // Of the other coordinator.
  std::pair<std::vector<v1::BatchEvent>, grpc::Status> WatchOther(const std::string& batch_id) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    v1::WatchBatchRequest request;
    request.set_batch_id(batch_id);
    auto stub = v1::BatchService::NewStub(other_channel_);
    auto stream = stub->WatchBatch(&context, request);
    std::vector<v1::BatchEvent> events;
    v1::BatchEvent event;
    while (stream->Read(&event)) events.push_back(event);
    return {events, stream->Finish()};
  }
  void Cancel(const std::string& batch_id) {
    grpc::ClientContext context;
    v1::CancelBatchRequest request;
    request.set_batch_id(batch_id);
    v1::CancelBatchResponse response;
    grpc::Status status = batches_->CancelBatch(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  // So rare that what a test waits for has come by NOTIFY, or not at all.
  absl::Duration tick_ = absl::Hours(1), poll_ = absl::Hours(1);
  const std::string url_ = PostgresServer::Get().NewStore();
  std::unique_ptr<Server> other_;
  std::shared_ptr<grpc::Channel> other_channel_;
};

TEST_F(SeveralTest, AWatcherOfOneSeesWhatAnotherCommits) {
  const std::string batch = Submit({"bert"});
  std::pair<std::vector<v1::BatchEvent>, grpc::Status> seen;
  std::thread watcher([&] { seen = WatchOther(batch); });
  FakeWorker worker(channel_, HelloOf("w", "i", 1));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  watcher.join();
  EXPECT_TRUE(seen.second.ok()) << seen.second.error_message();
  ASSERT_THAT(seen.first, SizeIs(3));
  for (size_t i = 0; i < seen.first.size(); ++i) EXPECT_EQ(seen.first[i].sequence(), i + 1);
}

TEST_F(SeveralTest, ABatchSubmittedToOneGoesToTheFreeSlotsOfAnother) {
  FakeWorker worker(other_channel_, HelloOf("w", "i", 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  const std::string batch = Submit({"bert"});
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->batch_id(), batch);
}

// It is stored beside what goes on, by a session of its own; nothing but that wakes the free slots here.
TEST_F(SeveralTest, ALargeBatchIsStoredOnceAndFillsFreeSlotsEverywhere) {
  constexpr int kJobs = 300, kSlots = 100;
  std::vector<std::string> models;
  for (int i = 0; i < kJobs; ++i) models.push_back(absl::StrCat("m", i));
  FakeWorker worker(channel_, HelloOf("w", "i", kSlots)), other(other_channel_, HelloOf("v", "i", kSlots));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(other.AwaitWelcome().has_value());
  v1::SubmitBatchRequest request;
  request.set_request_id("large");
  request.set_name("test.json");
  request.set_content(BatchContent(models));
  request.mutable_target()->set_device(v1::CPU);
  v1::Batch batch, again;
  grpc::Status status = Submit(request, &batch);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_TRUE(Submit(request, &again).ok());
  EXPECT_EQ(again.batch_id(), batch.batch_id());
  request.set_content(BatchContent({"bert"}));
  EXPECT_EQ(Submit(request, &again).error_code(), grpc::StatusCode::ALREADY_EXISTS);

  auto first = worker.AwaitStart();
  ASSERT_TRUE(first.has_value());
  auto far = other.AwaitStart();
  ASSERT_TRUE(far.has_value());
  std::set<std::string> ended;
  const auto end = [&](FakeWorker& one, const v1::Assignment& start) {
    EXPECT_TRUE(one.SendResult(start, v1::PASSED));
    auto ack = one.AwaitAck();
    EXPECT_TRUE(ack.has_value() && ack->counted());
    EXPECT_TRUE(ended.insert(start.attempt().job_id()).second);
  };
  end(worker, *first);
  end(other, *far);
  // As long as one waits every slot of both is filled; it is given ahead of them only where more wait than
  // there are.
  const auto no_slot_is_free = [&] {
    std::map<std::string, int> running;
    int queued = 0;
    const v1::GetBatchResponse now = Get(batch.batch_id());
    for (const v1::Job& job : now.job()) {
      if (job.state() == v1::QUEUED) ++queued;
      if (job.state() == v1::RUNNING) ++running[job.worker()];
    }
    return queued == 0 || (running["w"] >= kSlots && running["v"] >= kSlots);
  };
  for (int look = 0; !no_slot_is_free(); ++look) ASSERT_LT(look, 10'000);
  EXPECT_THAT(Get(batch.batch_id()).job(), SizeIs(kJobs));
  EXPECT_EQ(Get(batch.batch_id()).batch().done(), 2u);
}

TEST_F(SeveralTest, ACancelAtOneStopsWhatRunsAtAnother) {
  const std::string kept = Submit({"roberta"}), batch = Submit({"bert"});
  FakeWorker worker(other_channel_, HelloOf("w", "i", 2));
  ASSERT_TRUE(worker.AwaitStart().has_value());
  ASSERT_TRUE(worker.AwaitStart().has_value());
  Cancel(batch);
  auto abandoned = worker.AwaitAbandon();
  ASSERT_TRUE(abandoned.has_value());
  EXPECT_EQ(abandoned->job_id(), batch + ".bert");
  EXPECT_TRUE(worker.abandons().empty()) << "the other batch goes on";
}

TEST_F(SeveralTest, AWorkerMovesToAnotherWithWhatItRuns) {
  const std::string batch = Submit({"bert"});
  v1::Assignment given;
  {
    FakeWorker worker(channel_, HelloOf("w", "i", 1));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    given = *start;
    server_.reset();  // it dies
  }
  FakeWorker worker(other_channel_, HelloOf("w", "i", 1, {given.attempt()}));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(worker.SendResult(given, v1::PASSED));
  auto ack = worker.AwaitAck();
  ASSERT_TRUE(ack.has_value());
  EXPECT_TRUE(ack->counted()) << ack->reason();
}

class DeafTest : public SeveralTest {
 protected:
  DeafTest() { poll_ = absl::Milliseconds(20); }
};

// As a pooler does, which hands each transaction to whatever session is free: what was LISTENed to is lost
// without a word.
TEST_F(DeafTest, WhatNotifyLosesThePollFinds) {
  FakeWorker worker(other_channel_, HelloOf("w", "i", 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  for (int round = 0; round < 3; ++round) {
    ASSERT_THAT(PostgresServer::Get().Run(url_,
                                          "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                                          " WHERE datname = current_database()"
                                          " AND application_name = 'assay-coordinator bell'"),
                IsOk());
    const std::string batch = Submit({"bert"});
    std::thread watcher([&] { EXPECT_TRUE(WatchOther(batch).second.ok()); });
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    watcher.join();
  }
}

// An operator's orders, given to a coordinator that does not hold the worker's stream.
class OrdersTest : public DeafTest {
 protected:
  static v1::Hello Newer(const std::string& instance) {
    v1::Hello hello = HelloOf("w", instance, 1);
    hello.set_protocol(2);
    return hello;
  }
  void SetUp() override {
    DeafTest::SetUp();
    admin_ = v1::AdminService::NewStub(channel_);
  }
  grpc::Status Drain() {
    grpc::ClientContext context;
    v1::DrainWorkerRequest request;
    request.set_worker("w");
    v1::DrainWorkerResponse response;
    return admin_->DrainWorker(&context, request, &response);
  }
  grpc::Status Accept(std::string* id) {
    grpc::ClientContext context;
    v1::AcceptWorkerRequest request;
    request.set_worker("w");
    v1::AcceptWorkerResponse response;
    const grpc::Status status = admin_->AcceptWorker(&context, request, &response);
    *id = response.id();
    return status;
  }
  // What stands in the store.
  std::string Orders() {
    auto connection = PostgresConnection::Connect(url_, "test");
    EXPECT_THAT(connection, IsOk());
    auto count = (*connection)->Read("SELECT count(*) FROM assay.orders");
    EXPECT_THAT(count, IsOk());
    return absl::StrCat(count->Int(0, 0));
  }
  void AwaitNoOrders() {
    while (Orders() != "0") absl::SleepFor(absl::Milliseconds(5));
  }
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST_F(OrdersTest, ADrainReachesTheWorkerOfAnotherCoordinatorOnce) {
  EXPECT_EQ(Drain().error_code(), grpc::StatusCode::NOT_FOUND);
  FakeWorker worker(other_channel_, Newer("i"));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(Drain().ok());
  while (!worker.drain()) ASSERT_TRUE(worker.Read());
  // Kept until the worker says so itself: had it moved, it would have been told again.
  EXPECT_EQ(Orders(), "1");
  v1::WorkerMessage heartbeat;
  heartbeat.mutable_heartbeat()->set_draining(true);
  ASSERT_TRUE(worker.Send(heartbeat));
  AwaitNoOrders();
}

TEST_F(OrdersTest, AWorkerThatMovesBeforeItDrainsIsToldAgainAndItsSuccessorIsNot) {
  {
    FakeWorker worker(other_channel_, Newer("i"));
    ASSERT_TRUE(worker.AwaitWelcome().has_value());
    ASSERT_TRUE(Drain().ok());
  }
  {
    FakeWorker worker(channel_, Newer("i"));
    while (!worker.drain()) ASSERT_TRUE(worker.Read());
  }
  FakeWorker successor(other_channel_, Newer("j"));
  ASSERT_TRUE(successor.AwaitWelcome().has_value());
  AwaitNoOrders();
  Submit({"bert"});
  ASSERT_TRUE(successor.AwaitStart().has_value());
  EXPECT_FALSE(successor.drain());
}

TEST_F(OrdersTest, ASweepIsOrderedThroughAnyCoordinatorOneAtATime) {
  FakeWorker worker(other_channel_, Newer("i"));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  std::string id, second;
  ASSERT_TRUE(Accept(&id).ok());
  const grpc::Status refused = Accept(&second);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr(id));
  while (!worker.sweep()) ASSERT_TRUE(worker.Read());
  EXPECT_EQ(worker.sweep()->id(), id);
  v1::WorkerMessage report;
  report.mutable_acceptance()->set_id(id);
  report.mutable_acceptance()->set_state(v1::AcceptanceReport::ACCEPTED);
  ASSERT_TRUE(worker.Send(report));
  AwaitNoOrders();
  ASSERT_TRUE(Accept(&second).ok());
}

// What one bell rings, another hears.
class BellTest : public ::testing::Test {
 protected:
  struct Ears {
    absl::Mutex mutex;
    std::set<std::string> batches ABSL_GUARDED_BY(mutex);
    int calls ABSL_GUARDED_BY(mutex) = 0, everything ABSL_GUARDED_BY(mutex) = 0;

    PostgresBell::Heard Listener() {
      return [this](const std::optional<std::set<std::string>>& heard) {
        absl::MutexLock lock(&mutex);
        if (!heard) {
          ++everything;
          return;
        }
        ++calls;
        batches.insert(heard->begin(), heard->end());
      };
    }
    void AwaitEverything(int times) {
      absl::MutexLock lock(&mutex);
      auto heard = [&] { return everything >= times; };
      mutex.Await(absl::Condition(&heard));
    }
    void AwaitBatches(size_t count) {
      absl::MutexLock lock(&mutex);
      auto heard = [&] { return batches.size() >= count; };
      mutex.Await(absl::Condition(&heard));
    }
  };
  PostgresBell::Options Rarely() const {
    PostgresBell::Options options;
    options.poll = absl::Hours(1);
    return options;
  }
  const std::string url_ = PostgresServer::Get().NewStore();
};

TEST_F(BellTest, ManyRingsAreHeardAsFew) {
  Ears mine, others;
  PostgresBell listener(url_, Rarely(), others.Listener());
  others.AwaitEverything(2);  // the first look, and once it listens
  PostgresBell ringer(url_, Rarely(), mine.Listener());
  mine.AwaitEverything(2);
  for (int i = 0; i < 1000; ++i) ringer.Ring({absl::StrCat("b", i)});
  others.AwaitBatches(1000);
  absl::MutexLock lock(&others.mutex);
  EXPECT_LT(others.calls, 200);
  absl::MutexLock my_lock(&mine.mutex);
  EXPECT_THAT(mine.batches, ::testing::IsEmpty()) << "nobody needs to be told of what they did themselves";
}

TEST_F(BellTest, MoreThanFitsIntoOneNotifyIsALookAtEverything) {
  Ears mine, others;
  PostgresBell listener(url_, Rarely(), others.Listener());
  others.AwaitEverything(2);
  PostgresBell ringer(url_, Rarely(), mine.Listener());
  others.AwaitEverything(3);  // whoever comes tells the others to look
  std::set<std::string> many;
  for (int i = 0; i < 1000; ++i) many.insert(absl::StrCat("b20261122-063550-", i));
  ringer.Ring(many);
  others.AwaitEverything(4);
}

TEST_F(BellTest, AServerThatCameBackIsListenedToAgain) {
  Ears mine, others;
  PostgresBell listener(url_, Rarely(), others.Listener());
  PostgresBell ringer(url_, Rarely(), mine.Listener());
  PostgresServer::Get().Kill();
  PostgresServer::Get().Start();
  // What is rung before both are back is told as a look at everything.
  absl::MutexLock lock(&others.mutex);
  auto heard = [&] { return others.batches.count("b1") > 0; };
  do {
    ringer.Ring({"b1"});
  } while (!others.mutex.AwaitWithTimeout(absl::Condition(&heard), absl::Milliseconds(20)));
}

}  // namespace
}  // namespace assay::coordinator

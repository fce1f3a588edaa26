// Several coordinators on one database at once, and sessions that are ended at moments that nobody chose:
// every job ends once, what was counted is, no attempt is handed out twice, and events are numbered without
// gaps, visible in their order.
#include <atomic>
#include <random>
#include <thread>

#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_schema.h"
#include "coordinator/store/postgres_store.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kMaxAttempts = 3;
constexpr int kCoordinators = 3, kTransactions = 120, kWorkers = 4, kKills = 8;
using AttemptKey = std::pair<std::string, uint64_t>;

bool MayPass(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsAborted(status); }

// What clients, workers and watchers were told, all over.
struct World {
  absl::Mutex mutex;
  std::vector<std::string> batches ABSL_GUARDED_BY(mutex);
  std::set<AttemptKey> started ABSL_GUARDED_BY(mutex);
  std::map<AttemptKey, std::string> running ABSL_GUARDED_BY(mutex);  // whose it is
  std::map<std::string, uint64_t> counted ABSL_GUARDED_BY(mutex);    // by job: the attempt
  std::atomic<bool> over = false;
  std::atomic<int> submitted = 0;
};

class Coordinator {
 public:
  Coordinator(const std::string& url, int number, World& world)
      : number_(number), world_(world), random_(static_cast<uint64_t>(number) + 17) {
    auto store = OpenPostgresStore(url, kMaxAttempts);
    EXPECT_THAT(store, IsOk());
    if (store.ok()) store_ = *std::move(store);
  }

  // What a transaction does is told when it is committed; one that is in another's way, or loses its session,
  // is not.
  bool Transact(const std::function<absl::Status(Store&)>& work, const std::function<void()>& tell) {
    absl::Status status = store_->Begin();
    if (status.ok()) {
      status = work(*store_);
      if (status.ok()) status = store_->Commit();
      if (!status.ok()) store_->Rollback();
    }
    if (status.ok()) {
      tell();
      return true;
    }
    EXPECT_TRUE(MayPass(status)) << status;
    return false;
  }

  void Submit() {
    const std::string id = absl::StrCat("b", number_, "-", world_.submitted++);
    std::vector<std::string> models;
    for (size_t i = 0; i <= Below(6); ++i) models.push_back(absl::StrCat("m", i));
    const BatchSubmission submission = Submission(id, models, absl::StrCat("s", Below(2)));
    // A client repeats its request until it is answered.
    while (!Transact([&](Store& s) { return s.SubmitBatch(submission, s.Now()).status(); },
                     [&] {
                       absl::MutexLock lock(&world_.mutex);
                       world_.batches.push_back(id);
                     })) {
    }
  }

  // Gives at most `limit` queued jobs to some worker.
  void Start(size_t limit, absl::Duration lease) {
    const std::string worker = absl::StrCat("w", Below(kWorkers));
    std::vector<v1::AttemptRef> started;
    Transact(
        [&](Store& s) -> absl::Status {
          auto queued = s.Queued(limit);
          if (!queued.ok()) return queued.status();
          std::vector<std::string> ids;
          for (const QueuedJob& job : *queued) ids.push_back(job.job_id);
          if (absl::Status taken = s.TakeQueued(ids); !taken.ok()) return taken;
          for (const std::string& id : ids) {
            auto given = s.Lease(id, worker, s.Now(), s.Now() + lease, Given);
            if (absl::IsFailedPrecondition(given.status())) continue;  // another coordinator was faster
            if (!given.ok()) return given.status();
            started.push_back(given->attempt());
          }
          return absl::OkStatus();
        },
        [&] {
          absl::MutexLock lock(&world_.mutex);
          for (const v1::AttemptRef& attempt : started) {
            EXPECT_TRUE(world_.started.emplace(attempt.job_id(), attempt.attempt()).second)
                << "handed out twice";
            world_.running[{attempt.job_id(), attempt.attempt()}] = worker;
          }
        });
  }

  void Finish(size_t most, bool always_passed = false) {
    std::map<AttemptKey, std::string> some;
    {
      absl::MutexLock lock(&world_.mutex);
      for (const auto& one : world_.running) {
        if (some.size() < most && (always_passed || Below(2) == 0)) some.insert(one);
      }
    }
    if (some.empty()) return;
    std::vector<std::pair<AttemptKey, bool>> answers;
    Transact(
        [&](Store& s) -> absl::Status {
          Touches touches;
          const bool by_attempt = Below(3) > 0;
          for (const auto& [attempt, worker] : some) {
            if (by_attempt) {
              touches.attempts.push_back({Ref(attempt.first, attempt.second), worker});
            } else {
              touches.jobs.push_back(attempt.first);
            }
          }
          if (absl::Status taken = s.Take(touches); !taken.ok()) return taken;
          for (const auto& [attempt, worker] : some) {
            static constexpr v1::Outcome kOutcomes[] = {v1::PASSED, v1::FAILED, v1::INFRASTRUCTURE_ERROR};
            const v1::Outcome outcome = always_passed ? v1::PASSED : kOutcomes[Below(3)];
            auto ack = s.CommitResult(Result(attempt.first, attempt.second, outcome), s.Now(), worker);
            if (!ack.ok() && !absl::IsFailedPrecondition(ack.status())) return ack.status();
            answers.emplace_back(attempt, ack.ok() && ack->counted());
          }
          return absl::OkStatus();
        },
        [&] {
          absl::MutexLock lock(&world_.mutex);
          for (const auto& [attempt, counted] : answers) {
            world_.running.erase(attempt);
            if (!counted) continue;
            auto [known, fresh] = world_.counted.try_emplace(attempt.first, attempt.second);
            EXPECT_EQ(known->second, attempt.second)
                << "two attempts of " << attempt.first << " were counted";
          }
        });
  }

  void Beat() {
    const std::string worker = absl::StrCat("w", Below(kWorkers));
    std::vector<v1::AttemptRef> held;
    {
      absl::MutexLock lock(&world_.mutex);
      for (const auto& [attempt, whose] : world_.running) {
        if (whose == worker && Below(2) == 0) held.push_back(Ref(attempt.first, attempt.second));
      }
    }
    const bool connects = Below(3) == 0;
    Transact(
        [&](Store& s) -> absl::Status {
          const absl::Time until = s.Now() + absl::Milliseconds(50);
          if (connects) return s.AdoptAttempts(worker, Below(2) == 0, held, s.Now(), until).status();
          if (Below(3) == 0) return s.ShortenLeases(worker, s.Now());
          return s.ExtendLeases(worker, held, until).status();
        },
        [] {});
  }

  void Cancel() {
    std::string batch;
    {
      absl::MutexLock lock(&world_.mutex);
      if (world_.batches.empty()) return;
      batch = world_.batches[Below(world_.batches.size())];
    }
    Transact(
        [&](Store& s) -> absl::Status {
          auto cancelled = s.CancelBatch(batch, s.Now());
          return absl::IsFailedPrecondition(cancelled.status()) ? absl::OkStatus() : cancelled.status();
        },
        [] {});
  }

  void Expire() {
    Transact([&](Store& s) { return s.ExpireLeases(s.Now()).status(); }, [] {});
  }

  void Live() {
    for (int i = 0; i < kTransactions && !::testing::Test::HasFailure(); ++i) {
      switch (Below(12)) {
        case 0:
        case 1:
          Submit();
          break;
        case 2:
        case 3:
        case 4:
          Start(1 + Below(8), absl::Milliseconds(20));
          break;
        case 5:
          Expire();
          break;
        case 6:
        case 7:
          Beat();
          break;
        case 8:
          if (Below(3) == 0) Cancel();
          break;
        default:
          Finish(1 + Below(6));
      }
    }
  }

  // Until everything has ended.
  void Settle() {
    while (!::testing::Test::HasFailure()) {
      Expire();
      Start(100, absl::Minutes(1));
      Finish(1000, /*always_passed=*/true);
      bool all = true;
      absl::MutexLock lock(&world_.mutex);
      for (const std::string& id : world_.batches) {
        auto batch = store_->GetBatch(id);
        all &= batch.ok() && batch->has_end_time();
      }
      if (all) return;
    }
  }

  Store& store() { return *store_; }

 private:
  size_t Below(size_t n) { return random_() % n; }

  const int number_;
  World& world_;
  std::mt19937_64 random_;
  std::unique_ptr<Store> store_;
};

// Numbers are told in order, whatever commits beside them.
void Watch(const std::string& url, World& world, std::map<std::string, std::vector<v1::BatchEvent>>& seen) {
  auto store = OpenPostgresStore(url, kMaxAttempts);
  while (absl::IsUnavailable(store.status()))
    store = OpenPostgresStore(url, kMaxAttempts);  // ended as it began
  ASSERT_THAT(store, IsOk());
  bool last = false;
  do {
    last = world.over;
    std::vector<std::string> batches;
    {
      absl::MutexLock lock(&world.mutex);
      batches = world.batches;
    }
    for (const std::string& batch : batches) {
      auto events = (*store)->Begin().ok() ? (*store)->EventsAfter(batch, seen[batch].size(), 100)
                                           : absl::UnavailableError("lost");
      if (!events.ok()) {
        (*store)->Rollback();
        last = false;
        continue;
      }
      (void)(*store)->Commit();
      for (v1::BatchEvent& event : *events) {
        EXPECT_EQ(event.sequence(), seen[batch].size() + 1) << "a gap in " << batch;
        seen[batch].push_back(std::move(event));
      }
      if (events->size() == 100) last = false;
    }
  } while (!last && !::testing::Test::HasFailure());
}

void ExpectOnceEach(Store& store, World& world,
                    const std::map<std::string, std::vector<v1::BatchEvent>>& seen) {
  absl::MutexLock lock(&world.mutex);
  for (const std::string& id : world.batches) {
    ASSERT_OK_AND_ASSIGN(v1::Batch batch, store.GetBatch(id));
    ASSERT_OK_AND_ASSIGN(std::vector<v1::Job> jobs, store.ListJobs(id));
    EXPECT_EQ(batch.total(), jobs.size());
    EXPECT_EQ(batch.done(), jobs.size());
    EXPECT_TRUE(batch.has_end_time());
    uint32_t counts = 0;
    for (const v1::OutcomeCount& count : batch.counts()) counts += count.count();
    EXPECT_EQ(counts, jobs.size());
    std::map<std::string, int> ended;
    std::map<std::string, uint64_t> attempts;
    for (const v1::BatchEvent& event : seen.at(id)) {
      if (!event.has_job()) continue;
      const v1::Job& job = event.job();
      EXPECT_EQ(ended[job.job_id()], 0) << job.job_id() << " changed after its end";
      EXPECT_GE(job.attempt(), attempts[job.job_id()]);
      attempts[job.job_id()] = job.attempt();
      if (job.state() == v1::DONE) ++ended[job.job_id()];
    }
    for (const v1::Job& job : jobs) {
      EXPECT_EQ(job.state(), v1::DONE);
      EXPECT_EQ(ended[job.job_id()], 1) << job.job_id();
      auto counted = world.counted.find(job.job_id());
      if (counted == world.counted.end()) continue;
      EXPECT_EQ(counted->second, job.attempt());
      EXPECT_NE(job.result().outcome(), v1::CANCELLED) << "what was acknowledged as counted is";
    }
    EXPECT_TRUE(seen.at(id).back().has_batch());
  }
}

TEST(PostgresFleetTest, ManyCoordinatorsCountEverythingOnce) {
  PostgresServer& server = PostgresServer::Get();
  const std::string url = server.NewStore();
  World world;
  std::vector<std::unique_ptr<Coordinator>> coordinators;
  for (int i = 0; i < kCoordinators; ++i)
    coordinators.push_back(std::make_unique<Coordinator>(url, i, world));
  std::map<std::string, std::vector<v1::BatchEvent>> seen;
  std::thread watcher([&] { Watch(url, world, seen); });
  std::vector<std::thread> lives;
  std::atomic<int> alive = kCoordinators;
  for (auto& coordinator : coordinators) {
    lives.emplace_back([&alive, one = coordinator.get()] {
      one->Live();
      --alive;
    });
  }
  std::mt19937_64 random(7);
  for (int kill = 0, submitted = 0; kill < kKills && alive > 0; ++kill) {
    // After some more was done.
    while (alive > 0 && world.submitted < submitted + 4) std::this_thread::yield();
    submitted = world.submitted;
    EXPECT_THAT(server.Run(url,
                           "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                           " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                           " ORDER BY random() LIMIT 1"),
                IsOk());
  }
  for (std::thread& life : lives) life.join();
  coordinators.front()->Settle();
  world.over = true;
  watcher.join();
  // By a session that nobody has ended.
  ASSERT_OK_AND_ASSIGN(auto fresh, OpenPostgresStore(url, kMaxAttempts));
  ExpectOnceEach(*fresh, world, seen);
}

TEST(PostgresFleetTest, AJobThatAnotherIsAboutToStartIsPassedOverAtOnce) {
  const std::string url = PostgresServer::Get().NewStore();
  ASSERT_OK_AND_ASSIGN(auto one, OpenPostgresStore(url, 3));
  ASSERT_OK_AND_ASSIGN(auto other, OpenPostgresStore(url, 3));
  ASSERT_THAT(one->Begin(), IsOk());
  ASSERT_THAT(one->SubmitBatch(Submission("b", {"bert", "vit"}), one->Now()), IsOk());
  ASSERT_THAT(one->Commit(), IsOk());
  const auto lease = [](Store& s, const std::string& job) {
    return s.Lease(job, "w", s.Now(), s.Now() + absl::Minutes(1), Given).status();
  };
  ASSERT_THAT(one->Begin(), IsOk());
  ASSERT_THAT(lease(*one, "b.bert"), IsOk());
  // It is not waited for: the first transaction is still open.
  ASSERT_THAT(other->Begin(), IsOk());
  EXPECT_THAT(lease(*other, "b.bert"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(other->ExpireLeases(other->Now() + absl::Hours(1)), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(lease(*other, "b.vit"), IsOk());
  ASSERT_THAT(one->Commit(), IsOk());
  ASSERT_THAT(other->Commit(), IsOk());
  EXPECT_THAT(other->EventsAfter("b", 0, 10), IsOkAndHolds(SizeIs(2)));
  EXPECT_THAT(one->Running(), IsOkAndHolds(SizeIs(2)));
}

TEST(PostgresFleetTest, OneOfThoseThatWaitForEachOtherIsTakenBackToBeRunAgain) {
  const std::string url = PostgresServer::Get().NewStore();
  ASSERT_OK_AND_ASSIGN(auto one, OpenPostgresStore(url, 3));
  ASSERT_OK_AND_ASSIGN(auto other, OpenPostgresStore(url, 3));
  ASSERT_THAT(one->Begin(), IsOk());
  ASSERT_THAT(one->SubmitBatch(Submission("b", {"bert", "vit"}), one->Now()), IsOk());
  ASSERT_THAT(one->Commit(), IsOk());
  const auto take = [](Store& s, const std::string& job) {
    Touches touches;
    touches.jobs = {job};
    return s.Take(touches);
  };
  ASSERT_THAT(one->Begin(), IsOk());
  ASSERT_THAT(other->Begin(), IsOk());
  ASSERT_THAT(take(*one, "b.bert"), IsOk());
  ASSERT_THAT(take(*other, "b.vit"), IsOk());
  absl::Status first, second;
  std::thread waits([&] {
    first = take(*one, "b.vit");
    if (!first.ok()) one->Rollback();
  });
  second = take(*other, "b.bert");
  if (!second.ok()) other->Rollback();
  waits.join();
  EXPECT_NE(first.ok(), second.ok());
  EXPECT_THAT(first.ok() ? second : first, StatusIs(absl::StatusCode::kAborted));
}

TEST(PostgresFleetTest, ACoordinatorThatStartsBesideOthersLeavesTheirLeasesAlone) {
  PostgresServer& server = PostgresServer::Get();
  const std::string url = server.NewStore();
  ASSERT_OK_AND_ASSIGN(auto one, OpenPostgresStore(url, 3));
  ASSERT_THAT(one->Begin(), IsOk());
  const absl::Time until = one->Now() + absl::Hours(1);
  ASSERT_THAT(one->SubmitBatch(Submission("b", {"bert"}), one->Now()), IsOk());
  ASSERT_THAT(one->Lease("b.bert", "w", one->Now(), until, Given), IsOk());
  ASSERT_THAT(one->Commit(), IsOk());
  const auto expired = [until](Store& s) {
    EXPECT_THAT(s.Begin(), IsOk());
    auto lost = s.ExpireLeases(until);
    s.Rollback();
    return lost;
  };
  ASSERT_OK_AND_ASSIGN(auto other, OpenPostgresStore(url, 3));
  EXPECT_THAT(expired(*other), IsOkAndHolds(SizeIs(1)));
  // Where nobody has served for an hour, nobody could say that its worker lives.
  ASSERT_THAT(server.Run(url, "UPDATE assay.writers SET since = now() - interval '1 hour'"), IsOk());
  ASSERT_OK_AND_ASSIGN(auto late, OpenPostgresStore(url, 3));
  EXPECT_THAT(expired(*late), IsOkAndHolds(IsEmpty()));
  // Once: the next one finds that there was one.
  ASSERT_OK_AND_ASSIGN(auto later, OpenPostgresStore(url, 3));
  ASSERT_THAT(later->Begin(), IsOk());
  EXPECT_THAT(later->ExpireLeases(until + absl::Minutes(61)), IsOkAndHolds(SizeIs(1)));
  later->Rollback();
}

TEST(PostgresFleetTest, ADatabaseOfBeforeIsBroughtForwardWithAllThatItHolds) {
  const std::string url = PostgresServer::Get().NewDatabase();
  {
    ASSERT_OK_AND_ASSIGN(auto connection, PostgresConnection::Connect(url, "test"));
    ASSERT_THAT(MigratePostgres(*connection, {PostgresSchemaSteps()[0]}), IsOk());
    v1::Batch batch;
    batch.set_batch_id("b1");
    batch.set_total(1);
    ASSERT_THAT(
        connection->Read("INSERT INTO assay.batches (batch_id, request_id, request_digest, last_sequence,"
                         " batch) VALUES ('b1', 'r', 'd', 1, $1)",
                         PostgresParameters().Bytes(batch.SerializeAsString())),
        IsOk());
    v1::Job job;
    job.set_job_id("b1.bert");
    job.set_batch_id("b1");
    job.mutable_model()->set_name("bert");
    job.set_state(v1::RUNNING);
    job.set_attempt(1);
    job.set_worker("w1");
    job.add_attempts()->set_attempt(1);
    ASSERT_THAT(
        connection->Read("INSERT INTO assay.jobs VALUES ('b1.bert', 'b1', 1, 0, 2, 1, false, 1, 'ada', 3600,"
                         " '-infinity', 0, '', $1)",
                         PostgresParameters().Bytes(job.SerializeAsString())),
        IsOk());
    v1::BatchEvent started;
    started.set_sequence(1);
    *started.mutable_job() = job;
    ASSERT_THAT(connection->Read("INSERT INTO assay.events (batch_id, sequence, event) VALUES ('b1', 1, $1)",
                                 PostgresParameters().Bytes(started.SerializeAsString())),
                IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::ResultAck ack,
                       store->CommitResult(Result("b1.bert", 1, v1::PASSED), store->Now(), "w1"));
  EXPECT_TRUE(ack.counted());
  ASSERT_THAT(store->Commit(), IsOk());
  ASSERT_OK_AND_ASSIGN(auto events, store->EventsAfter("b1", 0, 10));
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[0].job().state(), v1::RUNNING);
  EXPECT_EQ(events[1].job().result().outcome(), v1::PASSED);
  EXPECT_EQ(events[2].batch().done(), 1);
  EXPECT_THAT(store->EventsAfter("b1", 1, 1), IsOkAndHolds(SizeIs(1)));
}

TEST(PostgresFleetTest, TheSameRequestAtTwoCoordinatorsMakesOneBatch) {
  const std::string url = PostgresServer::Get().NewStore();
  ASSERT_OK_AND_ASSIGN(auto one, OpenPostgresStore(url, 3));
  ASSERT_OK_AND_ASSIGN(auto other, OpenPostgresStore(url, 3));
  BatchSubmission again = Submission("b1", {"bert"});
  again.batch_id = "b2";
  ASSERT_THAT(one->Begin(), IsOk());
  ASSERT_THAT(one->SubmitBatch(Submission("b1", {"bert"}), one->Now()), IsOk());
  std::thread asks([&] {
    ASSERT_THAT(other->Begin(), IsOk());
    auto batch = other->SubmitBatch(again, other->Now());
    ASSERT_THAT(batch, IsOk());
    EXPECT_EQ(batch->batch_id(), "b1");
    EXPECT_THAT(other->Commit(), IsOk());
  });
  ASSERT_THAT(one->Commit(), IsOk());
  asks.join();
  EXPECT_THAT(one->GetBatch("b2"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace assay::coordinator

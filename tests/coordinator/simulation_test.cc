// A seeded simulation of store and scheduler, of jobs with and without an export stage. The faults modelled:
// workers that die and come back as new processes, streams that break, acknowledgements and assignments that
// are lost on the way, heartbeats that stay out until leases end, transactions that are taken back, batches
// that are cancelled.
#include <deque>
#include <map>
#include <random>
#include <set>

#include "common/id.h"
#include "coordinator/schedule.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/sqlite_store.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

constexpr absl::Duration kLease = absl::Seconds(10);
constexpr uint32_t kMaxAttempts = 3;

using AttemptKey = std::pair<std::string, uint64_t>;
using StageKey = std::pair<std::string, v1::Stage>;  // of a job

// What a node remembers. Its spool survives its death, what it runs does not.
struct Node {
  std::string name;
  uint32_t slots = 1;
  bool connected = false;
  bool restarted = false;
  bool exporter = false;
  std::map<AttemptKey, v1::Assignment> running;
  std::map<AttemptKey, v1::AttemptResult> spool;
};

class Simulation {
 public:
  Simulation(std::unique_ptr<Store> store, uint64_t seed) : store_(std::move(store)), random_(seed) {
    for (int i = 0; i < 3; ++i) {
      nodes_.push_back({absl::StrCat("w", i), static_cast<uint32_t>(1 + i % 2), false, false, i < 2, {}, {}});
    }
  }

  void Step() {
    switch (Below(12)) {
      case 0:
        if (batches_.size() < 6) Submit();
        break;
      case 1:
        now_ += absl::Seconds(static_cast<int64_t>(Below(6)));
        break;
      case 2:
        (void)InTransaction<std::vector<LostAttempt>>([&](Store& s) { return s.ExpireLeases(now_); });
        break;
      case 3:
        if (!batches_.empty() && Below(20) == 0) {
          (void)InTransaction<CancelledBatch>(
              [&](Store& s) { return s.CancelBatch(batches_[Below(batches_.size())], now_); });
        }
        break;
      case 4:
        Die(AnyNode());
        break;
      case 5:
        AnyNode().connected = false;
        break;
      case 6:
        Connect(AnyNode());
        break;
      case 7:
        Heartbeat(AnyNode());
        break;
      case 8:
      case 9:
        Finish(AnyNode());
        break;
      default:
        Dispatch();
    }
    SendSpool(AnyNode(), /*acknowledgement_arrives=*/Below(4) != 0);
  }

  // No more faults: everything must end.
  void Settle() {
    for (int round = 0; round < 400; ++round) {
      for (Node& node : nodes_) {
        Connect(node);
        Heartbeat(node);
        while (!node.running.empty()) Finish(node);
        SendSpool(node, true);
      }
      now_ += absl::Seconds(1);
      (void)InTransaction<std::vector<LostAttempt>>([&](Store& s) { return s.ExpireLeases(now_); }, false);
      Dispatch(false);
    }
  }

  void CheckWhatMustAlwaysHold() {
    for (const std::string& batch_id : batches_) {
      ASSERT_OK_AND_ASSIGN(v1::Batch batch, store_->GetBatch(batch_id));
      ASSERT_OK_AND_ASSIGN(std::vector<v1::BatchEvent> events, store_->EventsAfter(batch_id, 0, 100000));
      ASSERT_OK_AND_ASSIGN(std::vector<v1::Job> jobs, store_->ListJobs(batch_id));
      std::map<std::string, int> ended;
      std::map<std::string, uint64_t> attempts;
      uint64_t sequence = 0;
      for (const v1::BatchEvent& event : events) {
        ASSERT_EQ(event.sequence(), ++sequence);
        if (!event.has_job()) continue;
        const v1::Job& job = event.job();
        ASSERT_GE(job.attempt(), attempts[job.job_id()]) << "attempt numbers only grow";
        attempts[job.job_id()] = job.attempt();
        ASSERT_EQ(ended[job.job_id()], 0) << job.job_id() << " changed after its end";
        if (job.state() == v1::DONE) ++ended[job.job_id()];
      }
      uint32_t done = 0, counted = 0;
      for (const v1::Job& job : jobs) {
        done += job.state() == v1::DONE;
        ASSERT_EQ(ended[job.job_id()], job.state() == v1::DONE ? 1 : 0);
        for (v1::Stage stage : {v1::STAGE_EXPORT, v1::STAGE_TEST}) {
          auto ack = counted_.find({job.job_id(), stage});
          if (ack == counted_.end()) continue;
          const auto [attempt, outcome] = ack->second;
          if (stage == v1::STAGE_EXPORT && job.ended_stage_size() == 1) {
            ASSERT_EQ(attempt, job.ended_stage(0).attempt());
            ASSERT_EQ(outcome, job.ended_stage(0).result().outcome());
            continue;
          }
          ASSERT_EQ(job.state(), v1::DONE) << "what was acknowledged as counted is";
          ASSERT_EQ(StageOf(job), stage);
          ASSERT_EQ(attempt, job.attempt());
          // What was given up is told with all its attempts, and no checkpoint that a batch names is skipped.
          const bool error =
              outcome == v1::INFRASTRUCTURE_ERROR || (stage == v1::STAGE_EXPORT && outcome == v1::SKIPPED);
          ASSERT_EQ(job.result().outcome(), error ? v1::INFRASTRUCTURE_ERROR : outcome);
        }
        for (const v1::StageRecord& record : job.ended_stage()) {
          ASSERT_TRUE(record.result().outcome() == v1::PASSED || job.has_default_checkpoint());
        }
        ASSERT_EQ(job.ended_stage_size() + (StageOf(job) == v1::STAGE_EXPORT ? 1 : 0),
                  AskedCheckpoint(job) == nullptr ? 0 : 1);
      }
      for (const v1::OutcomeCount& count : batch.counts()) counted += count.count();
      ASSERT_EQ(batch.done(), done);
      ASSERT_EQ(counted, done);
      ASSERT_EQ(batch.has_end_time(), done == batch.total());
    }
  }

  bool EverythingEnded() {
    for (const std::string& batch_id : batches_) {
      auto batch = store_->GetBatch(batch_id);
      if (!batch.ok() || !batch->has_end_time()) return false;
    }
    return true;
  }
  size_t batches() const { return batches_.size(); }

 private:
  size_t Below(size_t n) { return random_() % n; }
  Node& AnyNode() { return nodes_[Below(nodes_.size())]; }

  // Sometimes the transaction is taken back: then nothing was said to anyone, and the operation did not
  // happen.
  template <typename T>
  absl::StatusOr<T> InTransaction(const std::function<absl::StatusOr<T>(Store&)>& operation,
                                  bool faults = true) {
    EXPECT_THAT(store_->Begin(), IsOk());
    absl::StatusOr<T> result = operation(*store_);
    if (faults && Below(10) == 0) {
      store_->Rollback();
      return absl::UnavailableError("taken back");
    }
    EXPECT_THAT(store_->Commit(), IsOk());
    return result;
  }

  void Submit() {
    const std::string id = absl::StrCat("b", batches_.size());
    std::vector<std::string> models;
    for (size_t i = 0; i <= Below(5); ++i) models.push_back(absl::StrCat("m", i));
    BatchSubmission submission = Submission(id, models, absl::StrCat("s", Below(2)));
    for (NewJob& job : submission.jobs) {
      const size_t kind = Below(4);
      if (kind == 0) job.model.mutable_checkpoint()->set_id(kCheckpoint);
      if (kind == 1) job.default_checkpoint.emplace().set_id(kCheckpoint);
    }
    if (InTransaction<v1::Batch>([&](Store& s) { return s.SubmitBatch(submission, now_); }).ok()) {
      batches_.push_back(id);
    }
  }

  void Dispatch(bool faults = true) {
    Slots slots;
    for (const Node& node : nodes_) {
      if (!node.connected) continue;
      WorkerView view;
      view.name = node.name;
      view.exporter = node.exporter;
      view.devices.emplace_back().slots = node.slots;
      slots.Put(std::move(view));
      for (const auto& [attempt, given] : node.running) slots.Take(attempt.first, {node.name, "", false, 0});
    }
    using Leased = std::vector<std::pair<std::string, v1::Assignment>>;
    auto leased = InTransaction<Leased>(
        [&](Store& s) -> absl::StatusOr<Leased> {
          auto queued = s.Queued(100);
          if (!queued.ok()) return queued.status();
          Leased jobs;
          for (const Placement& placement : Schedule(*queued, {}, slots)) {
            auto given = s.Lease(placement.job_id, placement.worker, now_, now_ + kLease, Given);
            if (!given.ok()) return given.status();
            jobs.emplace_back(placement.worker, *given);
          }
          return jobs;
        },
        faults);
    if (!leased.ok()) return;
    for (const auto& [worker, given] : *leased) {
      const AttemptKey attempt(given.attempt().job_id(), given.attempt().attempt());
      EXPECT_TRUE(started_.insert(attempt).second) << "the same attempt was handed out twice";
      for (Node& node : nodes_) {
        if (node.name != worker) continue;
        EXPECT_TRUE(node.exporter || given.stage() != v1::STAGE_EXPORT);
        if (faults && Below(8) == 0) {
          node.connected = false;  // the assignment is lost with the stream
        } else {
          node.running[attempt] = given;
        }
      }
    }
  }

  void Finish(Node& node) {
    if (node.running.empty()) return;
    const auto [attempt, given] = *node.running.begin();
    node.running.erase(node.running.begin());
    stage_[attempt] = given.stage();
    if (given.stage() == v1::STAGE_EXPORT) {
      static constexpr v1::Outcome kOutcomes[] = {v1::PASSED, v1::PASSED, v1::SKIPPED, v1::FAILED,
                                                  v1::INFRASTRUCTURE_ERROR};
      node.spool[attempt] = Exported(attempt.first, attempt.second, kOutcomes[Below(5)]);
      return;
    }
    static constexpr v1::Outcome kOutcomes[] = {v1::PASSED, v1::FAILED, v1::CRASHED,
                                                v1::INFRASTRUCTURE_ERROR};
    const v1::Outcome outcome = kOutcomes[Below(4)];
    node.spool[attempt] = given.has_export_() ? ResultWithCheckpoint(attempt.first, attempt.second, outcome)
                                              : Result(attempt.first, attempt.second, outcome);
  }

  void SendSpool(Node& node, bool acknowledgement_arrives) {
    if (!node.connected) return;
    const auto spool = node.spool;
    for (const auto& [attempt, result] : spool) {
      const v1::AttemptResult& sent = result;
      auto ack = InTransaction<v1::ResultAck>([&](Store& s) { return s.CommitResult(sent, now_); },
                                              acknowledgement_arrives && Below(2) == 0);
      if (absl::IsUnavailable(ack.status())) continue;
      const StageKey stage(attempt.first, stage_.at(attempt));
      auto before = counted_.find(stage);
      if (before != counted_.end() && before->second.first == attempt.second) {
        EXPECT_TRUE(ack.ok() && ack->counted()) << "a repeated result was not given the first answer";
      }
      if (ack.ok() && ack->counted()) {
        auto [known, fresh] = counted_.try_emplace(stage, attempt.second, sent.result().outcome());
        EXPECT_EQ(known->second.first, attempt.second) << "two attempts at one stage were counted";
      }
      if (acknowledgement_arrives) node.spool.erase(attempt);
    }
  }

  void Die(Node& node) {
    node.connected = false;
    node.restarted = true;
    node.running.clear();
  }

  void Connect(Node& node) {
    if (node.connected) return;
    std::vector<v1::AttemptRef> named;
    for (const auto& [attempt, given] : node.running) named.push_back(Ref(attempt.first, attempt.second));
    for (const auto& [attempt, result] : node.spool) named.push_back(Ref(attempt.first, attempt.second));
    auto adopted = InTransaction<AdoptedAttempts>(
        [&](Store& s) { return s.AdoptAttempts(node.name, node.restarted, named, now_, now_ + kLease); });
    if (!adopted.ok()) return;
    node.connected = true;
    node.restarted = false;
    for (const v1::AttemptRef& attempt : adopted->abandon) {
      node.running.erase({attempt.job_id(), attempt.attempt()});
      node.spool.erase({attempt.job_id(), attempt.attempt()});
    }
  }

  void Heartbeat(Node& node) {
    if (!node.connected) return;
    std::vector<v1::AttemptRef> named;
    for (const auto& [attempt, given] : node.running) named.push_back(Ref(attempt.first, attempt.second));
    auto others = InTransaction<std::vector<v1::AttemptRef>>(
        [&](Store& s) { return s.ExtendLeases(node.name, named, now_ + kLease); });
    if (!others.ok()) return;
    for (const v1::AttemptRef& attempt : *others) node.running.erase({attempt.job_id(), attempt.attempt()});
  }

  std::unique_ptr<Store> store_;
  std::mt19937_64 random_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::vector<Node> nodes_;
  std::vector<std::string> batches_;
  std::set<AttemptKey> started_;
  std::map<AttemptKey, v1::Stage> stage_;
  // The attempt that was acknowledged as counted, and its outcome.
  std::map<StageKey, std::pair<uint64_t, v1::Outcome>> counted_;
};

void Simulate(const std::function<std::unique_ptr<Store>()>& make, uint64_t seeds) {
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(make(), seed);
    for (int step = 0; step < 400; ++step) {
      simulation.Step();
      if (step % 50 == 0) simulation.CheckWhatMustAlwaysHold();
      if (::testing::Test::HasFailure()) return;
    }
    simulation.Settle();
    simulation.CheckWhatMustAlwaysHold();
    EXPECT_TRUE(simulation.EverythingEnded());
    EXPECT_GT(simulation.batches(), 0);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(SimulationTest, EveryJobEndsExactlyOnceInMemory) {
  Simulate([] { return NewMemoryStore(kMaxAttempts); }, 100);
}

TEST(SimulationTest, EveryJobEndsExactlyOnceInSqlite) {
  Simulate(
      []() -> std::unique_ptr<Store> {
        auto store = OpenSqliteStore(":memory:", kMaxAttempts);
        EXPECT_THAT(store, IsOk());
        return *std::move(store);
      },
      10);
}

}  // namespace
}  // namespace assay::coordinator

// kill -9 of the PostgreSQL server at moments that nobody chose, while batches and results are being
// committed: nothing that was answered is lost, and nothing counts twice.
#include <map>
#include <random>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "coordinator/store/postgres_store.h"
#include "coordinator/store/writer.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::SizeIs;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
const std::vector<std::string> kModels = {"bert", "roberta", "albert"};
constexpr int kClients = 4, kBatchesAClient = 20, kKills = 5;

// What clients and workers were told.
struct Told {
  absl::Mutex mutex;
  int answers ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::string, uint64_t> counted ABSL_GUARDED_BY(mutex);  // by job: the attempt
  int unanswered ABSL_GUARDED_BY(mutex) = 0;
};

// Asks until it is answered, as clients and workers do.
template <typename T>
absl::StatusOr<T> Answered(Writer& writer, Told& told, const std::function<absl::StatusOr<T>(Store&)>& work) {
  while (true) {
    absl::StatusOr<T> answer = writer.Call<T>(work);
    absl::MutexLock lock(&told.mutex);
    if (answer.status().code() != absl::StatusCode::kUnavailable) {
      ++told.answers;
      return answer;
    }
    ++told.unanswered;
  }
}

void RunBatch(Writer& writer, Told& told, const std::string& batch_id) {
  ASSERT_THAT(
      Answered<v1::Batch>(
          writer, told, [&](Store& store) { return store.SubmitBatch(Submission(batch_id, kModels), kNow); }),
      IsOk());
  for (const std::string& model : kModels) {
    const std::string job_id = absl::StrCat(batch_id, ".", model);
    auto leased = Answered<v1::Assignment>(writer, told, [&](Store& store) {
      return store.Lease(job_id, "w", kNow, kNow + absl::Seconds(10), Given);
    });
    // Where its first answer was lost, it runs already.
    if (!leased.ok()) {
      ASSERT_THAT(leased, StatusIs(absl::StatusCode::kFailedPrecondition));
    }
    auto ack = Answered<v1::ResultAck>(
        writer, told, [&](Store& store) { return store.CommitResult(Result(job_id, 1, v1::PASSED), kNow); });
    ASSERT_THAT(ack, IsOk());
    EXPECT_TRUE(ack->counted());
    absl::MutexLock lock(&told.mutex);
    told.counted[job_id] = ack->attempt().attempt();
  }
}

TEST(PostgresCrashTest, NothingAnsweredIsLostAndNothingCountsTwice) {
  PostgresServer& server = PostgresServer::Get();
  const std::string url = server.NewStore();
  std::mt19937_64 random(std::random_device{}());
  Told told;
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
    Writer writer(std::move(store));
    std::vector<std::thread> clients;
    for (int client = 0; client < kClients; ++client) {
      clients.emplace_back([&, client] {
        for (int i = 0; i < kBatchesAClient; ++i) {
          RunBatch(writer, told, absl::StrCat("b", client, "-", i));
          if (::testing::Test::HasFatalFailure()) return;
        }
      });
    }
    constexpr int kAnswers = kClients * kBatchesAClient * 7;
    for (int kill = 1; kill <= kKills; ++kill) {
      const int enough = kAnswers * kill / (kKills + 2) + static_cast<int>(random() % 40);
      {
        absl::MutexLock lock(&told.mutex);
        auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(told.mutex) { return told.answers >= enough; };
        told.mutex.Await(absl::Condition(&reached));
      }
      server.Kill();
      server.Start();
    }
    for (std::thread& client : clients) client.join();
  }
  ASSERT_OK_AND_ASSIGN(auto store, OpenPostgresStore(url, 3));
  absl::MutexLock lock(&told.mutex);
  EXPECT_THAT(told.counted, SizeIs(kClients * kBatchesAClient * kModels.size()));
  ASSERT_OK_AND_ASSIGN(BatchPage all, store->ListBatches(10'000, 0));
  EXPECT_THAT(all.batches, SizeIs(kClients * kBatchesAClient));
  for (const v1::Batch& batch : all.batches) {
    EXPECT_TRUE(batch.has_end_time());
    EXPECT_EQ(batch.done(), kModels.size());
    ASSERT_EQ(batch.counts_size(), 1);
    EXPECT_EQ(batch.counts(0).count(), kModels.size());
    ASSERT_OK_AND_ASSIGN(auto jobs, store->ListJobs(batch.batch_id()));
    ASSERT_THAT(jobs, SizeIs(kModels.size()));
    for (const v1::Job& job : jobs) EXPECT_EQ(job.attempt(), told.counted[job.job_id()]);
    ASSERT_OK_AND_ASSIGN(auto events, store->EventsAfter(batch.batch_id(), 0, 1000));
    ASSERT_THAT(events, SizeIs(2 * kModels.size() + 1)) << "each started and ended once, and the batch";
    for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), i + 1);
  }
}

}  // namespace
}  // namespace assay::coordinator

// The conformance suite over both stores, and what only a file can do.
#include <filesystem>
#include <fstream>

#include "common/id.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/sqlite_store.h"
#include "tests/coordinator/store_conformance.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

std::string NewFile() {
  return (fs::path(::testing::TempDir()) / absl::StrCat("store-", NewUuid(), ".db")).string();
}

INSTANTIATE_TEST_SUITE_P(
    Stores, StoreConformanceTest,
    ::testing::Values(StoreMaker{"Memory", [](uint32_t attempts) { return NewMemoryStore(attempts); }},
                      StoreMaker{"Sqlite",
                                 [](uint32_t attempts) -> std::unique_ptr<Store> {
                                   auto store = OpenSqliteStore(NewFile(), attempts);
                                   if (!store.ok()) return nullptr;
                                   return *std::move(store);
                                 }}),
    [](const auto& info) { return info.param.name; });

TEST(SqliteStoreTest, RemembersAfterBeingOpenedAgain) {
  const std::string path = NewFile();
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_THAT(store->SubmitBatch(Submission("b1", {"bert"}), now), IsOk());
    ASSERT_THAT(store->Lease("b1.bert", "w1", now, now + absl::Seconds(1)), IsOk());
    ASSERT_THAT(store->Commit(), IsOk());
    // Not committed: as if the process had died.
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_THAT(store->CommitResult(Result("b1.bert", 1, v1::PASSED), now), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
  ASSERT_OK_AND_ASSIGN(v1::Job job, store->GetJob("b1.bert"));
  EXPECT_EQ(job.state(), v1::RUNNING);
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_THAT(store->EventsAfter("b1", 0, 10), IsOkAndHolds(SizeIs(1)));
}

TEST(SqliteStoreTest, RefusesASchemaThatIsNewer) {
  const std::string path = NewFile();
  ASSERT_THAT(OpenSqliteStore(path, 3), IsOk());
  {
    ASSERT_OK_AND_ASSIGN(auto database, Database::Open(path));
    ASSERT_THAT(database->Execute("PRAGMA user_version = 999"), IsOk());
  }
  EXPECT_THAT(OpenSqliteStore(path, 3), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("999")));
}

TEST(SqliteStoreTest, RefusesAFileThatIsNoDatabase) {
  const std::string path = NewFile();
  std::ofstream(path) << std::string(8192, 'x');
  EXPECT_THAT(OpenSqliteStore(path, 3), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(SqliteStoreTest, KeepsAWriteAheadLog) {
  const std::string path = NewFile();
  ASSERT_THAT(OpenSqliteStore(path, 3), IsOk());

  ASSERT_OK_AND_ASSIGN(auto database, Database::Open(path));
  ASSERT_OK_AND_ASSIGN(Statement mode, database->Prepare("PRAGMA journal_mode"));
  ASSERT_THAT(mode.Step(), IsOkAndHolds(true));
  EXPECT_EQ(mode.Bytes(0), "wal");
}

}  // namespace
}  // namespace assay::coordinator

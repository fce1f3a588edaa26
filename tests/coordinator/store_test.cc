// The conformance suite over both stores, and what only a file can do.
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/sqlite_schema.h"
#include "coordinator/store/sqlite_store.h"
#include "tests/coordinator/access_conformance.h"
#include "tests/coordinator/stage_conformance.h"
#include "tests/coordinator/store_conformance.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

std::string NewFile() {
  return (fs::path(::testing::TempDir()) / absl::StrCat("store-", NewUuid(), ".db")).string();
}

const auto kStores =
    ::testing::Values(StoreMaker{"Memory", [](uint32_t attempts) { return NewMemoryStore(attempts); }},
                      StoreMaker{"Sqlite", [](uint32_t attempts) -> std::unique_ptr<Store> {
                                   auto store = OpenSqliteStore(NewFile(), attempts);
                                   if (!store.ok()) return nullptr;
                                   return *std::move(store);
                                 }});
INSTANTIATE_TEST_SUITE_P(Stores, StoreConformanceTest, kStores,
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Stores, StageConformanceTest, kStores,
                         [](const auto& info) { return info.param.name; });

TEST(SqliteStoreTest, RemembersAfterBeingOpenedAgain) {
  const std::string path = NewFile();
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_THAT(store->SubmitBatch(Submission("b1", {"bert"}), now), IsOk());
    ASSERT_THAT(store->Lease("b1.bert", "w1", now, now + absl::Seconds(1), Given), IsOk());
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

// As the first Assay wrote it: before jobs had stages, and before what an attempt is given was kept.
constexpr char kSchemaVersion1[] = R"sql(
CREATE TABLE batches (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  batch_id TEXT NOT NULL UNIQUE,
  request_id TEXT NOT NULL UNIQUE,
  request_digest TEXT NOT NULL,
  last_sequence INTEGER NOT NULL,
  batch BLOB NOT NULL
);
CREATE TABLE jobs (
  job_id TEXT NOT NULL PRIMARY KEY,
  batch_id TEXT NOT NULL,
  batch_number INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  device INTEGER NOT NULL,
  submitter TEXT NOT NULL,
  expected_seconds REAL NOT NULL,
  lease_until INTEGER NOT NULL,
  setbacks INTEGER NOT NULL,
  job BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_of_batch ON jobs (batch_id, ordinal);
CREATE INDEX jobs_queued ON jobs (priority, device, submitter, expected_seconds DESC, batch_number, ordinal)
  WHERE state = 1;
CREATE INDEX jobs_running ON jobs (job_id) WHERE state = 2;
CREATE TABLE events (
  batch_id TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  event BLOB NOT NULL,
  PRIMARY KEY (batch_id, sequence)
) WITHOUT ROWID;
CREATE TABLE answers (
  job_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  counted INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (job_id, attempt)
) WITHOUT ROWID;
CREATE TABLE timings (
  model TEXT NOT NULL,
  target TEXT NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (model, target)
) WITHOUT ROWID;
CREATE TABLE failed_inputs (digest TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE workers (
  name TEXT NOT NULL PRIMARY KEY,
  instance TEXT NOT NULL,
  summary BLOB NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
)sql";

class OldDatabase {
 public:
  static absl::StatusOr<OldDatabase> Make(const std::string& path) {
    ASSAY_ASSIGN_OR_RETURN(auto database, Database::Open(path));
    ASSAY_RETURN_IF_ERROR(database->Execute(kSchemaVersion1));
    return OldDatabase(std::move(database));
  }
  absl::Status PutBatch(const v1::Batch& batch) {
    ASSAY_ASSIGN_OR_RETURN(Statement row, database_->Prepare("INSERT INTO batches (batch_id, request_id,"
                                                             " request_digest, last_sequence, batch)"
                                                             " VALUES (?, 'r', 'd', 1, ?)"));
    return row.BindText(batch.batch_id()).BindBlob(batch.SerializeAsString()).Run();
  }
  absl::Status PutEvent(const std::string& batch_id, const v1::BatchEvent& event) {
    ASSAY_ASSIGN_OR_RETURN(Statement row, database_->Prepare("INSERT INTO events VALUES (?, ?, ?)"));
    row.BindText(batch_id).Bind(static_cast<int64_t>(event.sequence())).BindBlob(event.SerializeAsString());
    return row.Run();
  }
  absl::Status PutJob(const v1::Job& job, int64_t ordinal, int64_t lease_until) {
    ASSAY_ASSIGN_OR_RETURN(Statement row,
                           database_->Prepare("INSERT INTO jobs VALUES (?, ?, 1, ?, ?, 1, ?, 'ada',"
                                              " 3600.0, ?, 0, ?)"));
    row.BindText(job.job_id()).BindText(job.batch_id()).Bind(ordinal).Bind(int64_t{job.state()});
    row.Bind(int64_t{job.target().device()}).Bind(lease_until).BindBlob(job.SerializeAsString());
    return row.Run();
  }

 private:
  explicit OldDatabase(std::unique_ptr<Database> database) : database_(std::move(database)) {}
  std::unique_ptr<Database> database_;
};

TEST(SqliteStoreTest, BringsAnOlderFileForwardWithAllThatItHolds) {
  const std::string path = NewFile();
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  {
    ASSERT_OK_AND_ASSIGN(OldDatabase old, OldDatabase::Make(path));
    v1::Batch batch;
    batch.set_batch_id("b1");
    batch.set_submitter("ada");
    batch.set_total(2);
    ASSERT_THAT(old.PutBatch(batch), IsOk());
    v1::Job job;
    job.set_batch_id("b1");
    job.mutable_target()->set_device(v1::CUDA);
    job.mutable_target()->set_dtype(v1::FLOAT32);
    job.set_job_id("b1.vit");
    job.mutable_model()->set_name("vit");
    job.set_state(v1::QUEUED);
    ASSERT_THAT(old.PutJob(job, 0, 0), IsOk());
    job.set_job_id("b1.bert");
    job.mutable_model()->set_name("bert");
    job.set_state(v1::RUNNING);
    job.set_attempt(1);
    job.set_worker("w1");
    job.add_attempts()->set_attempt(1);
    job.mutable_attempts(0)->set_worker("w1");
    ASSERT_THAT(old.PutJob(job, 1, absl::ToUnixMicros(now + absl::Seconds(1))), IsOk());
    v1::BatchEvent started;
    started.set_sequence(1);
    *started.mutable_job() = job;
    ASSERT_THAT(old.PutEvent("b1", started), IsOk());
  }
  {
    ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_OK_AND_ASSIGN(auto queued, store->Queued(10));
    ASSERT_THAT(queued, SizeIs(1));
    EXPECT_EQ(queued[0].model, "vit");
    EXPECT_EQ(queued[0].device, v1::CUDA);
    EXPECT_FALSE(queued[0].needs_exporter);
    // What ran goes on, and counts, though nobody wrote down what it was given.
    ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, store->CommitResult(Result("b1.bert", 1, v1::PASSED), now));
    EXPECT_TRUE(ack.counted());
    ASSERT_OK_AND_ASSIGN(v1::Job bert, store->GetJob("b1.bert"));
    EXPECT_EQ(bert.result().outcome(), v1::PASSED);
    ASSERT_OK_AND_ASSIGN(auto events, store->EventsAfter("b1", 0, 10));
    ASSERT_THAT(events, SizeIs(2));
    EXPECT_EQ(events[0].job().state(), v1::RUNNING);
    EXPECT_EQ(events[1].sequence(), 2);
    EXPECT_EQ(events[1].job().result().outcome(), v1::PASSED);
    // And jobs of today have a place.
    ASSERT_THAT(store->SubmitBatch(CheckpointSubmission("b2", {"bert"}), now), IsOk());
    ASSERT_THAT(store->Queued(10), IsOkAndHolds(SizeIs(2)));
    ASSERT_THAT(store->Commit(), IsOk());
  }
  // Once: it opens as what it is now.
  ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
  ASSERT_OK_AND_ASSIGN(v1::Job exporting, store->GetJob("b2.bert"));
  EXPECT_EQ(exporting.stage(), v1::STAGE_EXPORT);
}

// A statement is kept by its text's address.
const char* Literal(const std::string& sql) {
  static auto& kept = *new std::deque<std::string>();
  return kept.emplace_back(sql).c_str();
}

// Rows of every table, as an Assay of that version wrote them.
absl::Status Fill(Database& database, int version) {
  v1::Batch batch;
  batch.set_batch_id("b");
  batch.set_total(3);
  batch.set_done(1);
  v1::BatchEvent event;
  event.set_sequence(1);
  event.mutable_job()->set_job_id("b.done");
  ASSAY_RETURN_IF_ERROR(database
                            .Prepare("INSERT INTO batches (batch_id, request_id, request_digest,"
                                     " last_sequence, batch) VALUES ('b', 'r', 'd', 1, ?)")
                            ->BindBlob(batch.SerializeAsString())
                            .Run());
  ASSAY_RETURN_IF_ERROR(database.Prepare("INSERT INTO events (batch_id, sequence, event) VALUES ('b', 1, ?)")
                            ->BindBlob(event.SerializeAsString())
                            .Run());
  int64_t ordinal = 0;
  for (const std::string model : {"done", "queued", "running"}) {
    v1::Job job;
    job.set_job_id("b." + model);
    job.set_batch_id("b");
    job.mutable_model()->set_name(model);
    job.mutable_target()->set_device(v1::CPU);
    job.mutable_target()->set_dtype(v1::FLOAT16);
    const bool runs = model == "running";
    const bool beside = runs && version >= 4;  // of a start the columns tell, from then on
    job.set_state(model == "done" ? v1::DONE : runs && !beside ? v1::RUNNING : v1::QUEUED);
    if (model == "done") *job.mutable_result() = Result("b.done", 1, v1::FAILED).result();
    if (runs && !beside) {
      job.set_attempt(2);
      job.set_worker("w1");
      job.add_attempts()->set_attempt(2);
      job.mutable_attempts(0)->set_worker("w1");
    }
    ASSAY_ASSIGN_OR_RETURN(
        Statement row,
        database.Prepare("INSERT INTO jobs (job_id, batch_id, batch_number, ordinal, state, priority,"
                         " needs_exporter, device, submitter, expected_seconds, lease_until, setbacks,"
                         " assigned, job) VALUES (?, 'b', 1, ?, ?, 1, 0, 1, 'ada', 7.5, 9, 1, x'', ?)"));
    row.BindText(job.job_id()).Bind(ordinal++).Bind(int64_t{runs ? v1::RUNNING : job.state()});
    ASSAY_RETURN_IF_ERROR(row.BindBlob(job.SerializeAsString()).Run());
  }
  v1::WorkerSummary worker;
  worker.set_name("w1");
  ASSAY_RETURN_IF_ERROR(
      database.Prepare("INSERT INTO workers (name, instance, summary) VALUES ('w1', 'i', ?)")
          ->BindBlob(worker.SerializeAsString())
          .Run());
  std::string more =
      "INSERT INTO answers VALUES ('b.running', 1, 0, 'queued again');"
      "INSERT INTO timings VALUES ('done', 'CPU/FLOAT16', 7.5);"
      "INSERT INTO failed_inputs VALUES ('x');";
  if (version >= 3) {
    more +=
        "INSERT INTO cordons VALUES ('w2', 'hot'); INSERT INTO tokens VALUES ('t', 'h', x'');"
        "INSERT INTO audit (time, entry) VALUES (5, x'');";
  }
  if (version >= 4) {
    more +=
        "UPDATE jobs SET attempt = 2, worker = 'w1', started = 1700000000000000000 WHERE job_id = "
        "'b.running';";
  }
  if (version >= 5) more += "INSERT INTO orders VALUES ('o', 'w1', x'');";
  return database.Execute(more);
}

// Of each table what it held before, column by column, but for those that a later version dropped.
TEST(SqliteStoreTest, EveryReleasedSchemaComesForwardWithAllThatItHolds) {
  const std::set<std::string> dropped = {"batch_id",       "batch_number", "ordinal",
                                         "needs_exporter", "device",       "route"};
  for (const int version : {2, 3, 4, 5}) {
    SCOPED_TRACE(version);
    const std::string path = NewFile();
    ASSERT_OK_AND_ASSIGN(auto database, Database::Open(path));
    ASSERT_THAT(PrepareSchema(*database, path, version), IsOk());
    ASSERT_THAT(Fill(*database, version), IsOk());
    // Not in the same file: a store may do with a table of its own what it wants.
    ASSERT_THAT(database->Execute("ATTACH ':memory:' AS before"), IsOk());
    std::vector<std::string> tables;
    {
      ASSERT_OK_AND_ASSIGN(Statement named,
                           database->Prepare("SELECT name FROM main.sqlite_master WHERE type ="
                                             " 'table' AND name NOT LIKE 'sqlite_%'"));
      while (*named.Step()) tables.push_back(named.Bytes(0));
    }
    EXPECT_THAT(tables, SizeIs(version == 2 ? 7 : version == 5 ? 11 : 10));
    std::map<std::string, std::string> columns;
    for (const std::string& table : tables) {
      ASSERT_OK_AND_ASSIGN(Statement named,
                           database->Prepare(Literal("SELECT name FROM pragma_table_info('" + table + "')")));
      std::vector<std::string> kept;
      while (*named.Step()) {
        if (table != "jobs" || dropped.count(named.Bytes(0)) == 0) kept.push_back(named.Bytes(0));
      }
      columns[table] = absl::StrJoin(kept, ", ");
      ASSERT_THAT(database->Execute("CREATE TABLE before." + table + " AS SELECT " + columns[table] +
                                    " FROM main." + table),
                  IsOk());
    }
    ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
    for (const std::string& table : tables) {
      SCOPED_TRACE(table);
      for (const auto& [sql, rows] :
           {std::pair("SELECT count(*) > 0 FROM before." + table, 1),
            std::pair("SELECT count(*) FROM (SELECT " + columns[table] + " FROM before." + table +
                          " EXCEPT SELECT " + columns[table] + " FROM main." + table + ")",
                      0)}) {
        ASSERT_OK_AND_ASSIGN(Statement count, database->Prepare(Literal(sql)));
        ASSERT_THAT(count.Step(), IsOkAndHolds(true));
        EXPECT_EQ(count.Int(0), rows) << sql;
      }
    }
    ASSERT_THAT(store->Begin(), IsOk());
    ASSERT_OK_AND_ASSIGN(std::vector<v1::Job> jobs, store->ListJobs("b"));
    ASSERT_THAT(jobs, SizeIs(3));
    ASSERT_OK_AND_ASSIGN(std::vector<v1::BatchEvent> events, store->EventsAfter("b", 0, 10));
    ASSERT_THAT(events, SizeIs(1));
    EXPECT_EQ(events[0].job().job_id(), "b.done");
    EXPECT_EQ(jobs[0].result().outcome(), v1::FAILED);
    EXPECT_EQ(jobs[1].state(), v1::QUEUED);
    EXPECT_EQ(jobs[2].state(), v1::RUNNING);
    EXPECT_EQ(jobs[2].worker(), "w1");
    ASSERT_OK_AND_ASSIGN(v1::ResultAck ack, store->CommitResult(Result("b.running", 2, v1::PASSED),
                                                                absl::FromUnixSeconds(1), "w1"));
    EXPECT_TRUE(ack.counted());
    EXPECT_THAT(store->Queued(10), IsOkAndHolds(SizeIs(1)));
    store->Rollback();
  }
}

TEST(SqliteStoreTest, AnOlderFileIsBroughtForwardWholeOrNotAtAll) {
  const std::string path = NewFile();
  {
    ASSERT_THAT(OldDatabase::Make(path), IsOk());
    ASSERT_OK_AND_ASSIGN(auto database, Database::Open(path));
    // What the last of the steps wants to drop is not there.
    ASSERT_THAT(database->Execute("DROP INDEX jobs_queued"), IsOk());
  }
  EXPECT_FALSE(OpenSqliteStore(path, 3).ok());
  ASSERT_OK_AND_ASSIGN(auto database, Database::Open(path));
  ASSERT_OK_AND_ASSIGN(Statement version, database->Prepare("PRAGMA user_version"));
  ASSERT_THAT(version.Step(), IsOkAndHolds(true));
  EXPECT_EQ(version.Int(0), 1);
  EXPECT_FALSE(database->Prepare("SELECT needs_exporter FROM jobs").ok());
}

// What is kept in memory is only what is known already: the file says the same.
TEST(SqliteStoreTest, AnotherProcessFindsWhatThisOneRemembers) {
  const std::string path = NewFile();
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000) + absl::Nanoseconds(5);
  ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore(path, 3));
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->SubmitBatch(Submission("b1", {"bert", "vit", "gpt2"}), now), IsOk());
  ASSERT_THAT(store->Commit(), IsOk());
  ASSERT_THAT(store->Begin(), IsOk());
  for (const std::string job : {"b1.bert", "b1.vit"}) {
    ASSERT_THAT(store->Lease(job, "w1", now, now + absl::Hours(1), Given), IsOk());
  }
  ASSERT_THAT(store->Commit(), IsOk());
  ASSERT_THAT(store->Begin(), IsOk());
  ASSERT_THAT(store->CommitResult(Result("b1.bert", 1, v1::PASSED), now), IsOk());
  ASSERT_THAT(store->CommitResult(Result("b1.vit", 1, v1::INFRASTRUCTURE_ERROR), now), IsOk());
  ASSERT_THAT(store->Lease("b1.vit", "w2", now, now + absl::Hours(1), Given), IsOk());
  ASSERT_THAT(store->Commit(), IsOk());

  ASSERT_OK_AND_ASSIGN(auto other, OpenSqliteStore(path, 3));
  for (const std::string job : {"b1.bert", "b1.vit", "b1.gpt2"}) {
    ASSERT_OK_AND_ASSIGN(v1::Job here, store->GetJob(job));
    ASSERT_OK_AND_ASSIGN(v1::Job there, other->GetJob(job));
    EXPECT_EQ(here.DebugString(), there.DebugString());
  }
  ASSERT_OK_AND_ASSIGN(auto here, store->EventsAfter("b1", 0, 100));
  ASSERT_OK_AND_ASSIGN(auto there, other->EventsAfter("b1", 0, 100));
  ASSERT_THAT(there, SizeIs(here.size()));
  for (size_t i = 0; i < here.size(); ++i) EXPECT_EQ(here[i].DebugString(), there[i].DebugString());
  EXPECT_EQ(here[0].job().attempts_size(), 1);
  EXPECT_EQ(here[0].job().start_time().nanos(), 5);
  EXPECT_THAT(other->Running(), IsOkAndHolds(SizeIs(1)));
  EXPECT_THAT(other->Queued(10), IsOkAndHolds(SizeIs(1)));
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

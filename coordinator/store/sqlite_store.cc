#include "coordinator/store/sqlite_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/sqlite_schema.h"

namespace assay::coordinator {
namespace {

int64_t Micros(absl::Time time) { return absl::ToUnixMicros(time); }

template <typename Message>
absl::Status Parse(const std::string& bytes, Message& message) {
  if (message.ParseFromString(bytes)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("store: a broken ", Message::descriptor()->full_name()));
}

class SqliteStore final : public RecordStore {
 public:
  SqliteStore(std::unique_ptr<Database> database, uint32_t max_attempts, const Clock* clock)
      : RecordStore(Sharing::kAlone, max_attempts), clock_(clock), database_(std::move(database)) {}

  absl::Time Now() override { return clock_->Now(); }

  absl::Status PutWorker(const WorkerRecord& worker) override;
  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(absl::string_view name) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;
  absl::Status BelieveWorkers(absl::string_view coordinator, absl::Time until) override;
  absl::Status PutCordon(absl::string_view worker, absl::string_view reason) override;
  absl::StatusOr<bool> RemoveCordon(absl::string_view worker) override;
  absl::StatusOr<std::map<std::string, std::string>> ListCordons() override;
  absl::Status AddOrder(const WorkerOrder& order) override;
  absl::Status RemoveOrder(absl::string_view id) override;
  absl::StatusOr<std::vector<WorkerOrder>> ListOrders() override;
  absl::StatusOr<std::vector<JobCount>> CountJobs() override { return CountLive(); }
  absl::Status AddToken(const TokenRecord& token) override;
  absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) override;
  absl::StatusOr<std::vector<TokenRecord>> ListTokens() override;
  absl::Status AddAudit(const v1::AuditEntry& entry) override;
  absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) override;
  absl::Status DropWorker(absl::string_view name) override;
  absl::Status DropToken(absl::string_view id) override;
  absl::Status DropAudit(absl::Time before) override;

 protected:
  absl::Status BeginMedium() override { return database_->Execute("BEGIN IMMEDIATE"); }
  absl::Status CommitMedium() override { return database_->Execute("COMMIT"); }
  void RollbackMedium() override {
    // SQLite may have rolled back by itself (a full disk): then there is nothing left to do.
    if (absl::Status status = database_->Execute("ROLLBACK"); !status.ok()) {
      spdlog::debug("rollback: {}", status.ToString());
    }
  }

  absl::StatusOr<std::vector<JobRecord>> LockJobs(const Touches& touches) override {
    return ReadJobs(touches.jobs);
  }
  absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) override;
  absl::StatusOr<std::vector<BatchRecord>> ReadLiveBatches() override;
  absl::Status WriteJobs(const std::vector<JobWrite>& jobs) override;
  absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) override;
  absl::StatusOr<bool> InsertBatch(BatchRecord& record) override;
  absl::StatusOr<std::vector<BatchRecord>> LockBatches(const std::vector<std::string>& batch_ids) override;
  absl::Status WriteBatches(const std::vector<const BatchRecord*>& batches,
                            const std::vector<EventRow>& events) override;
  absl::StatusOr<BatchPage> ReadBatches(size_t page_size, uint64_t before) override;
  absl::StatusOr<std::vector<EventRow>> ReadEvents(absl::string_view batch_id, uint64_t sequence,
                                                   size_t limit) override;
  absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) override;
  absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) override;
  absl::StatusOr<FiguresByModel> ReadFigures(const std::vector<std::string>& models) override;
  absl::Status WriteFigures(const FiguresByModel& figures) override;
  absl::StatusOr<std::set<std::string>> ReadFailed(const std::vector<std::string>& digests) override;
  absl::Status WriteFailed(const std::set<std::string>& digests) override;
  absl::StatusOr<bool> HasFailed() override;
  absl::Status EraseBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id, absl::string_view hash) override;
  absl::Status PutToken(const TokenRecord& token) override;

 private:
  absl::StatusOr<std::optional<BatchRecord>> OneBatch(Statement statement);
  absl::Status InsertJob(const JobRecord& record);
  absl::Status UpdateJob(const JobRecord& record);
  absl::Status UpdateStarted(const JobRecord& record);

  const Clock* const clock_;
  std::unique_ptr<Database> database_;
};

#define ASSAY_BATCH_COLUMNS "number, request_id, request_digest, last_sequence, batch"
// The one parameter is the batch's id.
#define ASSAY_OF_BATCH                                                           \
  " WHERE number BETWEEN (SELECT number << 32 FROM batches WHERE batch_id = ?1)" \
  " AND (SELECT number << 32 | 4294967295 FROM batches WHERE batch_id = ?1)"
#define ASSAY_JOB_COLUMNS                                                                                 \
  "number, submitter, priority, expected_seconds, lease_until, setbacks, assigned, job, attempt, worker," \
  " started, answered"

absl::StatusOr<BatchRecord> ReadBatch(const Statement& row) {
  BatchRecord record;
  record.number = static_cast<uint64_t>(row.Int(0));
  record.request_id = row.Bytes(1);
  record.request_digest = row.Bytes(2);
  record.last_sequence = static_cast<uint64_t>(row.Int(3));
  ASSAY_RETURN_IF_ERROR(Parse(row.Bytes(4), record.batch));
  return record;
}

absl::StatusOr<JobRecord> ReadJob(const Statement& row) {
  JobRecord record;
  const auto number = static_cast<uint64_t>(row.Int(0));
  record.batch_number = number >> 32;
  record.ordinal = static_cast<uint32_t>(number);
  record.submitter = row.Bytes(1);
  record.priority = static_cast<Priority>(row.Int(2));
  record.expected_seconds = row.Double(3);
  record.lease_until = absl::FromUnixMicros(row.Int(4));
  record.setbacks = static_cast<uint32_t>(row.Int(5));
  ASSAY_RETURN_IF_ERROR(Parse(row.Bytes(6), record.assigned));
  ASSAY_RETURN_IF_ERROR(Parse(row.Bytes(7), record.job));
  CatchUp(record, static_cast<uint64_t>(row.Int(8)), row.Bytes(9), absl::FromUnixNanos(row.Int(10)));
  record.answered = static_cast<uint64_t>(row.Int(11));
  return record;
}

// What the job's row is found by.
int64_t NumberOf(const JobRecord& record) {
  return static_cast<int64_t>(record.batch_number << 32 | record.ordinal);
}

int64_t StartedNanos(const v1::Job& job) {
  return job.start_time().seconds() * 1'000'000'000 + job.start_time().nanos();
}

absl::StatusOr<std::optional<BatchRecord>> SqliteStore::OneBatch(Statement statement) {
  ASSAY_ASSIGN_OR_RETURN(bool found, statement.Step());
  if (!found) return std::nullopt;
  ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(statement));
  return record;
}

absl::StatusOr<std::optional<BatchRecord>> SqliteStore::FindBatch(absl::string_view batch_id) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("SELECT " ASSAY_BATCH_COLUMNS
                                                                 " FROM batches WHERE batch_id = ?"));
  statement.BindText(batch_id);
  return OneBatch(std::move(statement));
}

absl::StatusOr<std::optional<BatchRecord>> SqliteStore::FindBatchByRequest(absl::string_view request_id) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("SELECT " ASSAY_BATCH_COLUMNS
                                                                 " FROM batches WHERE request_id = ?"));
  statement.BindText(request_id);
  return OneBatch(std::move(statement));
}

absl::StatusOr<bool> SqliteStore::InsertBatch(BatchRecord& record) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("INSERT INTO batches (batch_id, request_id, request_digest, last_sequence, batch)"
                         " VALUES (?, ?, ?, 0, ?) ON CONFLICT DO NOTHING RETURNING number"));
  statement.BindText(record.batch.batch_id()).BindText(record.request_id).BindText(record.request_digest);
  statement.BindBlob(record.batch.SerializeAsString());
  ASSAY_ASSIGN_OR_RETURN(bool inserted, statement.Step());
  if (!inserted) return false;
  record.number = static_cast<uint64_t>(statement.Int(0));
  ASSAY_RETURN_IF_ERROR(statement.Step().status());
  return true;
}

absl::StatusOr<std::vector<BatchRecord>> SqliteStore::LockBatches(const std::vector<std::string>& batch_ids) {
  std::vector<BatchRecord> records;
  for (const std::string& batch_id : batch_ids) {
    ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> record, FindBatch(batch_id));
    if (record) records.push_back(*std::move(record));
  }
  return records;
}

absl::StatusOr<std::vector<BatchRecord>> SqliteStore::ReadLiveBatches() {
  std::vector<BatchRecord> records;
  ASSAY_ASSIGN_OR_RETURN(Statement rows, database_->Prepare("SELECT " ASSAY_BATCH_COLUMNS
                                                            " FROM batches WHERE ended = 0 ORDER BY number"));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return records;
    ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(rows));
    // Those of before this was kept say it themselves.
    if (!record.batch.has_end_time()) records.push_back(std::move(record));
  }
}

absl::Status SqliteStore::WriteBatches(const std::vector<const BatchRecord*>& batches,
                                       const std::vector<EventRow>& events) {
  for (const BatchRecord* record : batches) {
    ASSAY_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare("UPDATE batches SET last_sequence = ?, ended = ?, batch = ? WHERE number = ?"));
    statement.Bind(static_cast<int64_t>(record->last_sequence));
    statement.Bind(int64_t{record->batch.has_end_time() ? 1 : 0});
    statement.BindBlob(record->batch.SerializeAsString()).Bind(static_cast<int64_t>(record->number));
    ASSAY_RETURN_IF_ERROR(statement.Run());
  }
  for (const EventRow& row : events) {
    ASSAY_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare("INSERT INTO events (batch_id, sequence, event, grouped) VALUES (?, ?, ?, 1)"));
    statement.BindText(row.batch_id).Bind(static_cast<int64_t>(row.sequence)).BindBlob(row.bytes);
    ASSAY_RETURN_IF_ERROR(statement.Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::ReadJobs(const std::vector<std::string>& job_ids) {
  std::vector<JobRecord> records;
  for (const std::string& job_id : job_ids) {
    ASSAY_ASSIGN_OR_RETURN(Statement row,
                           database_->Prepare("SELECT " ASSAY_JOB_COLUMNS " FROM jobs WHERE job_id = ?"));
    row.BindText(job_id);
    ASSAY_ASSIGN_OR_RETURN(bool found, row.Step());
    if (!found) continue;
    ASSAY_ASSIGN_OR_RETURN(JobRecord record, ReadJob(row));
    records.push_back(std::move(record));
  }
  return records;
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::JobsOf(absl::string_view batch_id) {
  ASSAY_ASSIGN_OR_RETURN(Statement rows, database_->Prepare("SELECT " ASSAY_JOB_COLUMNS
                                                            " FROM jobs" ASSAY_OF_BATCH " ORDER BY number"));
  rows.BindText(batch_id);
  std::vector<JobRecord> records;
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return records;
    ASSAY_ASSIGN_OR_RETURN(JobRecord record, ReadJob(rows));
    records.push_back(std::move(record));
  }
}

absl::Status SqliteStore::WriteJobs(const std::vector<JobWrite>& jobs) {
  for (const JobWrite& job : jobs) {
    switch (job.change) {
      case JobChange::kNew:
        ASSAY_RETURN_IF_ERROR(InsertJob(*job.record));
        break;
      case JobChange::kWhole:
        ASSAY_RETURN_IF_ERROR(UpdateJob(*job.record));
        break;
      case JobChange::kStarted:
        ASSAY_RETURN_IF_ERROR(UpdateStarted(*job.record));
        break;
      case JobChange::kLease:
      case JobChange::kNone:
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::InsertJob(const JobRecord& record) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT INTO jobs (job_id, state, " ASSAY_JOB_COLUMNS
                                            ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  const v1::Job& job = record.job;
  statement.BindText(job.job_id()).Bind(int64_t{job.state()}).Bind(NumberOf(record));
  statement.BindText(record.submitter).Bind(static_cast<int64_t>(record.priority));
  statement.Bind(record.expected_seconds).Bind(Micros(record.lease_until)).Bind(int64_t{record.setbacks});
  statement.BindBlob(record.assigned.SerializeAsString()).BindBlob(job.SerializeAsString());
  statement.Bind(static_cast<int64_t>(job.attempt())).BindText(job.worker());
  statement.Bind(StartedNanos(job)).Bind(static_cast<int64_t>(record.answered));
  return statement.Run();
}

absl::Status SqliteStore::UpdateJob(const JobRecord& record) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("UPDATE jobs SET state = ?, expected_seconds = ?, lease_until = ?, setbacks = ?,"
                         " assigned = ?, job = ?, attempt = ?, worker = ?, started = ?, answered = ?"
                         " WHERE number = ?"));
  const v1::Job& job = record.job;
  statement.Bind(int64_t{job.state()});
  statement.Bind(record.expected_seconds).Bind(Micros(record.lease_until)).Bind(int64_t{record.setbacks});
  statement.BindBlob(record.assigned.SerializeAsString()).BindBlob(job.SerializeAsString());
  statement.Bind(static_cast<int64_t>(job.attempt())).BindText(job.worker());
  statement.Bind(StartedNanos(job)).Bind(static_cast<int64_t>(record.answered)).Bind(NumberOf(record));
  return statement.Run();
}

absl::Status SqliteStore::UpdateStarted(const JobRecord& record) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("UPDATE jobs SET state = ?, attempt = ?, worker = ?, started = ?,"
                                            " lease_until = ?, assigned = ? WHERE number = ?"));
  const v1::Job& job = record.job;
  statement.Bind(int64_t{job.state()}).Bind(static_cast<int64_t>(job.attempt())).BindText(job.worker());
  statement.Bind(StartedNanos(job)).Bind(Micros(record.lease_until));
  statement.BindBlob(record.assigned.SerializeAsString()).Bind(NumberOf(record));
  return statement.Run();
}

absl::StatusOr<std::vector<RecordStore::EventRow>> SqliteStore::ReadEvents(absl::string_view batch_id,
                                                                           uint64_t sequence, size_t limit) {
  std::vector<EventRow> events;
  // Larger numbers than SQLite's are after every event.
  if (sequence > static_cast<uint64_t>(INT64_MAX)) return events;
  ASSAY_ASSIGN_OR_RETURN(
      Statement rows,
      database_->Prepare("SELECT sequence, event, grouped FROM events WHERE batch_id = ? AND sequence > ?"
                         " ORDER BY sequence LIMIT ?"));
  rows.BindText(batch_id).Bind(static_cast<int64_t>(sequence)).Bind(static_cast<int64_t>(limit));
  // A row has one event or more.
  for (uint64_t last = 0; last < sequence + limit;) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) break;
    last = static_cast<uint64_t>(rows.Int(0));
    events.push_back({std::string(batch_id), last, rows.Bytes(1), rows.Int(2) != 0});
  }
  return events;
}

absl::StatusOr<BatchPage> SqliteStore::ReadBatches(size_t page_size, uint64_t before) {
  BatchPage page;
  ASSAY_ASSIGN_OR_RETURN(Statement rows, database_->Prepare("SELECT " ASSAY_BATCH_COLUMNS
                                                            " FROM batches WHERE ? = 0 OR number < ?"
                                                            " ORDER BY number DESC LIMIT ?"));
  const int64_t from = before > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(before);
  rows.Bind(from).Bind(from).Bind(static_cast<int64_t>(page_size + 1));
  uint64_t last = 0;
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return page;
    if (page.batches.size() == page_size) {
      page.next = last;
      return page;
    }
    ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(rows));
    last = record.number;
    page.batches.push_back(std::move(record.batch));
  }
}

absl::StatusOr<std::optional<AnswerRecord>> SqliteStore::FindAnswer(const v1::AttemptRef& attempt) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement row,
      database_->Prepare("SELECT counted, reason FROM answers WHERE job_id = ? AND attempt = ?"));
  row.BindText(attempt.job_id()).Bind(static_cast<int64_t>(attempt.attempt()));
  ASSAY_ASSIGN_OR_RETURN(bool found, row.Step());
  if (!found) return std::nullopt;
  return AnswerRecord{row.Int(0) != 0, row.Bytes(1)};
}

absl::Status SqliteStore::PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("INSERT INTO answers (job_id, attempt, counted, reason) VALUES (?, ?, ?, ?)"));
  statement.BindText(attempt.job_id()).Bind(static_cast<int64_t>(attempt.attempt()));
  statement.Bind(int64_t{answer.counted ? 1 : 0}).BindText(answer.reason);
  return statement.Run();
}

absl::StatusOr<RecordStore::FiguresByModel> SqliteStore::ReadFigures(const std::vector<std::string>& models) {
  FiguresByModel known;
  for (const std::string& model : models) {
    ASSAY_ASSIGN_OR_RETURN(Statement row,
                           database_->Prepare("SELECT target, seconds FROM timings WHERE model = ?"));
    row.BindText(model);
    while (true) {
      ASSAY_ASSIGN_OR_RETURN(bool found, row.Step());
      if (!found) break;
      known[model][row.Bytes(0)] = row.Double(1);
    }
  }
  return known;
}

absl::Status SqliteStore::WriteFigures(const FiguresByModel& figures) {
  for (const auto& [model, changed] : figures) {
    for (const auto& [key, value] : changed) {
      ASSAY_ASSIGN_OR_RETURN(
          Statement statement,
          database_->Prepare("INSERT OR REPLACE INTO timings (model, target, seconds) VALUES (?, ?, ?)"));
      ASSAY_RETURN_IF_ERROR(statement.BindText(model).BindText(key).Bind(value).Run());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> SqliteStore::ReadFailed(const std::vector<std::string>& digests) {
  std::set<std::string> known;
  for (const std::string& digest : digests) {
    ASSAY_ASSIGN_OR_RETURN(Statement row, database_->Prepare("SELECT 1 FROM failed_inputs WHERE digest = ?"));
    ASSAY_ASSIGN_OR_RETURN(bool found, row.BindText(digest).Step());
    if (found) known.insert(digest);
  }
  return known;
}

absl::Status SqliteStore::WriteFailed(const std::set<std::string>& digests) {
  for (const std::string& digest : digests) {
    ASSAY_ASSIGN_OR_RETURN(Statement statement,
                           database_->Prepare("INSERT OR IGNORE INTO failed_inputs (digest) VALUES (?)"));
    ASSAY_RETURN_IF_ERROR(statement.BindText(digest).Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SqliteStore::HasFailed() {
  ASSAY_ASSIGN_OR_RETURN(Statement row, database_->Prepare("SELECT 1 FROM failed_inputs LIMIT 1"));
  return row.Step();
}

absl::Status SqliteStore::PutWorker(const WorkerRecord& worker) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare(
          "INSERT OR REPLACE INTO workers (name, instance, coordinator, believed_until, summary)"
          " VALUES (?, ?, ?, ?, ?)"));
  statement.BindText(worker.summary.name()).BindText(worker.instance).BindText(worker.coordinator);
  statement.Bind(Micros(worker.believed_until));
  statement.BindBlob(worker.summary.SerializeAsString());
  return statement.Run();
}

#define ASSAY_WORKER_COLUMNS "instance, coordinator, believed_until, summary"

absl::Status ReadWorker(const Statement& row, WorkerRecord& record) {
  record.instance = row.Bytes(0);
  record.coordinator = row.Bytes(1);
  record.believed_until = absl::FromUnixMicros(row.Int(2));
  return Parse(row.Bytes(3), record.summary);
}

absl::StatusOr<std::optional<WorkerRecord>> SqliteStore::FindWorker(absl::string_view name) {
  ASSAY_ASSIGN_OR_RETURN(Statement row,
                         database_->Prepare("SELECT " ASSAY_WORKER_COLUMNS " FROM workers WHERE name = ?"));
  row.BindText(name);
  ASSAY_ASSIGN_OR_RETURN(bool found, row.Step());
  if (!found) return std::nullopt;
  WorkerRecord record;
  ASSAY_RETURN_IF_ERROR(ReadWorker(row, record));
  return record;
}

absl::StatusOr<std::vector<WorkerRecord>> SqliteStore::ListWorkers() {
  std::vector<WorkerRecord> workers;
  ASSAY_ASSIGN_OR_RETURN(Statement rows,
                         database_->Prepare("SELECT " ASSAY_WORKER_COLUMNS " FROM workers ORDER BY name"));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return workers;
    ASSAY_RETURN_IF_ERROR(ReadWorker(rows, workers.emplace_back()));
  }
}

absl::Status SqliteStore::BelieveWorkers(absl::string_view coordinator, absl::Time until) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("UPDATE workers SET believed_until = ? WHERE coordinator = ?"));
  return statement.Bind(Micros(until)).BindText(coordinator).Run();
}

absl::Status SqliteStore::PutCordon(absl::string_view worker, absl::string_view reason) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT OR REPLACE INTO cordons (worker, reason) VALUES (?, ?)"));
  return statement.BindText(worker).BindText(reason).Run();
}

absl::StatusOr<bool> SqliteStore::RemoveCordon(absl::string_view worker) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("DELETE FROM cordons WHERE worker = ? RETURNING worker"));
  statement.BindText(worker);
  ASSAY_ASSIGN_OR_RETURN(bool removed, statement.Step());
  if (removed) ASSAY_RETURN_IF_ERROR(statement.Step().status());
  return removed;
}

absl::StatusOr<std::map<std::string, std::string>> SqliteStore::ListCordons() {
  std::map<std::string, std::string> cordons;
  ASSAY_ASSIGN_OR_RETURN(Statement rows, database_->Prepare("SELECT worker, reason FROM cordons"));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return cordons;
    cordons[rows.Bytes(0)] = rows.Bytes(1);
  }
}

absl::Status SqliteStore::AddOrder(const WorkerOrder& order) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("INSERT OR IGNORE INTO orders (id, worker, wanted) VALUES (?, ?, ?)"));
  statement.BindText(order.id).BindText(order.worker).BindBlob(order.wanted.SerializeAsString());
  return statement.Run();
}

absl::Status SqliteStore::RemoveOrder(absl::string_view id) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("DELETE FROM orders WHERE id = ?"));
  return statement.BindText(id).Run();
}

absl::StatusOr<std::vector<WorkerOrder>> SqliteStore::ListOrders() {
  std::vector<WorkerOrder> orders;
  ASSAY_ASSIGN_OR_RETURN(Statement rows,
                         database_->Prepare("SELECT id, worker, wanted FROM orders ORDER BY id"));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return orders;
    WorkerOrder& order = orders.emplace_back();
    order.id = rows.Bytes(0);
    order.worker = rows.Bytes(1);
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(2), order.wanted));
  }
}

absl::Status SqliteStore::AddToken(const TokenRecord& token) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT INTO tokens (id, hash, info) VALUES (?, ?, ?)"
                                            " ON CONFLICT DO NOTHING RETURNING id"));
  statement.BindText(token.info.id()).BindText(token.hash).BindBlob(token.info.SerializeAsString());
  ASSAY_ASSIGN_OR_RETURN(bool added, statement.Step());
  if (!added) return absl::AlreadyExistsError(absl::StrCat("token '", token.info.id(), "' exists"));
  return statement.Step().status();
}

absl::StatusOr<std::vector<TokenRecord>> AllTokens(Statement rows) {
  std::vector<TokenRecord> tokens;
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return tokens;
    TokenRecord& token = tokens.emplace_back();
    token.hash = rows.Bytes(0);
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(1), token.info));
  }
}

absl::StatusOr<std::optional<TokenRecord>> SqliteStore::FindToken(absl::string_view hash) {
  return LockToken("", hash);
}

absl::StatusOr<std::vector<TokenRecord>> SqliteStore::ListTokens() {
  ASSAY_ASSIGN_OR_RETURN(Statement rows, database_->Prepare("SELECT hash, info FROM tokens ORDER BY id"));
  return AllTokens(std::move(rows));
}

// The transaction has the database for itself.
absl::StatusOr<std::optional<TokenRecord>> SqliteStore::LockToken(absl::string_view id,
                                                                  absl::string_view hash) {
  ASSAY_ASSIGN_OR_RETURN(Statement row,
                         id.empty() ? database_->Prepare("SELECT hash, info FROM tokens WHERE hash = ?")
                                    : database_->Prepare("SELECT hash, info FROM tokens WHERE id = ?"));
  row.BindText(id.empty() ? hash : id);
  ASSAY_ASSIGN_OR_RETURN(std::vector<TokenRecord> tokens, AllTokens(std::move(row)));
  if (tokens.empty()) return std::nullopt;
  return std::move(tokens.front());
}

absl::Status SqliteStore::PutToken(const TokenRecord& token) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("UPDATE tokens SET info = ? WHERE id = ?"));
  return statement.BindBlob(token.info.SerializeAsString()).BindText(token.info.id()).Run();
}

absl::Status SqliteStore::AddAudit(const v1::AuditEntry& entry) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT INTO audit (time, entry) VALUES (?, ?)"));
  statement.Bind(entry.time().seconds() * 1'000'000 + entry.time().nanos() / 1000);
  return statement.BindBlob(entry.SerializeAsString()).Run();
}

absl::StatusOr<AuditPage> SqliteStore::ListAudit(size_t page_size, uint64_t before) {
  ASSAY_ASSIGN_OR_RETURN(Statement rows,
                         database_->Prepare("SELECT number, entry FROM audit WHERE ? = 0 OR number < ?"
                                            " ORDER BY number DESC LIMIT ?"));
  const int64_t from = before > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(before);
  rows.Bind(from).Bind(from).Bind(static_cast<int64_t>(page_size + 1));
  AuditPage page;
  uint64_t last = 0;
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return page;
    if (page.entries.size() == page_size) {
      page.next = last;
      return page;
    }
    last = static_cast<uint64_t>(rows.Int(0));
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(1), page.entries.emplace_back()));
  }
}

absl::Status SqliteStore::EraseBatch(absl::string_view batch_id) {
  for (const char* sql : {"DELETE FROM answers WHERE job_id IN (SELECT job_id FROM jobs" ASSAY_OF_BATCH ")",
                          "DELETE FROM events WHERE batch_id = ?", "DELETE FROM jobs" ASSAY_OF_BATCH,
                          "DELETE FROM batches WHERE batch_id = ?"}) {
    ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare(sql));
    ASSAY_RETURN_IF_ERROR(statement.BindText(batch_id).Run());
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::DropWorker(absl::string_view name) {
  ASSAY_ASSIGN_OR_RETURN(Statement orders,
                         database_->Prepare("DELETE FROM orders WHERE worker = ?"
                                            " AND worker NOT IN (SELECT worker FROM cordons)"));
  ASSAY_RETURN_IF_ERROR(orders.BindText(name).Run());
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("DELETE FROM workers WHERE name = ?"
                                            " AND name NOT IN (SELECT worker FROM cordons)"));
  return statement.BindText(name).Run();
}

absl::Status SqliteStore::DropToken(absl::string_view id) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("DELETE FROM tokens WHERE id = ?"));
  return statement.BindText(id).Run();
}

absl::Status SqliteStore::DropAudit(absl::Time before) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("DELETE FROM audit WHERE time < ?"));
  return statement.Bind(Micros(before)).Run();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, uint32_t max_attempts,
                                                       const Clock* clock) {
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path));
  ASSAY_RETURN_IF_ERROR(
      database->Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                        "PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000;"));
  ASSAY_RETURN_IF_ERROR(PrepareSchema(*database, path));
  return std::make_unique<SqliteStore>(std::move(database), max_attempts, clock);
}

}  // namespace assay::coordinator

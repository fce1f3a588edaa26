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
      : RecordStore(max_attempts), clock_(clock), database_(std::move(database)) {}

  absl::Time Now() override { return clock_->Now(); }

  absl::Status Begin() override { return database_->Execute("BEGIN IMMEDIATE"); }
  absl::Status Commit() override { return database_->Execute("COMMIT"); }
  void Rollback() override {
    TakeTouched();
    // SQLite may have rolled back by itself (a full disk): then there is nothing left to do.
    if (absl::Status status = database_->Execute("ROLLBACK"); !status.ok()) {
      spdlog::debug("rollback: {}", status.ToString());
    }
  }

  absl::StatusOr<std::vector<QueuedJob>> Queued(size_t limit) override;
  absl::StatusOr<BatchPage> ListBatches(size_t page_size, uint64_t before) override;
  absl::StatusOr<std::vector<v1::BatchEvent>> EventsAfter(absl::string_view batch_id, uint64_t sequence,
                                                          size_t limit) override;
  absl::Status PutWorker(const WorkerRecord& worker) override;
  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(absl::string_view name) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;
  absl::Status BelieveWorkers(absl::string_view coordinator, absl::Time until) override;
  absl::Status PutCordon(absl::string_view worker, absl::string_view reason) override;
  absl::StatusOr<bool> RemoveCordon(absl::string_view worker) override;
  absl::StatusOr<std::map<std::string, std::string>> ListCordons() override;
  absl::Status AddToken(const TokenRecord& token) override;
  absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) override;
  absl::StatusOr<std::vector<TokenRecord>> ListTokens() override;
  absl::Status AddAudit(const v1::AuditEntry& entry) override;
  absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) override;
  absl::Status DropWorker(absl::string_view name) override;
  absl::Status DropAudit(absl::Time before) override;

 protected:
  absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) override;
  absl::Status PutBatch(BatchRecord& record) override;
  absl::StatusOr<std::optional<JobRecord>> FindJob(absl::string_view job_id) override;
  absl::Status PutJob(const JobRecord& record) override;
  absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) override;
  absl::StatusOr<std::vector<JobRecord>> RunningJobs() override;
  absl::Status PutEvent(absl::string_view batch_id, const v1::BatchEvent& event) override;
  absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) override;
  absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) override;
  absl::StatusOr<std::optional<double>> FindSeconds(absl::string_view model,
                                                    absl::string_view target) override;
  absl::Status PutSeconds(absl::string_view model, absl::string_view target, double seconds) override;
  absl::StatusOr<bool> HasFailed(absl::string_view inputs_digest) override;
  absl::Status PutFailed(absl::string_view inputs_digest) override;
  absl::Status EraseBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id, absl::string_view hash) override;
  absl::Status PutToken(const TokenRecord& token) override;

 private:
  absl::StatusOr<std::optional<BatchRecord>> OneBatch(Statement statement);
  absl::StatusOr<std::vector<JobRecord>> AllJobs(Statement statement);
  absl::Status LongestQueued(const QueuedJob& like, size_t limit, std::vector<QueuedJob>& queued);

  const Clock* const clock_;
  std::unique_ptr<Database> database_;
};

#define ASSAY_BATCH_COLUMNS "number, request_id, request_digest, last_sequence, batch"
#define ASSAY_JOB_COLUMNS \
  "submitter, priority, batch_number, ordinal, expected_seconds, lease_until, setbacks, assigned, job"

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
  record.submitter = row.Bytes(0);
  record.priority = static_cast<Priority>(row.Int(1));
  record.batch_number = static_cast<uint64_t>(row.Int(2));
  record.ordinal = static_cast<uint32_t>(row.Int(3));
  record.expected_seconds = row.Double(4);
  record.lease_until = absl::FromUnixMicros(row.Int(5));
  record.setbacks = static_cast<uint32_t>(row.Int(6));
  ASSAY_RETURN_IF_ERROR(Parse(row.Bytes(7), record.assigned));
  ASSAY_RETURN_IF_ERROR(Parse(row.Bytes(8), record.job));
  return record;
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

absl::Status SqliteStore::PutBatch(BatchRecord& record) {
  const std::string batch = record.batch.SerializeAsString();
  if (record.number == 0) {
    ASSAY_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare("INSERT INTO batches (batch_id, request_id, request_digest, last_sequence, batch)"
                           " VALUES (?, ?, ?, ?, ?)"));
    statement.BindText(record.batch.batch_id()).BindText(record.request_id).BindText(record.request_digest);
    statement.Bind(static_cast<int64_t>(record.last_sequence)).BindBlob(batch);
    ASSAY_RETURN_IF_ERROR(statement.Run());
    record.number = static_cast<uint64_t>(database_->LastInsertRowid());
    return absl::OkStatus();
  }
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("UPDATE batches SET last_sequence = ?, batch = ? WHERE number = ?"));
  statement.Bind(static_cast<int64_t>(record.last_sequence)).BindBlob(batch);
  statement.Bind(static_cast<int64_t>(record.number));
  return statement.Run();
}

absl::StatusOr<std::optional<JobRecord>> SqliteStore::FindJob(absl::string_view job_id) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("SELECT " ASSAY_JOB_COLUMNS " FROM jobs WHERE job_id = ?"));
  statement.BindText(job_id);
  ASSAY_ASSIGN_OR_RETURN(bool found, statement.Step());
  if (!found) return std::nullopt;
  ASSAY_ASSIGN_OR_RETURN(JobRecord record, ReadJob(statement));
  return record;
}

absl::Status SqliteStore::PutJob(const JobRecord& record) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare(
          "INSERT INTO jobs (job_id, batch_id, needs_exporter, device, route, state, " ASSAY_JOB_COLUMNS
          ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
          " ON CONFLICT (job_id) DO UPDATE SET needs_exporter = excluded.needs_exporter,"
          " device = excluded.device, route = excluded.route, state = excluded.state,"
          " expected_seconds = excluded.expected_seconds, lease_until = excluded.lease_until,"
          " setbacks = excluded.setbacks, assigned = excluded.assigned, job = excluded.job"));
  statement.BindText(record.job.job_id()).BindText(record.job.batch_id());
  statement.Bind(int64_t{StageOf(record.job) == v1::STAGE_EXPORT ? 1 : 0});
  statement.Bind(int64_t{DeviceOf(record.job)}).BindText(RouteOf(record.job));
  statement.Bind(int64_t{record.job.state()});
  statement.BindText(record.submitter).Bind(static_cast<int64_t>(record.priority));
  statement.Bind(static_cast<int64_t>(record.batch_number)).Bind(int64_t{record.ordinal});
  statement.Bind(record.expected_seconds).Bind(Micros(record.lease_until)).Bind(int64_t{record.setbacks});
  statement.BindBlob(record.assigned.SerializeAsString()).BindBlob(record.job.SerializeAsString());
  return statement.Run();
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::AllJobs(Statement statement) {
  std::vector<JobRecord> records;
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, statement.Step());
    if (!found) return records;
    ASSAY_ASSIGN_OR_RETURN(JobRecord record, ReadJob(statement));
    records.push_back(std::move(record));
  }
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::JobsOf(absl::string_view batch_id) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("SELECT " ASSAY_JOB_COLUMNS " FROM jobs WHERE batch_id = ? ORDER BY ordinal"));
  statement.BindText(batch_id);
  return AllJobs(std::move(statement));
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::RunningJobs() {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("SELECT " ASSAY_JOB_COLUMNS " FROM jobs WHERE state = 2 ORDER BY job_id"));
  return AllJobs(std::move(statement));
}

// Walks the index from one (priority, needs_exporter, device, route, submitter) to the next instead of
// reading every queued job.
absl::StatusOr<std::vector<QueuedJob>> SqliteStore::Queued(size_t limit) {
  std::vector<QueuedJob> queued;
  QueuedJob at;
  at.priority = static_cast<Priority>(-1);
  at.device = v1::DEVICE_CHOICE_UNSPECIFIED;
  auto exporter = [&at] { return int64_t{at.needs_exporter ? 1 : 0}; };
  while (true) {
    {
      ASSAY_ASSIGN_OR_RETURN(
          Statement next,
          database_->Prepare(
              "SELECT priority, needs_exporter, device, route, submitter FROM jobs"
              " WHERE state = 1 AND (priority, needs_exporter, device, route, submitter) > (?, ?, ?, ?, ?)"
              " ORDER BY priority, needs_exporter, device, route, submitter LIMIT 1"));
      next.Bind(static_cast<int64_t>(at.priority)).Bind(exporter());
      next.Bind(int64_t{at.device}).BindText(at.route).BindText(at.submitter);
      ASSAY_ASSIGN_OR_RETURN(bool found, next.Step());
      if (!found) return queued;
      at.priority = static_cast<Priority>(next.Int(0));
      at.needs_exporter = next.Int(1) != 0;
      at.device = static_cast<v1::DeviceChoice>(next.Int(2));
      at.route = next.Bytes(3);
      at.submitter = next.Bytes(4);
    }
    ASSAY_RETURN_IF_ERROR(LongestQueued(at, limit, queued));
  }
}

absl::Status SqliteStore::LongestQueued(const QueuedJob& like, size_t limit, std::vector<QueuedJob>& queued) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement rows,
      database_->Prepare(
          "SELECT batch_number, ordinal, expected_seconds, job FROM jobs"
          " WHERE state = 1 AND priority = ? AND needs_exporter = ? AND device = ? AND route = ?"
          " AND submitter = ? ORDER BY expected_seconds DESC, batch_number, ordinal LIMIT ?"));
  rows.Bind(static_cast<int64_t>(like.priority)).Bind(int64_t{like.needs_exporter ? 1 : 0});
  rows.Bind(int64_t{like.device}).BindText(like.route).BindText(like.submitter);
  rows.Bind(static_cast<int64_t>(limit));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return absl::OkStatus();
    v1::Job job;
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(3), job));
    queued.push_back(QueuedJobOf(job, like.submitter, like.priority, rows.Double(2),
                                 static_cast<uint64_t>(rows.Int(0)), static_cast<uint32_t>(rows.Int(1))));
  }
}

absl::Status SqliteStore::PutEvent(absl::string_view batch_id, const v1::BatchEvent& event) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("INSERT INTO events (batch_id, sequence, event) VALUES (?, ?, ?)"));
  statement.BindText(batch_id).Bind(static_cast<int64_t>(event.sequence()));
  statement.BindBlob(event.SerializeAsString());
  return statement.Run();
}

absl::StatusOr<std::vector<v1::BatchEvent>> SqliteStore::EventsAfter(absl::string_view batch_id,
                                                                     uint64_t sequence, size_t limit) {
  std::vector<v1::BatchEvent> events;
  // Larger numbers than SQLite's are after every event.
  if (sequence > static_cast<uint64_t>(INT64_MAX)) return events;
  ASSAY_ASSIGN_OR_RETURN(Statement rows,
                         database_->Prepare("SELECT event FROM events WHERE batch_id = ? AND sequence > ?"
                                            " ORDER BY sequence LIMIT ?"));
  rows.BindText(batch_id).Bind(static_cast<int64_t>(sequence)).Bind(static_cast<int64_t>(limit));
  while (true) {
    ASSAY_ASSIGN_OR_RETURN(bool found, rows.Step());
    if (!found) return events;
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(0), events.emplace_back()));
  }
}

absl::StatusOr<BatchPage> SqliteStore::ListBatches(size_t page_size, uint64_t before) {
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

absl::StatusOr<std::optional<double>> SqliteStore::FindSeconds(absl::string_view model,
                                                               absl::string_view target) {
  ASSAY_ASSIGN_OR_RETURN(Statement row,
                         database_->Prepare("SELECT seconds FROM timings WHERE model = ? AND target = ?"));
  row.BindText(model).BindText(target);
  ASSAY_ASSIGN_OR_RETURN(bool found, row.Step());
  if (!found) return std::nullopt;
  return row.Double(0);
}

absl::Status SqliteStore::PutSeconds(absl::string_view model, absl::string_view target, double seconds) {
  ASSAY_ASSIGN_OR_RETURN(
      Statement statement,
      database_->Prepare("INSERT OR REPLACE INTO timings (model, target, seconds) VALUES (?, ?, ?)"));
  statement.BindText(model).BindText(target).Bind(seconds);
  return statement.Run();
}

absl::StatusOr<bool> SqliteStore::HasFailed(absl::string_view inputs_digest) {
  ASSAY_ASSIGN_OR_RETURN(Statement row, database_->Prepare("SELECT 1 FROM failed_inputs WHERE digest = ?"));
  row.BindText(inputs_digest);
  return row.Step();
}

absl::Status SqliteStore::PutFailed(absl::string_view inputs_digest) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT OR IGNORE INTO failed_inputs (digest) VALUES (?)"));
  statement.BindText(inputs_digest);
  return statement.Run();
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
  for (const char* sql : {"DELETE FROM answers WHERE job_id IN (SELECT job_id FROM jobs WHERE batch_id = ?)",
                          "DELETE FROM events WHERE batch_id = ?", "DELETE FROM jobs WHERE batch_id = ?",
                          "DELETE FROM batches WHERE batch_id = ?"}) {
    ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare(sql));
    ASSAY_RETURN_IF_ERROR(statement.BindText(batch_id).Run());
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::DropWorker(absl::string_view name) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("DELETE FROM workers WHERE name = ?"
                                            " AND name NOT IN (SELECT worker FROM cordons)"));
  return statement.BindText(name).Run();
}

absl::Status SqliteStore::DropAudit(absl::Time before) {
  ASSAY_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("DELETE FROM audit WHERE time < ?"));
  return statement.Bind(Micros(before)).Run();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, uint32_t max_attempts,
                                                       const Clock* clock) {
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path));
  ASSAY_RETURN_IF_ERROR(database->Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"));
  ASSAY_RETURN_IF_ERROR(PrepareSchema(*database, path));
  return std::make_unique<SqliteStore>(std::move(database), max_attempts, clock);
}

}  // namespace assay::coordinator

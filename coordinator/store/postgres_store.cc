#include "coordinator/store/postgres_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_session.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {
namespace {

using Parameters = PostgresParameters;

template <typename Message>
absl::Status Parse(const std::string& bytes, Message& message) {
  if (message.ParseFromString(bytes)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("database: a broken ", Message::descriptor()->full_name()));
}

// Numbers from outside that are larger than the database's are beyond everything in it.
int64_t Clamped(uint64_t value) {
  return value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value);
}

class PostgresStore final : public RecordStore {
 public:
  PostgresStore(std::unique_ptr<PostgresSession> session, uint32_t max_attempts)
      : RecordStore(max_attempts), session_(std::move(session)) {}

  absl::Status Begin() override { return session_->Begin(); }
  absl::Status Commit() override {
    const std::set<std::string> touched = TakeTouched();
    ASSAY_ASSIGN_OR_RETURN(std::set<std::string> committed, session_->Commit(touched));
    Touch(committed);
    return absl::OkStatus();
  }
  void Rollback() override {
    TakeTouched();
    session_->Rollback();
  }

  absl::Time Now() override { return session_->begun(); }

  absl::StatusOr<std::vector<QueuedJob>> Queued(size_t limit) override;
  absl::StatusOr<std::map<std::string, uint32_t>> RunningBySubmitter() override;
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
  std::unique_ptr<PostgresSession> session_;
};

#define ASSAY_BATCH_COLUMNS "number, request_id, request_digest, last_sequence, batch"
#define ASSAY_JOB_COLUMNS \
  "submitter, priority, batch_number, ordinal, expected_seconds, lease_until, setbacks, assigned, job"

absl::StatusOr<BatchRecord> ReadBatch(const PostgresRows& rows, int row) {
  BatchRecord record;
  record.number = static_cast<uint64_t>(rows.Int(row, 0));
  record.request_id = rows.Bytes(row, 1);
  record.request_digest = rows.Bytes(row, 2);
  record.last_sequence = static_cast<uint64_t>(rows.Int(row, 3));
  ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(row, 4), record.batch));
  return record;
}

absl::StatusOr<std::optional<BatchRecord>> FirstBatch(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  if (rows->size() == 0) return std::nullopt;
  ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(*rows, 0));
  return record;
}

absl::StatusOr<std::vector<JobRecord>> AllJobs(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  std::vector<JobRecord> records(static_cast<size_t>(rows->size()));
  for (int row = 0; row < rows->size(); ++row) {
    JobRecord& record = records[static_cast<size_t>(row)];
    record.submitter = rows->Bytes(row, 0);
    record.priority = static_cast<Priority>(rows->Int(row, 1));
    record.batch_number = static_cast<uint64_t>(rows->Int(row, 2));
    record.ordinal = static_cast<uint32_t>(rows->Int(row, 3));
    record.expected_seconds = rows->Double(row, 4);
    record.lease_until = rows->Time(row, 5);
    record.setbacks = static_cast<uint32_t>(rows->Int(row, 6));
    ASSAY_RETURN_IF_ERROR(Parse(rows->Bytes(row, 7), record.assigned));
    ASSAY_RETURN_IF_ERROR(Parse(rows->Bytes(row, 8), record.job));
  }
  return records;
}

absl::StatusOr<std::optional<BatchRecord>> PostgresStore::FindBatch(absl::string_view batch_id) {
  return FirstBatch(session_->Read("SELECT " ASSAY_BATCH_COLUMNS " FROM assay.batches WHERE batch_id = $1",
                                   Parameters().Bytes(batch_id)));
}

absl::StatusOr<std::optional<BatchRecord>> PostgresStore::FindBatchByRequest(absl::string_view request_id) {
  return FirstBatch(session_->Read("SELECT " ASSAY_BATCH_COLUMNS " FROM assay.batches WHERE request_id = $1",
                                   Parameters().Bytes(request_id)));
}

absl::Status PostgresStore::PutBatch(BatchRecord& record) {
  const std::string batch = record.batch.SerializeAsString();
  const int64_t last_sequence = static_cast<int64_t>(record.last_sequence);
  if (record.number != 0) {
    return session_->Write(
        "UPDATE assay.batches SET last_sequence = $1, batch = $2 WHERE number = $3",
        Parameters().Int(last_sequence).Bytes(batch).Int(static_cast<int64_t>(record.number)));
  }
  Parameters values;
  values.Bytes(record.batch.batch_id()).Bytes(record.request_id).Bytes(record.request_digest);
  values.Int(last_sequence).Bytes(batch);
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->WriteAndRead(
          "INSERT INTO assay.batches (batch_id, request_id, request_digest, last_sequence, batch)"
          " VALUES ($1, $2, $3, $4, $5) RETURNING number",
          values));
  record.number = static_cast<uint64_t>(rows.Int(0, 0));
  return absl::OkStatus();
}

absl::StatusOr<std::optional<JobRecord>> PostgresStore::FindJob(absl::string_view job_id) {
  ASSAY_ASSIGN_OR_RETURN(
      std::vector<JobRecord> records,
      AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS " FROM assay.jobs WHERE job_id = $1",
                             Parameters().Bytes(job_id))));
  if (records.empty()) return std::nullopt;
  return std::move(records.front());
}

absl::Status PostgresStore::PutJob(const JobRecord& record) {
  Parameters values;
  values.Bytes(record.job.job_id()).Bytes(record.job.batch_id());
  values.Bool(StageOf(record.job) == v1::STAGE_EXPORT).Int(DeviceOf(record.job));
  values.Bytes(RouteOf(record.job)).Int(record.job.state());
  values.Bytes(record.submitter).Int(static_cast<int64_t>(record.priority));
  values.Int(static_cast<int64_t>(record.batch_number)).Int(record.ordinal);
  values.Double(record.expected_seconds).Time(record.lease_until).Int(record.setbacks);
  values.Bytes(record.assigned.SerializeAsString()).Bytes(record.job.SerializeAsString());
  return session_->Write(
      "INSERT INTO assay.jobs (job_id, batch_id, needs_exporter, device, route, state, " ASSAY_JOB_COLUMNS
      ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
      " ON CONFLICT (job_id) DO UPDATE SET needs_exporter = excluded.needs_exporter,"
      " device = excluded.device, route = excluded.route, state = excluded.state,"
      " expected_seconds = excluded.expected_seconds,"
      " lease_until = excluded.lease_until, setbacks = excluded.setbacks, assigned = excluded.assigned,"
      " job = excluded.job",
      values);
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::JobsOf(absl::string_view batch_id) {
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS
                                " FROM assay.jobs WHERE batch_id = $1 ORDER BY ordinal",
                                Parameters().Bytes(batch_id)));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::RunningJobs() {
  return AllJobs(
      session_->Read("SELECT " ASSAY_JOB_COLUMNS " FROM assay.jobs WHERE state = 2 ORDER BY job_id"));
}

// Walks the index from one (priority, needs_exporter, device, route, submitter) to the next instead of
// reading every queued job.
absl::StatusOr<std::vector<QueuedJob>> PostgresStore::Queued(size_t limit) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read(
          "WITH RECURSIVE queue AS ("
          "(SELECT priority, needs_exporter, device, route, submitter FROM assay.jobs WHERE state = 1"
          " ORDER BY priority, needs_exporter, device, route, submitter LIMIT 1)"
          " UNION ALL SELECT next.* FROM queue CROSS JOIN LATERAL"
          " (SELECT priority, needs_exporter, device, route, submitter FROM assay.jobs WHERE state = 1"
          " AND (priority, needs_exporter, device, route, submitter)"
          " > (queue.priority, queue.needs_exporter, queue.device, queue.route, queue.submitter)"
          " ORDER BY priority, needs_exporter, device, route, submitter LIMIT 1) next)"
          " SELECT longest.* FROM queue CROSS JOIN LATERAL"
          " (SELECT submitter, priority, batch_number, ordinal, expected_seconds, job FROM assay.jobs"
          " WHERE state = 1 AND priority = queue.priority AND needs_exporter = queue.needs_exporter"
          " AND device = queue.device AND route = queue.route AND submitter = queue.submitter"
          " ORDER BY expected_seconds DESC, batch_number, ordinal LIMIT $1) longest"
          " ORDER BY priority, expected_seconds DESC, batch_number, ordinal",
          Parameters().Int(Clamped(limit))));
  std::vector<QueuedJob> queued;
  for (int row = 0; row < rows.size(); ++row) {
    v1::Job job;
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(row, 5), job));
    queued.push_back(QueuedJobOf(job, rows.Bytes(row, 0), static_cast<Priority>(rows.Int(row, 1)),
                                 rows.Double(row, 4), static_cast<uint64_t>(rows.Int(row, 2)),
                                 static_cast<uint32_t>(rows.Int(row, 3))));
  }
  return queued;
}

absl::StatusOr<std::map<std::string, uint32_t>> PostgresStore::RunningBySubmitter() {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT submitter, count(*) FROM assay.jobs WHERE state = 2 GROUP BY submitter"));
  std::map<std::string, uint32_t> counts;
  for (int row = 0; row < rows.size(); ++row) {
    counts[rows.Bytes(row, 0)] = static_cast<uint32_t>(rows.Int(row, 1));
  }
  return counts;
}

absl::Status PostgresStore::PutEvent(absl::string_view batch_id, const v1::BatchEvent& event) {
  return session_->Write("INSERT INTO assay.events (batch_id, sequence, event) VALUES ($1, $2, $3)",
                         Parameters()
                             .Bytes(batch_id)
                             .Int(static_cast<int64_t>(event.sequence()))
                             .Bytes(event.SerializeAsString()));
}

absl::StatusOr<std::vector<v1::BatchEvent>> PostgresStore::EventsAfter(absl::string_view batch_id,
                                                                       uint64_t sequence, size_t limit) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT event FROM assay.events WHERE batch_id = $1 AND sequence > $2"
                     " ORDER BY sequence LIMIT $3",
                     Parameters().Bytes(batch_id).Int(Clamped(sequence)).Int(Clamped(limit))));
  std::vector<v1::BatchEvent> events;
  for (int row = 0; row < rows.size(); ++row) {
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(row, 0), events.emplace_back()));
  }
  return events;
}

absl::StatusOr<BatchPage> PostgresStore::ListBatches(size_t page_size, uint64_t before) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read(
          "SELECT " ASSAY_BATCH_COLUMNS " FROM assay.batches WHERE number < $1"
          " ORDER BY number DESC LIMIT $2",
          Parameters().Int(before == 0 ? INT64_MAX : Clamped(before)).Int(Clamped(page_size + 1))));
  BatchPage page;
  for (int row = 0; row < rows.size(); ++row) {
    if (page.batches.size() == page_size) {
      page.next = static_cast<uint64_t>(rows.Int(row - 1, 0));
      break;
    }
    ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(rows, row));
    page.batches.push_back(std::move(record.batch));
  }
  return page;
}

absl::StatusOr<std::optional<AnswerRecord>> PostgresStore::FindAnswer(const v1::AttemptRef& attempt) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT counted, reason FROM assay.answers WHERE job_id = $1 AND attempt = $2",
                     Parameters().Bytes(attempt.job_id()).Int(static_cast<int64_t>(attempt.attempt()))));
  if (rows.size() == 0) return std::nullopt;
  return AnswerRecord{rows.Bool(0, 0), rows.Bytes(0, 1)};
}

absl::Status PostgresStore::PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) {
  return session_->Write(
      "INSERT INTO assay.answers (job_id, attempt, counted, reason) VALUES ($1, $2, $3, $4)",
      Parameters()
          .Bytes(attempt.job_id())
          .Int(static_cast<int64_t>(attempt.attempt()))
          .Bool(answer.counted)
          .Bytes(answer.reason));
}

absl::StatusOr<std::optional<double>> PostgresStore::FindSeconds(absl::string_view model,
                                                                 absl::string_view target) {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         session_->Read("SELECT seconds FROM assay.timings WHERE model = $1 AND target = $2",
                                        Parameters().Bytes(model).Bytes(target)));
  if (rows.size() == 0) return std::nullopt;
  return rows.Double(0, 0);
}

absl::Status PostgresStore::PutSeconds(absl::string_view model, absl::string_view target, double seconds) {
  return session_->Write(
      "INSERT INTO assay.timings (model, target, seconds) VALUES ($1, $2, $3)"
      " ON CONFLICT (model, target) DO UPDATE SET seconds = excluded.seconds",
      Parameters().Bytes(model).Bytes(target).Double(seconds));
}

absl::StatusOr<bool> PostgresStore::HasFailed(absl::string_view inputs_digest) {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         session_->Read("SELECT true FROM assay.failed_inputs WHERE digest = $1",
                                        Parameters().Bytes(inputs_digest)));
  return rows.size() > 0;
}

absl::Status PostgresStore::PutFailed(absl::string_view inputs_digest) {
  return session_->Write("INSERT INTO assay.failed_inputs (digest) VALUES ($1) ON CONFLICT DO NOTHING",
                         Parameters().Bytes(inputs_digest));
}

absl::Status PostgresStore::PutWorker(const WorkerRecord& worker) {
  return session_->Write(
      "INSERT INTO assay.workers (name, instance, coordinator, believed_until, summary)"
      " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET instance = excluded.instance,"
      " coordinator = excluded.coordinator, believed_until = excluded.believed_until,"
      " summary = excluded.summary",
      Parameters()
          .Bytes(worker.summary.name())
          .Bytes(worker.instance)
          .Bytes(worker.coordinator)
          .Time(worker.believed_until)
          .Bytes(worker.summary.SerializeAsString()));
}

#define ASSAY_WORKER_COLUMNS "instance, coordinator, believed_until, summary"

absl::StatusOr<std::vector<WorkerRecord>> AllWorkers(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  std::vector<WorkerRecord> workers(static_cast<size_t>(rows->size()));
  for (int row = 0; row < rows->size(); ++row) {
    WorkerRecord& worker = workers[static_cast<size_t>(row)];
    worker.instance = rows->Bytes(row, 0);
    worker.coordinator = rows->Bytes(row, 1);
    worker.believed_until = rows->Time(row, 2);
    ASSAY_RETURN_IF_ERROR(Parse(rows->Bytes(row, 3), worker.summary));
  }
  return workers;
}

absl::StatusOr<std::optional<WorkerRecord>> PostgresStore::FindWorker(absl::string_view name) {
  ASSAY_ASSIGN_OR_RETURN(
      std::vector<WorkerRecord> workers,
      AllWorkers(session_->Read("SELECT " ASSAY_WORKER_COLUMNS " FROM assay.workers WHERE name = $1",
                                Parameters().Bytes(name))));
  if (workers.empty()) return std::nullopt;
  return std::move(workers.front());
}

absl::StatusOr<std::vector<WorkerRecord>> PostgresStore::ListWorkers() {
  return AllWorkers(session_->Read("SELECT " ASSAY_WORKER_COLUMNS " FROM assay.workers ORDER BY name"));
}

absl::Status PostgresStore::BelieveWorkers(absl::string_view coordinator, absl::Time until) {
  return session_->Write("UPDATE assay.workers SET believed_until = $1 WHERE coordinator = $2",
                         Parameters().Time(until).Bytes(coordinator));
}

absl::Status PostgresStore::PutCordon(absl::string_view worker, absl::string_view reason) {
  return session_->Write(
      "INSERT INTO assay.cordons (worker, reason) VALUES ($1, $2)"
      " ON CONFLICT (worker) DO UPDATE SET reason = excluded.reason",
      Parameters().Bytes(worker).Bytes(reason));
}

absl::StatusOr<bool> PostgresStore::RemoveCordon(absl::string_view worker) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->WriteAndRead("DELETE FROM assay.cordons WHERE worker = $1 RETURNING worker",
                             Parameters().Bytes(worker)));
  return rows.size() > 0;
}

absl::StatusOr<std::map<std::string, std::string>> PostgresStore::ListCordons() {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows, session_->Read("SELECT worker, reason FROM assay.cordons"));
  std::map<std::string, std::string> cordons;
  for (int row = 0; row < rows.size(); ++row) cordons[rows.Bytes(row, 0)] = rows.Bytes(row, 1);
  return cordons;
}

absl::Status PostgresStore::AddToken(const TokenRecord& token) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows added,
      session_->WriteAndRead(
          "INSERT INTO assay.tokens (id, hash, info) VALUES ($1, $2, $3)"
          " ON CONFLICT DO NOTHING RETURNING id",
          Parameters().Bytes(token.info.id()).Bytes(token.hash).Bytes(token.info.SerializeAsString())));
  if (added.size() > 0) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("token '", token.info.id(), "' exists"));
}

absl::StatusOr<std::vector<TokenRecord>> AllTokens(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  std::vector<TokenRecord> tokens(static_cast<size_t>(rows->size()));
  for (int row = 0; row < rows->size(); ++row) {
    tokens[static_cast<size_t>(row)].hash = rows->Bytes(row, 0);
    ASSAY_RETURN_IF_ERROR(Parse(rows->Bytes(row, 1), tokens[static_cast<size_t>(row)].info));
  }
  return tokens;
}

absl::StatusOr<std::optional<TokenRecord>> FirstToken(const absl::StatusOr<PostgresRows>& rows) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<TokenRecord> tokens, AllTokens(rows));
  if (tokens.empty()) return std::nullopt;
  return std::move(tokens.front());
}

absl::StatusOr<std::optional<TokenRecord>> PostgresStore::FindToken(absl::string_view hash) {
  return FirstToken(
      session_->Read("SELECT hash, info FROM assay.tokens WHERE hash = $1", Parameters().Bytes(hash)));
}

absl::StatusOr<std::vector<TokenRecord>> PostgresStore::ListTokens() {
  return AllTokens(session_->Read("SELECT hash, info FROM assay.tokens ORDER BY id"));
}

absl::StatusOr<std::optional<TokenRecord>> PostgresStore::LockToken(absl::string_view id,
                                                                    absl::string_view hash) {
  if (id.empty()) {
    return FirstToken(session_->Read("SELECT hash, info FROM assay.tokens WHERE hash = $1 FOR UPDATE",
                                     Parameters().Bytes(hash)));
  }
  return FirstToken(
      session_->Read("SELECT hash, info FROM assay.tokens WHERE id = $1 FOR UPDATE", Parameters().Bytes(id)));
}

absl::Status PostgresStore::PutToken(const TokenRecord& token) {
  return session_->Write("UPDATE assay.tokens SET info = $1 WHERE id = $2",
                         Parameters().Bytes(token.info.SerializeAsString()).Bytes(token.info.id()));
}

absl::Status PostgresStore::AddAudit(const v1::AuditEntry& entry) {
  const absl::Time time =
      absl::FromUnixSeconds(entry.time().seconds()) + absl::Nanoseconds(entry.time().nanos());
  return session_->Write("INSERT INTO assay.audit (time, entry) VALUES ($1, $2)",
                         Parameters().Time(time).Bytes(entry.SerializeAsString()));
}

absl::StatusOr<AuditPage> PostgresStore::ListAudit(size_t page_size, uint64_t before) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read(
          "SELECT number, entry FROM assay.audit WHERE number < $1 ORDER BY number DESC LIMIT $2",
          Parameters().Int(before == 0 ? INT64_MAX : Clamped(before)).Int(Clamped(page_size + 1))));
  AuditPage page;
  for (int row = 0; row < rows.size(); ++row) {
    if (page.entries.size() == page_size) {
      page.next = static_cast<uint64_t>(rows.Int(row - 1, 0));
      break;
    }
    ASSAY_RETURN_IF_ERROR(Parse(rows.Bytes(row, 1), page.entries.emplace_back()));
  }
  return page;
}

absl::Status PostgresStore::EraseBatch(absl::string_view batch_id) {
  for (const char* sql :
       {"DELETE FROM assay.answers WHERE job_id IN (SELECT job_id FROM assay.jobs WHERE batch_id = $1)",
        "DELETE FROM assay.events WHERE batch_id = $1", "DELETE FROM assay.jobs WHERE batch_id = $1",
        "DELETE FROM assay.batches WHERE batch_id = $1"}) {
    ASSAY_RETURN_IF_ERROR(session_->Write(sql, Parameters().Bytes(batch_id)));
  }
  return absl::OkStatus();
}

absl::Status PostgresStore::DropWorker(absl::string_view name) {
  return session_->Write(
      "DELETE FROM assay.workers WHERE name = $1 AND name NOT IN (SELECT worker FROM assay.cordons)",
      Parameters().Bytes(name));
}

absl::Status PostgresStore::DropAudit(absl::Time before) {
  return session_->Write("DELETE FROM assay.audit WHERE time < $1", Parameters().Time(before));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenPostgresStore(const std::string& url, uint32_t max_attempts,
                                                         const PostgresPatience& patience) {
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<PostgresSession> session, PostgresSession::Open(url, patience));
  return std::make_unique<PostgresStore>(std::move(session), max_attempts);
}

}  // namespace assay::coordinator

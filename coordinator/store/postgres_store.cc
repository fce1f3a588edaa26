#include "coordinator/store/postgres_store.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_records.h"
#include "coordinator/store/postgres_session.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"
#include "google/protobuf/util/time_util.h"

namespace assay::coordinator {
namespace {

using Parameters = PostgresParameters;
using Array = PostgresArray;

// Numbers from outside that are larger than the database's are beyond everything in it.
int64_t Clamped(uint64_t value) {
  return value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value);
}

class PostgresStore final : public RecordStore {
 public:
  PostgresStore(std::unique_ptr<PostgresSession> session, uint32_t max_attempts)
      : RecordStore(Sharing::kShared, max_attempts), session_(std::move(session)) {}

  absl::Time Now() override { return session_->begun(); }

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
  absl::StatusOr<std::vector<JobCount>> CountJobs() override;
  absl::Status AddToken(const TokenRecord& token) override;
  absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) override;
  absl::StatusOr<std::vector<TokenRecord>> ListTokens() override;
  absl::Status AddAudit(const v1::AuditEntry& entry) override;
  absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) override;
  absl::Status DropWorker(absl::string_view name) override;
  absl::Status DropToken(absl::string_view id) override;
  absl::Status DropAudit(absl::Time before) override;

 protected:
  absl::Status BeginMedium() override { return session_->Begin(); }
  absl::Status CommitMedium() override {
    const std::set<std::string> touched = TakeTouched();
    ASSAY_ASSIGN_OR_RETURN(std::set<std::string> committed, session_->Commit(touched));
    Touch(committed);
    return absl::OkStatus();
  }
  void RollbackMedium() override { session_->Rollback(); }

  absl::StatusOr<std::vector<JobRecord>> LockJobs(const Touches& touches) override;
  absl::StatusOr<std::vector<JobRecord>> LockQueued(const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::vector<std::string>> LockUnchanged(
      const std::vector<const QueuedRecord*>& jobs) override;
  absl::StatusOr<std::vector<JobRecord>> LockExpired(absl::Time now) override;
  absl::StatusOr<std::vector<QueuedRecord>> ReadQueued(size_t limit) override;
  absl::StatusOr<size_t> ReadQueuedCount(size_t most) override;
  absl::StatusOr<std::map<std::string, uint32_t>> ReadRunningBySubmitter() override;
  absl::StatusOr<std::vector<JobRecord>> ReadRunning() override;
  absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) override;
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
  absl::StatusOr<Seconds> ReadSeconds(const std::vector<Seconds::key_type>& keys) override;
  absl::Status WriteSeconds(const Seconds& seconds) override;
  absl::StatusOr<std::set<std::string>> ReadFailed(const std::vector<std::string>& digests) override;
  absl::Status WriteFailed(const std::set<std::string>& digests) override;
  absl::Status EraseBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id, absl::string_view hash) override;
  absl::Status PutToken(const TokenRecord& token) override;

 private:
  // Of what WriteJobs has to write, each in one statement.
  absl::Status InsertJobs(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteWhole(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteEnded(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteStarted(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteLeases(const std::vector<const JobWrite*>& jobs);

  // What records rest on that were only remembered; of others "infinity".
  class BeliefColumns {
   public:
    void Add(const JobWrite& job) {
      newest_.Int(job.belief ? static_cast<int64_t>(job.belief->attempt) : 0);
      believed_.Time(job.belief ? job.belief->lease_until : absl::InfiniteFuture());
    }
    Parameters& AddTo(Parameters& values) const { return values.Array(newest_).Array(believed_); }

   private:
    Array newest_{Array::Type::kInt}, believed_{Array::Type::kTime};
  };

  std::unique_ptr<PostgresSession> session_;
};

// Of the jobs of batch $1, whose ids lie side by side ('/' follows '.').
#define ASSAY_OF_BATCH " WHERE job_id > $1::text || '.' AND job_id < $1::text || '/' AND batch_id = $1"

absl::StatusOr<std::optional<BatchRecord>> PostgresStore::FindBatch(absl::string_view batch_id) {
  return FirstBatch(session_->Read("SELECT " ASSAY_BATCH_COLUMNS " FROM assay.batches WHERE batch_id = $1",
                                   Parameters().Bytes(batch_id)));
}

absl::StatusOr<std::optional<BatchRecord>> PostgresStore::FindBatchByRequest(absl::string_view request_id) {
  return FirstBatch(session_->Read("SELECT " ASSAY_BATCH_COLUMNS " FROM assay.batches WHERE request_id = $1",
                                   Parameters().Bytes(request_id)));
}

absl::StatusOr<bool> PostgresStore::InsertBatch(BatchRecord& record) {
  Parameters values;
  values.Bytes(record.batch.batch_id()).Bytes(record.request_id).Bytes(record.request_digest);
  values.Bytes(record.batch.SerializeAsString());
  // Where another coordinator is about to store the same, this waits for what comes of it.
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->WriteAndRead(
          "INSERT INTO assay.batches (batch_id, request_id, request_digest, last_sequence, batch)"
          " VALUES ($1, $2, $3, 0, $4) ON CONFLICT DO NOTHING RETURNING number",
          values));
  if (rows.size() == 0) return false;
  record.number = static_cast<uint64_t>(rows.Int(0, 0));
  return true;
}

absl::StatusOr<std::vector<BatchRecord>> PostgresStore::LockBatches(
    const std::vector<std::string>& batch_ids) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT " ASSAY_BATCH_COLUMNS
                     " FROM assay.batches WHERE batch_id = ANY($1) ORDER BY batch_id FOR UPDATE",
                     Parameters().Array(Array::Texts(batch_ids))));
  std::vector<BatchRecord> records;
  for (int row = 0; row < rows.size(); ++row) {
    ASSAY_ASSIGN_OR_RETURN(BatchRecord record, ReadBatch(rows, row));
    records.push_back(std::move(record));
  }
  return records;
}

absl::Status PostgresStore::WriteBatches(const std::vector<const BatchRecord*>& batches,
                                         const std::vector<EventRow>& events) {
  Array numbers(Array::Type::kInt), last(Array::Type::kInt), bytes(Array::Type::kBytes);
  for (const BatchRecord* record : batches) {
    numbers.Int(static_cast<int64_t>(record->number));
    last.Int(static_cast<int64_t>(record->last_sequence));
    bytes.Bytes(record->batch.SerializeAsString());
  }
  ASSAY_RETURN_IF_ERROR(
      session_->Write("UPDATE assay.batches b SET last_sequence = u.last, batch = u.batch"
                      " FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS u (number, last, batch)"
                      " WHERE b.number = u.number",
                      Parameters().Array(numbers).Array(last).Array(bytes)));
  if (events.empty()) return absl::OkStatus();
  Array ids(Array::Type::kText), sequences(Array::Type::kInt), groups(Array::Type::kBytes);
  for (const EventRow& row : events) {
    ids.Bytes(row.batch_id);
    sequences.Int(static_cast<int64_t>(row.sequence));
    groups.Bytes(row.bytes);
  }
  return session_->Write(
      "INSERT INTO assay.events (batch_id, sequence, event, grouped)"
      " SELECT u.*, true FROM unnest($1::text[], $2::bigint[], $3::bytea[]) u",
      Parameters().Array(ids).Array(sequences).Array(groups));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::LockJobs(const Touches& touches) {
  if (touches.holders.empty() && touches.batches.empty()) {
    return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS
                                  " FROM assay.jobs WHERE job_id = ANY($1) ORDER BY job_id FOR UPDATE",
                                  Parameters().Array(Array::Texts(touches.jobs))));
  }
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS
                                " FROM assay.jobs WHERE job_id IN (SELECT unnest($1::text[])"
                                " UNION SELECT job_id FROM assay.jobs WHERE state = 2 AND worker = ANY($2)"
                                " UNION SELECT j.job_id FROM unnest($3::text[]) AS b (id) JOIN assay.jobs j"
                                " ON j.job_id > b.id || '.' AND j.job_id < b.id || '/' AND j.batch_id = b.id"
                                " WHERE j.state < 3)"
                                " ORDER BY job_id FOR UPDATE",
                                Parameters()
                                    .Array(Array::Texts(touches.jobs))
                                    .Array(Array::Texts(touches.holders))
                                    .Array(Array::Texts(touches.batches))));
}

// xmin is the transaction that wrote the row.
absl::StatusOr<std::vector<std::string>> PostgresStore::LockUnchanged(
    const std::vector<const QueuedRecord*>& jobs) {
  Array ids(Array::Type::kText);
  absl::flat_hash_map<absl::string_view, absl::string_view> versions;
  for (const QueuedRecord* job : jobs) {
    ids.Bytes(job->record.job.job_id());
    versions.emplace(job->record.job.job_id(), job->version);
  }
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT job_id, xmin::text FROM assay.jobs WHERE job_id = ANY($1) AND state = 1"
                     " FOR UPDATE SKIP LOCKED",
                     Parameters().Array(ids)));
  std::vector<std::string> locked;
  for (int row = 0; row < rows.size(); ++row) {
    std::string job_id = rows.Bytes(row, 0);
    if (versions.at(job_id) == rows.Bytes(row, 1)) locked.push_back(std::move(job_id));
  }
  return locked;
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::LockQueued(const std::vector<std::string>& job_ids) {
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS
                                " FROM assay.jobs WHERE job_id = ANY($1) AND state = 1"
                                " ORDER BY job_id FOR UPDATE SKIP LOCKED",
                                Parameters().Array(Array::Texts(job_ids))));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::LockExpired(absl::Time now) {
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS
                                " FROM assay.jobs WHERE state = 2 AND lease_until <= $1"
                                " ORDER BY job_id LIMIT 1000 FOR UPDATE SKIP LOCKED",
                                Parameters().Time(now)));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::ReadJobs(const std::vector<std::string>& job_ids) {
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS " FROM assay.jobs WHERE job_id = ANY($1)",
                                Parameters().Array(Array::Texts(job_ids))));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::JobsOf(absl::string_view batch_id) {
  return AllJobs(session_->Read("SELECT " ASSAY_JOB_COLUMNS " FROM assay.jobs" ASSAY_OF_BATCH
                                " ORDER BY ordinal",
                                Parameters().Bytes(batch_id)));
}

absl::StatusOr<std::vector<JobRecord>> PostgresStore::ReadRunning() {
  return AllJobs(
      session_->Read("SELECT " ASSAY_JOB_COLUMNS " FROM assay.jobs WHERE state = 2 ORDER BY job_id"));
}

// One statement for all jobs of which the same changes. Each of them must be there; where a record was only
// remembered ("believed" is finite), it must also be as it was.
#define ASSAY_AS_BELIEVED                                                                            \
  " WHERE j.job_id = u.job_id AND (u.believed = 'infinity' OR (j.state = 2 AND j.attempt = u.newest" \
  " AND j.lease_until = u.believed))"

absl::Status PostgresStore::WriteJobs(const std::vector<JobWrite>& jobs) {
  std::vector<const JobWrite*> fresh, whole, ended, started, leased;
  for (const JobWrite& job : jobs) {
    if (job.change == JobChange::kNew) fresh.push_back(&job);
    if (job.change == JobChange::kWhole) {
      (job.record->job.state() == v1::DONE ? ended : whole).push_back(&job);
    }
    if (job.change == JobChange::kStarted) started.push_back(&job);
    if (job.change == JobChange::kLease) leased.push_back(&job);
  }
  ASSAY_RETURN_IF_ERROR(InsertJobs(fresh));
  ASSAY_RETURN_IF_ERROR(WriteWhole(whole));
  ASSAY_RETURN_IF_ERROR(WriteEnded(ended));
  ASSAY_RETURN_IF_ERROR(WriteStarted(started));
  return WriteLeases(leased);
}

absl::Status PostgresStore::InsertJobs(const std::vector<const JobWrite*>& jobs) {
  if (jobs.empty()) return absl::OkStatus();
  JobColumns columns;
  Array dtypes(Array::Type::kInt);
  for (const JobWrite* job : jobs) {
    columns.Add(*job->record);
    dtypes.Int(job->record->job.target().dtype());
  }
  return session_->Write(
      "INSERT INTO assay.jobs (job_id, batch_id, submitter, priority, batch_number, ordinal, needs_exporter,"
      " device, route, state, expected_seconds, lease_until, setbacks, assigned, job, attempt, worker, "
      "started,"
      " answered, dtype) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[],"
      " $6::bigint[], $7::boolean[], $8::bigint[], $9::text[], $10::bigint[], $11::double precision[],"
      " $12::timestamptz[], $13::bigint[], $14::bytea[], $15::bytea[], $16::bigint[], $17::text[],"
      " $18::bigint[], $19::bigint[], $20::bigint[])",
      columns.Values().Array(dtypes));
}

absl::Status PostgresStore::WriteWhole(const std::vector<const JobWrite*>& jobs) {
  if (jobs.empty()) return absl::OkStatus();
  JobColumns columns;
  BeliefColumns beliefs;
  for (const JobWrite* job : jobs) {
    columns.Add(*job->record);
    beliefs.Add(*job);
  }
  Parameters values = columns.Values();
  return session_->Write(
      "UPDATE assay.jobs j SET needs_exporter = u.needs_exporter, device = u.device, route = u.route,"
      " state = u.state, expected_seconds = u.expected_seconds, lease_until = u.lease_until,"
      " setbacks = u.setbacks, assigned = u.assigned, job = u.job, attempt = u.attempt, worker = u.worker,"
      " started = u.started, answered = u.answered FROM unnest($1::text[], $2::text[], $3::text[],"
      " $4::bigint[], $5::bigint[], $6::bigint[], $7::boolean[], $8::bigint[], $9::text[], $10::bigint[],"
      " $11::double precision[], $12::timestamptz[], $13::bigint[], $14::bytea[], $15::bytea[],"
      " $16::bigint[], $17::text[], $18::bigint[], $19::bigint[], $20::bigint[], $21::timestamptz[])"
      " AS u (job_id, batch_id, submitter, priority, batch_number, ordinal, needs_exporter, device, route,"
      " state, expected_seconds, lease_until, setbacks, assigned, job, attempt, worker, started, answered,"
      " newest, believed)" ASSAY_AS_BELIEVED,
      beliefs.AddTo(values), static_cast<int64_t>(jobs.size()));
}

// What is searched by says nothing any more, and stays.
absl::Status PostgresStore::WriteEnded(const std::vector<const JobWrite*>& jobs) {
  if (jobs.empty()) return absl::OkStatus();
  Array ids(Array::Type::kText), setbacks(Array::Type::kInt), bytes(Array::Type::kBytes);
  Array answered(Array::Type::kInt);
  BeliefColumns beliefs;
  for (const JobWrite* job : jobs) {
    ids.Bytes(job->record->job.job_id());
    setbacks.Int(job->record->setbacks);
    bytes.Bytes(job->record->job.SerializeAsString());
    answered.Int(static_cast<int64_t>(job->record->answered));
    beliefs.Add(*job);
  }
  Parameters values;
  values.Array(ids).Array(setbacks).Array(bytes).Array(answered);
  return session_->Write(
      "UPDATE assay.jobs j SET state = 3, assigned = '', setbacks = u.setbacks, job = u.job,"
      " answered = u.answered FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[],"
      " $6::timestamptz[]) AS u (job_id, setbacks, job, answered, newest, believed)" ASSAY_AS_BELIEVED,
      beliefs.AddTo(values), static_cast<int64_t>(jobs.size()));
}

absl::Status PostgresStore::WriteStarted(const std::vector<const JobWrite*>& jobs) {
  if (jobs.empty()) return absl::OkStatus();
  Array ids(Array::Type::kText), attempts(Array::Type::kInt), workers(Array::Type::kText);
  Array times(Array::Type::kInt), until(Array::Type::kTime), assigned(Array::Type::kBytes);
  for (const JobWrite* job : jobs) {
    const JobRecord& record = *job->record;
    ids.Bytes(record.job.job_id());
    attempts.Int(static_cast<int64_t>(record.job.attempt()));
    workers.Bytes(record.job.worker());
    times.Int(StartedNanos(record.job));
    until.Time(record.lease_until);
    assigned.Bytes(record.assigned.SerializeAsString());
  }
  return session_->Write(
      "UPDATE assay.jobs j SET state = 2, attempt = u.attempt, worker = u.worker, started = u.started,"
      " lease_until = u.lease_until, assigned = u.assigned FROM unnest($1::text[], $2::bigint[], $3::text[],"
      " $4::bigint[], $5::timestamptz[], $6::bytea[]) AS u (job_id, attempt, worker, started, lease_until,"
      " assigned) WHERE j.job_id = u.job_id",
      Parameters().Array(ids).Array(attempts).Array(workers).Array(times).Array(until).Array(assigned));
}

absl::Status PostgresStore::WriteLeases(const std::vector<const JobWrite*>& jobs) {
  if (jobs.empty()) return absl::OkStatus();
  Array ids(Array::Type::kText), until(Array::Type::kTime);
  BeliefColumns beliefs;
  for (const JobWrite* job : jobs) {
    ids.Bytes(job->record->job.job_id());
    until.Time(job->record->lease_until);
    beliefs.Add(*job);
  }
  Parameters values;
  values.Array(ids).Array(until);
  return session_->Write(
      "UPDATE assay.jobs j SET lease_until = u.lease_until FROM unnest($1::text[], $2::timestamptz[],"
      " $3::bigint[], $4::timestamptz[]) AS u (job_id, lease_until, newest, believed)" ASSAY_AS_BELIEVED,
      beliefs.AddTo(values), static_cast<int64_t>(jobs.size()));
}

absl::StatusOr<size_t> PostgresStore::ReadQueuedCount(size_t most) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT count(*) FROM (SELECT FROM assay.jobs WHERE state = 1 LIMIT $1) queued",
                     Parameters().Int(Clamped(most))));
  return static_cast<size_t>(rows.Int(0, 0));
}

absl::StatusOr<std::map<std::string, uint32_t>> PostgresStore::ReadRunningBySubmitter() {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT submitter, count(*) FROM assay.jobs WHERE state = 2 GROUP BY submitter"));
  std::map<std::string, uint32_t> counts;
  for (int row = 0; row < rows.size(); ++row) {
    counts[rows.Bytes(row, 0)] = static_cast<uint32_t>(rows.Int(row, 1));
  }
  return counts;
}

// Walks the index from one (priority, needs_exporter, device, route, submitter) to the next instead of
// reading every queued job.
absl::StatusOr<std::vector<RecordStore::QueuedRecord>> PostgresStore::ReadQueued(size_t limit) {
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
          " (SELECT " ASSAY_JOB_COLUMNS ", xmin::text FROM assay.jobs"
          " WHERE state = 1 AND priority = queue.priority AND needs_exporter = queue.needs_exporter"
          " AND device = queue.device AND route = queue.route AND submitter = queue.submitter"
          " ORDER BY expected_seconds DESC, batch_number, ordinal LIMIT $1) longest",
          Parameters().Int(Clamped(limit))));
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> records, AllJobsOf(rows));
  std::vector<QueuedRecord> queued;
  queued.reserve(records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    queued.push_back({std::move(records[i]), rows.Bytes(static_cast<int>(i), ASSAY_JOB_COLUMN_COUNT)});
  }
  return queued;
}

absl::StatusOr<std::vector<RecordStore::EventRow>> PostgresStore::ReadEvents(absl::string_view batch_id,
                                                                             uint64_t sequence,
                                                                             size_t limit) {
  // A row has one event or more: no more rows than events.
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT sequence, event, grouped FROM assay.events WHERE batch_id = $1 AND sequence > $2"
                     " AND sequence <= coalesce((SELECT min(sequence) FROM assay.events"
                     " WHERE batch_id = $1 AND sequence >= $2 + $3), 9223372036854775807)"
                     " ORDER BY sequence LIMIT $3",
                     Parameters()
                         .Bytes(batch_id)
                         .Int(std::min(Clamped(sequence), INT64_MAX - Clamped(limit)))
                         .Int(Clamped(limit))));
  std::vector<EventRow> events;
  for (int row = 0; row < rows.size(); ++row) {
    events.push_back({std::string(batch_id), static_cast<uint64_t>(rows.Int(row, 0)), rows.Bytes(row, 1),
                      rows.Bool(row, 2)});
  }
  return events;
}

absl::StatusOr<BatchPage> PostgresStore::ReadBatches(size_t page_size, uint64_t before) {
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

absl::StatusOr<RecordStore::Seconds> PostgresStore::ReadSeconds(const std::vector<Seconds::key_type>& keys) {
  Array models(Array::Type::kText), targets(Array::Type::kText);
  for (const auto& [model, target] : keys) {
    models.Bytes(model);
    targets.Bytes(target);
  }
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read(
          "SELECT t.model, t.target, t.seconds FROM unnest($1::text[], $2::text[]) AS u (model, target)"
          " JOIN assay.timings t ON t.model = u.model AND t.target = u.target",
          Parameters().Array(models).Array(targets)));
  Seconds known;
  for (int row = 0; row < rows.size(); ++row) {
    known[{rows.Bytes(row, 0), rows.Bytes(row, 1)}] = rows.Double(row, 2);
  }
  return known;
}

absl::Status PostgresStore::WriteSeconds(const Seconds& seconds) {
  Array models(Array::Type::kText), targets(Array::Type::kText), values(Array::Type::kDouble);
  for (const auto& [key, value] : seconds) {
    models.Bytes(key.first);
    targets.Bytes(key.second);
    values.Double(value);
  }
  return session_->Write(
      "INSERT INTO assay.timings (model, target, seconds)"
      " SELECT * FROM unnest($1::text[], $2::text[], $3::double precision[])"
      " ON CONFLICT (model, target) DO UPDATE SET seconds = excluded.seconds",
      Parameters().Array(models).Array(targets).Array(values));
}

absl::StatusOr<std::set<std::string>> PostgresStore::ReadFailed(const std::vector<std::string>& digests) {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         session_->Read("SELECT digest FROM assay.failed_inputs WHERE digest = ANY($1)",
                                        Parameters().Array(Array::Texts(digests))));
  std::set<std::string> known;
  for (int row = 0; row < rows.size(); ++row) known.insert(rows.Bytes(row, 0));
  return known;
}

absl::Status PostgresStore::WriteFailed(const std::set<std::string>& digests) {
  return session_->Write(
      "INSERT INTO assay.failed_inputs (digest) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
      Parameters().Array(Array::Texts({digests.begin(), digests.end()})));
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

absl::Status PostgresStore::AddOrder(const WorkerOrder& order) {
  return session_->Write(
      "INSERT INTO assay.orders (id, worker, wanted) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
      Parameters().Bytes(order.id).Bytes(order.worker).Bytes(order.wanted.SerializeAsString()));
}

absl::Status PostgresStore::RemoveOrder(absl::string_view id) {
  return session_->Write("DELETE FROM assay.orders WHERE id = $1", Parameters().Bytes(id));
}

absl::StatusOr<std::vector<WorkerOrder>> PostgresStore::ListOrders() {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         session_->Read("SELECT id, worker, wanted FROM assay.orders ORDER BY id"));
  std::vector<WorkerOrder> orders(static_cast<size_t>(rows.size()));
  for (int row = 0; row < rows.size(); ++row) {
    WorkerOrder& order = orders[static_cast<size_t>(row)];
    order.id = rows.Bytes(row, 0);
    order.worker = rows.Bytes(row, 1);
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows.Bytes(row, 2), order.wanted));
  }
  return orders;
}

absl::StatusOr<std::vector<JobCount>> PostgresStore::CountJobs() {
  // The two states by themselves, as each has an index of its own.
  std::vector<JobCount> counts;
  for (const v1::JobState state : {v1::QUEUED, v1::RUNNING}) {
    ASSAY_ASSIGN_OR_RETURN(
        PostgresRows rows,
        session_->Read(
            state == v1::QUEUED
                ? "SELECT n, needs_exporter, device, route, batch, dtype FROM (SELECT count(*) AS n,"
                  " needs_exporter, device, route, dtype, min(batch_number) AS oldest FROM assay.jobs"
                  " WHERE state = 1 GROUP BY needs_exporter, device, route, dtype) AS counted"
                  " JOIN assay.batches ON number = oldest"
                : "SELECT n, needs_exporter, device, route, batch, dtype FROM (SELECT count(*) AS n,"
                  " needs_exporter, device, route, dtype, min(batch_number) AS oldest FROM assay.jobs"
                  " WHERE state = 2 GROUP BY needs_exporter, device, route, dtype) AS counted"
                  " JOIN assay.batches ON number = oldest"));
    for (int row = 0; row < rows.size(); ++row) {
      v1::Batch batch;
      if (!batch.ParseFromString(rows.Bytes(row, 4))) return absl::DataLossError("a batch cannot be read");
      counts.push_back(
          {state, static_cast<v1::DeviceChoice>(rows.Int(row, 2)), rows.Bool(row, 1), rows.Bytes(row, 3),
           static_cast<uint64_t>(rows.Int(row, 0)),
           absl::FromUnixNanos(google::protobuf::util::TimeUtil::TimestampToNanoseconds(batch.create_time())),
           static_cast<v1::Dtype>(rows.Int(row, 5))});
    }
  }
  return counts;
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
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows.Bytes(row, 1), page.entries.emplace_back()));
  }
  return page;
}

absl::Status PostgresStore::EraseBatch(absl::string_view batch_id) {
  for (const char* sql :
       {"DELETE FROM assay.answers WHERE job_id IN (SELECT job_id FROM assay.jobs" ASSAY_OF_BATCH ")",
        "DELETE FROM assay.events WHERE batch_id = $1", "DELETE FROM assay.jobs" ASSAY_OF_BATCH,
        "DELETE FROM assay.batches WHERE batch_id = $1"}) {
    ASSAY_RETURN_IF_ERROR(session_->Write(sql, Parameters().Bytes(batch_id)));
  }
  return absl::OkStatus();
}

absl::Status PostgresStore::DropWorker(absl::string_view name) {
  ASSAY_RETURN_IF_ERROR(session_->Write(
      "DELETE FROM assay.orders WHERE worker = $1 AND worker NOT IN (SELECT worker FROM assay.cordons)",
      Parameters().Bytes(name)));
  return session_->Write(
      "DELETE FROM assay.workers WHERE name = $1 AND name NOT IN (SELECT worker FROM assay.cordons)",
      Parameters().Bytes(name));
}

absl::Status PostgresStore::DropToken(absl::string_view id) {
  return session_->Write("DELETE FROM assay.tokens WHERE id = $1", Parameters().Bytes(id));
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

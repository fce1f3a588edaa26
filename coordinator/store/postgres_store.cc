#include "coordinator/store/postgres_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/store/postgres_records.h"
#include "coordinator/store/postgres_tables.h"

namespace assay::coordinator {

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
  Array before(Array::Type::kInt);
  for (const BatchRecord* record : batches) {
    numbers.Int(static_cast<int64_t>(record->number));
    last.Int(static_cast<int64_t>(record->last_sequence));
    bytes.Bytes(record->batch.SerializeAsString());
    before.Int(static_cast<int64_t>(record->stored_sequence));
  }
  ASSAY_RETURN_IF_ERROR(session_->Write(
      "UPDATE assay.batches b SET last_sequence = u.last, batch = u.batch"
      " FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[]) AS u (number, last, batch, before)"
      " WHERE b.number = u.number AND b.last_sequence = u.before",
      Parameters().Array(numbers).Array(last).Array(bytes).Array(before),
      static_cast<int64_t>(batches.size())));
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

absl::StatusOr<RecordStore::FiguresByModel> PostgresStore::ReadFigures(
    const std::vector<std::string>& models) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT model, target, seconds FROM assay.timings WHERE model = ANY($1::text[])",
                     Parameters().Array(Array::Texts(models))));
  FiguresByModel known;
  for (int row = 0; row < rows.size(); ++row) {
    known[rows.Bytes(row, 0)][rows.Bytes(row, 1)] = rows.Double(row, 2);
  }
  return known;
}

absl::Status PostgresStore::WriteFigures(const FiguresByModel& figures) {
  Array models(Array::Type::kText), targets(Array::Type::kText), values(Array::Type::kDouble);
  for (const auto& [model, changed] : figures) {
    for (const auto& [key, value] : changed) {
      models.Bytes(model);
      targets.Bytes(key);
      values.Double(value);
    }
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

absl::StatusOr<std::unique_ptr<Store>> OpenPostgresStore(const std::string& url, uint32_t max_attempts,
                                                         const PostgresPatience& patience, PostgresUse use) {
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<PostgresSession> session, PostgresSession::Open(url, patience, use));
  return std::make_unique<PostgresStore>(std::move(session), max_attempts);
}

}  // namespace assay::coordinator

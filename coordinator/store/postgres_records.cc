#include "coordinator/store/postgres_records.h"

#include <utility>

#include "common/status_macros.h"

namespace assay::coordinator {

int64_t StartedNanos(const v1::Job& job) {
  return job.start_time().seconds() * 1'000'000'000 + job.start_time().nanos();
}

absl::StatusOr<BatchRecord> ReadBatch(const PostgresRows& rows, int row) {
  BatchRecord record;
  record.number = static_cast<uint64_t>(rows.Int(row, 0));
  record.request_id = rows.Bytes(row, 1);
  record.request_digest = rows.Bytes(row, 2);
  record.last_sequence = record.stored_sequence = static_cast<uint64_t>(rows.Int(row, 3));
  ASSAY_RETURN_IF_ERROR(ParseRecord(rows.Bytes(row, 4), record.batch));
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
  return AllJobsOf(*rows);
}

absl::StatusOr<std::vector<JobRecord>> AllJobsOf(const PostgresRows& rows) {
  std::vector<JobRecord> records(static_cast<size_t>(rows.size()));
  for (int row = 0; row < rows.size(); ++row) {
    JobRecord& record = records[static_cast<size_t>(row)];
    record.submitter = rows.Bytes(row, 0);
    record.priority = static_cast<Priority>(rows.Int(row, 1));
    record.batch_number = static_cast<uint64_t>(rows.Int(row, 2));
    record.ordinal = static_cast<uint32_t>(rows.Int(row, 3));
    record.expected_seconds = rows.Double(row, 4);
    record.lease_until = rows.Time(row, 5);
    record.setbacks = static_cast<uint32_t>(rows.Int(row, 6));
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows.Bytes(row, 7), record.assigned));
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows.Bytes(row, 8), record.job));
    CatchUp(record, static_cast<uint64_t>(rows.Int(row, 9)), rows.Bytes(row, 10),
            absl::FromUnixNanos(rows.Int(row, 11)));
    record.answered = static_cast<uint64_t>(rows.Int(row, 12));
  }
  return records;
}

absl::StatusOr<std::vector<WorkerRecord>> AllWorkers(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  std::vector<WorkerRecord> workers(static_cast<size_t>(rows->size()));
  for (int row = 0; row < rows->size(); ++row) {
    WorkerRecord& worker = workers[static_cast<size_t>(row)];
    worker.instance = rows->Bytes(row, 0);
    worker.coordinator = rows->Bytes(row, 1);
    worker.believed_until = rows->Time(row, 2);
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows->Bytes(row, 3), worker.summary));
  }
  return workers;
}

absl::StatusOr<std::vector<TokenRecord>> AllTokens(const absl::StatusOr<PostgresRows>& rows) {
  if (!rows.ok()) return rows.status();
  std::vector<TokenRecord> tokens(static_cast<size_t>(rows->size()));
  for (int row = 0; row < rows->size(); ++row) {
    tokens[static_cast<size_t>(row)].hash = rows->Bytes(row, 0);
    ASSAY_RETURN_IF_ERROR(ParseRecord(rows->Bytes(row, 1), tokens[static_cast<size_t>(row)].info));
  }
  return tokens;
}

absl::StatusOr<std::optional<TokenRecord>> FirstToken(const absl::StatusOr<PostgresRows>& rows) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<TokenRecord> tokens, AllTokens(rows));
  if (tokens.empty()) return std::nullopt;
  return std::move(tokens.front());
}

}  // namespace assay::coordinator

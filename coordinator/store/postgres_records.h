// Records as rows of PostgreSQL: their columns, in the order in which they are read and written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {

#define ASSAY_BATCH_COLUMNS "number, request_id, request_digest, last_sequence, batch"
#define ASSAY_JOB_COLUMNS                                                                               \
  "submitter, priority, batch_number, ordinal, expected_seconds, lease_until, setbacks, assigned, job," \
  " attempt, worker, started, answered"
#define ASSAY_JOB_COLUMN_COUNT 13
#define ASSAY_WORKER_COLUMNS "instance, coordinator, believed_until, summary"

// DATA_LOSS: it is none.
template <typename Message>
absl::Status ParseRecord(const std::string& bytes, Message& message) {
  if (message.ParseFromString(bytes)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("database: a broken ", Message::descriptor()->full_name()));
}

int64_t StartedNanos(const v1::Job& job);

// All that is kept of jobs, a column at a time.
class JobColumns {
 public:
  void Add(const JobRecord& record) {
    const v1::Job& job = record.job;
    ids_.Bytes(job.job_id());
    batches_.Bytes(job.batch_id());
    submitters_.Bytes(record.submitter);
    priorities_.Int(static_cast<int64_t>(record.priority));
    numbers_.Int(static_cast<int64_t>(record.batch_number));
    ordinals_.Int(record.ordinal);
    exporters_.Bool(StageOf(job) == v1::STAGE_EXPORT);
    devices_.Int(DeviceOf(job));
    routes_.Bytes(RouteOf(job));
    states_.Int(job.state());
    expected_.Double(record.expected_seconds);
    until_.Time(record.lease_until);
    setbacks_.Int(record.setbacks);
    assigned_.Bytes(record.assigned.SerializeAsString());
    jobs_.Bytes(job.SerializeAsString());
    attempts_.Int(static_cast<int64_t>(job.attempt()));
    workers_.Bytes(job.worker());
    started_.Int(StartedNanos(job));
    answered_.Int(static_cast<int64_t>(record.answered));
  }
  PostgresParameters Values() const {
    PostgresParameters values;
    values.Array(ids_).Array(batches_).Array(submitters_).Array(priorities_).Array(numbers_);
    values.Array(ordinals_).Array(exporters_).Array(devices_).Array(routes_).Array(states_);
    values.Array(expected_).Array(until_).Array(setbacks_).Array(assigned_).Array(jobs_);
    values.Array(attempts_).Array(workers_).Array(started_).Array(answered_);
    return values;
  }

 private:
  using Array = PostgresArray;
  using Type = Array::Type;
  Array ids_{Type::kText}, batches_{Type::kText}, submitters_{Type::kText}, priorities_{Type::kInt};
  Array numbers_{Type::kInt}, ordinals_{Type::kInt}, exporters_{Type::kBool}, devices_{Type::kInt};
  Array routes_{Type::kText}, states_{Type::kInt}, expected_{Type::kDouble}, until_{Type::kTime};
  Array setbacks_{Type::kInt}, assigned_{Type::kBytes}, jobs_{Type::kBytes}, attempts_{Type::kInt};
  Array workers_{Type::kText}, started_{Type::kInt}, answered_{Type::kInt};
};

// Of rows that were read with the columns above. What is no row is passed on.
absl::StatusOr<BatchRecord> ReadBatch(const PostgresRows& rows, int row);
absl::StatusOr<std::optional<BatchRecord>> FirstBatch(const absl::StatusOr<PostgresRows>& rows);
absl::StatusOr<std::vector<JobRecord>> AllJobsOf(const PostgresRows& rows);
absl::StatusOr<std::vector<JobRecord>> AllJobs(const absl::StatusOr<PostgresRows>& rows);
absl::StatusOr<std::vector<WorkerRecord>> AllWorkers(const absl::StatusOr<PostgresRows>& rows);
// With the columns hash and info.
absl::StatusOr<std::vector<TokenRecord>> AllTokens(const absl::StatusOr<PostgresRows>& rows);
absl::StatusOr<std::optional<TokenRecord>> FirstToken(const absl::StatusOr<PostgresRows>& rows);

}  // namespace assay::coordinator

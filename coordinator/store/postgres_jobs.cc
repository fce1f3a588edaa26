// The PostgreSQL store's jobs: how they are found, locked and written.
#include <map>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "coordinator/store/postgres_records.h"
#include "coordinator/store/postgres_tables.h"
#include "coordinator/store/record_rules.h"
#include "google/protobuf/util/time_util.h"

namespace assay::coordinator {
namespace {

// A version of a queued record: the transaction that wrote the row, and where the row is.
constexpr size_t kXidBytes = 4;
absl::string_view WrittenBy(absl::string_view version) { return version.substr(0, kXidBytes); }
absl::string_view PlaceOf(absl::string_view version) { return version.substr(kXidBytes); }

}  // namespace

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
      session_->Read("SELECT job_id, xmin FROM assay.jobs WHERE job_id = ANY($1) AND state = 1"
                     " FOR UPDATE SKIP LOCKED",
                     Parameters().Array(ids)));
  std::vector<std::string> locked;
  for (int row = 0; row < rows.size(); ++row) {
    std::string job_id = rows.Bytes(row, 0);
    if (WrittenBy(versions.at(job_id)) == rows.Bytes(row, 1)) locked.push_back(std::move(job_id));
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

absl::StatusOr<bool> PostgresStore::HasExpired(absl::Time now) {
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows rows,
      session_->Read("SELECT EXISTS (SELECT FROM assay.jobs WHERE state = 2 AND lease_until <= $1)",
                     Parameters().Time(now)));
  return rows.Bool(0, 0);
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

// They are written before anything happens to them: the rest is as in every QUEUED job. What those of one
// batch have in common is sent once.
absl::Status PostgresStore::InsertJobs(const std::vector<const JobWrite*>& jobs) {
  struct Alike {
    Array ids{Array::Type::kText}, ordinals{Array::Type::kInt}, expected{Array::Type::kDouble};
    Array bytes{Array::Type::kBytes};
    const JobRecord* first = nullptr;
  };
  std::map<std::tuple<absl::string_view, Priority, bool, v1::DeviceChoice, std::string, v1::Dtype>, Alike>
      kinds;
  for (const JobWrite* write : jobs) {
    const JobRecord& record = *write->record;
    const v1::Job& job = record.job;
    if (job.state() != v1::QUEUED || job.attempt() != 0) {
      return absl::InternalError(absl::StrCat("store: job '", job.job_id(), "' is not new"));
    }
    Alike& kind = kinds[{job.batch_id(), record.priority, StageOf(job) == v1::STAGE_EXPORT, DeviceOf(job),
                         RouteOf(job), job.target().dtype()}];
    if (kind.first == nullptr) kind.first = &record;
    kind.ids.Bytes(job.job_id());
    kind.ordinals.Int(record.ordinal);
    kind.expected.Double(record.expected_seconds);
    kind.bytes.Bytes(job.SerializeAsString());
  }
  for (const auto& [key, kind] : kinds) {
    const auto& [batch_id, priority, exports, device, route, dtype] = key;
    Parameters values;
    values.Array(kind.ids).Array(kind.ordinals).Array(kind.expected).Array(kind.bytes).Bytes(batch_id);
    values.Bytes(kind.first->submitter).Int(static_cast<int64_t>(priority));
    values.Int(static_cast<int64_t>(kind.first->batch_number))
        .Bool(exports)
        .Int(device)
        .Bytes(route)
        .Int(dtype);
    ASSAY_RETURN_IF_ERROR(session_->Write(
        "INSERT INTO assay.jobs (job_id, ordinal, expected_seconds, job, batch_id, submitter, priority,"
        " batch_number, needs_exporter, device, route, dtype, state, lease_until, setbacks, assigned)"
        " SELECT u.*, $5::text, $6::text, $7::bigint, $8::bigint, $9::boolean, $10::bigint, $11::text,"
        " $12::bigint, 1, '-infinity', 0, '' FROM unnest($1::text[], $2::bigint[], $3::double precision[],"
        " $4::bytea[]) u",
        values));
  }
  return absl::OkStatus();
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

// Those of one transaction started at one time, most often. What is locked is found by its id; what was only
// seen in the queue, by where it was: nothing else is there as long as it is as it was.
absl::Status PostgresStore::WriteStarted(const std::vector<const JobWrite*>& jobs) {
  struct Alike {
    explicit Alike(bool seen) : keys(seen ? Array::Type::kPlace : Array::Type::kText) {}
    Array keys, attempts{Array::Type::kInt}, workers{Array::Type::kText};
    Array assigned{Array::Type::kBytes}, written{Array::Type::kXid};
    int64_t size = 0;
  };
  std::map<std::tuple<bool, int64_t, absl::Time>, Alike> kinds;
  for (const JobWrite* job : jobs) {
    const JobRecord& record = *job->record;
    const bool seen = !job->version.empty();
    Alike& alike =
        kinds.try_emplace({seen, StartedNanos(record.job), record.lease_until}, seen).first->second;
    alike.keys.Bytes(seen ? PlaceOf(job->version) : record.job.job_id());
    alike.attempts.Int(static_cast<int64_t>(record.job.attempt()));
    alike.workers.Bytes(record.job.worker());
    alike.assigned.Bytes(record.assigned.SerializeAsString());
    if (seen) alike.written.Bytes(WrittenBy(job->version));
    ++alike.size;
  }
#define ASSAY_START                                                                          \
  "UPDATE assay.jobs j SET state = 2, attempt = u.attempt, worker = u.worker, started = $5," \
  " lease_until = $6, assigned = u.assigned FROM "
  for (const auto& [key, alike] : kinds) {
    const auto& [seen, started, until] = key;
    Parameters values;
    values.Array(alike.keys).Array(alike.attempts).Array(alike.workers).Array(alike.assigned);
    values.Int(started).Time(until);
    if (seen) values.Array(alike.written);
    ASSAY_RETURN_IF_ERROR(session_->Write(
        seen ? ASSAY_START "unnest($1::tid[], $2::bigint[], $3::text[], $4::bytea[], $7::xid[])"
                           " AS u (place, attempt, worker, assigned, written)"
                           " WHERE j.ctid = u.place AND j.xmin = u.written AND j.state = 1"
             : ASSAY_START "unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[])"
                           " AS u (job_id, attempt, worker, assigned) WHERE j.job_id = u.job_id",
        values, alike.size));
  }
#undef ASSAY_START
  return absl::OkStatus();
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

namespace {

// So many are worth to be read ahead.
constexpr size_t kWorthReadingAhead = 128;

// Walks the index from one (priority, needs_exporter, device, route, submitter) to the next instead of
// reading every queued job.
constexpr char kQueued[] =
    "WITH RECURSIVE queue AS ("
    "(SELECT priority, needs_exporter, device, route, submitter FROM assay.jobs WHERE state = 1"
    " ORDER BY priority, needs_exporter, device, route, submitter LIMIT 1)"
    " UNION ALL SELECT next.* FROM queue CROSS JOIN LATERAL"
    " (SELECT priority, needs_exporter, device, route, submitter FROM assay.jobs WHERE state = 1"
    " AND (priority, needs_exporter, device, route, submitter)"
    " > (queue.priority, queue.needs_exporter, queue.device, queue.route, queue.submitter)"
    " ORDER BY priority, needs_exporter, device, route, submitter LIMIT 1) next)"
    " SELECT longest.*, (SELECT count(*) FROM (SELECT FROM assay.jobs WHERE state = 1 LIMIT $2) waits)"
    " FROM queue CROSS JOIN LATERAL"
    " (SELECT " ASSAY_JOB_COLUMNS
    ", xmin, ctid FROM assay.jobs"
    " WHERE state = 1 AND priority = queue.priority AND needs_exporter = queue.needs_exporter"
    " AND device = queue.device AND route = queue.route AND submitter = queue.submitter"
    " ORDER BY expected_seconds DESC, batch_number, ordinal LIMIT $1) longest";

}  // namespace

// Where much waited the last time, much is going to be wanted: it comes while results are counted.
absl::Status PostgresStore::BeginMedium() {
  ASSAY_RETURN_IF_ERROR(session_->Begin());
  if (std::exchange(queue_asked_, 0) != 0) queue_wanted_[0] = 0;  // nobody looked
  if (queue_wanted_[0] == 0) return absl::OkStatus();
  queue_asked_ = std::max(queue_wanted_[0], queue_wanted_[1]);
  queue_asked_ += queue_asked_ / 8;
  absl::Status asked =
      session_->Ask(kQueued, Parameters().Int(Clamped(queue_asked_)).Int(Clamped(2 * queue_asked_)));
  if (!asked.ok()) session_->Rollback();
  return asked;
}

absl::StatusOr<std::optional<RecordStore::QueueHead>> PostgresStore::QueuedAtBegin(size_t limit) {
  const size_t asked = std::exchange(queue_asked_, 0);
  if (asked == 0) return std::nullopt;
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows, session_->Answer());
  // Fewer than were asked for are all of them, whatever is wanted.
  if (limit > asked && static_cast<size_t>(rows.size()) >= asked) return std::nullopt;
  NoteWanted(limit, static_cast<size_t>(rows.size()));
  ASSAY_ASSIGN_OR_RETURN(QueueHead head, HeadOf(rows));
  return head;
}

absl::StatusOr<RecordStore::QueueHead> PostgresStore::ReadQueued(size_t limit) {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         session_->Read(kQueued, Parameters().Int(Clamped(limit)).Int(Clamped(2 * limit))));
  NoteWanted(limit, static_cast<size_t>(rows.size()));
  return HeadOf(rows);
}

void PostgresStore::NoteWanted(size_t limit, size_t found) {
  queue_wanted_[1] = queue_wanted_[0];
  queue_wanted_[0] = found >= kWorthReadingAhead ? limit : 0;
}

absl::StatusOr<RecordStore::QueueHead> PostgresStore::HeadOf(const PostgresRows& rows) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> records, AllJobsOf(rows));
  QueueHead head;
  head.records.reserve(records.size());
  for (size_t i = 0; i < records.size(); ++i) {
    const int row = static_cast<int>(i);
    std::string version = rows.Bytes(row, ASSAY_JOB_COLUMN_COUNT);
    version += rows.Bytes(row, ASSAY_JOB_COLUMN_COUNT + 1);
    head.records.push_back({std::move(records[i]), std::move(version)});
  }
  if (rows.size() > 0) head.waits = static_cast<size_t>(rows.Int(0, ASSAY_JOB_COLUMN_COUNT + 2));
  return head;
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

}  // namespace assay::coordinator

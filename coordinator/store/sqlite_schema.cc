#include "coordinator/store/sqlite_schema.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

// Records are serialized protos; the columns beside them are what is searched by. Times are microseconds
// since the Unix epoch. States are those of v1.JobState;
// needs_exporter and device are those of the stage that a job is in.
// This is version 2; later ones are made from it.
constexpr char kVersion2[] = R"sql(
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
  needs_exporter INTEGER NOT NULL,
  device INTEGER NOT NULL,
  submitter TEXT NOT NULL,
  expected_seconds REAL NOT NULL,
  lease_until INTEGER NOT NULL,
  setbacks INTEGER NOT NULL,
  assigned BLOB NOT NULL,
  job BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_of_batch ON jobs (batch_id, ordinal);
CREATE INDEX jobs_queued ON jobs
  (priority, needs_exporter, device, submitter, expected_seconds DESC, batch_number, ordinal) WHERE state = 1;
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
)sql";

// Version 1 knew no stages: its jobs were all tests, and nobody wrote down what attempts were given.
constexpr char kToVersion2[] = R"sql(
ALTER TABLE jobs ADD COLUMN needs_exporter INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN assigned BLOB NOT NULL DEFAULT x'';
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs
  (priority, needs_exporter, device, submitter, expected_seconds DESC, batch_number, ordinal) WHERE state = 1;
)sql";

// Jobs are told apart by where they can go; workers by who holds them. Who may do what is kept.
constexpr char kToVersion3[] = R"sql(
ALTER TABLE jobs ADD COLUMN route TEXT NOT NULL DEFAULT '';
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs
  (priority, needs_exporter, device, route, submitter, expected_seconds DESC, batch_number, ordinal)
  WHERE state = 1;
ALTER TABLE workers ADD COLUMN coordinator TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN believed_until INTEGER NOT NULL DEFAULT 0;
CREATE TABLE cordons (worker TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (
  id TEXT NOT NULL PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  info BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, entry BLOB NOT NULL);
)sql";

// The start of an attempt is written beside the job's record, which follows when it ends. The events that one
// transaction makes of a batch are one row, numbered as the last of them. What waits and what runs is found
// in memory: only batches that have not ended are looked for.
constexpr char kToVersion4[] = R"sql(
ALTER TABLE jobs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN worker TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN started INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN answered INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_queued;
DROP INDEX jobs_running;
ALTER TABLE batches ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
CREATE INDEX batches_live ON batches (number) WHERE ended = 0;
ALTER TABLE events ADD COLUMN grouped INTEGER NOT NULL DEFAULT 0;
)sql";

// What operators want of workers is told by whichever coordinator holds their stream.
constexpr char kToVersion5[] = R"sql(
CREATE TABLE orders (id TEXT NOT NULL PRIMARY KEY, worker TEXT NOT NULL, wanted BLOB NOT NULL) WITHOUT ROWID;
)sql";

// Jobs are found by a number, of their batch and of their place in it: new ones come last, and those of a
// batch lie side by side.
constexpr char kToVersion6[] = R"sql(
CREATE TABLE numbered_jobs (
  number INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  submitter TEXT NOT NULL,
  expected_seconds REAL NOT NULL,
  lease_until INTEGER NOT NULL,
  setbacks INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  worker TEXT NOT NULL,
  started INTEGER NOT NULL,
  answered INTEGER NOT NULL,
  assigned BLOB NOT NULL,
  job BLOB NOT NULL
);
INSERT INTO numbered_jobs SELECT batch_number << 32 | ordinal, job_id, state, priority, submitter, expected_seconds,
  lease_until, setbacks, attempt, worker, started, answered, assigned, job FROM jobs ORDER BY batch_number, ordinal;
DROP TABLE jobs;
ALTER TABLE numbered_jobs RENAME TO jobs;
)sql";

}  // namespace

absl::Status PrepareSchema(Database& database, const std::string& path, int wanted) {
  int64_t version = 0;
  {
    ASSAY_ASSIGN_OR_RETURN(Statement row, database.Prepare("PRAGMA user_version"));
    ASSAY_RETURN_IF_ERROR(row.Step().status());
    version = row.Int(0);
  }
  if (version == wanted) return absl::OkStatus();
  if (version > wanted) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": its schema is version ", version,
                                                      ", and this Assay knows up to ", wanted,
                                                      ": use the newer Assay that wrote it"));
  }
  std::string steps = version == 0 ? kVersion2 : version == 1 ? kToVersion2 : "";
  const std::pair<int, const char*> later[] = {
      {3, kToVersion3}, {4, kToVersion4}, {5, kToVersion5}, {6, kToVersion6}};
  for (const auto& [made, step] : later) {
    if (version < made && made <= wanted) steps += step;
  }
  return database.Execute(
      absl::StrCat("BEGIN IMMEDIATE;", steps, "PRAGMA user_version = ", wanted, "; COMMIT;"));
}

}  // namespace assay::coordinator

#include "coordinator/store/postgres_schema.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

// Records are serialized protos; the columns beside them are what is searched by. States are those of
// v1.JobState; needs_exporter and device are those of the stage that a job is in. Integers are all bigint,
// the one size that is sent. Text is compared by its bytes, as every store compares it.
constexpr char kVersion1[] = R"sql(
CREATE TABLE assay.batches (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  batch_id text COLLATE "C" NOT NULL UNIQUE,
  request_id text COLLATE "C" NOT NULL UNIQUE,
  request_digest text COLLATE "C" NOT NULL,
  last_sequence bigint NOT NULL,
  batch bytea NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE assay.jobs (
  job_id text COLLATE "C" PRIMARY KEY,
  batch_id text COLLATE "C" NOT NULL,
  batch_number bigint NOT NULL,
  ordinal bigint NOT NULL,
  state bigint NOT NULL,
  priority bigint NOT NULL,
  needs_exporter boolean NOT NULL,
  device bigint NOT NULL,
  submitter text COLLATE "C" NOT NULL,
  expected_seconds double precision NOT NULL,
  lease_until timestamptz NOT NULL,
  setbacks bigint NOT NULL,
  assigned bytea NOT NULL,
  job bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX jobs_of_batch ON assay.jobs (batch_id, ordinal);
CREATE INDEX jobs_queued ON assay.jobs
  (priority, needs_exporter, device, submitter, expected_seconds DESC, batch_number, ordinal) WHERE state = 1;
CREATE INDEX jobs_running ON assay.jobs (job_id) WHERE state = 2;
CREATE TABLE assay.events (
  batch_id text COLLATE "C",
  sequence bigint,
  event bytea NOT NULL,
  PRIMARY KEY (batch_id, sequence)
);
CREATE TABLE assay.answers (
  job_id text COLLATE "C",
  attempt bigint,
  counted boolean NOT NULL,
  reason text NOT NULL,
  PRIMARY KEY (job_id, attempt)
);
CREATE TABLE assay.timings (
  model text COLLATE "C",
  target text COLLATE "C",
  seconds double precision NOT NULL,
  PRIMARY KEY (model, target)
);
CREATE TABLE assay.failed_inputs (digest text COLLATE "C" PRIMARY KEY);
CREATE TABLE assay.workers (
  name text COLLATE "C" PRIMARY KEY,
  instance text NOT NULL,
  summary bytea NOT NULL
);
-- The newest transaction that each writer committed, by its own count: what one asks for that lost its
-- connection while it committed.
CREATE TABLE assay.writers (
  writer text COLLATE "C" PRIMARY KEY,
  committed bigint NOT NULL,
  since timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
)sql";

// Jobs are told apart by where they can go; workers by who holds them. Who may do what is kept. Blobs may be
// here too: their bytes in pieces, under a number of their own until all of them have come.
constexpr char kVersion2[] = R"sql(
ALTER TABLE assay.jobs ADD COLUMN route text COLLATE "C" NOT NULL DEFAULT '';
DROP INDEX assay.jobs_queued;
CREATE INDEX jobs_queued ON assay.jobs
  (priority, needs_exporter, device, route, submitter, expected_seconds DESC, batch_number, ordinal)
  WHERE state = 1;
ALTER TABLE assay.workers
  ADD COLUMN coordinator text COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN believed_until timestamptz NOT NULL DEFAULT '-infinity';
CREATE TABLE assay.cordons (worker text COLLATE "C" PRIMARY KEY, reason text NOT NULL);
CREATE TABLE assay.tokens (
  id text COLLATE "C" PRIMARY KEY,
  hash text COLLATE "C" NOT NULL UNIQUE,
  info bytea NOT NULL
);
CREATE TABLE assay.audit (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  time timestamptz NOT NULL,
  entry bytea NOT NULL
);
CREATE TABLE assay.blob_uploads (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  touched timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE assay.blobs (
  digest text COLLATE "C" PRIMARY KEY,
  number bigint NOT NULL,
  size bigint NOT NULL,
  touched timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE assay.blob_pieces (
  number bigint,
  piece bigint,
  bytes bytea NOT NULL,
  PRIMARY KEY (number, piece)
);
ALTER TABLE assay.blob_pieces ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE TABLE assay.blob_keys (
  key text COLLATE "C" PRIMARY KEY,
  digest text COLLATE "C" NOT NULL REFERENCES assay.blobs ON DELETE CASCADE
);
CREATE INDEX blob_keys_of_blob ON assay.blob_keys (digest);
)sql";

// The start of an attempt is written beside the job's record, which follows when it ends. The events that one
// transaction makes of a batch are one row, numbered as the last of them.
constexpr char kVersion3[] = R"sql(
ALTER TABLE assay.jobs
  ADD COLUMN attempt bigint NOT NULL DEFAULT 0,
  ADD COLUMN worker text COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN started bigint NOT NULL DEFAULT 0,
  ADD COLUMN answered bigint NOT NULL DEFAULT 0;
DROP INDEX assay.jobs_running;
CREATE INDEX jobs_running ON assay.jobs (worker) WHERE state = 2;
ALTER TABLE assay.events ADD COLUMN grouped boolean NOT NULL DEFAULT false;
)sql";

// What operators want of workers is told by whichever coordinator holds their stream.
constexpr char kVersion4[] = R"sql(
CREATE TABLE assay.orders (id text COLLATE "C" PRIMARY KEY, worker text COLLATE "C" NOT NULL, wanted bytea NOT NULL);
)sql";

// A job's id begins with its batch's, so that one index finds both.
constexpr char kVersion5[] = R"sql(
DROP INDEX assay.jobs_of_batch;
)sql";

// What waits is counted by target.
constexpr char kVersion6[] = R"sql(
ALTER TABLE assay.jobs ADD COLUMN dtype bigint NOT NULL DEFAULT 0;
)sql";

absl::Status TakeSteps(PostgresConnection& connection, const std::vector<std::string>& steps) {
  // Held until the transaction ends. 0x6173 is "as".
  ASSAY_RETURN_IF_ERROR(connection.Read("SELECT pg_advisory_xact_lock(24947, 1)").status());
  ASSAY_ASSIGN_OR_RETURN(PostgresRows encoding, connection.Read("SELECT current_setting('server_encoding')"));
  if (encoding.Bytes(0, 0) != "UTF8") {
    return absl::FailedPreconditionError(
        absl::StrCat("the database's encoding is ", encoding.Bytes(0, 0), ": make one with ENCODING 'UTF8'"));
  }
  ASSAY_ASSIGN_OR_RETURN(PostgresRows known,
                         connection.Read("SELECT to_regclass('assay.schema_versions') IS NOT NULL"));
  int64_t version = 0;
  if (known.Bool(0, 0)) {
    ASSAY_ASSIGN_OR_RETURN(PostgresRows newest,
                           connection.Read("SELECT coalesce(max(version), 0) FROM assay.schema_versions"));
    version = newest.Int(0, 0);
  } else {
    ASSAY_RETURN_IF_ERROR(
        connection.Execute("CREATE SCHEMA IF NOT EXISTS assay;"
                           "CREATE TABLE assay.schema_versions"
                           " (version bigint PRIMARY KEY, taken timestamptz NOT NULL DEFAULT now())"));
  }
  if (version > static_cast<int64_t>(steps.size())) {
    return absl::FailedPreconditionError(absl::StrCat("the database's schema is version ", version,
                                                      ", and this Assay knows up to ", steps.size(),
                                                      ": use the newer Assay that wrote it"));
  }
  for (; version < static_cast<int64_t>(steps.size()); ++version) {
    ASSAY_RETURN_IF_ERROR(connection.Execute(steps[version]));
    PostgresParameters number;
    number.Int(version + 1);
    ASSAY_RETURN_IF_ERROR(
        connection.Read("INSERT INTO assay.schema_versions (version) VALUES ($1)", number).status());
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& PostgresSchemaSteps() {
  static const auto& steps =
      *new std::vector<std::string>{kVersion1, kVersion2, kVersion3, kVersion4, kVersion5, kVersion6};
  return steps;
}

absl::Status MigratePostgres(PostgresConnection& connection, const std::vector<std::string>& steps) {
  ASSAY_RETURN_IF_ERROR(connection.Execute("BEGIN"));
  if (absl::Status status = TakeSteps(connection, steps); !status.ok()) {
    (void)connection.Execute("ROLLBACK");  // a connection that was lost has done it
    return status;
  }
  return connection.Execute("COMMIT");
}

}  // namespace assay::coordinator

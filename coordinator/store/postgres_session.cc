#include "coordinator/store/postgres_session.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/store/postgres_schema.h"

namespace assay::coordinator {
namespace {

constexpr int kOldestServer = 150000;
// While the server is away, requests fail at once between two tries instead of each waiting for its own.
constexpr absl::Duration kBetweenTries = absl::Milliseconds(100);

// Unlike those of the domain (store.h), these say that nobody answered.
absl::Status NobodyAnswered(const absl::Status& status) { return absl::UnavailableError(status.message()); }

// A coordinator that starts beside others finds that they have written lately; so long, at most, they are
// silent while they hold workers that work.
constexpr double kServedSeconds = 2;

}  // namespace

PostgresSession::PostgresSession(std::string url, const PostgresPatience& patience, PostgresUse use)
    : url_(std::move(url)),
      patience_(patience),
      name_(absl::StrCat(use == PostgresUse::kSubmissions ? "assay-submissions " : "assay-coordinator ",
                         NewUuid())) {}

absl::StatusOr<std::unique_ptr<PostgresSession>> PostgresSession::Open(const std::string& url,
                                                                       const PostgresPatience& patience,
                                                                       PostgresUse use) {
  std::unique_ptr<PostgresSession> session(new PostgresSession(url, patience, use));
  ASSAY_RETURN_IF_ERROR(session->Connect(/*first=*/true));
  return session;
}

absl::Status PostgresSession::Connect(bool first) {
  connection_ = nullptr;
  in_transaction_ = false;
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<PostgresConnection> connection,
                         PostgresConnection::Connect(url_, name_));
  if (connection->server_version() < kOldestServer) {
    return absl::FailedPreconditionError(absl::StrCat("PostgreSQL 15 or later is wanted, and the server is ",
                                                      connection->server_version() / 10000));
  }
  ASSAY_RETURN_IF_ERROR(TakeOver(*connection, first));
  ASSAY_RETURN_IF_ERROR(MigratePostgres(*connection, PostgresSchemaSteps()));
  // An answer is given when the commit is durable, whatever the server's default is. A coordinator's machine
  // that vanished lets go of the database within some 20 seconds.
  ASSAY_RETURN_IF_ERROR(connection->Execute(
      "SELECT set_config('synchronous_commit', 'on', false)"
      " WHERE current_setting('synchronous_commit') = 'off';"
      "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
      "SET statement_timeout = '60s';"
      // What a coordinator has locked and does not go on with (its machine sleeps) is given to the others.
      "SET idle_in_transaction_session_timeout = '10s';"
      // The rules on which locks rest, whatever the server's defaults are.
      "SET default_transaction_isolation = 'read committed';"
      // Every statement finds its rows by an index, also where the server does not know yet how large tables
      // are.
      "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
      "SET enable_mergejoin = off; SET jit = off"));
  if (first) {
    ASSAY_ASSIGN_OR_RETURN(PostgresRows fsync, connection->Read("SELECT current_setting('fsync')::boolean"));
    if (!fsync.Bool(0, 0)) spdlog::warn("database: fsync is off at the server: a power cut may lose results");
    ASSAY_RETURN_IF_ERROR(
        connection->Execute("DELETE FROM assay.writers WHERE since < now() - interval '7 days'"
                            " AND since < (SELECT max(since) FROM assay.writers)"));
  }
  ASSAY_RETURN_IF_ERROR(LeasesStoodStill(*connection, first));
  if (unknown_) {
    ASSAY_ASSIGN_OR_RETURN(bool committed, WasCommitted(*connection, unknown_->transaction));
    if (committed) untold_.insert(unknown_->touched.begin(), unknown_->touched.end());
    unknown_was_committed_ = committed;
    unknown_.reset();
  }
  connection_ = std::move(connection);
  return absl::OkStatus();
}

absl::Status PostgresSession::Reconnect() {
  if (absl::Now() < next_try_) return last_error_;
  absl::Status status = Connect(/*first=*/false);
  if (status.ok()) {
    spdlog::info("database: connected again");
    return status;
  }
  next_try_ = absl::Now() + kBetweenTries;
  return last_error_ = NobodyAnswered(status);
}

absl::Status PostgresSession::TakeOver(PostgresConnection& connection, bool first) {
  if (!first) {
    // Where the network took the connection, the server may still hold on to its end, and to its locks.
    ASSAY_RETURN_IF_ERROR(
        connection
            .Read("SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE application_name = $1"
                  " AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()",
                  PostgresParameters().Bytes(name_))
            .status());
  }
  ASSAY_RETURN_IF_ERROR(connection.Execute(
      absl::StrCat("SET lock_timeout = ", std::max<int64_t>(1, absl::ToInt64Milliseconds(patience_.lock)))));
  // A coordinator of the first release has the database for itself, by this lock, and reckons with nobody.
  absl::Status shared = connection.Execute("SELECT pg_advisory_lock_shared(24947, 2)");
  if (absl::StrContains(shared.message(), "55P03")) {  // lock_not_available
    return absl::FailedPreconditionError(
        "the database is in use by a coordinator of an Assay that shares it with nobody: stop that one "
        "first");
  }
  ASSAY_RETURN_IF_ERROR(shared);
  // Each session of ours holds it while it lives.
  absl::Status taken =
      connection
          .Read("SELECT pg_advisory_lock($1)",
                PostgresParameters().Int(static_cast<int64_t>(std::hash<std::string>()(name_))))
          .status();
  if (absl::StrContains(taken.message(), "55P03")) {  // lock_not_available
    return absl::UnavailableError(
        "database: the server has not ended this coordinator's earlier session yet");
  }
  ASSAY_RETURN_IF_ERROR(taken);
  return connection.Execute("SET lock_timeout = 0");
}

absl::StatusOr<bool> PostgresSession::WasCommitted(PostgresConnection& connection, int64_t transaction) {
  ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                         connection.Read("SELECT committed FROM assay.writers WHERE writer = $1",
                                         PostgresParameters().Bytes(name_)));
  const bool committed = rows.size() > 0 && rows.Int(0, 0) == transaction;
  spdlog::warn("database: the commit that was not answered was {}", committed ? "done" : "not done");
  return committed;
}

// Nobody could write heartbeats down since the last transaction of any writer: that much later leases end.
// The first coordinator to find it so does it for all, as it is a writer itself from then on. Jobs that
// another one has locked meanwhile are those whose leases it is writing.
absl::Status PostgresSession::LeasesStoodStill(PostgresConnection& connection, bool first) {
  ASSAY_RETURN_IF_ERROR(connection.Write("BEGIN"));
  ASSAY_RETURN_IF_ERROR(connection.Write("SELECT pg_advisory_xact_lock(24947, 3)"));
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows gap,
      connection.Read("SELECT coalesce(extract(epoch FROM clock_timestamp() - max(since))::float8, 0)"
                      " FROM assay.writers"));
  const double seconds = gap.Double(0, 0);
  if (seconds > (first ? kServedSeconds : 0)) {
    ASSAY_RETURN_IF_ERROR(
        connection.Write("WITH held AS (SELECT job_id FROM assay.jobs WHERE state = 2 ORDER BY job_id"
                         " FOR UPDATE SKIP LOCKED) UPDATE assay.jobs j"
                         " SET lease_until = lease_until + make_interval(secs => $1)"
                         " FROM held WHERE j.job_id = held.job_id",
                         PostgresParameters().Double(seconds)));
  }
  ASSAY_RETURN_IF_ERROR(connection.Write(
      "INSERT INTO assay.writers (writer, committed, since) VALUES ($1, 0, clock_timestamp())"
      " ON CONFLICT (writer) DO UPDATE SET since = excluded.since",
      PostgresParameters().Bytes(name_)));
  return connection.Read("COMMIT").status();
}

absl::Status PostgresSession::BeginOnce() {
  ASSAY_RETURN_IF_ERROR(connection_->Write("BEGIN"));
  ASSAY_ASSIGN_OR_RETURN(
      PostgresRows now,
      connection_->Read("SELECT clock_timestamp(), EXISTS (SELECT FROM assay.failed_inputs),"
                        " EXISTS (SELECT FROM assay.writers WHERE writer <> $1"
                        // They write nothing of what was there before.
                        " AND NOT starts_with(writer, 'assay-submissions ')"
                        " AND since > now() - interval '1 minute')",
                        PostgresParameters().Bytes(name_)));
  begun_ = now.Time(0, 0);
  some_inputs_failed_ = now.Bool(0, 1);
  others_write_ = now.Bool(0, 2);
  return absl::OkStatus();
}

absl::Status PostgresSession::Begin() {
  if (in_transaction_) return absl::InternalError("database: a transaction within a transaction");
  wrote_ = false;
  const bool fresh = connection_ == nullptr || connection_->lost();
  if (fresh) ASSAY_RETURN_IF_ERROR(Reconnect());
  absl::Status begun = BeginOnce();
  // Most often it is here that a connection turns out to be lost; nothing was done with it.
  if (!begun.ok() && !fresh && connection_->lost()) {
    ASSAY_RETURN_IF_ERROR(Reconnect());
    begun = BeginOnce();
  }
  ASSAY_RETURN_IF_ERROR(begun);
  in_transaction_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> PostgresSession::Commit(const std::set<std::string>& touched) {
  if (!in_transaction_) return absl::InternalError("database: nothing to commit");
  if (connection_->expects()) ASSAY_RETURN_IF_ERROR(connection_->Flush());
  in_transaction_ = false;
  absl::StatusOr<PostgresRows> done = connection_->Read("COMMIT");
  if (done.ok()) {
    // A transaction in which something failed is rolled back by its COMMIT.
    if (done->Tag() != "COMMIT") return absl::InternalError("database: the transaction had failed");
  } else {
    if (!connection_->lost() || !wrote_) return done.status();
    unknown_ = Unknown{transaction_, touched};
    const absl::Time until = absl::Now() + patience_.outcome;
    while (!Reconnect().ok()) {
      if (absl::Now() >= until) {
        return absl::UnavailableError(
            absl::StrCat("the database went away in the middle of a commit: repeat what was asked (",
                         done.status().message(), ")"));
      }
      absl::SleepFor(kBetweenTries);
    }
    if (!unknown_was_committed_) return NobodyAnswered(done.status());
  }
  std::set<std::string> all = std::exchange(untold_, {});
  all.insert(touched.begin(), touched.end());
  return all;
}

void PostgresSession::Rollback() {
  in_transaction_ = false;
  if (connection_ == nullptr) return;
  // What waits to be sent may be what fails: its answer says nothing that the caller does not know.
  if (!connection_->lost()) (void)connection_->Flush();
  if (!connection_->lost()) {
    absl::Status status = connection_->Read("ROLLBACK").status();
    if (status.ok()) return;
    spdlog::debug("rollback: {}", status.ToString());
  }
  // Its end takes the transaction back.
  connection_ = nullptr;
}

absl::StatusOr<PostgresRows> PostgresSession::Read(const char* sql, const PostgresParameters& parameters) {
  if (connection_ == nullptr) return absl::UnavailableError("database: there is no connection");
  return connection_->Read(sql, parameters);
}

absl::Status PostgresSession::Ask(const char* sql, const PostgresParameters& parameters) {
  if (connection_ == nullptr) return absl::UnavailableError("database: there is no connection");
  return connection_->Ask(sql, parameters);
}

absl::StatusOr<PostgresRows> PostgresSession::Answer() {
  if (connection_ == nullptr) return absl::UnavailableError("database: there is no connection");
  return connection_->Answer();
}

absl::Status PostgresSession::CountThisTransaction() {
  if (!in_transaction_) return absl::InternalError("database: a write outside of a transaction");
  if (std::exchange(wrote_, true)) return absl::OkStatus();
  return connection_->Write(
      "INSERT INTO assay.writers (writer, committed) VALUES ($1, $2)"
      " ON CONFLICT (writer) DO UPDATE SET committed = excluded.committed, since = now()",
      PostgresParameters().Bytes(name_).Int(++transaction_));
}

absl::Status PostgresSession::Write(const char* sql, const PostgresParameters& parameters, int64_t rows) {
  ASSAY_RETURN_IF_ERROR(CountThisTransaction());
  return connection_->Write(sql, parameters, rows);
}

absl::StatusOr<PostgresRows> PostgresSession::WriteAndRead(const char* sql,
                                                           const PostgresParameters& parameters) {
  ASSAY_RETURN_IF_ERROR(CountThisTransaction());
  return connection_->Read(sql, parameters);
}

}  // namespace assay::coordinator

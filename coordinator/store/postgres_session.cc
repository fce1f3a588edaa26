#include "coordinator/store/postgres_session.h"

#include <algorithm>
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

// Who holds the lock, as far as the server shows it.
std::string Holder(PostgresConnection& connection) {
  absl::StatusOr<PostgresRows> rows = connection.Read(
      "SELECT a.application_name || coalesce(' at ' || host(a.client_addr), '') || ', connected since '"
      " || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'"
      " FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
      " AND l.classid = 24947 AND l.objid = 2 AND l.objsubid = 2"
      " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())");
  if (!rows.ok() || rows->size() == 0 || rows->Bytes(0, 0).empty()) return "";
  return absl::StrCat(" (", rows->Bytes(0, 0), ")");
}

}  // namespace

PostgresSession::PostgresSession(std::string url, const PostgresPatience& patience)
    : url_(std::move(url)),
      patience_(patience),
      name_(absl::StrCat("assay-coordinator ", NewUuid())),
      last_answer_(absl::Now()) {}

absl::StatusOr<std::unique_ptr<PostgresSession>> PostgresSession::Open(const std::string& url,
                                                                       const PostgresPatience& patience) {
  std::unique_ptr<PostgresSession> session(new PostgresSession(url, patience));
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
  ASSAY_RETURN_IF_ERROR(TakeDatabase(*connection, first));
  ASSAY_RETURN_IF_ERROR(MigratePostgres(*connection, PostgresSchemaSteps()));
  // An answer is given when the commit is durable, whatever the server's default is. A coordinator's machine
  // that vanished lets go of the database within some 20 seconds.
  ASSAY_RETURN_IF_ERROR(connection->Execute(
      "SELECT set_config('synchronous_commit', 'on', false)"
      " WHERE current_setting('synchronous_commit') = 'off';"
      "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
      "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = 0"));
  if (first) {
    ASSAY_ASSIGN_OR_RETURN(PostgresRows fsync, connection->Read("SELECT current_setting('fsync')::boolean"));
    if (!fsync.Bool(0, 0)) spdlog::warn("database: fsync is off at the server: a power cut may lose results");
    ASSAY_RETURN_IF_ERROR(
        connection->Execute("DELETE FROM assay.writers WHERE since < now() - interval '7 days'"));
  } else {
    ASSAY_RETURN_IF_ERROR(LeasesStoodStill(*connection));
  }
  if (unknown_) {
    ASSAY_ASSIGN_OR_RETURN(bool committed, WasCommitted(*connection, unknown_->transaction));
    if (committed) untold_.insert(unknown_->touched.begin(), unknown_->touched.end());
    unknown_was_committed_ = committed;
    unknown_.reset();
  }
  connection_ = std::move(connection);
  last_answer_ = absl::Now();
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

absl::Status PostgresSession::TakeDatabase(PostgresConnection& connection, bool first) {
  if (!first) {
    // Where the network took the connection, the server may still hold on to its end, and to its lock.
    ASSAY_RETURN_IF_ERROR(
        connection
            .Read("SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE application_name = $1"
                  " AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()",
                  PostgresParameters().Bytes(name_))
            .status());
  }
  // Whoever has it is alone: an earlier session of ours has ended, with whatever it had begun.
  ASSAY_RETURN_IF_ERROR(connection.Execute(
      absl::StrCat("SET lock_timeout = ", std::max<int64_t>(1, absl::ToInt64Milliseconds(patience_.lock)))));
  absl::Status taken = connection.Execute("SELECT pg_advisory_lock(24947, 2)");
  if (!taken.ok()) {
    if (!absl::StrContains(taken.message(), "55P03")) return taken;  // lock_not_available
    return absl::FailedPreconditionError(absl::StrCat("the database is in use by another coordinator",
                                                      Holder(connection),
                                                      ": stop it, or give each its own database"));
  }
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

// Heartbeats could not be written down.
absl::Status PostgresSession::LeasesStoodStill(PostgresConnection& connection) {
  const absl::Duration away = absl::Now() - last_answer_;
  PostgresParameters seconds;
  seconds.Double(std::max(0.0, absl::ToDoubleSeconds(away)));
  ASSAY_RETURN_IF_ERROR(
      connection
          .Read("UPDATE assay.jobs SET lease_until = lease_until + make_interval(secs => $1) WHERE state = 2",
                seconds)
          .status());
  // What follows may fail, and this be done again.
  last_answer_ = absl::Now();
  return absl::OkStatus();
}

absl::Status PostgresSession::BeginOnce() {
  ASSAY_RETURN_IF_ERROR(connection_->Write("BEGIN"));
  ASSAY_ASSIGN_OR_RETURN(PostgresRows now, connection_->Read("SELECT clock_timestamp()"));
  begun_ = now.Time(0, 0);
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
  last_answer_ = absl::Now();
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> PostgresSession::Commit(const std::set<std::string>& touched) {
  if (!std::exchange(in_transaction_, false)) return absl::InternalError("database: nothing to commit");
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
  last_answer_ = absl::Now();
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

absl::Status PostgresSession::CountThisTransaction() {
  if (!in_transaction_) return absl::InternalError("database: a write outside of a transaction");
  if (std::exchange(wrote_, true)) return absl::OkStatus();
  return connection_->Write(
      "INSERT INTO assay.writers (writer, committed) VALUES ($1, $2)"
      " ON CONFLICT (writer) DO UPDATE SET committed = excluded.committed, since = now()",
      PostgresParameters().Bytes(name_).Int(++transaction_));
}

absl::Status PostgresSession::Write(const char* sql, const PostgresParameters& parameters) {
  ASSAY_RETURN_IF_ERROR(CountThisTransaction());
  return connection_->Write(sql, parameters);
}

absl::StatusOr<PostgresRows> PostgresSession::WriteAndRead(const char* sql,
                                                           const PostgresParameters& parameters) {
  ASSAY_RETURN_IF_ERROR(CountThisTransaction());
  return connection_->Read(sql, parameters);
}

}  // namespace assay::coordinator

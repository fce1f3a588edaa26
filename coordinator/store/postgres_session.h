// The PostgreSQL store's transactions: one session at a time, made again where it was lost. See
// postgres_store.h for what is promised.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_store.h"

namespace assay::coordinator {

// Not thread-safe.
class PostgresSession {
 public:
  // As OpenPostgresStore.
  static absl::StatusOr<std::unique_ptr<PostgresSession>> Open(const std::string& url,
                                                               const PostgresPatience& patience,
                                                               PostgresUse use);

  // UNAVAILABLE: there is no server.
  absl::Status Begin();
  // The batches to tell of: those `touched` by this transaction, and by an earlier one whose outcome was not
  // known until now.
  absl::StatusOr<std::set<std::string>> Commit(const std::set<std::string>& touched);
  void Rollback();
  // The server's time when the transaction began.
  absl::Time begun() const { return begun_; }
  // Whether assay.failed_inputs had any rows then.
  bool some_inputs_failed() const { return some_inputs_failed_; }
  // Whether another coordinator has written lately. One that was silent for long may yet begin to.
  bool others_write() const { return others_write_; }

  absl::StatusOr<PostgresRows> Read(const char* sql, const PostgresParameters& parameters = {});
  // As PostgresConnection's, right after Begin alone.
  absl::Status Ask(const char* sql, const PostgresParameters& parameters);
  absl::StatusOr<PostgresRows> Answer();
  // Within a transaction alone. Write does not wait; see PostgresConnection.
  absl::Status Write(const char* sql, const PostgresParameters& parameters,
                     int64_t rows = PostgresConnection::kAnyRows);
  absl::StatusOr<PostgresRows> WriteAndRead(const char* sql, const PostgresParameters& parameters);

 private:
  // A transaction whose COMMIT was not answered.
  struct Unknown {
    int64_t transaction;
    std::set<std::string> touched;
  };

  PostgresSession(std::string url, const PostgresPatience& patience, PostgresUse use);
  // A new connection. Domain errors (store.h) only where it is the first.
  absl::Status Connect(bool first);
  absl::Status Reconnect();
  // From here on an earlier session of ours has ended, with whatever it had begun.
  absl::Status TakeOver(PostgresConnection& connection, bool first);
  // Whether the transaction of unknown outcome was committed; then it is known.
  absl::StatusOr<bool> WasCommitted(PostgresConnection& connection, int64_t transaction);
  // See postgres_store.h: leases do not run while nobody could write.
  absl::Status LeasesStoodStill(PostgresConnection& connection, bool first);
  absl::Status CountThisTransaction();
  absl::Status BeginOnce();

  const std::string url_;
  const PostgresPatience patience_;
  const std::string name_;  // of this writer, unlike any other's
  std::unique_ptr<PostgresConnection> connection_;
  bool in_transaction_ = false;
  absl::Time begun_;
  bool some_inputs_failed_ = true;
  bool others_write_ = true;
  int64_t transaction_ = 0;  // the newest that wrote
  bool wrote_ = false;
  std::optional<Unknown> unknown_;
  bool unknown_was_committed_ = false;  // the last that became known
  std::set<std::string> untold_;        // of an unknown one that turned out to be committed
  // By the machine's clock, not the store's: of the server, not of leases.
  absl::Time next_try_ = absl::InfinitePast();
  absl::Status last_error_;
};

}  // namespace assay::coordinator

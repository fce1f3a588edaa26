// libpq's C interface with owned handles and absl::Status: prepared statements, parameters and rows in binary
// form, and pipelining of statements whose answer nobody waits for.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

struct pg_conn;
struct pg_result;

namespace assay::coordinator {

// An array, for `= ANY($1)` and `unnest($1::…[])`: one statement does the work of many.
class PostgresArray {
 public:
  // As PostgresParameters has them; `kText` and `kBytes` are told apart here.
  enum class Type : uint32_t {
    kBool = 16,
    kBytes = 17,
    kInt = 20,
    kText = 25,
    kPlace = 27,  // ctid
    kXid = 28,
    kDouble = 701,
    kTime = 1184
  };

  explicit PostgresArray(Type type) : type_(type) {}
  static PostgresArray Texts(const std::vector<std::string>& values);

  // Each of the array's type.
  void Int(int64_t value);
  void Bool(bool value);
  void Double(double value);
  void Bytes(absl::string_view value);  // kText or kBytes; of kPlace and kXid those that were read
  void Time(absl::Time value);

 private:
  friend class PostgresParameters;
  void Put(absl::string_view value);

  Type type_;
  uint32_t size_ = 0;
  std::string elements_;
};

// Values of $1, $2, … in their order.
class PostgresParameters {
 public:
  PostgresParameters& Array(const PostgresArray& array);
  PostgresParameters& Int(int64_t value);              // bigint
  PostgresParameters& Bool(bool value);                // boolean
  PostgresParameters& Double(double value);            // double precision
  PostgresParameters& Bytes(absl::string_view value);  // text (without NUL) or bytea
  // timestamptz, in microseconds; the infinite ones are -infinity and infinity.
  PostgresParameters& Time(absl::Time value);

 private:
  friend class PostgresConnection;
  std::vector<std::string> values_;
};

// What a statement answered. Rows and columns count from 0; a column is read as the type it has.
class PostgresRows {
 public:
  explicit PostgresRows(pg_result* result);

  int size() const;
  int64_t Int(int row, int column) const;
  bool Bool(int row, int column) const;
  double Double(int row, int column) const;
  std::string Bytes(int row, int column) const;
  absl::Time Time(int row, int column) const;
  // "INSERT 0 1", "COMMIT", …
  std::string Tag() const;

 private:
  struct Clear {
    void operator()(pg_result* result) const;
  };
  std::unique_ptr<pg_result, Clear> result_;
};

// INVALID_ARGUMENT: not postgres://… or postgresql://…, or one that libpq cannot read. The message never
// quotes the URL, which may hold a password.
absl::Status CheckPostgresUrl(const std::string& url);
// Of a URL that CheckPostgresUrl takes.
bool HasPassword(const std::string& url);

// One connection. Not thread-safe. Errors are never those of the domain (store.h): UNAVAILABLE where it may
// pass, ABORTED where the transaction was in another one's way and may be run again, DATA_LOSS where the
// server found its data damaged, else INTERNAL.
class PostgresConnection {
 public:
  static constexpr int64_t kAnyRows = -1;

  // `name`: what the server's administrator sees, at most 63 bytes. A server that is read-only (a standby) is
  // not taken. Waits at most a few seconds for each address.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Connect(const std::string& url,
                                                                     const std::string& name);
  ~PostgresConnection();
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  // One or more statements without parameters; rows are dropped. Outside of a transaction that the caller
  // began, several are one transaction.
  absl::Status Execute(const std::string& sql);

  // One statement, prepared when it is first used. `sql` must be a literal: statements are kept by its
  // address. Read gives its rows. Write does not wait: an error comes out of a later call, and nothing that
  // was asked between is executed. With `rows` exactly so many must be affected, else the error is ABORTED;
  // as the server does not know of it, this must be answered before a COMMIT is asked for (Flush, where
  // `expects`).
  absl::StatusOr<PostgresRows> Read(const char* sql, const PostgresParameters& parameters = {});
  absl::Status Write(const char* sql, const PostgresParameters& parameters = {}, int64_t rows = kAnyRows);
  bool expects() const { return expects_; }
  // As Read, in two steps: the rows come while the caller does something else, and Answer waits for what is
  // left of them. One at a time, and only where nothing else waits for its answer. INTERNAL: nothing was
  // asked.
  absl::Status Ask(const char* sql, const PostgresParameters& parameters);
  absl::StatusOr<PostgresRows> Answer();
  // Until everything that was written is answered.
  absl::Status Flush();

  // Payloads of the NOTIFYs that came to what this connection LISTENs to, but for its own. Does not wait.
  absl::StatusOr<std::vector<std::string>> Notifications();
  // To wait for them, or for the connection's end.
  int socket() const;

  // True: the connection is of no more use. What was asked and not answered may have been done or not.
  bool lost() const;
  int server_version() const;  // 150004

 private:
  explicit PostgresConnection(pg_conn* handle) : handle_(handle) {}
  absl::Status Send(const char* sql, const PostgresParameters& parameters);
  absl::StatusOr<std::string> Prepare(const char* sql);
  // Of everything that is pending; the last one's rows.
  absl::StatusOr<PostgresRows> Collect();
  absl::Status ConnectionError() const;
  absl::Status ResultError(const pg_result* result);

  pg_conn* handle_;
  std::map<const char*, std::string> prepared_;
  std::deque<int64_t> pending_;         // statements that are not answered: the rows that each must affect
  bool expects_ = false;                // some of them
  bool asked_ = false;                  // the first of them, by Ask
  std::optional<PostgresRows> answer_;  // to Ask, where it came before it was called for
  bool fatal_ = false;                  // the server said goodbye
};

}  // namespace assay::coordinator

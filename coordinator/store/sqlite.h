// SQLite's C interface with owned handles and absl::Status.
#pragma once

#include <cstdint>
#include <forward_list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace assay::coordinator {

// A prepared statement in use; reset and given back to its database when destroyed. Parameters and columns
// count from 0. Binding errors are kept and come out of the next Step.
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  Statement& Bind(int64_t value);
  Statement& Bind(double value);
  // What is bound must stay as it is until the last Step; what comes as an rvalue is kept here.
  Statement& BindText(absl::string_view value);
  Statement& BindText(const std::string& value) { return BindText(absl::string_view(value)); }
  Statement& BindText(std::string&& value) { return BindText(absl::string_view(Keep(std::move(value)))); }
  Statement& BindBlob(absl::string_view value);
  Statement& BindBlob(const std::string& value) { return BindBlob(absl::string_view(value)); }
  Statement& BindBlob(std::string&& value) { return BindBlob(absl::string_view(Keep(std::move(value)))); }

  // True: there is a row. False: done.
  absl::StatusOr<bool> Step();
  // For statements that give no rows.
  absl::Status Run();

  int64_t Int(int column) const;
  double Double(int column) const;
  std::string Bytes(int column) const;

 private:
  friend class Database;
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  const std::string& Keep(std::string&& value);

  sqlite3_stmt* statement_;
  std::forward_list<std::string> kept_;
  int next_ = 1;
  int error_ = 0;
};

// One connection. Not thread-safe.
class Database {
 public:
  // ":memory:" is a database of its own.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();

  // One or more statements without parameters; rows are dropped.
  absl::Status Execute(const std::string& sql);
  // `sql` must be a literal: statements are kept by its address. At most one use of each at a time.
  absl::StatusOr<Statement> Prepare(const char* sql);
  int64_t LastInsertRowid() const;

 private:
  explicit Database(sqlite3* handle) : handle_(handle) {}
  sqlite3* handle_;
  std::map<const char*, sqlite3_stmt*> statements_;
};

}  // namespace assay::coordinator

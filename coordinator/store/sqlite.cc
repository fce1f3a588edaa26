#include "coordinator/store/sqlite.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace assay::coordinator {
namespace {

// Everything that the medium does to us may pass (a full disk, a lock), so a caller may try again; a broken
// file may not.
absl::Status ErrorOf(sqlite3* handle, int code) {
  const std::string message = absl::StrCat("store: ", sqlite3_errmsg(handle), " (SQLite ", code, ")");
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_CONSTRAINT:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
    case SQLITE_ERROR:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace

Statement::Statement(Statement&& other) noexcept
    : statement_(std::exchange(other.statement_, nullptr)),
      kept_(std::move(other.kept_)),
      next_(other.next_),
      error_(other.error_) {}

Statement::~Statement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);  // its next use binds everything anew
}

const std::string& Statement::Keep(std::string&& value) { return kept_.emplace_front(std::move(value)); }

Statement& Statement::Bind(int64_t value) {
  if (int code = sqlite3_bind_int64(statement_, next_++, value); code != SQLITE_OK) error_ = code;
  return *this;
}

Statement& Statement::Bind(double value) {
  if (int code = sqlite3_bind_double(statement_, next_++, value); code != SQLITE_OK) error_ = code;
  return *this;
}

Statement& Statement::BindText(absl::string_view value) {
  // A null pointer would bind NULL.
  const char* data = value.data() == nullptr ? "" : value.data();
  int code = sqlite3_bind_text64(statement_, next_++, data, value.size(), SQLITE_STATIC, SQLITE_UTF8);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

Statement& Statement::BindBlob(absl::string_view value) {
  const char* data = value.data() == nullptr ? "" : value.data();
  int code = sqlite3_bind_blob64(statement_, next_++, data, value.size(), SQLITE_STATIC);
  if (code != SQLITE_OK) error_ = code;
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  const int code = error_ != 0 ? error_ : sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return ErrorOf(sqlite3_db_handle(statement_), code);
}

absl::Status Statement::Run() {
  while (true) {
    absl::StatusOr<bool> row = Step();
    if (!row.ok()) return row.status();
    if (!*row) return absl::OkStatus();
  }
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_, column); }
double Statement::Double(int column) const { return sqlite3_column_double(statement_, column); }
std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (data == nullptr) return "";
  return std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  // Each connection has one thread, and nobody asks how much memory SQLite has taken: no mutex around each of
  // its allocations. To be said before it is first used.
  static const int configured = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  (void)configured;
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &handle,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  // SQLite gives a handle to close even where it fails.
  std::unique_ptr<Database> database(new Database(handle));
  if (code != SQLITE_OK) {
    absl::Status error = ErrorOf(handle, code);
    return absl::Status(error.code(), absl::StrCat(path, ": ", error.message()));
  }
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 5000);
  return database;
}

Database::~Database() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::Status Database::Execute(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ErrorOf(handle_, code);
}

absl::StatusOr<Statement> Database::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr) {
    const int code = sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) return ErrorOf(handle_, code);
  }
  return Statement(statement);
}

int64_t Database::LastInsertRowid() const { return sqlite3_last_insert_rowid(handle_); }

}  // namespace assay::coordinator

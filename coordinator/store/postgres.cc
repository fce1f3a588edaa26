#include "coordinator/store/postgres.h"

#include <endian.h>
#include <libpq-fe.h>

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/base/casts.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

// Bounds what both sides hold of a pipeline.
constexpr size_t kMaxPending = 256;
// A statement with parameters of so many bytes is sent at once.
constexpr size_t kWorthSending = 4096;

// timestamptz counts from 2000-01-01.
constexpr int64_t kEpochMicros = 946'684'800'000'000;

std::string BigEndian(uint64_t value) {
  const uint64_t ordered = htobe64(value);
  std::string bytes(sizeof(ordered), '\0');
  std::memcpy(bytes.data(), &ordered, sizeof(ordered));
  return bytes;
}

uint64_t FromBigEndian(const char* bytes) {
  uint64_t ordered;
  std::memcpy(&ordered, bytes, sizeof(ordered));
  return be64toh(ordered);
}

std::string BigEndian32(uint32_t value) {
  const uint32_t ordered = htobe32(value);
  std::string bytes(sizeof(ordered), '\0');
  std::memcpy(bytes.data(), &ordered, sizeof(ordered));
  return bytes;
}

int64_t PostgresMicros(absl::Time value) {
  if (value == absl::InfinitePast()) return std::numeric_limits<int64_t>::min();
  if (value == absl::InfiniteFuture()) return std::numeric_limits<int64_t>::max();
  return absl::ToUnixMicros(value) - kEpochMicros;
}

std::string OneLine(const char* message) {
  std::string text(absl::StripSuffix(message == nullptr ? "" : message, "\n"));
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return text;
}

// What the medium does to us may pass (it is shut down, full, locked, a standby), so a caller may try again.
absl::StatusCode CodeOf(absl::string_view state) {
  if (state == "XX001" || state == "XX002") return absl::StatusCode::kDataLoss;
  if (absl::StartsWith(state, "40")) return absl::StatusCode::kAborted;  // deadlock, serialization
  for (absl::string_view passing : {"08", "25006", "53", "55", "57", "58"}) {
    if (absl::StartsWith(state, passing)) return absl::StatusCode::kUnavailable;
  }
  return absl::StatusCode::kInternal;
}

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

std::unique_ptr<PQconninfoOption, FreeOptions> ParseUrl(const std::string& url) {
  return std::unique_ptr<PQconninfoOption, FreeOptions>(PQconninfoParse(url.c_str(), nullptr));
}

absl::string_view OptionOf(const PQconninfoOption* options, absl::string_view keyword) {
  for (; options != nullptr && options->keyword != nullptr; ++options) {
    if (options->keyword == keyword) return options->val == nullptr ? "" : options->val;
  }
  return "";
}

}  // namespace

PostgresParameters& PostgresParameters::Int(int64_t value) {
  values_.push_back(BigEndian(static_cast<uint64_t>(value)));
  return *this;
}

PostgresParameters& PostgresParameters::Bool(bool value) {
  values_.emplace_back(1, value ? '\1' : '\0');
  return *this;
}

PostgresParameters& PostgresParameters::Double(double value) {
  values_.push_back(BigEndian(absl::bit_cast<uint64_t>(value)));
  return *this;
}

PostgresParameters& PostgresParameters::Bytes(absl::string_view value) {
  values_.emplace_back(value);
  return *this;
}

PostgresParameters& PostgresParameters::Time(absl::Time value) { return Int(PostgresMicros(value)); }

PostgresParameters& PostgresParameters::Array(const PostgresArray& array) {
  // Dimensions, whether there are NULLs, the elements' type; then of the one dimension its size and first
  // index.
  std::string& value = values_.emplace_back(BigEndian32(array.size_ > 0 ? 1 : 0));
  value += BigEndian32(0);
  value += BigEndian32(static_cast<uint32_t>(array.type_));
  if (array.size_ == 0) return *this;
  value += BigEndian32(array.size_);
  value += BigEndian32(1);
  value += array.elements_;
  return *this;
}

PostgresArray PostgresArray::Texts(const std::vector<std::string>& values) {
  PostgresArray array(Type::kText);
  for (const std::string& value : values) array.Bytes(value);
  return array;
}

void PostgresArray::Put(absl::string_view value) {
  ++size_;
  elements_ += BigEndian32(static_cast<uint32_t>(value.size()));
  elements_.append(value.data(), value.size());
}
void PostgresArray::Int(int64_t value) { Put(BigEndian(static_cast<uint64_t>(value))); }
void PostgresArray::Bool(bool value) { Put(absl::string_view(value ? "\1" : "\0", 1)); }
void PostgresArray::Double(double value) { Put(BigEndian(absl::bit_cast<uint64_t>(value))); }
void PostgresArray::Bytes(absl::string_view value) { Put(value); }
void PostgresArray::Time(absl::Time value) { Int(PostgresMicros(value)); }

void PostgresRows::Clear::operator()(pg_result* result) const { PQclear(result); }
PostgresRows::PostgresRows(pg_result* result) : result_(result) {}

int PostgresRows::size() const { return PQntuples(result_.get()); }
int64_t PostgresRows::Int(int row, int column) const {
  return static_cast<int64_t>(FromBigEndian(PQgetvalue(result_.get(), row, column)));
}
bool PostgresRows::Bool(int row, int column) const { return *PQgetvalue(result_.get(), row, column) != 0; }
double PostgresRows::Double(int row, int column) const {
  return absl::bit_cast<double>(FromBigEndian(PQgetvalue(result_.get(), row, column)));
}
std::string PostgresRows::Bytes(int row, int column) const {
  return std::string(PQgetvalue(result_.get(), row, column),
                     static_cast<size_t>(PQgetlength(result_.get(), row, column)));
}
absl::Time PostgresRows::Time(int row, int column) const {
  const int64_t micros = Int(row, column);
  if (micros == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  if (micros == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  return absl::FromUnixMicros(micros + kEpochMicros);
}
std::string PostgresRows::Tag() const { return PQcmdStatus(result_.get()); }

absl::Status CheckPostgresUrl(const std::string& url) {
  if (!absl::StartsWith(url, "postgres://") && !absl::StartsWith(url, "postgresql://")) {
    return absl::InvalidArgumentError("database: postgres://user@host:port/name is wanted");
  }
  const auto options = ParseUrl(url);
  // A password that was not encoded makes a host or port of its pieces, which libpq would quote.
  const bool broken =
      options == nullptr || absl::StrContains(OptionOf(options.get(), "host"), "@") ||
      OptionOf(options.get(), "port").find_first_not_of("0123456789,") != absl::string_view::npos;
  if (broken) {
    return absl::InvalidArgumentError(
        "database: not a URL that libpq reads (it is not shown, as it may hold a password): in user and"
        " password write '@', ':', '/', '%' and '?' as %40, %3A, %2F, %25 and %3F");
  }
  return absl::OkStatus();
}

bool HasPassword(const std::string& url) { return !OptionOf(ParseUrl(url).get(), "password").empty(); }

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Connect(const std::string& url,
                                                                                const std::string& name) {
  ASSAY_RETURN_IF_ERROR(CheckPostgresUrl(url));
  // What stands before dbname is a default that the URL may change; what stands after it holds. A server or a
  // network that vanished without a word is noticed within some 20 seconds.
  const char* const keywords[] = {"connect_timeout",      "keepalives_idle",
                                  "keepalives_interval",  "keepalives_count",
                                  "tcp_user_timeout",     "dbname",
                                  "application_name",     "client_encoding",
                                  "target_session_attrs", nullptr};
  const char* const values[] = {"5",         "5",          "5",    "3",          "20000",
                                url.c_str(), name.c_str(), "UTF8", "read-write", nullptr};
  std::unique_ptr<PostgresConnection> connection(
      new PostgresConnection(PQconnectdbParams(keywords, values, /*expand_dbname=*/1)));
  if (connection->lost()) return connection->ConnectionError();
  PQsetNoticeReceiver(
      connection->handle_,
      [](void*, const PGresult* notice) {
        spdlog::debug("database: {}", OneLine(PQresultErrorMessage(notice)));
      },
      nullptr);
  PQenterPipelineMode(connection->handle_);
  return connection;
}

PostgresConnection::~PostgresConnection() { PQfinish(handle_); }

bool PostgresConnection::lost() const {
  return fatal_ || handle_ == nullptr || PQstatus(handle_) != CONNECTION_OK;
}

int PostgresConnection::socket() const { return PQsocket(handle_); }

absl::StatusOr<std::vector<std::string>> PostgresConnection::Notifications() {
  if (lost() || PQconsumeInput(handle_) == 0) return ConnectionError();
  std::vector<std::string> payloads;
  while (true) {
    const std::unique_ptr<PGnotify, decltype(&PQfreemem)> notify(PQnotifies(handle_), &PQfreemem);
    if (notify == nullptr) break;
    if (notify->be_pid != PQbackendPID(handle_)) payloads.emplace_back(notify->extra);
  }
  // A server that says goodbye does so in what was just read.
  if (lost()) return ConnectionError();
  return payloads;
}

int PostgresConnection::server_version() const { return PQserverVersion(handle_); }

absl::Status PostgresConnection::ConnectionError() const {
  return absl::UnavailableError(absl::StrCat("database: ", OneLine(PQerrorMessage(handle_))));
}

absl::Status PostgresConnection::ResultError(const pg_result* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  // Without a state it is libpq that speaks: of the connection.
  if (state == nullptr) {
    fatal_ = true;
    return absl::UnavailableError(absl::StrCat("database: ", OneLine(PQresultErrorMessage(result))));
  }
  const char* severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
  if (severity != nullptr && absl::string_view(severity) != "ERROR") fatal_ = true;
  return absl::Status(CodeOf(state),
                      absl::StrCat("database: ", OneLine(PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY)),
                                   " (PostgreSQL ", state, ")"));
}

absl::Status PostgresConnection::Execute(const std::string& sql) {
  ASSAY_RETURN_IF_ERROR(Flush());
  if (lost()) return ConnectionError();
  if (PQexitPipelineMode(handle_) == 0) return ConnectionError();
  const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(handle_, sql.c_str()), &PQclear);
  const ExecStatusType status = PQresultStatus(result.get());
  absl::Status error;
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) error = ResultError(result.get());
  PQenterPipelineMode(handle_);
  return error;
}

absl::StatusOr<std::string> PostgresConnection::Prepare(const char* sql) {
  if (auto found = prepared_.find(sql); found != prepared_.end()) return found->second;
  ASSAY_RETURN_IF_ERROR(Flush());
  const std::string name = absl::StrCat("s", prepared_.size());
  if (lost() || PQsendPrepare(handle_, name.c_str(), sql, 0, nullptr) == 0) return ConnectionError();
  pending_.push_back(kAnyRows);
  ASSAY_RETURN_IF_ERROR(Collect().status());
  prepared_[sql] = name;
  return name;
}

absl::Status PostgresConnection::Send(const char* sql, const PostgresParameters& parameters) {
  ASSAY_ASSIGN_OR_RETURN(std::string name, Prepare(sql));
  std::vector<const char*> values;
  std::vector<int> lengths, formats;
  for (const std::string& value : parameters.values_) {
    values.push_back(value.data());
    lengths.push_back(static_cast<int>(value.size()));
    formats.push_back(1);
  }
  if (lost() || PQsendQueryPrepared(handle_, name.c_str(), static_cast<int>(values.size()), values.data(),
                                    lengths.data(), formats.data(), /*resultFormat=*/1) == 0) {
    return ConnectionError();
  }
  pending_.push_back(kAnyRows);
  return absl::OkStatus();
}

absl::StatusOr<PostgresRows> PostgresConnection::Collect() {
  if (lost() || PQpipelineSync(handle_) == 0) return ConnectionError();
  std::optional<PostgresRows> last;
  absl::Status error;
  expects_ = false;
  for (; !pending_.empty(); pending_.pop_front()) {
    PGresult* result = PQgetResult(handle_);
    if (result == nullptr) {
      fatal_ = true;
      return ConnectionError();
    }
    last.emplace(result);
    const ExecStatusType status = PQresultStatus(result);
    // The statements after one that failed are skipped: the first error is the one to tell.
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && error.ok()) error = ResultError(result);
    if (lost()) return error.ok() ? ConnectionError() : error;
    if (pending_.front() != kAnyRows && error.ok() &&
        absl::string_view(PQcmdTuples(result)) != absl::StrCat(pending_.front())) {
      error = absl::AbortedError(absl::StrCat("database: not as it was remembered (", PQcmdStatus(result),
                                              " of ", pending_.front(), ")"));
    }
    if (PGresult* more = PQgetResult(handle_); more != nullptr) {
      PQclear(more);
      fatal_ = true;
      return absl::InternalError("database: libpq answered a statement twice");
    }
    if (!std::exchange(asked_, false)) continue;
    if (error.ok()) answer_ = std::move(last);
    last.reset();
  }
  PGresult* sync = PQgetResult(handle_);
  const bool synchronised = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
  PQclear(sync);
  if (!synchronised) {
    fatal_ = true;
    return error.ok() ? ConnectionError() : error;
  }
  if (!error.ok()) return error;
  return last ? *std::move(last) : PostgresRows(nullptr);
}

absl::Status PostgresConnection::Ask(const char* sql, const PostgresParameters& parameters) {
  ASSAY_RETURN_IF_ERROR(Flush());
  answer_.reset();
  ASSAY_RETURN_IF_ERROR(Send(sql, parameters));
  if (PQsendFlushRequest(handle_) == 0 || PQflush(handle_) < 0) return ConnectionError();
  asked_ = true;
  return absl::OkStatus();
}

absl::StatusOr<PostgresRows> PostgresConnection::Answer() {
  if (answer_) {
    PostgresRows rows = *std::move(answer_);
    answer_.reset();
    return rows;
  }
  if (!std::exchange(asked_, false)) return absl::InternalError("database: nothing was asked");
  if (lost()) return ConnectionError();
  PGresult* result = PQgetResult(handle_);
  if (result == nullptr) {
    fatal_ = true;
    return ConnectionError();
  }
  PostgresRows rows(result);
  pending_.pop_front();
  if (PQresultStatus(result) != PGRES_TUPLES_OK) return ResultError(result);
  if (PGresult* more = PQgetResult(handle_); more != nullptr) {
    PQclear(more);
    fatal_ = true;
    return absl::InternalError("database: libpq answered a statement twice");
  }
  return rows;
}

absl::StatusOr<PostgresRows> PostgresConnection::Read(const char* sql, const PostgresParameters& parameters) {
  ASSAY_RETURN_IF_ERROR(Send(sql, parameters));
  return Collect();
}

absl::Status PostgresConnection::Write(const char* sql, const PostgresParameters& parameters, int64_t rows) {
  ASSAY_RETURN_IF_ERROR(Send(sql, parameters));
  pending_.back() = rows;
  if (rows != kAnyRows) expects_ = true;
  // The server goes to work on what is long while the next is made ready.
  size_t bytes = 0;
  for (const std::string& value : parameters.values_) bytes += value.size();
  if (bytes > kWorthSending && PQflush(handle_) < 0) return ConnectionError();
  // Nor does it wait with its answer for us.
  if (asked_ && PQconsumeInput(handle_) == 0) return ConnectionError();
  return pending_.size() < kMaxPending ? absl::OkStatus() : Flush();
}

absl::Status PostgresConnection::Flush() {
  if (pending_.empty()) return absl::OkStatus();
  return Collect().status();
}

}  // namespace assay::coordinator

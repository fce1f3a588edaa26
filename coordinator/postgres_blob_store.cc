#include "coordinator/postgres_blob_store.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/blob_checks.h"
#include "coordinator/store/postgres.h"

namespace assay::coordinator {
namespace {

using Parameters = PostgresParameters;

// All pieces but a blob's last have this size, for ever: readers reckon with it.
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;
constexpr size_t kMaxConnections = 4;

// Connections that are lent out one call at a time. Thread-safe.
class Pool {
 public:
  explicit Pool(std::string url) : url_(std::move(url)) {}

  // Runs `work` on a connection that nobody else uses. On one that was lost while nobody used it, once more
  // on a new one: `work` may be repeated.
  template <typename T>
  absl::StatusOr<T> With(const std::function<absl::StatusOr<T>(PostgresConnection&)>& work) {
    {
      absl::MutexLock lock(&mutex_);
      auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return lent_ < kMaxConnections; };
      mutex_.Await(absl::Condition(&free));
      ++lent_;
    }
    absl::StatusOr<T> result = absl::UnavailableError("not run");
    for (bool again = true; again;) {
      std::unique_ptr<PostgresConnection> connection = Idle();
      again = connection != nullptr;
      if (connection == nullptr) {
        absl::StatusOr<std::unique_ptr<PostgresConnection>> fresh = Connect();
        if (!fresh.ok()) {
          result = absl::UnavailableError(fresh.status().message());
          break;
        }
        connection = *std::move(fresh);
      }
      result = work(*connection);
      again = again && !result.ok() && connection->lost();
      if (!result.ok() && !connection->lost()) (void)connection->Read("ROLLBACK");
      if (!connection->lost()) Return(std::move(connection));
    }
    absl::MutexLock lock(&mutex_);
    --lent_;
    return result;
  }

 private:
  std::unique_ptr<PostgresConnection> Idle() {
    absl::MutexLock lock(&mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<PostgresConnection> last = std::move(idle_.back());
    idle_.pop_back();
    return last;
  }
  void Return(std::unique_ptr<PostgresConnection> connection) {
    absl::MutexLock lock(&mutex_);
    idle_.push_back(std::move(connection));
  }
  absl::StatusOr<std::unique_ptr<PostgresConnection>> Connect() {
    ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<PostgresConnection> connection,
                           PostgresConnection::Connect(url_, "assay-coordinator blobs"));
    // What was stored is there after a crash of the server, whatever its default is.
    ASSAY_RETURN_IF_ERROR(
        connection->Execute("SELECT set_config('synchronous_commit', 'on', false)"
                            " WHERE current_setting('synchronous_commit') = 'off';"
                            "SET statement_timeout = '60s'"));
    return connection;
  }

  const std::string url_;
  absl::Mutex mutex_;
  size_t lent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<PostgresConnection>> idle_ ABSL_GUARDED_BY(mutex_);
};

class Source final : public BlobSource {
 public:
  Source(Pool* pool, int64_t number, uint64_t size) : pool_(pool), number_(number), size_(size) {}
  uint64_t size() const override { return size_; }
  absl::StatusOr<std::string> Read(uint64_t offset, size_t size) const override {
    const uint64_t end = std::min<uint64_t>(size_, offset + std::min<uint64_t>(size, size_));
    std::string bytes;
    while (offset < end) {
      const uint64_t piece = offset / kPieceBytes, within = offset % kPieceBytes;
      const uint64_t wanted = std::min(end - offset, kPieceBytes - within);
      Parameters values;
      values.Int(number_).Int(static_cast<int64_t>(piece));
      values.Int(static_cast<int64_t>(within) + 1).Int(static_cast<int64_t>(wanted));
      ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                             pool_->With<PostgresRows>([&](PostgresConnection& connection) {
                               return connection.Read(
                                   "SELECT substring(bytes FROM ($3::bigint)::int FOR ($4::bigint)::int)"
                                   " FROM assay.blob_pieces WHERE number = $1 AND piece = $2",
                                   values);
                             }));
      if (rows.size() == 0) return absl::NotFoundError("the blob was dropped while it was read");
      const std::string got = rows.Bytes(0, 0);
      if (got.size() != wanted) return absl::DataLossError("database: a blob's piece is too short");
      absl::StrAppend(&bytes, got);
      offset += wanted;
    }
    return bytes;
  }

 private:
  Pool* const pool_;
  const int64_t number_;
  const uint64_t size_;
};

class Sink final : public BlobSink {
 public:
  Sink(Pool* pool, absl::string_view digest, uint64_t size)
      : pool_(pool), size_(size), announced_(digest, size) {}
  ~Sink() override {
    if (number_ == 0 || finished_) return;
    absl::Status dropped =
        pool_
            ->With<PostgresRows>([this](PostgresConnection& connection) {
              return connection.Read(
                  "WITH upload AS (DELETE FROM assay.blob_uploads WHERE number = $1 RETURNING number)"
                  " DELETE FROM assay.blob_pieces USING upload WHERE blob_pieces.number = upload.number",
                  Parameters().Int(number_));
            })
            .status();
    // The next Sweep does it.
    if (!dropped.ok()) spdlog::debug("dropping an upload: {}", dropped.ToString());
  }

  absl::Status Append(absl::string_view chunk) override {
    ASSAY_RETURN_IF_ERROR(announced_.Append(chunk));
    while (!chunk.empty()) {
      const size_t take = std::min<size_t>(chunk.size(), kPieceBytes - buffer_.size());
      buffer_.append(chunk.data(), take);
      chunk.remove_prefix(take);
      if (buffer_.size() < kPieceBytes) break;
      ASSAY_RETURN_IF_ERROR(pool_
                                ->With<bool>([this](PostgresConnection& connection) -> absl::StatusOr<bool> {
                                  ASSAY_RETURN_IF_ERROR(SendPiece(connection));
                                  return true;
                                })
                                .status());
      ++piece_;
      buffer_.clear();
    }
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    ASSAY_RETURN_IF_ERROR(announced_.Finish());
    auto store = [this](PostgresConnection& connection) -> absl::StatusOr<bool> {
      ASSAY_RETURN_IF_ERROR(connection.Read("BEGIN").status());
      // A number that is made in this transaction is gone where it fails.
      const int64_t before = number_;
      absl::Status sent;
      if (!buffer_.empty() || number_ == 0) sent = SendPiece(connection);
      const int64_t number = std::exchange(number_, before);
      ASSAY_RETURN_IF_ERROR(sent);
      ASSAY_ASSIGN_OR_RETURN(
          PostgresRows alive,
          connection.Read("DELETE FROM assay.blob_uploads WHERE number = $1 RETURNING number",
                          Parameters().Int(number)));
      if (alive.size() == 0) return Stale();
      ASSAY_ASSIGN_OR_RETURN(
          PostgresRows rows,
          connection.Read(
              "INSERT INTO assay.blobs (digest, number, size) VALUES ($1, $2, $3)"
              " ON CONFLICT (digest) DO UPDATE SET touched = now() RETURNING number",
              Parameters().Bytes(announced_.digest()).Int(number).Int(static_cast<int64_t>(size_))));
      if (rows.Int(0, 0) != number) {  // somebody else's came first
        ASSAY_RETURN_IF_ERROR(
            connection.Read("DELETE FROM assay.blob_pieces WHERE number = $1", Parameters().Int(number))
                .status());
      }
      ASSAY_RETURN_IF_ERROR(connection.Read("COMMIT").status());
      return true;
    };
    absl::StatusOr<bool> stored = pool_->With<bool>(store);
    finished_ = stored.ok();
    return stored.status();
  }

 private:
  static absl::Status Stale() {
    return absl::UnavailableError("the upload took too long between two pieces: send it again");
  }

  // The buffer as the piece `piece_`; gives the upload its number where it has none.
  absl::Status SendPiece(PostgresConnection& connection) {
    if (number_ == 0) {
      ASSAY_ASSIGN_OR_RETURN(
          PostgresRows rows,
          connection.Read("INSERT INTO assay.blob_uploads DEFAULT VALUES RETURNING number"));
      number_ = rows.Int(0, 0);
    }
    Parameters values;
    values.Int(number_).Int(piece_).Bytes(buffer_);
    ASSAY_ASSIGN_OR_RETURN(
        PostgresRows rows,
        connection.Read("WITH upload AS (UPDATE assay.blob_uploads SET touched = now() WHERE number = $1"
                        " RETURNING number)"
                        " INSERT INTO assay.blob_pieces (number, piece, bytes)"
                        " SELECT upload.number, $2, $3 FROM upload"
                        " ON CONFLICT (number, piece) DO UPDATE SET bytes = excluded.bytes RETURNING piece",
                        values));
    return rows.size() == 0 ? Stale() : absl::OkStatus();
  }

  Pool* const pool_;
  const uint64_t size_;
  Announced announced_;
  std::string buffer_;  // of the piece that comes next
  int64_t number_ = 0;  // of the upload; 0: nothing was sent yet
  int64_t piece_ = 0;
  bool finished_ = false;
};

class PostgresBlobStore final : public BlobStore {
 public:
  explicit PostgresBlobStore(const std::string& url) : pool_(url) {}

  absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view digest, uint64_t size) override {
    ASSAY_RETURN_IF_ERROR(CheckAnnounced(digest, size, kMaxBlobBytes));
    return std::make_unique<Sink>(&pool_, digest, size);
  }

  absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view digest) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    ASSAY_ASSIGN_OR_RETURN(PostgresRows rows, Read("SELECT number, size FROM assay.blobs WHERE digest = $1",
                                                   Parameters().Bytes(digest)));
    if (rows.size() == 0) return NoBlob(digest);
    return std::make_shared<Source>(&pool_, rows.Int(0, 0), static_cast<uint64_t>(rows.Int(0, 1)));
  }

  absl::StatusOr<std::string> Bind(absl::string_view key, absl::string_view digest) override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    // The update that changes nothing makes the key's row be answered, whoever wrote it.
    ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                           Read("INSERT INTO assay.blob_keys AS known (key, digest)"
                                " SELECT $1, digest FROM assay.blobs WHERE digest = $2 FOR KEY SHARE"
                                " ON CONFLICT (key) DO UPDATE SET digest = known.digest RETURNING digest",
                                Parameters().Bytes(key).Bytes(digest)));
    if (rows.size() == 0) return NoBlob(digest);
    return rows.Bytes(0, 0);
  }

  absl::StatusOr<std::optional<std::string>> Lookup(absl::string_view key) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    ASSAY_ASSIGN_OR_RETURN(PostgresRows rows,
                           Read("WITH touch AS (UPDATE assay.blobs SET touched = now() WHERE touched < now() "
                                "- make_interval(secs => $2)"
                                " AND digest = (SELECT digest FROM assay.blob_keys WHERE key = $1))"
                                " SELECT digest FROM assay.blob_keys WHERE key = $1",
                                Parameters().Bytes(key).Double(absl::ToDoubleSeconds(kTouchedWithin))));
    if (rows.size() == 0) return std::nullopt;
    return rows.Bytes(0, 0);
  }

  absl::StatusOr<SweptBlobs> Sweep(absl::Duration untouched,
                                   const std::function<bool(const std::string&)>& keep) override {
    const double seconds = absl::ToDoubleSeconds(std::max(untouched, kLeastUntouched));
    ASSAY_RETURN_IF_ERROR(
        Read("WITH uploads AS (DELETE FROM assay.blob_uploads WHERE touched < now() - make_interval(secs => "
             "$1)"
             " RETURNING number)"
             " DELETE FROM assay.blob_pieces USING uploads WHERE blob_pieces.number = uploads.number",
             Parameters().Double(seconds))
            .status());
    ASSAY_ASSIGN_OR_RETURN(
        PostgresRows old,
        Read("SELECT digest FROM assay.blobs WHERE touched < now() - make_interval(secs => $1)",
             Parameters().Double(seconds)));
    SweptBlobs swept;
    for (int row = 0; row < old.size(); ++row) {
      const std::string digest = old.Bytes(row, 0);
      if (keep(digest)) continue;
      // Touched meanwhile, it stays. Its keys go with it.
      ASSAY_ASSIGN_OR_RETURN(
          PostgresRows gone,
          Read("WITH gone AS (DELETE FROM assay.blobs WHERE digest = $1"
               " AND touched < now() - make_interval(secs => $2) RETURNING number, size),"
               " pieces AS (DELETE FROM assay.blob_pieces USING gone WHERE blob_pieces.number = gone.number)"
               " SELECT size FROM gone",
               Parameters().Bytes(digest).Double(seconds)));
      if (gone.size() == 0) continue;
      ++swept.blobs;
      swept.bytes += static_cast<uint64_t>(gone.Int(0, 0));
    }
    return swept;
  }

  absl::Status Check() const { return Read("SELECT count(*) FROM assay.blob_uploads").status(); }

 private:
  absl::StatusOr<PostgresRows> Read(const char* sql, const Parameters& parameters = {}) const {
    return pool_.With<PostgresRows>(
        [&](PostgresConnection& connection) { return connection.Read(sql, parameters); });
  }

  mutable Pool pool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenPostgresBlobStore(const std::string& url) {
  auto store = std::make_unique<PostgresBlobStore>(url);
  ASSAY_RETURN_IF_ERROR(store->Check());
  return store;
}

}  // namespace assay::coordinator

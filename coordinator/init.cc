#include "coordinator/init.h"

#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "coordinator/access/authority.h"
#include "coordinator/access/token.h"
#include "coordinator/folder_lock.h"
#include "coordinator/store/postgres_store.h"
#include "coordinator/store/sqlite_store.h"

namespace assay::coordinator {
namespace {

// Of jobs, which are not touched here.
constexpr uint32_t kMaxAttempts = 3;

absl::Status AddToken(const InitOptions& options, const TokenRecord& token) {
  std::unique_ptr<FolderLock> lock;
  std::unique_ptr<Store> store;
  if (options.database.empty()) {
    ASSAY_ASSIGN_OR_RETURN(lock, FolderLock::Take(options.data_dir));
    ASSAY_ASSIGN_OR_RETURN(store, OpenSqliteStore((options.data_dir / "assay.db").string(), kMaxAttempts));
  } else {
    ASSAY_ASSIGN_OR_RETURN(store, OpenPostgresStore(options.database, kMaxAttempts));
  }
  ASSAY_RETURN_IF_ERROR(store->Begin());
  if (absl::Status status = store->AddToken(token); !status.ok()) {
    store->Rollback();
    return status;
  }
  return store->Commit();
}

std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone()); }

absl::Status CheckOptions(const InitOptions& options) {
  if (options.data_dir.empty()) return absl::InvalidArgumentError("--data-dir is needed");
  if (options.server_life <= absl::ZeroDuration()) return absl::InvalidArgumentError("--days: more than 0");
  return absl::OkStatus();
}

}  // namespace

absl::Status Init(const InitOptions& options) {
  ASSAY_RETURN_IF_ERROR(CheckOptions(options));
  if (options.hosts.empty()) {
    return absl::InvalidArgumentError(
        "--host is needed, once for each name or address that clients and workers know this coordinator by");
  }
  const absl::Time now = absl::Now();
  ASSAY_ASSIGN_OR_RETURN(const IssuedToken admin, IssueToken("admin", v1::ADMIN, now, absl::InfinitePast()));
  ASSAY_RETURN_IF_ERROR(
      MakeTlsFolder(options.data_dir, options.hosts, admin.token, now, options.server_life));
  const TlsFolder files = TlsFolderIn(options.data_dir);
  // Nothing is left of a folder whose token nobody would know.
  if (absl::Status status = AddToken(options, admin.record); !status.ok()) {
    std::error_code ignored;
    std::filesystem::remove_all(files.server.parent_path(), ignored);
    return status;
  }
  std::cout << "authority           " << files.authority.string() << "  for clients (--tls-ca) and workers\n"
            << "server certificate  " << files.server.string() << "  until " << Day(now + options.server_life)
            << ": assay-coordinator renew\n"
            << "first token         " << files.token.string() << "  role admin, until "
            << Day(now + kTokenLife) << ": assay token create\n";
  return absl::OkStatus();
}

absl::Status Renew(const InitOptions& options) {
  ASSAY_RETURN_IF_ERROR(CheckOptions(options));
  ASSAY_ASSIGN_OR_RETURN(const absl::Time end,
                         RenewServer(options.data_dir, options.hosts, absl::Now(), options.server_life));
  std::cout << "server certificate  " << TlsFolderIn(options.data_dir).server.string() << "  until "
            << Day(end) << "\n";
  return absl::OkStatus();
}

}  // namespace assay::coordinator

#include "coordinator/maintenance.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/clock.h"
#include "common/exit_code.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/postgres_blob_store.h"
#include "coordinator/retention.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_store.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/sqlite_store.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

int Fail(const absl::Status& status) {
  std::cerr << "assay-coordinator: " << status.message() << "\n";
  return ExitCodeOf(status);
}

absl::Status SystemError(const fs::path& path, const std::error_code& error) {
  return absl::UnavailableError(absl::StrCat(path.string(), ": ", error.message()));
}

absl::Status Sync(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const int failed = fd < 0 || fsync(fd) != 0 ? errno : 0;
  if (fd >= 0) close(fd);
  return failed == 0 ? absl::OkStatus() : SystemError(path, {failed, std::generic_category()});
}

struct Where {
  std::string data_dir, database, blobs, content_dir;
};

absl::Status Check(const Where& where) {
  if (where.database.empty() && !fs::exists(fs::path(where.data_dir) / "assay.db")) {
    return absl::InvalidArgumentError(where.data_dir.empty()
                                          ? "--data-dir or a database is wanted"
                                          : absl::StrCat(where.data_dir, ": there is no assay.db in it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Pruned> PruneThere(const Where& where, const Retention& retention) {
  ASSAY_RETURN_IF_ERROR(Check(where));
  ASSAY_ASSIGN_OR_RETURN(std::shared_ptr<const Content> content, Content::Load(where.content_dir));
  std::unique_ptr<Store> store;
  // Nothing is leased here: how many attempts a job gets does not matter.
  if (where.database.empty()) {
    ASSAY_ASSIGN_OR_RETURN(
        store, OpenSqliteStore((fs::path(where.data_dir) / "assay.db").string(), 1, &Clock::System()));
  } else {
    ASSAY_ASSIGN_OR_RETURN(store, OpenPostgresStore(where.database, 1));
  }
  std::unique_ptr<BlobStore> blobs;
  if (where.blobs == "postgres") {
    ASSAY_ASSIGN_OR_RETURN(blobs, OpenPostgresBlobStore(where.database));
  } else {
    ASSAY_ASSIGN_OR_RETURN(blobs, OpenFolderBlobStore(where.blobs, /*shared=*/true));
  }
  auto run = [&store](const std::function<absl::Status(Store&)>& work) -> absl::Status {
    ASSAY_RETURN_IF_ERROR(store->Begin());
    absl::Status done = work(*store);
    if (done.ok()) done = store->Commit();
    if (!done.ok()) store->Rollback();
    return done;
  };
  return Prune(run, *blobs, *content, retention);
}

absl::Status CopyBlobs(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directories(to, error);
  for (auto entry = fs::recursive_directory_iterator(from, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const fs::path relative = entry->path().lexically_relative(from);
    if (relative == "incoming") {
      entry.disable_recursion_pending();
      continue;
    }
    std::error_code failed;
    if (entry->is_directory(failed)) {
      fs::create_directories(to / relative, failed);
    } else if (entry->is_regular_file(failed)) {
      fs::copy_file(entry->path(), to / relative, failed);
      // Dropped meanwhile: nothing names it.
      if (failed == std::errc::no_such_file_or_directory) continue;
      if (!failed) ASSAY_RETURN_IF_ERROR(Sync(to / relative));
    }
    if (failed) return SystemError(entry->path(), failed);
  }
  return error ? SystemError(from, error) : absl::OkStatus();
}

// A data folder as it was at one moment, which a coordinator can be started on. The database comes first:
// every blob that it names was there before.
absl::Status BackUp(const fs::path& data_dir, const fs::path& to) {
  if (fs::exists(to)) return absl::InvalidArgumentError(absl::StrCat(to.string(), " is there already"));
  const fs::path partial = to.string() + ".partial";
  std::error_code error;
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) return SystemError(partial, error);
  fs::permissions(partial, fs::perms::owner_all, error);
  const fs::path copy = partial / "assay.db";
  {
    ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Database> database,
                           Database::Open((data_dir / "assay.db").string()));
    ASSAY_RETURN_IF_ERROR(database->Execute(
        absl::StrCat("VACUUM INTO '", absl::StrReplaceAll(copy.string(), {{"'", "''"}}), "'")));
  }
  ASSAY_RETURN_IF_ERROR(Sync(copy));
  ASSAY_RETURN_IF_ERROR(CopyBlobs(data_dir / "blobs", partial / "blobs"));
  ASSAY_RETURN_IF_ERROR(Sync(partial));
  fs::rename(partial, to, error);
  return error ? SystemError(to, error) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> DatabaseOf(const std::string& argument) {
  const char* variable = std::getenv("ASSAY_DATABASE");
  const std::string url = !argument.empty() ? argument : variable != nullptr ? variable : "";
  if (url.empty()) return url;
  if (absl::Status status = CheckPostgresUrl(url); !status.ok()) return status;
  if (!argument.empty() && HasPassword(argument)) {
    return absl::InvalidArgumentError(
        "--database has a password in it, which every user of this machine can read in the list of processes:"
        " set the URL in ASSAY_DATABASE, or the password in a file that PGPASSFILE names");
  }
  return url;
}

bool IsMaintenance(absl::string_view command) { return command == "prune" || command == "backup"; }

int RunMaintenance(int argc, char** argv) {
  Where where;
  std::string database, backup_to, log_level = "warn";
  std::optional<uint32_t> keep_runs;
  std::optional<double> keep_days;
  Retention retention;
  CLI::App app("Keeps the store of coordinators, while they serve.", "assay-coordinator");
  app.require_subcommand(1);
  CLI::App* prune =
      app.add_subcommand("prune", "forgets old batches, and the blobs that nothing names any more");
  prune->add_option("--keep-runs", keep_runs, "the last so many runs of each model on each target stay")
      ->check(CLI::PositiveNumber);
  prune->add_option("--keep-days", keep_days, "batches that ended in the last so many days stay")
      ->check(CLI::NonNegativeNumber);
  prune->add_option("--content-dir", where.content_dir, "folder that holds templates/ and models/")
      ->required();
  prune->add_option("--database", database,
                    "postgres://user@host/name that has the batches; also from ASSAY_DATABASE");
  prune->add_option("--blobs", where.blobs,
                    "postgres, or the folder of the blobs; else blobs/ in --data-dir");
  CLI::App* backup = app.add_subcommand("backup", "copies a data folder as it is at one moment");
  backup->add_option("folder", backup_to, "that is made, and that a coordinator can be started on")
      ->required();
  for (CLI::App* command : {prune, backup}) {
    command->add_option("--data-dir", where.data_dir, "folder of the database and the blobs");
    command->add_option("--log-level", log_level, "debug, info, warn or error")->capture_default_str();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (absl::Status status = StartLogging("assay-coordinator", log_level); !status.ok()) return Fail(status);
  if (backup->parsed()) {
    if (absl::Status status = Check(where); !status.ok()) return Fail(status);
    absl::Status done = BackUp(where.data_dir, backup_to);
    if (!done.ok()) return Fail(done);
    std::cout << "backed up to " << backup_to << "\n";
    return kExitOk;
  }
  absl::StatusOr<std::string> url = DatabaseOf(database);
  if (!url.ok()) return Fail(url.status());
  where.database = *url;
  if (where.blobs.empty()) {
    where.blobs = where.data_dir.empty() ? "postgres" : (fs::path(where.data_dir) / "blobs").string();
  }
  if (where.blobs == "postgres" && where.database.empty()) {
    return Fail(absl::InvalidArgumentError("--blobs postgres: there is no database"));
  }
  retention.keep_runs = keep_runs;
  if (keep_days) retention.keep_for = *keep_days * absl::Hours(24);
  absl::StatusOr<Pruned> pruned = PruneThere(where, retention);
  if (!pruned.ok()) return Fail(pruned.status());
  std::cout << "dropped " << pruned->batches << " batches with " << pruned->jobs << " jobs, "
            << pruned->blobs.blobs << " blobs of " << pruned->blobs.bytes << " bytes, " << pruned->workers
            << " workers, and " << pruned->tokens << " tokens that had ended\n";
  return kExitOk;
}

}  // namespace assay::coordinator

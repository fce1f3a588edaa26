// A PostgreSQL server of the test binary's own, in a temporary folder, on a Unix socket alone.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace assay::coordinator {

// For one thread, which must outlive the server (it dies with the thread that started it).
class PostgresServer {
 public:
  // The one of this binary, running. Where there is none to be had (PostgreSQL 15 is missing), the process
  // ends with a message that says so: a test that cannot run has not passed.
  static PostgresServer& Get();

  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // Of a new database that has the store's tables, and of one that has none.
  std::string NewStore();
  std::string NewDatabase(const std::string& options = "");
  std::string UrlOf(const std::string& database, const std::string& socket_dir) const;
  std::string UrlOf(const std::string& database) const { return UrlOf(database, dir_.string()); }
  // The socket that it listens at.
  std::string socket() const { return (dir_ / ".s.PGSQL.5432").string(); }

  // SIGKILL to every process of it at once, as far as that can be done; and its way back.
  void Kill();
  void Start();

  // One statement in a database, outside of any store.
  absl::Status Run(const std::string& url, const std::string& sql);

 private:
  PostgresServer();
  ~PostgresServer();
  // As the user that the server runs as: it refuses root.
  pid_t Spawn(const std::vector<std::string>& words, const std::string& log) const;

  const std::filesystem::path dir_;
  uid_t uid_;
  gid_t gid_;
  pid_t pid_ = -1;
  int databases_ = 0;
};

}  // namespace assay::coordinator

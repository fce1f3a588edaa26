// assay-coordinator: serves until SIGTERM or SIGINT.
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/logging.h"
#include "coordinator/server.h"
#include "coordinator/store/postgres.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << "assay-coordinator: " << status.message() << "\n";
  return assay::ExitCodeOf(status);
}

// The URL of the store's database: of the command line, else of the environment; empty where neither has one.
absl::StatusOr<std::string> DatabaseOf(const std::string& argument) {
  const char* variable = std::getenv("ASSAY_DATABASE");
  const std::string url = !argument.empty() ? argument : variable != nullptr ? variable : "";
  if (url.empty()) return url;
  if (absl::Status status = assay::coordinator::CheckPostgresUrl(url); !status.ok()) return status;
  if (!argument.empty() && assay::coordinator::HasPassword(argument)) {
    return absl::InvalidArgumentError(
        "--database has a password in it, which every user of this machine can read in the list of processes:"
        " set the URL in ASSAY_DATABASE, or the password in a file that PGPASSFILE names");
  }
  return url;
}

}  // namespace

int main(int argc, char** argv) {
  assay::coordinator::ServerOptions options;
  std::string data_dir, database, content_dir, port_file, log_level = "info", log_format = "text";
  int64_t lease_ms = absl::ToInt64Milliseconds(options.lease);
  CLI::App app("Splits batches into jobs, hands them to workers and keeps every result.",
               "assay-coordinator");
  app.add_option("--listen", options.listen, "host:port; port 0 takes any free one")->capture_default_str();
  app.add_flag("--insecure-listen-anywhere", options.allow_remote,
               "let --listen be other than loopback, without encryption or authentication");
  app.add_option("--data-dir", data_dir, "folder of the database and the blobs; without it all is in memory");
  app.add_option(
      "--database", database,
      "postgres://user@host/name to keep batches and results in, instead of in --data-dir, which still"
      " has the blobs; also from ASSAY_DATABASE, where a password is not seen");
  app.add_option("--content-dir", content_dir, "folder that holds templates/ and models/")->required();
  app.add_option("--lease-ms", lease_ms, "how long a silent worker keeps its attempts")
      ->capture_default_str();
  app.add_option("--max-attempts", options.max_attempts, "attempts a job gets where its worker is lost")
      ->capture_default_str();
  app.add_option("--ahead-per-slot", options.ahead_per_slot,
                 "jobs a worker is given beyond each slot while many wait")
      ->capture_default_str();
  app.add_option("--port-file", port_file, "file that gets the port once it is served");
  app.add_option("--log-level", log_level, "debug, info, warn or error")->capture_default_str();
  app.add_option("--log-format", log_format, "text or json, an object a line")->capture_default_str();
  app.set_version_flag("--version", assay::VersionLine("assay-coordinator"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? assay::kExitOk : assay::kExitUsage;
  }
  if (absl::Status status = assay::StartLogging("assay-coordinator", log_level, log_format); !status.ok())
    return Fail(status);

  // Blocked before any thread starts, so that only sigwait below gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto url = DatabaseOf(database);
  if (!url.ok()) return Fail(url.status());
  options.database = *url;
  options.data_dir = data_dir;
  options.content_dir = content_dir;
  options.lease = absl::Milliseconds(lease_ms);
  auto server = assay::coordinator::Server::Start(options);
  if (!server.ok()) return Fail(server.status());
  const std::string host = options.listen.substr(0, options.listen.rfind(':'));
  spdlog::info("serving on {}:{}", host, (*server)->port());
  if (!port_file.empty()) {
    absl::Status status = assay::WriteFileAtomically(port_file, absl::StrCat((*server)->port(), "\n"));
    if (!status.ok()) return Fail(status);
  }

  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("got signal {}: shutting down", signal);
  (*server)->Shutdown();
  return assay::kExitOk;
}

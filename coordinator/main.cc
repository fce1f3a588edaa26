// assay-coordinator: serves until SIGTERM or SIGINT.
#include <csignal>
#include <iostream>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/trace.h"
#include "coordinator/maintenance.h"
#include "coordinator/server.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << "assay-coordinator: " << status.message() << "\n";
  return assay::ExitCodeOf(status);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && assay::coordinator::IsMaintenance(argv[1])) {
    return assay::coordinator::RunMaintenance(argc, argv);
  }
  assay::coordinator::ServerOptions options;
  std::string data_dir, database, content_dir, port_file, log_level = "info", log_format = "text";
  std::optional<uint32_t> keep_runs;
  std::optional<double> keep_days;
  int64_t lease_ms = absl::ToInt64Milliseconds(options.lease);
  CLI::App app("Splits batches into jobs, hands them to workers and keeps every result.",
               "assay-coordinator");
  app.add_option("--listen", options.listen, "host:port; port 0 takes any free one")->capture_default_str();
  app.add_flag("--insecure-listen-anywhere", options.allow_remote,
               "let --listen be other than loopback, without encryption or authentication");
  app.add_option("--data-dir", data_dir, "folder of the database and the blobs; without it all is in memory");
  app.add_option(
      "--database", database,
      "postgres://user@host/name to keep batches and results in, which any number of coordinators may"
      " share; also from ASSAY_DATABASE, where a password is not seen");
  app.add_option(
      "--blobs", options.blobs,
      "where programs, goldens and logs are: 'postgres', in --database, or a folder; without it blobs/"
      " in --data-dir, else the database");
  app.add_option("--keep-runs", keep_runs,
                 "once a day, forget all but the last so many runs of each model on each target")
      ->check(CLI::PositiveNumber);
  app.add_option("--keep-days", keep_days, "once a day, forget batches that ended more than so many days ago")
      ->check(CLI::NonNegativeNumber);
  app.footer("assay-coordinator prune and assay-coordinator backup look after a store: see their --help.");
  app.add_option("--content-dir", content_dir, "folder that holds templates/ and models/")->required();
  app.add_option("--lease-ms", lease_ms, "how long a silent worker keeps its attempts")
      ->capture_default_str();
  app.add_option("--max-attempts", options.max_attempts, "attempts a job gets where its worker is lost")
      ->capture_default_str();
  app.add_option("--ahead-per-slot", options.ahead_per_slot,
                 "jobs a worker is given beyond each slot while many wait")
      ->capture_default_str();
  std::string metrics_port_file;
  app.add_option("--metrics-listen", options.metrics_listen,
                 "host:port of an HTTP endpoint with metrics for Prometheus; port 0 takes any free one");
  app.add_flag("--insecure-metrics-anywhere", options.metrics_anywhere,
               "let --metrics-listen be other than loopback, without encryption or authentication");
  app.add_option("--metrics-port-file", metrics_port_file, "file that gets the port of --metrics-listen");
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

  auto url = assay::coordinator::DatabaseOf(database);
  if (!url.ok()) return Fail(url.status());
  options.database = *url;
  options.data_dir = data_dir;
  options.content_dir = content_dir;
  options.lease = absl::Milliseconds(lease_ms);
  if (keep_runs || keep_days) {
    options.retention.emplace();
    options.retention->keep_runs = keep_runs;
    if (keep_days) options.retention->keep_for = *keep_days * absl::Hours(24);
  }
  if (absl::Status status = assay::Tracer::StartGlobal(); !status.ok()) return Fail(status);
  auto server = assay::coordinator::Server::Start(options);
  if (!server.ok()) return Fail(server.status());
  const std::string host = options.listen.substr(0, options.listen.rfind(':'));
  assay::LogWith(spdlog::level::info, {{"build", assay::BuildVersion()}}, "serving on {}:{}", host,
                 (*server)->port());
  if (!port_file.empty()) {
    absl::Status status = assay::WriteFileAtomically(port_file, absl::StrCat((*server)->port(), "\n"));
    if (!status.ok()) return Fail(status);
  }

  if (!metrics_port_file.empty()) {
    absl::Status status =
        assay::WriteFileAtomically(metrics_port_file, absl::StrCat((*server)->metrics_port(), "\n"));
    if (!status.ok()) return Fail(status);
  }

  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("got signal {}: shutting down", signal);
  (*server)->Shutdown();
  assay::Tracer::Global().Flush(absl::Seconds(1));
  return assay::kExitOk;
}

// assay-coordinator: serves until SIGTERM or SIGINT.
#include <csignal>
#include <iostream>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/build_info.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/trace.h"
#include "coordinator/init.h"
#include "coordinator/maintenance.h"
#include "coordinator/server.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << "assay-coordinator: " << status.message() << "\n";
  return assay::ExitCodeOf(status);
}

}  // namespace

int main(int argc, char** argv) {
  // Debian's Abseil looks for circles at each lock of every mutex, gRPC's too, unless told otherwise.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  if (argc > 1 && assay::coordinator::IsMaintenance(argv[1])) {
    return assay::coordinator::RunMaintenance(argc, argv);
  }
  assay::coordinator::ServerOptions options;
  std::string data_dir, pools_file, database, content_dir, port_file, log_level = "info", log_format = "text";
  std::optional<uint32_t> keep_runs;
  std::optional<double> keep_days;
  int64_t lease_ms = absl::ToInt64Milliseconds(options.lease);
  CLI::App app("Splits batches into jobs, hands them to workers and keeps every result.",
               "assay-coordinator");
  app.add_option("--listen", options.listen, "host:port; port 0 takes any free one")->capture_default_str();
  app.add_flag("--insecure-listen-anywhere", options.allow_remote,
               "let --listen be other than loopback, without encryption or authentication");
  std::string tls_cert, tls_key, tls_ca;
  app.add_option(
      "--tls-cert", tls_cert,
      "certificate to serve with TLS 1.3, read again when it changes; default: what `init` made in "
      "--data-dir; without any: no TLS");
  app.add_option("--tls-key", tls_key, "its key; default: in the same file");
  app.add_option("--tls-ca", tls_ca, "certificate of the authority that workers' certificates come from");
  app.add_flag("--require-client-certificate", options.tls.require_client_certificate,
               "clients need a certificate of their own beside their token, and not workers alone");
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
  app.add_option("--content-dir", content_dir, "folder that holds templates/ and models/");
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
  app.add_option("--pools", pools_file,
                 "file of worker pools that something outside scales (docs/scheduling.md)");
  app.add_flag(
      "--require-acceptance", options.require_acceptance,
      "give work only to workers that passed an acceptance sweep with their present devices and drivers");
  app.add_option("--port-file", port_file, "file that gets the port once it is served");
  app.add_option("--log-level", log_level, "debug, info, warn or error")->capture_default_str();
  app.add_option("--log-format", log_format, "text or json, an object a line")->capture_default_str();
  app.set_version_flag("--version", assay::VersionLine("assay-coordinator"));
  assay::coordinator::InitOptions making;
  double server_days = absl::ToDoubleHours(making.server_life) / 24;
  CLI::App* init = app.add_subcommand(
      "init", "make a private authority, a server certificate and a first token in --data-dir");
  CLI::App* renew =
      app.add_subcommand("renew", "make a new server certificate in --data-dir, while it is served or not");
  for (CLI::App* command : {init, renew}) {
    command->fallthrough();
    command->add_option(
        "--host", making.hosts,
        "name or address that clients and workers know this coordinator by; may be repeated; renew: "
        "default as before");
    command->add_option("--days", server_days, "how long the certificate is good")
        ->capture_default_str()
        ->check(CLI::Range(0.0001, 3650.0));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? assay::kExitOk : assay::kExitUsage;
  }
  if (absl::Status status = assay::StartLogging("assay-coordinator", log_level, log_format); !status.ok())
    return Fail(status);

  auto url = assay::coordinator::DatabaseOf(database);
  if (!url.ok()) return Fail(url.status());
  if (init->parsed() || renew->parsed()) {
    making.data_dir = data_dir;
    making.database = *url;
    making.server_life = server_days * absl::Hours(24);
    const absl::Status made =
        init->parsed() ? assay::coordinator::Init(making) : assay::coordinator::Renew(making);
    return made.ok() ? assay::kExitOk : Fail(made);
  }
  if (content_dir.empty()) return Fail(absl::InvalidArgumentError("--content-dir is required"));

  // Blocked before any thread starts, so that only sigwait below gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  options.database = *url;
  options.data_dir = data_dir;
  options.tls.certificate = tls_cert;
  options.tls.key = tls_key;
  options.tls.authority = tls_ca;
  options.content_dir = content_dir;
  options.pools_file = pools_file;
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

// assay-worker: the agent of a node.
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/build_info.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/trace.h"
#include "worker/acceptance.h"
#include "worker/agent.h"
#include "worker/identity.h"
#include "worker/local_accept.h"
#include "worker/metrics.h"

namespace {

std::string HostName() {
  char name[256] = "";
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

int Accept(const assay::worker::LocalAcceptOptions& options) {
  ::signal(SIGPIPE, SIG_IGN);
  const auto report = assay::worker::AcceptLocally(options);
  if (!report.ok()) {
    std::cerr << "assay-worker: " << report.status().message() << "\n";
    return absl::IsNotFound(report.status()) || absl::IsInvalidArgument(report.status())
               ? assay::kExitUsage
               : assay::kExitInfrastructure;
  }
  std::cout << assay::worker::FormatReport(*report) << "\n";
  return report->state() == assay::v1::AcceptanceReport::ACCEPTED ? assay::kExitOk : assay::kExitTestsFailed;
}

}  // namespace

int main(int argc, char** argv) {
  assay::worker::AgentOptions options;
  options.coordinator = "127.0.0.1:7420";
  options.name = HostName();
  std::string state_dir = "assay-worker-state", host_binary, checkpoint_root, log_level = "info",
              log_format = "text";
  std::string label_file, hub_cache, exporter, samples, sandbox_binary;
  std::vector<std::string> checkpoint_folders;
  std::optional<double> gpu_reserve_gib;
  double cache_gib = 2, disk_budget_gib = 0, export_memory_gib = 0;
  double export_timeout_s = absl::ToDoubleSeconds(options.exporter.timeout);
  CLI::App app("assay-worker takes attempts from a coordinator and runs their tests on this node.");
  app.add_option("--coordinator", options.coordinator, "host:port; several separated by commas")
      ->capture_default_str();
  app.add_option("--name", options.name, "stable name of this node")->capture_default_str();
  app.add_option("--state-dir", state_dir, "folder for the blob cache and for results not yet acknowledged")
      ->capture_default_str();
  app.add_option("--slots", options.slots, "tests at once on the CPU")->capture_default_str();
  app.add_option("--host-binary", host_binary, "assay-host; default: beside this program");
  app.add_option("--checkpoint-root", checkpoint_root,
                 "folder with <org>/<name> checkpoints, looked in before the hub's cache");
  app.add_option("--checkpoints", checkpoint_folders,
                 "checkpoints that batches name by a folder must lie below it; may be repeated; default: "
                 "none is opened");
  app.add_option("--hub-cache", hub_cache, "the hub's cache; default: as HF_HUB_CACHE and HF_HOME say");
  app.add_flag("--offline", options.hub.offline, "never ask the hub (as HF_HUB_OFFLINE=1)");
  app.add_option("--disk-budget", disk_budget_gib, "GiB that downloads from the hub may take; 0: any")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--exporter", exporter,
                 "folder of the exporter, with its .venv: this worker takes export stages");
  app.add_option("--samples", samples,
                 "pictures and speech for the exporter; default: ../models/samples beside it");
  app.add_option("--sandbox-binary", sandbox_binary, "assay-sandbox; default: beside the host binary");
  app.add_option("--export-slots", options.exporter.slots, "exports at once")->capture_default_str();
  app.add_option("--export-memory", export_memory_gib,
                 "GiB of resident memory of one export; 0: three quarters of this machine's")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e5));
  app.add_option("--export-timeout", export_timeout_s, "seconds of one export")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e6));
  app.add_flag("--allow-pickle", options.exporter.allow_pickle,
               "pickled weights are converted by this exporter, in its sandbox");
  app.add_option("--label", options.labels, "key=value; may be repeated");
  app.add_option("--label-file", label_file,
                 "labels, one a line, that may change at run time: read again when it changes and on SIGHUP");
  app.add_option("--gpu-slots", options.gpu_slots,
                 "most tests at once on a GPU, as far as its memory goes; 0: one for every 8 GiB, 1 to 4")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  app.add_option("--gpu-memory-reserve", gpu_reserve_gib,
                 "GiB of each GPU that tests leave alone; default: 0.5, and 0.5 for each slot")
      ->check(CLI::Range(0.0, 1e4));
#ifdef ASSAY_SIMULATED_DEVICES
  std::string devices;
  app.add_option("--devices", devices, "GPUs that are not there (assay.v1.SimulatedGpus in text format)");
#endif
  app.add_flag("--cpu-only", options.cpu_only, "leave GPUs alone");
  app.add_option("--cache-gib", cache_gib, "budget of the blob cache")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  app.add_option("--log-level", log_level, "debug, info, warn, error")->capture_default_str();
  app.add_option("--log-format", log_format, "text or json, an object a line")->capture_default_str();
  assay::worker::LocalAcceptOptions accept;
  std::string content;
  CLI::App* accept_command = app.add_subcommand("accept",
                                                "Runs known goldens on each device of this node, several "
                                                "times each, without a coordinator. Exit code 0: "
                                                "accepted; 3: rejected");
  accept_command->fallthrough();
  accept_command->add_option("--content", content, "folder with templates/ and models/")
      ->envname("ASSAY_CONTENT_DIR")
      ->required();
  accept_command->add_option("--model", accept.models,
                             "of the catalogue; may be repeated; default: one of each architecture type");
  accept_command->add_option("--repetitions", accept.repetitions, "of each test on each device")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  std::string metrics_listen, metrics_port_file;
  bool metrics_anywhere = false;
  app.add_option("--metrics-listen", metrics_listen,
                 "host:port of an HTTP endpoint with metrics for Prometheus; port 0 takes any free one");
  app.add_flag("--insecure-metrics-anywhere", metrics_anywhere,
               "let --metrics-listen be other than loopback, without encryption or authentication");
  app.add_option("--metrics-port-file", metrics_port_file, "file that gets the port of --metrics-listen");
  app.set_version_flag("--version", assay::VersionLine("assay-worker"));
  assay::ClientTls tls;
  std::string tls_ca, tls_cert, tls_key, token_file, refused_token;
  app.add_option(
      "--tls-ca", tls_ca,
      "certificate of the coordinators' authority; also from ASSAY_TLS_CA; default: as `join` left it "
      "in --state-dir; without any: no TLS");
  app.add_option("--tls-cert", tls_cert, "this worker's certificate; default: as `join` left it");
  app.add_option("--tls-key", tls_key, "its key; default: in the same file");
  app.add_option(
      "--token-file", token_file,
      "file with a token that says who this worker is; also from ASSAY_TOKEN_FILE, and the token itself "
      "from ASSAY_TOKEN");
  // Known, so that it is refused without being repeated in a message.
  app.add_option("--token", refused_token)->group("");
  CLI::App* join = app.add_subcommand(
      "join",
      "trade a join token, once, for a certificate of this worker's own; needs --tls-ca and the token");
  join->fallthrough();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? assay::kExitOk : assay::kExitUsage;
  }
  if (absl::Status logging = assay::StartLogging("assay-worker", log_level, log_format); !logging.ok()) {
    std::cerr << "assay-worker: " << logging.message() << "\n";
    return assay::kExitUsage;
  }
  if (!refused_token.empty()) {
    std::cerr
        << "assay-worker: a token on the command line can be read by every user of this machine: put it"
           " into a file and name that with --token-file, or set ASSAY_TOKEN; and make a new one, as this"
           " one was seen\n";
    return assay::kExitUsage;
  }
  options.state_dir = state_dir;
  options.label_file = label_file;
  tls.authority = tls_ca;
  tls.certificate = tls_cert;
  tls.key = tls_key;
  tls.token_file = token_file;
  tls = assay::WithEnvironment(std::move(tls));
  const std::vector<std::string> coordinators =
      absl::StrSplit(options.coordinator, ',', absl::SkipWhitespace());
  if (join->parsed()) {
    assay::worker::JoinOptions joining;
    joining.coordinators = coordinators;
    joining.name = options.name;
    joining.state_dir = state_dir;
    joining.authority = tls.authority;
    joining.token_file = tls.token_file;
    joining.token = tls.token;
    if (absl::Status status = assay::worker::Join(joining); !status.ok()) {
      std::cerr << "assay-worker: " << status.message() << "\n";
      return assay::ExitCodeOf(status);
    }
    std::cerr << "assay-worker: " << options.name << " has joined\n";
    return assay::kExitOk;
  }
  // An identity of its own, where it has joined and nothing else is said.
  const assay::ClientTls identity = assay::worker::IdentityIn(state_dir);
  const bool joined = tls.certificate.empty() && tls.token.empty() && tls.token_file.empty() &&
                      std::filesystem::exists(identity.certificate);
  if (joined) {
    tls.certificate = identity.certificate;
    if (tls.authority.empty()) tls.authority = identity.authority;
  }
  options.checkpoint_root = checkpoint_root;
  const auto bytes = [](double gib) { return static_cast<uint64_t>(gib * (uint64_t{1} << 30)); };
  if (gpu_reserve_gib.has_value()) options.gpu_memory_reserve = bytes(*gpu_reserve_gib);
  options.cache_bytes = bytes(cache_gib);
  options.checkpoint_folders.assign(checkpoint_folders.begin(), checkpoint_folders.end());
  if (!hub_cache.empty()) options.hub.cache_dir = hub_cache;
  options.hub.disk_budget_bytes = bytes(disk_budget_gib);
  options.exporter.folder = exporter;
  options.exporter.samples = samples;
  options.exporter.sandbox_binary = sandbox_binary;
  options.exporter.memory_bytes = bytes(export_memory_gib);
  options.exporter.timeout = absl::Seconds(export_timeout_s);
  options.host_binary = host_binary;
  if (host_binary.empty()) {
    std::error_code error;
    options.host_binary = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "assay-host";
  }

#ifdef ASSAY_SIMULATED_DEVICES
  if (!devices.empty()) {
    auto gpus = assay::worker::ReadSimulatedGpus(devices);
    if (!gpus.ok()) {
      std::cerr << "assay-worker: " << gpus.status().message() << "\n";
      return assay::kExitUsage;
    }
    options.gpus = *std::move(gpus);
  }
#endif

  if (accept_command->parsed()) {
    accept.agent = std::move(options);
    accept.content = content;
    return Accept(accept);
  }

  // Signals are waited for, not handled: blocked here, before any other thread is started.
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  if (absl::Status tracing = assay::Tracer::StartGlobal(); !tracing.ok()) {
    std::cerr << "assay-worker: " << tracing.message() << "\n";
    return assay::kExitUsage;
  }
  assay::worker::WorkerMetrics metrics;
  options.metrics = &metrics;
  std::unique_ptr<assay::MetricsEndpoint> endpoint;
  if (!metrics_listen.empty()) {
    auto started = assay::MetricsEndpoint::Start(
        metrics_listen, metrics_anywhere, {metrics.collected(), assay::NewProcessMetrics("assay-worker")});
    if (!started.ok()) {
      std::cerr << "assay-worker: " << started.status().message() << "\n";
      return assay::ExitCodeOf(started.status());
    }
    endpoint = *std::move(started);
    if (!metrics_port_file.empty()) {
      absl::Status status =
          assay::WriteFileAtomically(metrics_port_file, absl::StrCat(endpoint->port(), "\n"));
      if (!status.ok()) {
        std::cerr << "assay-worker: " << status.message() << "\n";
        return assay::kExitInfrastructure;
      }
    }
  }
  assay::LogWith(spdlog::level::info, {{"build", assay::BuildVersion()}, {"worker", options.name}}, "starts");
  // They watch their files from a thread of their own.
  auto credentials = assay::ChannelCredentialsOf(tls);
  if (!credentials.ok()) {
    std::cerr << "assay-worker: " << credentials.status().message() << "\n";
    return assay::ExitCodeOf(credentials.status());
  }
  options.credentials = *credentials;
  std::unique_ptr<assay::worker::IdentityKeeper> keeper;
  if (!tls.certificate.empty()) {
    assay::worker::IdentityKeeper::Options keeping;
    keeping.coordinators = coordinators;
    keeping.name = options.name;
    keeping.tls = tls;
    keeping.renews = joined;
    keeping.ends = [&metrics](absl::Time end) { metrics.CertificateEnds(end); };
    keeper = std::make_unique<assay::worker::IdentityKeeper>(keeping);
  }
  auto agent = assay::worker::Agent::Start(std::move(options));
  if (!agent.ok()) {
    spdlog::error("{}", agent.status().ToString());
    return absl::IsInvalidArgument(agent.status()) ? assay::kExitUsage : assay::kExitInfrastructure;
  }
  std::thread waiter([&agent] {
    (*agent)->Wait();
    ::kill(::getpid(), SIGUSR1);
  });
  bool drained = false, interrupted = false;
  for (int stops = 0; !drained;) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal == SIGUSR1) {
      drained = true;
    } else if (signal == SIGHUP) {
      (*agent)->ReadLabels();
    } else if (++stops == 1) {
      (*agent)->Drain();
    } else {
      spdlog::warn("stopping now; attempts that run are left to other workers");
      interrupted = true;
      (*agent)->Stop();
    }
  }
  waiter.join();
  const size_t owed = (*agent)->unacknowledged();
  (*agent)->Stop();
  assay::Tracer::Global().Flush(absl::Seconds(1));
  if (interrupted) return assay::kExitInterrupted;
  return owed == 0 ? assay::kExitOk : assay::kExitInfrastructure;
}

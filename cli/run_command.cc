#include "cli/run_command.h"

#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/checkpoint_config.h"
#include "cli/connection.h"
#include "cli/content_dir.h"
#include "cli/follow.h"
#include "cli/job_material.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report_files.h"
#include "cli/terminal.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "coordinator/server.h"
#include "generator/batch_file.h"
#include "generator/catalogue.h"
#include "generator/checkpoint_entry.h"
#include "generator/checkpoint_ref.h"
#include "generator/templates.h"
#include "hub/hub.h"
#include "worker/agent.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<fs::path> NewStateDir() {
  std::string path = (fs::temp_directory_path() / "assay-run-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("making ", path));
  return fs::path(path);
}

// Absolute, for what comes later may have another working folder; of "./x" and "../x", which are no ids.
std::string AbsoluteCheckpoint(const std::string& given) {
  if (!absl::StartsWith(given, "./") && !absl::StartsWith(given, "../") && given != "." && given != "..")
    return given;
  return fs::absolute(given).lexically_normal().string();
}

hub::HubOptions HubOptionsOf(const RunOptions& options) {
  hub::HubOptions hub = hub::HubOptions::FromEnvironment();
  if (!options.hub_cache.empty()) hub.cache_dir = fs::absolute(options.hub_cache);
  hub.offline |= options.offline;
  hub.allow_pickle = options.allow_pickle;
  return hub;
}

// What is to be run, known before anything is started.
struct Plan {
  std::vector<NamedBatch> texts;
  bool names_checkpoint = false;
};

// Errors of batch files are the coordinator's to tell; one that cannot be read names no checkpoint here.
absl::StatusOr<Plan> MakePlan(const RunOptions& options, const fs::path& content_dir) {
  Plan plan;
  ASSAY_ASSIGN_OR_RETURN(const auto templates, generator::LoadTemplates(content_dir / "templates"));
  for (const std::string& file : options.batch_files) {
    const absl::StatusOr<std::string> text = ReadFile(file, generator::kMaxBatchFileBytes);
    if (!text.ok()) continue;
    const auto batch = generator::ParseBatchFile(file, *text, generator::TemplateNames(templates), nullptr);
    if (!batch.ok()) continue;
    for (const v1::ModelRef& model : batch->models) plan.names_checkpoint |= model.has_checkpoint();
  }
  if (options.checkpoint.checkpoint.empty()) return plan;
  plan.names_checkpoint = true;
  CheckpointWish wish = options.checkpoint;
  wish.checkpoint = AbsoluteCheckpoint(wish.checkpoint);
  std::map<std::string, v1::CheckpointEntry> entries;
  std::error_code error;
  if (fs::is_directory(content_dir / "models" / "checkpoints", error)) {
    ASSAY_ASSIGN_OR_RETURN(entries, generator::LoadCheckpointEntries(content_dir / "models" / "checkpoints"));
  }
  std::map<std::string, v1::CatalogueEntry> catalogue;
  if (fs::is_directory(content_dir / "models" / "catalogue", error)) {
    ASSAY_ASSIGN_OR_RETURN(catalogue, generator::LoadCatalogue(content_dir / "models" / "catalogue"));
  }
  std::string config;
  if (!NeedsNoConfig(wish, entries)) {
    const absl::StatusOr<v1::CheckpointRef> ref = generator::ParseCheckpointName(wish.checkpoint);
    if (!ref.ok()) return absl::InvalidArgumentError(absl::StrCat("--checkpoint ", ref.status().message()));
    absl::StatusOr<std::string> read =
        ReadCheckpointConfig(*ref, options.checkpoint_root, HubOptionsOf(options));
    if (!read.ok()) {
      return absl::Status(
          read.status().code(),
          absl::StrCat("checkpoint ", wish.checkpoint, ": ", read.status().message(),
                       " (its configuration says which template and task; --template and --task "
                       "say it without)"));
    }
    config = *std::move(read);
  }
  ASSAY_ASSIGN_OR_RETURN(NamedBatch batch, BatchOfCheckpoint(wish, entries, catalogue, config));
  plan.texts.push_back(std::move(batch));
  return plan;
}

// The exporter's folder; empty: none is needed.
absl::StatusOr<fs::path> FindExporter(const RunOptions& options, const fs::path& content_dir, bool needed) {
  const fs::path folder =
      fs::absolute(options.exporter.empty() ? content_dir / "exporter" : fs::path(options.exporter))
          .lexically_normal();
  if (options.exporter.empty() && !needed) return fs::path();
  std::error_code error;
  if (fs::exists(folder / ".venv" / "bin" / "python", error)) return folder;
  return absl::FailedPreconditionError(absl::StrCat(
      "a checkpoint needs the exporter, and ", (folder / ".venv").string(), " is not there: run ",
      (folder / "setup").string(), ", or give --exporter DIR with one that is set up"));
}

// The embedded worker is seen by the coordinator before default checkpoints are decided on.
absl::Status AwaitWorker(Connection& connection, Interrupt& interrupt) {
  std::atomic<bool> raised = false;
  interrupt.OnRaise([&raised] { raised = true; });
  const auto forget = absl::MakeCleanup([&interrupt] { interrupt.OnRaise(nullptr); });
  const absl::Time give_up = absl::Now() + absl::Seconds(60);
  while (absl::Now() < give_up) {
    if (raised) return absl::CancelledError("interrupted");
    ASSAY_ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, connection.ListWorkers());
    for (const v1::WorkerSummary& worker : workers.worker()) {
      if (worker.connected()) return absl::OkStatus();
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::UnavailableError("the worker did not reach the coordinator within 60 s");
}

absl::Status CheckGpu(Connection& connection) {
  ASSAY_ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, connection.ListWorkers());
  for (const v1::WorkerSummary& worker : workers.worker()) {
    for (const v1::DeviceSlots& device : worker.device()) {
      if (device.device().kind() == "cuda" && device.slots() > 0) return absl::OkStatus();
    }
  }
  return absl::FailedPreconditionError("--target cuda: no GPU was found on this machine");
}

// What `assay repro` and `assay reduce` need of each job whose numbers were wrong: the coordinator, and what
// it keeps, ends with this process.
absl::Status KeepFailures(Connection& connection, const std::vector<v1::Job>& jobs,
                          const fs::path& output_dir) {
  for (const v1::Job& job : jobs) {
    if (job.result().outcome() != v1::FAILED) continue;
    const absl::StatusOr<JobMaterial> material = FetchMaterial(connection, job);
    if (absl::IsFailedPrecondition(material.status())) continue;  // it failed before anything of it ran
    ASSAY_RETURN_IF_ERROR(material.status());
    const fs::path folder = output_dir / "failed" / absl::StrCat(job.model().name(), "-", job.job_id());
    ASSAY_RETURN_IF_ERROR(WriteMaterial(*material, folder));
    std::printf("%s failed: assay repro %s; assay reduce %s\n", job.model().name().c_str(), folder.c_str(),
                folder.c_str());
  }
  return absl::OkStatus();
}

struct Ending {
  ExitCode code = kExitOk;
  std::vector<v1::FileError> errors;
};

absl::StatusOr<Ending> Run(const RunOptions& options, Interrupt& interrupt) {
  Ending ending;
  ASSAY_ASSIGN_OR_RETURN(const fs::path content_dir, FindContentDir(options.content_dir));
  ASSAY_ASSIGN_OR_RETURN(const Plan plan, MakePlan(options, content_dir));
  ASSAY_ASSIGN_OR_RETURN(const fs::path exporter, FindExporter(options, content_dir, plan.names_checkpoint));
  ASSAY_ASSIGN_OR_RETURN(const fs::path state_dir, NewStateDir());
  auto clean = absl::MakeCleanup([&] {
    std::error_code error;
    fs::remove_all(state_dir, error);
  });

  coordinator::ServerOptions server_options;
  server_options.listen = "127.0.0.1:0";
  server_options.content_dir = content_dir;
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<coordinator::Server> server,
                         coordinator::Server::Start(std::move(server_options)));
  ConnectionOptions connection_options;
  connection_options.address = absl::StrCat("127.0.0.1:", server->port());
  Connection connection(connection_options);

  std::unique_ptr<worker::Agent> agent;
  const auto start_worker = [&]() -> absl::Status {
    worker::AgentOptions agent_options;
    agent_options.coordinator = connection_options.address;
    agent_options.name = "local";
    agent_options.state_dir = state_dir;
    agent_options.slots = options.slots;
    agent_options.host_binary = options.host_binary.empty() ? ExecutablePath().parent_path() / "assay-host"
                                                            : fs::path(options.host_binary);
    agent_options.checkpoint_root = options.checkpoint_root;
    agent_options.hub = HubOptionsOf(options);
    agent_options.any_checkpoint_folder = true;
    agent_options.exporter.folder = exporter;
    agent_options.exporter.samples = fs::absolute(content_dir / "models" / "samples");
    agent_options.exporter.allow_pickle = options.allow_pickle;
    agent_options.cpu_only = options.cpu_only;
    ASSAY_ASSIGN_OR_RETURN(agent, worker::Agent::Start(std::move(agent_options)));
    return absl::OkStatus();
  };
  // An exporter is there before its batches, for default checkpoints are tried only where one is. Else the
  // batches come first: a file that is refused should not wait for a test host to start.
  const bool on_cuda = std::any_of(options.targets.begin(), options.targets.end(),
                                   [](const v1::Target& target) { return target.device() == v1::CUDA; });
  if (!exporter.empty() || on_cuda) {
    ASSAY_RETURN_IF_ERROR(start_worker());
    ASSAY_RETURN_IF_ERROR(AwaitWorker(connection, interrupt));
  }
  // Nobody else will come to take them.
  if (on_cuda) ASSAY_RETURN_IF_ERROR(CheckGpu(connection));
  Submission submission;
  submission.files = options.batch_files;
  submission.texts = plan.texts;
  submission.submitter = options.submitter;
  submission.target = options.target;
  submission.traceparent = options.traceparent;
  submission.profile = options.profile;
  submission.targets = options.targets;
  std::vector<v1::Batch> batches;
  const absl::Status submitted = SubmitFiles(connection, submission, &batches, &ending.errors);
  if (!ending.errors.empty()) {
    ending.code = kExitUsage;
    return ending;
  }
  ASSAY_RETURN_IF_ERROR(submitted);
  if (agent == nullptr) ASSAY_RETURN_IF_ERROR(start_worker());

  std::vector<std::string> batch_ids;
  size_t total = 0;
  for (const v1::Batch& batch : batches) {
    batch_ids.push_back(batch.batch_id());
    total += batch.total();
  }
  Progress progress(stdout, TerminalOf(stdout), total);
  absl::StatusOr<std::vector<v1::GetBatchResponse>> ended = Follow(
      connection, batch_ids, [&](const v1::BatchEvent& event) { progress.Show(event); }, interrupt);
  progress.Clear();
  if (!ended.ok()) {
    agent->Stop();
    server->Shutdown();
    return ended.status();
  }
  agent->Drain();
  agent->Wait();
  std::vector<v1::Job> jobs;
  for (const v1::GetBatchResponse& batch : *ended) {
    std::printf("%s\n", BatchLine(batch.batch()).c_str());
    jobs.insert(jobs.end(), batch.job().begin(), batch.job().end());
  }
  ASSAY_RETURN_IF_ERROR(WriteReportFiles(connection, *ended, options.output_dir));
  ASSAY_RETURN_IF_ERROR(KeepFailures(connection, jobs, options.output_dir));
  ASSAY_ASSIGN_OR_RETURN(std::string table, connection.GetReport("", v1::TEXT, 0));
  ASSAY_RETURN_IF_ERROR(Write("", absl::StrCat("\n", table, "\nReports are in ", options.output_dir, "\n")));
  server->Shutdown();
  ending.code = ExitCodeOfJobs(jobs);
  return ending;
}

}  // namespace

ExitCode RunCommand(const RunOptions& options) {
  Interrupt interrupt;
  absl::StatusOr<Ending> ending = Run(options, interrupt);
  if (!ending.ok()) {
    if (absl::IsCancelled(ending.status())) {
      std::fprintf(stderr, "assay: interrupted; everything is stopped\n");
      return kExitInterrupted;
    }
    return Complain(ending.status());
  }
  ComplainOf(ending->errors);
  return ending->code;
}

}  // namespace assay::cli

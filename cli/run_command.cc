#include "cli/run_command.h"

#include <stdlib.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "cli/connection.h"
#include "cli/content_dir.h"
#include "cli/follow.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report_files.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "coordinator/server.h"
#include "worker/agent.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<fs::path> NewStateDir() {
  std::string path = (fs::temp_directory_path() / "assay-run-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("making ", path));
  return fs::path(path);
}

struct Ending {
  ExitCode code = kExitOk;
  std::vector<v1::FileError> errors;
};

absl::StatusOr<Ending> Run(const RunOptions& options, Interrupt& interrupt) {
  Ending ending;
  ASSAY_ASSIGN_OR_RETURN(const fs::path content_dir, FindContentDir(options.content_dir));
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

  // Before the worker: a file that is refused should not wait for a test host to start.
  Submission submission;
  submission.files = options.batch_files;
  submission.submitter = options.submitter;
  submission.target = options.target;
  std::vector<v1::Batch> batches;
  const absl::Status submitted = SubmitFiles(connection, submission, &batches, &ending.errors);
  if (!ending.errors.empty()) {
    ending.code = kExitUsage;
    return ending;
  }
  ASSAY_RETURN_IF_ERROR(submitted);

  worker::AgentOptions agent_options;
  agent_options.coordinator = connection_options.address;
  agent_options.name = "local";
  agent_options.state_dir = state_dir;
  agent_options.slots = options.slots;
  agent_options.host_binary = options.host_binary.empty() ? ExecutablePath().parent_path() / "assay-host"
                                                          : fs::path(options.host_binary);
  agent_options.checkpoint_root = options.checkpoint_root;
  agent_options.cpu_only = options.cpu_only;
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<worker::Agent> agent,
                         worker::Agent::Start(std::move(agent_options)));

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

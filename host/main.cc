// assay-host: holds LibTorch and runs generated tests, each in a process that may crash, hang or run out of
// memory without harm.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>

#include "common/build_info.h"
#include "common/exit_code.h"
#include "common/logging.h"
#include "engine/device_memory.h"
#include "engine/run_test.h"
#include "host/gate_models.h"
#include "host/memory_group.h"
#include "host/protection.h"
#include "host/run_files.h"
#include "host/run_programs.h"
#include "host/serve.h"

namespace {

// Static destructors of LibTorch cost more than most tests: leave without them.
[[noreturn]] void Leave(int code) {
  fflush(nullptr);
  _exit(code);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace assay;
  CLI::App app{"Runs generated tests through LibTorch"};
  app.require_subcommand(0, 1);
  std::string device = "cpu";
  int events_fd = -1;
  std::string log_level = "info";
  app.add_option("--events-fd", events_fd,
                 "Descriptor that events are written to; requests come on standard input");
  app.add_option("--device", device,
                 "cpu: a process a test. cuda: one process for all, on the first CUDA device")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--log-level", log_level, "debug, info, warn or error");
  std::string cgroup;
  app.add_option("--cgroup", cgroup, "A delegated cgroup v2 folder without processes, for limits on memory");
  bool resident = false;
  app.add_flag("--resident", resident, "One process for all tests on the CPU too, as on CUDA");

  host::RunFilesOptions files;
  CLI::App* run = app.add_subcommand("run", "Run test files without a worker");
  run->add_option("--test,tests", files.tests, "Test files")->required()->check(CLI::ExistingFile);
  run->add_option("--programs", files.programs, "Folder with NAME.assay for every test that names a program")
      ->check(CLI::ExistingDirectory);
  run->add_option("--checkpoint-root", files.checkpoint_root, "Folder with checkpoints as ORG/NAME/")
      ->check(CLI::ExistingDirectory);
  run->add_option("--checkpoint", files.checkpoint, "Folder of the checkpoint that the tests load")
      ->check(CLI::ExistingDirectory);
  run->add_option("--file", files.files, "DIGEST=PATH of a program or golden that cases name");
  run->add_option("--blobs", files.blobs, "Folder with programs and goldens, named by digest")
      ->check(CLI::ExistingDirectory);
  run->add_option("--device", device, "cpu or cuda, for tests that leave the choice open")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  std::string dtype;
  run->add_option("--dtype", dtype, "float32, bfloat16 or float16, instead of what the tests say")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  run->add_option("--results", files.results, "File that gets every result as a line of JSON");
  run->add_option("--jobs,-j", files.jobs, "Tests at a time on the CPU")->check(CLI::Range(1, 1024));
  run->add_flag("--in-process", files.in_process, "Without child processes, for a debugger");
  run->add_option(
      "--reduce-to", files.reduce_to,
      "File for the smallest part of the program that still fails; of one test, without a child process");
  run->add_flag("--resident", resident, "One child process for all tests on the CPU too, as on CUDA");
  run->add_flag("--profile", files.profile, "Print the operators that took longest");
  run->add_flag("--verbose,-v", files.verbose, "Print every case and check");
  host::ProgramOptions programs;
  CLI::App* program = app.add_subcommand("program", "Run programs against their own goldens, without a test");
  program->add_option("programs", programs.files, "Program files")->required()->check(CLI::ExistingFile);
  program->add_option("--device", device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  program->add_option("--dtype", dtype, "float32, bfloat16 or float16")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  host::GateModelsOptions models;
  CLI::App* gate = app.add_subcommand("gate", "Compare the models of two sides");
  CLI::App* record = app.add_subcommand("record", "Run models and write down every value");
  for (CLI::App* command : {gate, record}) {
    command->add_option("--from", models.from.root, "Folder of programs or recordings, or one file")
        ->required();
    command->add_option("--from-checkpoint", models.from.checkpoint, "Folder of weights for it")
        ->check(CLI::ExistingDirectory);
    command->add_option("--from-golden", models.from.golden, "File whose inputs it runs with")
        ->check(CLI::ExistingFile);
    command->add_option("--model", models.models, "Models; without it: all");
    command->add_option("--device", device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
    command->add_option("--dtype", dtype, "float32, bfloat16 or float16")
        ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
    command->add_option("--samples", models.samples, "Numbers kept of each value")
        ->check(CLI::Range(1, 1 << 20));
    command->add_option("--timeout", models.timeout_seconds, "Seconds for each model")
        ->check(CLI::Range(1, 86400));
    command->add_option("--output", models.output, "gate: file for the report; record: folder")->required();
  }
  gate->add_option("--to", models.to.root, "As --from")->required();
  gate->add_option("--to-checkpoint", models.to.checkpoint, "Folder of weights for it")
      ->check(CLI::ExistingDirectory);
  gate->add_option("--to-golden", models.to.golden, "File whose inputs it runs with")
      ->check(CLI::ExistingFile);
  record->add_option("--like", models.to.root,
                     "Side whose weights and inputs are taken; without it: its own");
  app.set_version_flag("--version", VersionLine("assay-host"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (absl::Status status = StartLogging("assay-host", log_level); !status.ok()) {
    fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }

  host::ScrubEnvironment();
  // Before any operator runs: a child that uses OpenMP threads after its parent did hangs.
  engine::SetThreads(1);
  engine::KeepMemory();

  host::ProcessOptions processes;
  processes.runner = engine::RunTest;
  processes.describe = engine::Describe;
  processes.allow_cuda = device == "cuda";
  if (processes.allow_cuda) processes.device = {engine::StartDeviceMemory, engine::GiveBackDeviceMemory};
  if (!cgroup.empty()) {
    if (absl::Status prepared = host::PrepareDelegated(cgroup); prepared.ok()) {
      processes.cgroup = cgroup;
    } else {
      spdlog::warn("memory is only watched: {}", std::string(prepared.message()));
    }
  }
  processes.resident = processes.allow_cuda || resident;
  if (!processes.resident && !files.in_process && !program->parsed()) engine::WarmUp();

  if (gate->parsed() || record->parsed()) {
    models.on_cuda = device == "cuda";
    models.dtype = dtype;
    Leave(gate->parsed() ? host::GateModels(models) : host::RecordModels(models));
  }

  if (program->parsed()) {
    programs.on_cuda = device == "cuda";
    programs.dtype = dtype;
    Leave(host::RunPrograms(programs));
  }
  if (run->parsed()) {
    if (!files.reduce_to.empty()) {
      if (files.tests.size() != 1) {
        fprintf(stderr, "assay-host: --reduce-to takes one test\n");
        return kExitUsage;
      }
      files.in_process = true;
    }
    files.device = device == "cuda" ? v1::CUDA : v1::CPU;
    if (dtype == "float32") files.dtype = v1::FLOAT32;
    if (dtype == "bfloat16") files.dtype = v1::DTYPE_BFLOAT16;
    if (dtype == "float16") files.dtype = v1::FLOAT16;
    files.processes = processes;
    Leave(host::RunFiles(files));
  }
  if (events_fd < 0) {
    fprintf(stderr, "assay-host: --events-fd is missing; or give `run` and test files\n");
    return kExitUsage;
  }
  host::ServeOptions serve{STDIN_FILENO, events_fd, processes};
  absl::Status status = host::Serve(serve);
  if (!status.ok() && !absl::IsCancelled(status)) spdlog::error("{}", std::string(status.message()));
  Leave(ExitCodeOf(status));
}

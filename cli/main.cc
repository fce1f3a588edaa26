// assay: the command line. Says what each command takes; what they do is in the other files.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/access_commands.h"
#include "cli/command_trace.h"
#include "cli/doctor.h"
#include "cli/gate_options.h"
#include "cli/local_commands.h"
#include "cli/reduce.h"
#include "cli/remote_commands.h"
#include "cli/repro.h"
#include "cli/run_command.h"
#include "cli/targets.h"
#include "cli/worker_commands.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/tls.h"

namespace assay::cli {
namespace {

std::string DefaultSubmitter() {
  const char* user = std::getenv("USER");
  return user == nullptr ? "" : user;
}

// The options that several commands share, with their defaults.
struct Arguments {
  ConnectionOptions connection;
  DoctorOptions doctor;
  std::string tls_ca, tls_cert, tls_key, token_file, refused_token;
  std::string token_name, role;
  double days = 0;
  double timeout_seconds = 30;
  double give_up_seconds = 60;
  std::vector<std::string> batch_files;
  bool cpu_only = false;
  bool profile = false;
  std::string dtype = "float32";
  std::vector<std::string> target_words;
  std::vector<std::string> selector;
  double gpu_memory_gib = 0;
  std::string reason;
  uint32_t repetitions = 0;
  bool watch = false;
  std::string output_format = "text";
  std::string output;
  std::string id;
  std::string request_id;
  std::string batch_id;
  std::string submitter = DefaultSubmitter();
  std::string content_dir;
  std::string directory;
  std::string output_dir = "out";
  std::string reports_dir;
  std::string host_binary;
  std::string checkpoint_root;
  std::string checkpoint;
  std::vector<std::string> programs;
  std::string template_name;
  std::string task;
  std::string exporter;
  std::string hub_cache;
  bool offline = false;
  bool allow_pickle = false;
  std::string stage;
  uint32_t slots = std::max(1u, std::thread::hardware_concurrency());
  uint32_t size = 10;
  size_t limit = 50;

  v1::Target target() const {
    static const std::map<std::string, v1::Dtype> dtypes = {
        {"float32", v1::FLOAT32}, {"bfloat16", v1::DTYPE_BFLOAT16}, {"float16", v1::FLOAT16}};
    v1::Target target;
    target.set_device(cpu_only ? v1::CPU : v1::AUTO);
    target.set_dtype(dtypes.at(dtype));
    return target;
  }
  // Of --target; checked when it was read.
  std::vector<v1::Target> targets() const {
    std::vector<v1::Target> targets;
    for (const std::string& word : target_words) targets.push_back(*ParseTarget(word));
    return targets;
  }
  bool json() const { return output_format == "json"; }
  absl::Status FindCredentials() {
    if (!refused_token.empty()) {
      return absl::InvalidArgumentError(
          "a token on the command line can be read by every user of this machine: put it into a file and "
          "name "
          "that with --token-file, or set ASSAY_TOKEN; and make a new one, as this one was seen");
    }
    ClientTls tls;
    tls.authority = tls_ca;
    tls.certificate = tls_cert;
    tls.key = tls_key;
    tls.token_file = token_file;
    ASSAY_ASSIGN_OR_RETURN(connection.credentials, ChannelCredentialsOf(WithEnvironment(std::move(tls))));
    return absl::OkStatus();
  }
  ConnectionOptions connected() const {
    ConnectionOptions options = connection;
    options.deadline = absl::Seconds(timeout_seconds);
    options.give_up = absl::Seconds(give_up_seconds);
    return options;
  }
};

void AddConnection(CLI::App* command, Arguments& arguments) {
  command
      ->add_option("--address", arguments.connection.address,
                   "host:port of the coordinator; several of them, separated by commas")
      ->envname("ASSAY_ADDRESS")
      ->capture_default_str();
  command->add_option(
      "--tls-ca", arguments.tls_ca,
      "The certificate of the coordinator's authority; also from ASSAY_TLS_CA. Without it: no TLS");
  command->add_option(
      "--token-file", arguments.token_file,
      "A file with the token that says who is asking; also from ASSAY_TOKEN_FILE, and the token "
      "itself from ASSAY_TOKEN");
  command->add_option("--tls-cert", arguments.tls_cert,
                      "A certificate of this client's own, where the coordinator wants one; also from "
                      "ASSAY_TLS_CERT");
  command->add_option("--tls-key", arguments.tls_key,
                      "Its key, where that is not in the same file; also from ASSAY_TLS_KEY");
  // Known, so that it is refused without being repeated in a message.
  command->add_option("--token", arguments.refused_token)->group("");
  command->add_option("--timeout", arguments.timeout_seconds, "Seconds that one request may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void AddGiveUp(CLI::App* command, Arguments& arguments) {
  command
      ->add_option("--give-up", arguments.give_up_seconds,
                   "Seconds to try to reach a coordinator that is gone")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void AddTarget(CLI::App* command, Arguments& arguments) {
  command->add_flag("--cpu-only", arguments.cpu_only, "Run on the CPU even where there is a GPU");
  command->add_option("--dtype", arguments.dtype, "float32, bfloat16 or float16")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->capture_default_str();
}

// After AddTarget.
void AddTargets(CLI::App* command, Arguments& arguments) {
  command
      ->add_option("--target", arguments.target_words,
                   "Run each model on this: cpu, cuda or auto, with -float32, -bfloat16 or -float16 "
                   "(cuda-bfloat16); may be repeated, a job for each")
      ->check([](const std::string& word) { return std::string(ParseTarget(word).status().message()); })
      ->excludes(command->get_option("--cpu-only"))
      ->excludes(command->get_option("--dtype"));
}

void AddBatchFiles(CLI::App* command, Arguments& arguments) {
  command->add_option("--batch-file", arguments.batch_files, "Batch files, each a batch of its own")
      ->required();
}

void AddJson(CLI::App* command, Arguments& arguments) {
  command->add_option("-o,--format", arguments.output_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

using Command = std::function<ExitCode()>;

// Adds every command; the one chosen is put into `chosen`.
void AddProfile(CLI::App* command, Arguments& arguments) {
  command->add_flag("--profile", arguments.profile,
                    "Record the operators that took longest, for the reports");
}

void AddCommands(CLI::App& app, Arguments& arguments, Command& chosen) {
  static CLI::Option* doctor_address = nullptr;
  auto add = [&](const std::string& name, const std::string& description, Command command) {
    CLI::App* sub = app.add_subcommand(name, description);
    sub->callback([&chosen, command = std::move(command)] { chosen = command; });
    return sub;
  };
  CLI::App* submit = add("submit", "Submit batch files to a coordinator, each as a batch", [&] {
    Submission submission;
    submission.files = arguments.batch_files;
    submission.request_id = arguments.request_id;
    submission.submitter = arguments.submitter;
    submission.target = arguments.target();
    submission.targets = arguments.targets();
    submission.profile = arguments.profile;
    submission.selector = arguments.selector;
    submission.gpu_memory = static_cast<uint64_t>(arguments.gpu_memory_gib * (1 << 30));
    const CommandTrace trace("submit");
    submission.traceparent = trace.traceparent();
    return trace.Ended(SubmitCommand(arguments.connected(), submission,
                                     {arguments.watch, arguments.json(), arguments.reports_dir}));
  });
  AddConnection(submit, arguments);
  AddGiveUp(submit, arguments);
  AddBatchFiles(submit, arguments);
  AddTarget(submit, arguments);
  AddTargets(submit, arguments);
  AddProfile(submit, arguments);
  submit->add_option("--selector", arguments.selector,
                     "A label that a worker must carry to take any of the tests: gpu=H100; may be repeated");
  submit
      ->add_option("--gpu-memory", arguments.gpu_memory_gib,
                   "GiB that each test needs of a GPU; without it: what it took before, or a GPU alone")
      ->check(CLI::Range(0.001, 1048576.0));
  AddJson(submit, arguments);
  CLI::Option* watched = submit->add_flag("--watch", arguments.watch, "Follow the batches to their end");
  submit
      ->add_option("--output-dir", arguments.reports_dir, "Where the reports go when the batches have ended")
      ->needs(watched);
  submit->add_option("--request-id", arguments.request_id,
                     "Submitting again with the same id makes no second batch");
  submit->add_option("--submitter", arguments.submitter, "Who asks")->capture_default_str();

  CLI::App* watch = add("watch", "Follow a batch to its end",
                        [&] { return WatchCommand(arguments.connected(), arguments.id, arguments.json()); });
  AddConnection(watch, arguments);
  AddJson(watch, arguments);
  AddGiveUp(watch, arguments);
  watch->add_option("batch", arguments.id, "The batch's id")->required();

  CLI::App* batches = add("batches", "List batches, the newest first", [&] {
    return BatchesCommand(arguments.connected(), arguments.limit, arguments.json());
  });
  AddConnection(batches, arguments);
  AddJson(batches, arguments);
  batches->add_option("--limit", arguments.limit, "At most so many; 0: all")->capture_default_str();

  CLI::App* show = add("show", "Show a batch and its jobs",
                       [&] { return ShowCommand(arguments.connected(), arguments.id, arguments.json()); });
  AddConnection(show, arguments);
  AddJson(show, arguments);
  show->add_option("batch", arguments.id, "The batch's id")->required();

  CLI::App* cancel = add("cancel", "Cancel what a batch has not done yet",
                         [&] { return CancelCommand(arguments.connected(), arguments.id); });
  AddConnection(cancel, arguments);
  cancel->add_option("batch", arguments.id, "The batch's id")->required();

  CLI::App* report = add("report", "Report on a batch, or over everything", [&] {
    static const std::map<std::string, v1::ReportFormat> formats = {{"text", v1::TEXT},
                                                                    {"json", v1::JSON},
                                                                    {"junit", v1::JUNIT},
                                                                    {"markdown", v1::MARKDOWN},
                                                                    {"html", v1::HTML}};
    return ReportCommand(arguments.connected(), arguments.batch_id, formats.at(arguments.output_format),
                         arguments.output);
  });
  AddConnection(report, arguments);
  report->add_option("--batch", arguments.batch_id, "The batch's id; without it: over everything");
  report->add_option("-o,--format", arguments.output_format, "text, json, junit, markdown or html")
      ->check(CLI::IsMember({"text", "json", "junit", "markdown", "html"}))
      ->capture_default_str();
  report->add_option("--output", arguments.output, "A file; without it: standard output");

  CLI::App* roadmap =
      add("roadmap", "Write the roadmap: what is covered, what is overdue, what comes next",
          [&] { return ReportCommand(arguments.connected(), "", v1::ROADMAP, arguments.output); });
  AddConnection(roadmap, arguments);
  roadmap->add_option("--output", arguments.output, "A file; without it: standard output");

  CLI::App* next = add("next-batch", "Write the next batch file from what is missing", [&] {
    return NextBatchCommand(arguments.connected(), arguments.size, arguments.output);
  });
  AddConnection(next, arguments);
  next->add_option("--size", arguments.size, "How many models")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  next->add_option("--output", arguments.output, "A file; without it: standard output");

  CLI::App* logs = add("logs", "Show the log of a job's counted attempt", [&] {
    const v1::Stage stage = arguments.stage == "export" ? v1::STAGE_EXPORT
                            : arguments.stage == "test" ? v1::STAGE_TEST
                                                        : v1::STAGE_UNSPECIFIED;
    return LogsCommand(arguments.connected(), arguments.id, stage);
  });
  AddConnection(logs, arguments);
  logs->add_option("job", arguments.id, "The job's id")->required();
  logs->add_option("--stage", arguments.stage, "export or test; without it: the last one that has ended")
      ->check(CLI::IsMember({"export", "test"}));

  CLI::App* repro =
      add("repro", "Write a Python script that shows a job's difference with transformers and torch alone",
          [&] { return ReproCommand(arguments.connected(), arguments.id, arguments.output); });
  AddConnection(repro, arguments);
  repro->add_option("job", arguments.id, "The job's id, or a folder that `assay run` left below failed/")
      ->required();
  repro->add_option("--output", arguments.output, "A file; without it: standard output");

  CLI::App* reduce =
      add("reduce", "Write the smallest part of a failed job's program that still fails here", [&] {
        return ReduceCommand({arguments.connected(), arguments.id, arguments.host_binary,
                              arguments.checkpoint, arguments.output});
      });
  AddConnection(reduce, arguments);
  reduce->add_option("job", arguments.id, "The job's id, or a folder that `assay run` left below failed/")
      ->required();
  reduce->add_option("--output", arguments.output, "The program file; without it: MODEL_reduced.assay here");
  reduce->add_option("--checkpoint", arguments.checkpoint,
                     "Folder with the weights, of a job that loaded a checkpoint");
  reduce->add_option("--host-binary", arguments.host_binary,
                     "assay-host; without it: the one beside this executable");

  CLI::App* audit = add("audit", "List what was changed, and what was refused, the newest first", [&] {
    return AuditCommand(arguments.connected(), arguments.limit, arguments.json());
  });
  AddConnection(audit, arguments);
  AddJson(audit, arguments);
  audit->add_option("--limit", arguments.limit, "At most so many; 0: all")->capture_default_str();

  CLI::App* token = app.add_subcommand("token", "Make, list and revoke the tokens that say who is asking");
  token->require_subcommand(1);
  auto add_to_token = [&](const std::string& name, const std::string& description, Command command) {
    CLI::App* sub = token->add_subcommand(name, description);
    sub->callback([&chosen, command = std::move(command)] { chosen = command; });
    AddConnection(sub, arguments);
    return sub;
  };
  CLI::App* create = add_to_token("create", "Make a token; it is told once, here", [&] {
    return CreateTokenCommand(arguments.connected(),
                              {arguments.token_name, arguments.role, arguments.days, arguments.output});
  });
  create
      ->add_option(
          "--name", arguments.token_name,
          "Whose it is. Of the roles work and join: the worker's name, or \"gpu-*\" for all that begin so")
      ->required();
  create->add_option("--role", arguments.role, "read, submit, work, admin or join")
      ->required()
      ->check(CLI::IsMember({"read", "submit", "work", "admin", "join"}));
  create->add_option("--days", arguments.days, "How long it is good; without it: 90, and an hour to join")
      ->check(CLI::PositiveNumber);
  create->add_option("--output", arguments.output,
                     "A file, readable by its owner alone; without it: standard output");
  CLI::App* tokens = add_to_token("list", "List tokens and certificates; never the secrets themselves",
                                  [&] { return TokensCommand(arguments.connected(), arguments.json()); });
  AddJson(tokens, arguments);
  CLI::App* revoke =
      add_to_token("revoke", "End a token or certificate, at every coordinator within a second",
                   [&] { return RevokeTokenCommand(arguments.connected(), arguments.id); });
  revoke->add_option("id", arguments.id, "As `assay token list` has it")->required();

  CLI::App* workers = add("workers", "List workers that are connected or were seen in the last day",
                          [&] { return WorkersCommand(arguments.connected(), arguments.json()); });
  AddConnection(workers, arguments);
  AddJson(workers, arguments);

  CLI::App* doctor =
      add("doctor", "Check what Assay needs here, and say what to do about what is wrong", [&] {
        DoctorOptions& options = arguments.doctor;
        options.connection = arguments.connected();
        options.content_dir = arguments.content_dir;
        options.host_binary = arguments.host_binary;
        options.exporter = arguments.exporter;
        options.tls_ca = arguments.tls_ca;
        options.tls_cert = arguments.tls_cert;
        options.tls_key = arguments.tls_key;
        options.token_file = arguments.token_file;
        options.json = arguments.json();
        options.coordinator_named = doctor_address->count() > 0;
        if (const char* database = std::getenv("ASSAY_DATABASE");
            options.database.empty() && database != nullptr) {
          options.database = database;
        }
        return DoctorCommand(options);
      });
  AddConnection(doctor, arguments);
  doctor_address = doctor->get_option("--address");
  AddJson(doctor, arguments);
  doctor->add_option("--content-dir", arguments.content_dir, "The folder with templates/ and models/");
  doctor->add_option("--data-dir", arguments.doctor.data_dir, "A coordinator's data folder on this machine");
  doctor->add_option("--database", arguments.doctor.database,
                     "A coordinator's postgres://user@host/name; also from ASSAY_DATABASE");
  doctor->add_option("--state-dir", arguments.doctor.state_dir, "A worker's state folder on this machine");
  doctor->add_option("--host-binary", arguments.host_binary,
                     "assay-host; without it: the one beside this executable");
  doctor->add_option("--exporter", arguments.exporter, "The exporter's folder, to see whether it is set up");

  CLI::App* why = add("why", "Say why a job waits, or what it does instead",
                      [&] { return WhyCommand(arguments.connected(), arguments.id, arguments.json()); });
  AddConnection(why, arguments);
  AddJson(why, arguments);
  why->add_option("job", arguments.id, "The job's id")->required();

  CLI::App* cordon = add("cordon", "Give a worker nothing new; what it runs goes on", [&] {
    return CordonCommand(arguments.connected(), arguments.id, arguments.reason);
  });
  cordon->add_option("--reason", arguments.reason, "Shown with the worker");
  CLI::App* uncordon = add("uncordon", "Let a cordoned worker take jobs again",
                           [&] { return UncordonCommand(arguments.connected(), arguments.id); });
  CLI::App* drain = add("drain", "Let a worker finish what it runs and leave",
                        [&] { return DrainCommand(arguments.connected(), arguments.id); });
  CLI::App* accept =
      add("accept", "Run goldens repeatedly on a worker's devices; one that fails is cordoned",
          [&] { return AcceptCommand(arguments.connected(), arguments.id, arguments.repetitions); });
  accept->add_option("--repetitions", arguments.repetitions, "How often each is run; without it: 3")
      ->check(CLI::Range(1, 100));
  for (CLI::App* command : {cordon, uncordon, drain, accept}) {
    AddConnection(command, arguments);
    command->add_option("worker", arguments.id, "The worker's name")->required();
  }

  CLI::App* generate = add("generate", "Write the test files of batch files; needs no coordinator", [&] {
    return GenerateCommand(arguments.batch_files, arguments.output_dir, arguments.content_dir,
                           arguments.target());
  });
  AddBatchFiles(generate, arguments);
  AddTarget(generate, arguments);
  generate->add_option("--output-dir", arguments.output_dir, "Where the test files go")->required();
  generate->add_option("--content-dir", arguments.content_dir, "The folder with templates/ and models/");

  static GateArguments gate_arguments;
  AddGateOptions(
      add("gate", "Say whether a change of versions, builds, machines or weights altered models' numbers",
          [] { return RunGate(gate_arguments); }),
      gate_arguments);

  CLI::App* verify = add("verify", "Verify generated test files; needs no coordinator",
                         [&] { return VerifyCommand(arguments.directory); });
  verify->add_option("--directory", arguments.directory, "The folder with the test files")->required();

  CLI::App* run = add("run", "Run batch files here, with a coordinator and a worker of their own", [&] {
    if (!arguments.programs.empty()) {
      return RunProgramsCommand(arguments.programs, arguments.host_binary, arguments.dtype);
    }
    RunOptions options;
    options.batch_files = arguments.batch_files;
    options.content_dir = arguments.content_dir;
    options.output_dir = arguments.output_dir;
    options.host_binary = arguments.host_binary;
    options.checkpoint = {arguments.checkpoint, arguments.template_name, arguments.task};
    options.exporter = arguments.exporter;
    options.checkpoint_root = arguments.checkpoint_root;
    options.hub_cache = arguments.hub_cache;
    options.offline = arguments.offline;
    options.allow_pickle = arguments.allow_pickle;
    options.submitter = arguments.submitter;
    options.slots = arguments.slots;
    options.target = arguments.target();
    options.targets = arguments.targets();
    options.cpu_only = arguments.cpu_only;
    options.profile = arguments.profile;
    const CommandTrace trace("run");
    options.traceparent = trace.traceparent();
    return trace.Ended(RunCommand(options));
  });
  CLI::Option_group* what = run->add_option_group("What to run");
  what->add_option("--batch-file", arguments.batch_files, "Batch files, each a batch of its own");
  CLI::Option* checkpoint = what->add_option(
      "--checkpoint", arguments.checkpoint,
      "A trained checkpoint to run without a batch file: owner/name[@revision] of the hub, or a folder");
  CLI::Option* program = what->add_option(
      "--program", arguments.programs,
      "Program files, such as `assay reduce` writes, each against its own golden; nothing else is run");
  program->check(CLI::ExistingFile)->excludes(checkpoint)->excludes("--batch-file");
  what->require_option(1, 0);
  run->add_option("--template", arguments.template_name,
                  "The checkpoint's family; without it: what its configuration says")
      ->needs(checkpoint);
  run->add_option("--task", arguments.task, "The checkpoint's task; without it: what its configuration says")
      ->needs(checkpoint);
  run->add_option(
      "--exporter", arguments.exporter,
      "The exporter's folder, set up; without it, and where a checkpoint is named: exporter/ beside "
      "templates/ and models/. Default checkpoints of the catalogue are tried where it is given");
  run->add_option("--hub-cache", arguments.hub_cache,
                  "The Hugging Face cache; without it: as HF_HUB_CACHE and HF_HOME say");
  run->add_flag("--offline", arguments.offline, "Ask no hub: only what is in the cache");
  run->add_flag("--allow-pickle", arguments.allow_pickle,
                "Convert pickled weights, in the exporter's sandbox; refused without");
  AddTarget(run, arguments);
  AddTargets(run, arguments);
  AddProfile(run, arguments);
  run->add_option("--output-dir", arguments.output_dir, "Where the reports go")->capture_default_str();
  run->add_option("--content-dir", arguments.content_dir, "The folder with templates/ and models/");
  run->add_option("--slots", arguments.slots, "Tests that run at once on the CPU")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  run->add_option("--host-binary", arguments.host_binary,
                  "assay-host; without it: the one beside this executable");
  run->add_option("--checkpoint-root", arguments.checkpoint_root,
                  "A folder with owner/name folders, looked into before the hub's cache");
}

// Commands that follow something take signals more gently while they do (interrupt.h).
void LeaveAtOnce(int) { _exit(kExitInterrupted); }

int Main(int argc, char** argv) {
  signal(SIGINT, LeaveAtOnce);
  signal(SIGTERM, LeaveAtOnce);
  Arguments arguments;
  Command chosen;
  CLI::App app("Tests models and reports what is covered.", "assay");
  app.require_subcommand(1);
  app.fallthrough(false);
  std::string log_level = "warn";
  app.add_option("--log-level", log_level, "debug, info, warn or error")->capture_default_str();
  std::string log_format = "text";
  app.add_option("--log-format", log_format, "text or json, an object a line")->capture_default_str();
  app.set_version_flag("--version", VersionLine("assay"));
  AddCommands(app, arguments, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // help, version
    app.exit(asked);
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "assay: %s\nRun with --help for more information.\n", error.what());
    return kExitUsage;
  }
  if (const absl::Status status = StartLogging("assay", log_level, log_format); !status.ok()) {
    std::fprintf(stderr, "assay: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  if (const absl::Status status = Tracer::StartGlobal(); !status.ok()) {
    std::fprintf(stderr, "assay: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  // Of the innermost command: those that ask a coordinator have the options to reach it.
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands()[0];
  if (command->get_option_no_throw("--tls-ca") != nullptr) {
    // The doctor says itself what is wrong with files, and more of it.
    const bool doctored = command->get_name() == "doctor" && arguments.refused_token.empty();
    if (const absl::Status status = arguments.FindCredentials(); !status.ok() && !doctored) {
      std::fprintf(stderr, "assay: %s\n", std::string(status.message()).c_str());
      return kExitUsage;
    }
  }
  return chosen();
}

}  // namespace
}  // namespace assay::cli

int main(int argc, char** argv) { return assay::cli::Main(argc, argv); }

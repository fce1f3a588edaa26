#include "cli/gate_options.h"

namespace assay::cli {

void AddGateOptions(CLI::App* gate, GateArguments& arguments) {
  GateOptions& options = arguments.options;
  CLI::Option* from =
      gate->add_option("--from", arguments.from,
                       "A folder of programs (*.assay) or recordings (*.recording), or one such file");
  CLI::Option* to = gate->add_option("--to", arguments.to, "What it is held against, likewise");
  CLI::Option* bisect =
      gate->add_option("--bisect", arguments.sides,
                       "Two or more such sides in order: for each model, the first that changed it")
          ->excludes(from)
          ->excludes(to);
  CLI::Option* record =
      gate->add_option("--record", arguments.record,
                       "Compare nothing; write the --from side's runs into this folder, as recordings");
  record->excludes(to)->excludes(bisect)->needs(from);
  gate->add_option("--like", arguments.like, "With --record: the side whose weights and inputs are taken")
      ->needs(record);
  gate->add_option("--model", options.models, "Models; without it: all of both sides");
  gate->add_option("--from-checkpoint", options.from_checkpoint,
                   "A folder of weights for the --from side's program")
      ->check(CLI::ExistingDirectory)
      ->excludes(bisect);
  gate->add_option("--to-checkpoint", options.to_checkpoint,
                   "A folder of weights for the --to side's program")
      ->check(CLI::ExistingDirectory)
      ->excludes(bisect);
  gate->add_option("--from-golden", options.from_golden,
                   "A checkpoint's golden, whose inputs are used where the program has none")
      ->check(CLI::ExistingFile)
      ->excludes(bisect);
  gate->add_option("--to-golden", options.to_golden, "Likewise of --to")
      ->check(CLI::ExistingFile)
      ->excludes(bisect);
  gate->add_option("--from-host", options.from_host,
                   "Another build of assay-host, which runs the --from side")
      ->check(CLI::ExistingFile);
  gate->add_option("--to-host", options.to_host, "Likewise of --to, or of all others with --bisect")
      ->check(CLI::ExistingFile);
  gate->add_option("--host-binary", options.host_binary,
                   "assay-host; without it: the one beside this executable");
  gate->add_option("--device", options.device, "cpu or cuda, of what is run here")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  gate->add_option("--dtype", options.dtype, "float32, bfloat16 or float16")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->capture_default_str();
  gate->add_option("--timeout", options.timeout_seconds, "Seconds for each model")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  gate->add_flag("--allow-not-comparable", options.allow_not_comparable,
                 "What cannot be compared does not fail; without it: exit code 3");
  gate->add_option("-o,--format", options.format, "text, json, junit, markdown or html")
      ->check(CLI::IsMember({"text", "json", "junit", "markdown", "html"}))
      ->capture_default_str();
  gate->add_option("--output", options.output, "File for the report; without it: standard output");
}

ExitCode RunGate(const GateArguments& arguments) {
  GateOptions options = arguments.options;
  if (!arguments.record.empty()) {
    RecordOptions record;
    record.side = arguments.from;
    record.like = arguments.like;
    record.checkpoint = options.from_checkpoint;
    record.golden = options.from_golden;
    record.models = options.models;
    record.host_binary = options.from_host.empty() ? options.host_binary : options.from_host;
    record.device = options.device;
    record.dtype = options.dtype;
    record.timeout_seconds = options.timeout_seconds;
    record.output_dir = arguments.record;
    return RecordCommand(record);
  }
  options.bisect = !arguments.sides.empty();
  options.sides = arguments.sides;
  for (const std::string& side : {arguments.from, arguments.to}) {
    if (!side.empty()) options.sides.push_back(side);
  }
  return GateCommand(options);
}

}  // namespace assay::cli

#include "host/gate_models.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/gate.h"
#include "engine/loaded_checkpoint.h"
#include "engine/program.h"
#include "engine/recording.h"
#include "engine/run_test.h"
#include "engine/weight_map.h"
#include "host/pipe.h"

namespace assay::host {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProgram = ".assay";
constexpr const char* kRecording = ".recording";
constexpr const char* kNotRecorded = ".not_recorded";  // why there is no recording, as text

// By model. INVALID_ARGUMENT where a model is there in both forms: which one is meant is not guessed.
absl::StatusOr<std::map<std::string, fs::path>> FilesOf(const std::string& root) {
  std::map<std::string, fs::path> files;
  std::error_code error;
  if (fs::is_regular_file(root, error)) {
    files[""] = root;
    return files;
  }
  for (fs::directory_iterator file(root, error), end; !error && file != end; file.increment(error)) {
    const fs::path& path = file->path();
    if (path.extension() != kProgram && path.extension() != kRecording) continue;
    if (!files.emplace(path.stem().string(), path).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(root, " has ", path.stem().string(), " as a program and as a recording"));
    }
  }
  if (error) return absl::NotFoundError(absl::StrCat(root, ": ", error.message()));
  if (files.empty()) return absl::NotFoundError(absl::StrCat(root, " has no *.assay and no *.recording"));
  return files;
}

// Why `root` has no file of `model`, of which the other side has one.
std::string WhyMissing(const std::string& root, const std::string& model, const char* other) {
  const absl::StatusOr<std::string> why = ReadFile(fs::path(root) / absl::StrCat(model, kNotRecorded));
  return why.ok() ? absl::StrCat("it could not be recorded: ", *why)
                  : absl::StrCat("only the ", other, " side has it");
}

struct LoadedSide {
  v1::Program program;
  std::string digest;
  std::optional<v1::Recording> recording;
  std::string checkpoint;
  std::optional<v1::CheckpointGolden> golden;

  const v1::Golden& inputs() const { return golden ? golden->golden() : program.golden(); }
};

absl::StatusOr<LoadedSide> Load(const fs::path& file, const GateSide& side) {
  const auto named = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(file.string(), ": ", status.message()));
  };
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
  LoadedSide loaded;
  loaded.checkpoint = side.checkpoint;
  if (file.extension() == kRecording) {
    if (!side.checkpoint.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.string(), " was recorded with its weights: it takes no checkpoint"));
    }
    absl::StatusOr<v1::Recording> recording = engine::ParseRecording(bytes);
    if (!recording.ok()) return named(recording.status());
    loaded.program = recording->program();
    loaded.digest = recording->program_digest();
    loaded.recording = *std::move(recording);
    return loaded;
  }
  absl::StatusOr<v1::Program> program = engine::ParseProgram(bytes);
  if (!program.ok()) return named(program.status());
  loaded.program = *std::move(program);
  loaded.digest = Sha256Hex(bytes);
  if (!side.golden.empty()) {
    ASSAY_ASSIGN_OR_RETURN(const std::string golden, ReadFile(side.golden));
    ASSAY_ASSIGN_OR_RETURN(loaded.golden,
                           engine::ParseCheckpointGolden(golden, loaded.program, loaded.digest));
  }
  return loaded;
}

absl::StatusOr<engine::GivenWeights> Trained(const LoadedSide& side, const engine::Placement& placement) {
  engine::CaseMaterial material;
  material.program = side.program;
  material.program_digest = side.digest;
  engine::LoadOptions load;
  load.folder = side.checkpoint;
  load.placement = placement;
  v1::LoadReport report;
  ASSAY_ASSIGN_OR_RETURN(engine::LoadedCheckpoint loaded, engine::LoadCheckpoint(material, load, report));
  engine::GivenWeights given;
  given.values = std::move(loaded.weights);
  given.kind = loaded.synthetic ? v1::SYNTHETIC : v1::REAL;
  given.identity = loaded.digest;
  if (report.defect_count() > 0)
    given.notes.push_back(absl::StrCat("defects in ", side.checkpoint, ": ", report.defect(0)));
  return given;
}

// Runs `side` with the weights and inputs of `source` (which may be itself), or gives its recording.
absl::StatusOr<v1::Recording> Recorded(LoadedSide side, const LoadedSide& source, bool is_source,
                                       const engine::Placement& placement, uint32_t samples) {
  if (side.recording) return *std::move(side.recording);
  if (source.inputs().inputs_size() != source.program.manifest().inputs_size()) {
    return absl::FailedPreconditionError("there is no golden, so there are no inputs to run with");
  }
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> given,
                         engine::GoldenInputs(source.program.manifest(), source.inputs()));
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> inputs,
                         engine::InputsFor(side.program.manifest(), source.program.manifest(), given));
  engine::GivenWeights weights;
  if (!side.checkpoint.empty()) {
    ASSAY_ASSIGN_OR_RETURN(weights, Trained(side, placement));
  } else if (source.recording && source.recording->weights() != v1::MOCK) {
    return absl::FailedPreconditionError(
        "the other side was recorded with a checkpoint: name one for this side, too");
  } else {
    ASSAY_ASSIGN_OR_RETURN(weights, engine::OwnMockWeights(source.program.manifest()));
    if (!is_source) {
      ASSAY_ASSIGN_OR_RETURN(weights, engine::MapWeights(source.program, weights, side.program));
    }
  }
  return engine::Record(side.program, side.digest, weights, inputs, placement, samples);
}

v1::GateResult NotComparable(const std::string& model, std::string why) {
  v1::GateResult result;
  result.set_model(model);
  result.set_verdict(v1::NOT_COMPARABLE);
  result.set_reason(std::move(why));
  return result;
}

v1::GateResult Gate(const std::string& model, const fs::path& from_file, const fs::path& to_file,
                    const GateModelsOptions& options, const engine::Placement& placement) {
  absl::StatusOr<LoadedSide> from = Load(from_file, options.from), to = Load(to_file, options.to);
  if (!from.ok()) return NotComparable(model, std::string(from.status().message()));
  if (!to.ok()) return NotComparable(model, std::string(to.status().message()));
  // What was recorded cannot be run with the other's weights; what runs here can.
  const bool from_is_source = from->recording.has_value() || !to->recording.has_value();
  const LoadedSide source = from_is_source ? *from : *to;
  uint32_t samples = options.samples > 0 ? options.samples : engine::kLiveSamples;
  for (const LoadedSide* side : {&*from, &*to}) {
    if (side->recording) samples = side->recording->samples();
  }
  absl::StatusOr<v1::Recording> a = Recorded(*std::move(from), source, from_is_source, placement, samples);
  if (!a.ok()) return NotComparable(model, absl::StrCat("from: ", a.status().message()));
  absl::StatusOr<v1::Recording> b = Recorded(*std::move(to), source, !from_is_source, placement, samples);
  if (!b.ok()) return NotComparable(model, absl::StrCat("to: ", b.status().message()));
  const bool trained = a->weights() != v1::MOCK && b->weights() != v1::MOCK;
  v1::GateResult result = engine::CompareRecordings(*a, *b, !trained);
  if (!model.empty()) result.set_model(model);
  return result;
}

// What `work` gives, from a process of its own.
v1::GateResult InChild(const std::string& model, uint32_t timeout_seconds,
                       const std::function<v1::GateResult()>& work) {
  int ends[2];
  if (pipe(ends) != 0) return NotComparable(model, absl::StrCat("no pipe: ", strerror(errno)));
  fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) {
    close(ends[0]);
    close(ends[1]);
    return NotComparable(model, absl::StrCat("no process: ", strerror(errno)));
  }
  if (child == 0) {
    close(ends[0]);
    alarm(timeout_seconds);
    const v1::GateResult result = work();
    std::string bytes;
    const bool told = result.SerializeToString(&bytes) && WriteAll(ends[1], bytes).ok();
    fflush(nullptr);
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  std::string bytes;
  char buffer[65536];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (got > 0) bytes.append(buffer, static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return NotComparable(model, WTERMSIG(status) == SIGALRM
                                    ? absl::StrCat("not done after ", timeout_seconds, " seconds")
                                    : absl::StrCat("its process was ended by signal ", WTERMSIG(status)));
  }
  v1::GateResult result;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !result.ParseFromString(bytes)) {
    return NotComparable(model, "its process gave no result");
  }
  return result;
}

absl::StatusOr<engine::Placement> PlacementOf(const GateModelsOptions& options) {
  engine::Placement placement;
  if (options.dtype == "bfloat16") placement.dtype = at::ScalarType::BFloat16;
  if (options.dtype == "float16") placement.dtype = at::ScalarType::Half;
  if (options.on_cuda) placement.device = at::Device(at::DeviceType::CUDA, 0);
  return placement;
}

// In a child, before it touches CUDA: a process that is to fork must not.
std::string MissingDevice(const engine::Placement& placement) {
  return placement.device.is_cuda() && !engine::CudaIsThere() ? "there is no CUDA device" : "";
}

int Refuse(const absl::Status& status) {
  fprintf(stderr, "assay-host: %s\n", std::string(status.message()).c_str());
  return kExitUsage;
}

// Names asked for that neither side has are a mistake of the caller's.
absl::StatusOr<std::set<std::string>> ModelsOf(const GateModelsOptions& options,
                                               const std::map<std::string, fs::path>& from,
                                               const std::map<std::string, fs::path>& to) {
  std::set<std::string> models;
  for (const auto* side : {&from, &to}) {
    for (const auto& [model, file] : *side) models.insert(model);
  }
  if (options.models.empty()) return models;
  std::set<std::string> asked;
  for (const std::string& model : options.models) {
    if (models.count(model) == 0) return absl::NotFoundError(absl::StrCat("no side has the model ", model));
    asked.insert(model);
  }
  return asked;
}

}  // namespace

int GateModels(const GateModelsOptions& options) {
  absl::StatusOr<std::map<std::string, fs::path>> from = FilesOf(options.from.root),
                                                  to = FilesOf(options.to.root);
  if (!from.ok()) return Refuse(from.status());
  if (!to.ok()) return Refuse(to.status());
  // A single file is compared with the other's model of the same name, or with a single file of any name.
  if (from->count("") != to->count("")) {
    auto& one = from->count("") > 0 ? *from : *to;
    const fs::path file = one.at("");
    auto& many = from->count("") > 0 ? *to : *from;
    one = {{file.stem().string(), file}};
    for (auto it = many.begin(); it != many.end();)
      it = one.count(it->first) > 0 ? std::next(it) : many.erase(it);
  }
  const absl::StatusOr<std::set<std::string>> models = ModelsOf(options, *from, *to);
  if (!models.ok()) return Refuse(models.status());
  const absl::StatusOr<engine::Placement> placement = PlacementOf(options);
  if (!placement.ok()) return Refuse(placement.status());
  v1::GateReport report;
  report.set_format(1);
  report.set_from(options.from.root);
  report.set_to(options.to.root);
  for (const std::string& model : *models) {
    const auto a = from->find(model), b = to->find(model);
    if (a == from->end() || b == to->end()) {
      *report.add_result() =
          NotComparable(model, a == from->end() ? WhyMissing(options.from.root, model, "to")
                                                : WhyMissing(options.to.root, model, "from"));
      continue;
    }
    *report.add_result() = InChild(model, options.timeout_seconds, [&] {
      const std::string missing = MissingDevice(*placement);
      return missing.empty() ? Gate(model, a->second, b->second, options, *placement)
                             : NotComparable(model, missing);
    });
  }
  std::string bytes;
  if (!report.SerializeToString(&bytes)) return Refuse(absl::InternalError("the report is too large"));
  const absl::Status written = WriteFileAtomically(options.output, bytes);
  return written.ok() ? kExitOk : Refuse(written);
}

int RecordModels(const GateModelsOptions& options) {
  const absl::StatusOr<std::map<std::string, fs::path>> files = FilesOf(options.from.root);
  if (!files.ok()) return Refuse(files.status());
  std::map<std::string, fs::path> like;
  if (!options.to.root.empty()) {
    absl::StatusOr<std::map<std::string, fs::path>> found = FilesOf(options.to.root);
    if (!found.ok()) return Refuse(found.status());
    like = *std::move(found);
  }
  const absl::StatusOr<std::set<std::string>> models = ModelsOf(options, *files, {});
  if (!models.ok()) return Refuse(models.status());
  const absl::StatusOr<engine::Placement> placement = PlacementOf(options);
  if (!placement.ok()) return Refuse(placement.status());
  int code = kExitOk;
  for (const std::string& model : *models) {
    // What an earlier run left here must not stand for this one.
    const std::string named = model.empty() ? fs::path(options.from.root).stem().string() : model;
    const fs::path recording_file = fs::path(options.output) / absl::StrCat(named, kRecording);
    const fs::path not_recorded = fs::path(options.output) / absl::StrCat(named, kNotRecorded);
    for (const fs::path& old : {recording_file, not_recorded}) {
      std::error_code error;
      fs::remove(old, error);
      if (error) return Refuse(absl::UnavailableError(absl::StrCat(old.string(), ": ", error.message())));
    }
    const v1::GateResult result = InChild(model, options.timeout_seconds, [&] {
      const auto record = [&]() -> absl::Status {
        if (const std::string missing = MissingDevice(*placement); !missing.empty())
          return absl::UnavailableError(missing);
        ASSAY_ASSIGN_OR_RETURN(LoadedSide side, Load(files->at(model), options.from));
        LoadedSide source = side;
        const auto other = like.find(model);
        if (!options.to.root.empty()) {
          if (other == like.end())
            return absl::NotFoundError(absl::StrCat(options.to.root, " does not have it"));
          ASSAY_ASSIGN_OR_RETURN(source, Load(other->second, options.to));
        }
        ASSAY_ASSIGN_OR_RETURN(const v1::Recording recording,
                               Recorded(std::move(side), source, options.to.root.empty(), *placement,
                                        options.samples > 0 ? options.samples : engine::kFileSamples));
        ASSAY_ASSIGN_OR_RETURN(const std::string bytes, engine::SerializeRecording(recording));
        return WriteFileAtomically(recording_file, bytes);
      };
      const absl::Status status = record();
      return status.ok() ? v1::GateResult() : NotComparable(model, std::string(status.message()));
    });
    const bool failed = result.verdict() == v1::NOT_COMPARABLE;
    if (failed) {
      code = kExitTestsFailed;
      const absl::Status written = WriteFileAtomically(not_recorded, result.reason());
      if (!written.ok()) return Refuse(written);
    }
    // Not on standard output: a report that `assay gate` prints there follows.
    fprintf(stderr, "%-12s %s%s%s\n", failed ? "FAILED" : "RECORDED", named.c_str(), failed ? ": " : "",
            result.reason().c_str());
  }
  return code;
}

}  // namespace assay::host

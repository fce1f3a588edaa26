#include "worker/export_stage.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/mapped_file.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "worker/artifact.h"
#include "worker/export_verdict.h"
#include "worker/scratch.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
// The exporter's word for a program whose inputs are not those that this checkpoint's samples make.
constexpr char kOtherShapes[] = "the program given takes";
// Names of pickles and of their index, in order.
std::vector<std::string> PicklesIn(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".bin.index.json")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

// The right to make what a key names, on this worker.
class ExportStage::KeyLock {
 public:
  KeyLock(ExportStage* stage, std::string key) : stage_(stage), key_(std::move(key)) {}
  ~KeyLock() {
    if (!held_) return;
    absl::MutexLock lock(&stage_->mutex_);
    stage_->busy_keys_.erase(key_);
  }
  // False: cancelled.
  bool Take(const std::function<bool()>& cancelled) {
    absl::MutexLock lock(&stage_->mutex_);
    auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(stage_->mutex_) {
      return stage_->busy_keys_.count(key_) == 0;
    };
    while (!stage_->mutex_.AwaitWithTimeout(absl::Condition(&free), absl::Milliseconds(100))) {
      if (cancelled()) return false;
    }
    stage_->busy_keys_.insert(key_);
    held_ = true;
    return true;
  }

 private:
  ExportStage* const stage_;
  const std::string key_;
  bool held_ = false;
};

// One job on its way through the stage.
class ExportStage::Work {
 public:
  Work(ExportStage* stage, const ExportJob& job)
      : stage_(*stage), job_(job), artifacts_(*stage->artifacts_) {}

  Verdict Do(v1::ExportResult& result) {
    result_ = &result;
    *result.mutable_checkpoint() = job_.assignment.checkpoint();
    result.set_fetch_seconds(job_.fetch_seconds);
    result.set_exporter(stage_.exporter_->identity().Text());
    if (!job_.found.ok()) return OfFinding(job_);
    found_ = *job_.found;
    result.mutable_checkpoint()->set_commit(found_.commit);
    Log(absl::StrCat("checkpoint ", job_.assignment.checkpoint().id(),
                     found_.commit.empty() ? "" : absl::StrCat(" at ", found_.commit), " in ",
                     found_.folder.string(), found_.verified ? ", its files have the hub's SHA-256" : ""));
    auto scratch = ScratchFolder::Make(stage_.scratch_);
    if (!scratch.ok()) return Infrastructure("no scratch folder", scratch.status());
    scratch_ = *std::move(scratch);
    for (auto step : {&Work::ReadConfig, &Work::ReadWeights, &Work::NameOrigin}) {
      if (Verdict verdict = (this->*step)(); verdict.over()) return verdict;
    }
    KeyLock program_lock(&stage_, program_key_);
    if (!program_lock.Take(job_.cancelled)) return {v1::CANCELLED, "cancelled", "", 0};
    return Make();
  }

 private:
  void Log(absl::string_view line) const { job_.log(absl::StrCat("export: ", line, "\n")); }

  Verdict ReadConfig() {
    const auto text = ReadFile(found_.folder / "config.json", kMaxConfigBytes);
    if (absl::IsNotFound(text.status())) {
      for (const hub::FoundFile& file : found_.files) {
        if (absl::EndsWith(file.name, ".gguf")) return {};  // it has its configuration inside
      }
      return {v1::FAILED, absl::StrCat(found_.folder.string(), ": no config.json"), "", 0};
    }
    if (!text.ok()) return Infrastructure("config.json cannot be read", text.status());
    if (Verdict verdict = OfConfig(job_, found_.folder / "config.json", *text); verdict.over())
      return verdict;
    config_json_ = *text;
    return {};
  }

  Verdict ReadWeights() {
    auto opened = checkpoint::Checkpoint::Open(found_.folder);
    // The pickles of a folder; the hub's client has refused a repository's by now, or was allowed to fetch
    // them.
    if (absl::IsFailedPrecondition(opened.status())) {
      if (!stage_.exporter_->options().allow_pickle) {
        const bool is_default = job_.assignment.default_checkpoint();
        return {is_default ? v1::SKIPPED : v1::UNSUPPORTED, std::string(opened.status().message()),
                is_default ? kNoWeights : "", 0};
      }
      if (Verdict verdict = Convert(); verdict.over()) return verdict;
      opened = checkpoint::Checkpoint::Open(found_.folder);
    }
    if (!opened.ok()) {
      // The test stage says so with all it has to say; here it only means that there is nothing to compare
      // with.
      broken_ = std::string(opened.status().message());
      Log(absl::StrCat("the weights cannot be read: ", broken_));
      return {};
    }
    weights_digest_ = opened->Digest();
    // Its configuration is inside, and a config.json beside it decides nothing.
    if (absl::StartsWith(opened->format(), "GGUF")) config_json_.clear();
    const auto config_digest = DigestOfConfig();
    if (!config_digest.ok()) return {v1::FAILED, std::string(config_digest.status().message()), "", 0};
    config_digest_ = *config_digest;
    Log(absl::StrCat("weights: ", opened->format(), ", ", opened->tensors().size(), " tensors, ",
                     opened->bytes(), " bytes, digest ", weights_digest_));
    const std::string& pinned = job_.assignment.checkpoint().weights_digest();
    if (!pinned.empty() && pinned != weights_digest_) {
      return {v1::FAILED,
              absl::StrCat("the weights have the digest ", weights_digest_, ", pinned is ", pinned), "", 0};
    }
    const std::string& pinned_config = job_.assignment.checkpoint().config_digest();
    if (!pinned_config.empty() && pinned_config != config_digest_) {
      return {
          v1::FAILED,
          absl::StrCat("the configuration has the digest ", config_digest_, ", pinned is ", pinned_config),
          "", 0};
    }
    result_->mutable_checkpoint()->set_weights_digest(weights_digest_);
    result_->mutable_checkpoint()->set_config_digest(config_digest_);
    return {};
  }

  // Of config.json; of the whole file where that is a GGUF file.
  absl::StatusOr<std::string> DigestOfConfig() const {
    if (!config_json_.empty()) return ConfigDigest(config_json_);
    for (const hub::FoundFile& file : found_.files) {
      if (file.weights && absl::EndsWith(file.name, ".gguf")) return FileDigest(file.path);
    }
    return absl::NotFoundError("neither a config.json nor a GGUF file");
  }

  // Pickles become a safetensors file, made in the sandbox or found made.
  Verdict Convert() {
    Json origin = {{"kind", "weights"}, {"exporter", stage_.exporter_->identity().Text()}};
    // Of all that the exporter may read: a folder's pickles are not among its found files.
    bool verified = found_.verified;
    const std::vector<std::string> pickles = PicklesIn(found_.folder);
    if (pickles.empty()) {
      return {v1::UNSUPPORTED, absl::StrCat(found_.folder.string(), ": no pytorch_model.bin to convert"), "",
              0};
    }
    for (const std::string& name : pickles) {
      const auto digest = FileDigest(found_.folder / name);
      if (!digest.ok()) return Infrastructure("a pickle cannot be read", digest.status());
      origin["files"].push_back(absl::StrCat(name, "=", *digest));
      verified = verified && std::any_of(found_.files.begin(), found_.files.end(),
                                         [&](const hub::FoundFile& file) { return file.name == name; });
    }
    const std::string key = Sha256Hex(origin.dump());
    KeyLock lock(&stage_, key);
    if (!lock.Take(job_.cancelled)) return {v1::CANCELLED, "cancelled", "", 0};
    const fs::path folder = scratch_.path() / "converted";
    std::error_code error;
    fs::create_directories(folder, error);
    for (const hub::FoundFile& file : found_.files) {
      if (!file.weights && !absl::StrContains(file.name, '/')) {
        fs::copy_file(file.path, folder / file.name, error);
      }
    }
    const auto known = artifacts_.Lookup({key});
    if (!known.ok()) return Infrastructure("the coordinator's artifacts cannot be looked up", known.status());
    if (const auto at = known->find(key); at != known->end()) {
      auto blob = artifacts_.Get(at->second);
      if (!blob.ok()) return Infrastructure("converted weights cannot be fetched", blob.status());
      fs::create_hard_link(blob->path(), folder / "model.safetensors", error);
      result_->set_weights_blob(at->second);
      Log("converted weights are cached");
    } else {
      ExportRequest request = Request();
      request.allow_pickle = true;
      Log("weights are pickles: they are converted in the sandbox");
      const auto [answer, verdict] = RunExporter(request, "convert");
      if (verdict.over()) return verdict;
      if (answer.weights.empty()) {
        return {v1::INFRASTRUCTURE_ERROR, "the exporter converted no weights and does not say why", "", 0};
      }
      fs::create_hard_link(answer.weights, folder / "model.safetensors", error);
      const auto uploaded = UploadFile(answer.weights, key);
      if (!uploaded.ok()) return Infrastructure("converted weights cannot be kept", uploaded.status());
      result_->set_weights_blob(*uploaded);
    }
    if (error) return {v1::INFRASTRUCTURE_ERROR, absl::StrCat("converted weights: ", error.message()), "", 0};
    result_->set_hub_verified(verified);
    found_.folder = folder;
    found_.root = folder;
    return {};
  }

  Verdict NameOrigin() {
    auto files = DigestsOfSmallFiles(found_);
    if (!files.ok()) return Infrastructure("the checkpoint's files cannot be read", files.status());
    small_files_ = *std::move(files);
    auto samples = FolderDigest(stage_.exporter_->options().samples);
    if (!samples.ok()) return Infrastructure("the samples cannot be read", samples.status());
    samples_digest_ = *std::move(samples);
    const v1::Assignment& assignment = job_.assignment;
    ProgramOrigin origin;
    origin.config_json = config_json_;
    origin.config_digest = config_digest_;
    if (config_json_.empty() && weights_digest_.empty()) {
      return {v1::FAILED, absl::StrCat("neither a config.json nor weights that can be read: ", broken_), "",
              0};
    }
    origin.model_class = job_.entry_model_class;
    origin.task = assignment.model().task();
    origin.template_name = assignment.model().template_();
    origin.catalogue_digest = assignment.catalogue_digest();
    origin.entry_digest = assignment.checkpoint_entry_digest();
    origin.processor_digests = ProcessorDigests(small_files_);
    origin.exporter = stage_.exporter_->identity();
    auto key = ProgramKey(origin);
    if (!key.ok()) return {v1::FAILED, std::string(key.status().message()), "", 0};
    program_key_ = *std::move(key);
    return {};
  }

  Verdict Make() {
    // A second time only where another worker's program of the same key was there first and is not the same.
    for (int round = 0; round < 2; ++round) {
      auto known = artifacts_.Lookup({program_key_, KeyBeside(program_key_, "record")});
      if (!known.ok())
        return Infrastructure("the coordinator's artifacts cannot be looked up", known.status());
      if (Verdict verdict = TakeCachedProgram(*known); verdict.over()) return verdict;
      if (!result_->program_digest().empty()) {
        Log(absl::StrCat("program ", result_->program_digest(), " is cached"));
        return MakeGolden();
      }
      if (Verdict verdict = MakeBoth(); verdict.over() || !result_->program_digest().empty()) return verdict;
    }
    return {v1::INFRASTRUCTURE_ERROR, "the coordinator does not keep the program under its key", "", 0};
  }

  // Where program and record are known, the result has them.
  Verdict TakeCachedProgram(const std::map<std::string, std::string>& known) {
    const auto program = known.find(program_key_), record = known.find(KeyBeside(program_key_, "record"));
    if (program == known.end() || record == known.end()) return {};
    auto blob = artifacts_.Get(record->second);
    if (!blob.ok()) return Infrastructure("a program's record cannot be fetched", blob.status());
    const auto text = blob->Read();
    v1::ExportResult facts;
    if (!text.ok() || !ParseTextProto("record", *text, facts).ok() || facts.model_type().empty())
      return {};  // another version's: made anew
    if (Verdict verdict =
            OfModelType(job_, "the checkpoint is of another class: its model type is ", facts.model_type());
        verdict.over()) {
      return verdict;
    }
    TakeFacts(facts);
    result_->set_program_digest(program->second);
    result_->set_program_cached(true);
    return {};
  }

  void TakeFacts(const v1::ExportResult& facts) {
    result_->set_model_class(facts.model_class());
    result_->set_model_type(facts.model_type());
    result_->set_memory_bytes(facts.memory_bytes());
    *result_->mutable_input() = facts.input();
    *result_->mutable_output() = facts.output();
  }

  // Program and golden in one run.
  Verdict MakeBoth() {
    ExportRequest request = Request();
    request.want_golden = !weights_digest_.empty();
    auto [answer, verdict] = RunExporter(request, "program");
    if (verdict.over()) return verdict;
    const auto program = ReadProgramFile(answer.program);
    if (!program.ok() || program->manifest().inputs().empty() || program->manifest().outputs().empty()) {
      return {v1::INFRASTRUCTURE_ERROR,
              absl::StrCat("the exporter's program cannot be used: ",
                           program.ok() ? "it has no inputs or outputs" : program.status().message()),
              "", 0};
    }
    // What the program was made from, whatever config.json says: a GGUF file has its configuration inside.
    if (verdict =
            OfModelType(job_, "the checkpoint is of another class: its model type is ", answer.model_type);
        verdict.over()) {
      return verdict;
    }
    v1::ExportResult facts;
    facts.set_model_type(answer.model_type);
    facts.set_model_class(answer.model_class.empty() ? program->manifest().architecture()
                                                     : answer.model_class);
    facts.set_memory_bytes(answer.memory_bytes);
    for (const v1::InputSpec& input : program->manifest().inputs()) facts.add_input(input.name());
    for (const v1::OutputSpec& output : program->manifest().outputs()) facts.add_output(output.name());
    const auto content = ReadFile(answer.program);
    if (!content.ok()) return Infrastructure("the program cannot be read", content.status());
    const std::string digest = Sha256Hex(*content);
    const auto kept = artifacts_.Upload(*content, program_key_);
    if (!kept.ok()) return Infrastructure("the program cannot be kept", kept.status());
    const auto recorded = artifacts_.Upload(FormatTextProto(facts), KeyBeside(program_key_, "record"));
    if (!recorded.ok()) return Infrastructure("the program's record cannot be kept", recorded.status());
    if (*kept != digest) {
      Log("another worker's program was there first");
      return {};
    }
    TakeFacts(facts);
    result_->set_program_digest(digest);
    result_->set_program_seconds(answer.program_seconds);
    Log(absl::StrCat("program ", digest, " made in ", answer.program_seconds, " s"));
    if (weights_digest_.empty()) return WithoutWeights();
    return KeepGolden(answer);
  }

  Verdict WithoutWeights() {
    result_->set_no_golden(absl::StrCat("the weights cannot be read: ", broken_));
    return {};
  }

  Verdict MakeGolden() {
    if (weights_digest_.empty()) return WithoutWeights();
    const std::string key = GoldenKeyOf(), inputs = InputsKeyOf(key), why = KeyBeside(inputs, "why");
    const auto known = artifacts_.Lookup({key, inputs, why});
    if (!known.ok()) return Infrastructure("the coordinator's artifacts cannot be looked up", known.status());
    if (const auto at = known->find(key); at != known->end()) {
      result_->set_golden_digest(at->second);
      result_->set_golden_cached(true);
      Log(absl::StrCat("golden ", at->second, " is cached"));
      return {};
    }
    if (const auto at = known->find(inputs), reason = known->find(why);
        at != known->end() && reason != known->end()) {
      auto blob = artifacts_.Get(reason->second);
      if (!blob.ok()) return Infrastructure("a golden's record cannot be fetched", blob.status());
      const auto text = blob->Read();
      if (!text.ok()) return Infrastructure("a golden's record cannot be read", text.status());
      result_->set_golden_digest(at->second);
      result_->set_no_golden(*text);
      result_->set_golden_cached(true);
      Log(absl::StrCat("no golden, as before: ", *text));
      return {};
    }
    auto program = artifacts_.Get(result_->program_digest());
    if (!program.ok()) return Infrastructure("the cached program cannot be fetched", program.status());
    ExportRequest request = Request();
    request.want_golden = true;
    request.program = program->path();
    auto [answer, verdict] = RunExporter(request, "golden");
    if (absl::StartsWith(verdict.message, kOtherShapes) && !own_shapes_)
      return MakeInOwnShapes(verdict.message);
    if (verdict.over()) return verdict;
    return KeepGolden(answer);
  }

  // Its tokenizer makes more or other tokens of the samples than the program has room for: a program of its
  // own, which checkpoints with the same small files share.
  Verdict MakeInOwnShapes(absl::string_view why) {
    Log(why);
    own_shapes_ = true;
    program_key_ = KeyBeside(program_key_, absl::StrJoin(small_files_, "\n"));
    result_->clear_program_digest();
    result_->clear_program_cached();
    KeyLock lock(&stage_, program_key_);
    if (!lock.Take(job_.cancelled)) return {v1::CANCELLED, "cancelled", "", 0};
    return Make();
  }

  // Checked before it is known under a key: the first blob of a key stays.
  Verdict KeepGolden(const ExportAnswer& answer) {
    result_->set_golden_seconds(answer.golden_seconds);
    const std::string key = GoldenKeyOf(), inputs = InputsKeyOf(key);
    if (!answer.no_golden.empty()) Log(absl::StrCat("no golden: ", answer.no_golden));
    result_->set_no_golden(answer.no_golden);
    if (answer.golden.empty()) return {};
    const auto golden = ReadGoldenFile(answer.golden);
    std::string fault;
    if (!golden.ok()) {
      fault = std::string(golden.status().message());
    } else if (golden->program_digest() != result_->program_digest()) {
      fault =
          absl::StrCat("it is of program ", golden->program_digest(), ", not ", result_->program_digest());
    } else if (golden->golden().inputs().empty()) {
      fault = "it has no inputs";
    } else if (answer.no_golden.empty() && golden->weights_digest() != weights_digest_) {
      fault = absl::StrCat("it is of weights ", golden->weights_digest(), ", not ", weights_digest_);
    } else if (answer.no_golden.empty() == golden->golden().outputs().empty()) {
      fault = answer.no_golden.empty() ? "it has no outputs" : "it has outputs and is said to be none";
    }
    if (!fault.empty()) {
      return {v1::INFRASTRUCTURE_ERROR, absl::StrCat("the exporter's golden cannot be used: ", fault), "", 0};
    }
    const auto kept = UploadFile(answer.golden, answer.no_golden.empty() ? key : inputs);
    if (!kept.ok()) return Infrastructure("the golden cannot be kept", kept.status());
    result_->set_golden_digest(*kept);
    if (!answer.no_golden.empty()) {
      const auto recorded = artifacts_.Upload(answer.no_golden, KeyBeside(inputs, "why"));
      if (!recorded.ok()) return Infrastructure("the golden's record cannot be kept", recorded.status());
    } else {
      Log(absl::StrCat("golden ", *kept, " made in ", answer.golden_seconds, " s"));
    }
    return {};
  }

  std::string GoldenKeyOf() const {
    GoldenOrigin origin;
    origin.program_digest = result_->program_digest();
    origin.weights_digest = weights_digest_;
    origin.entry_digest = job_.assignment.checkpoint_entry_digest();
    origin.file_digests = small_files_;
    origin.samples_digest = samples_digest_;
    origin.exporter = stage_.exporter_->identity();
    return GoldenKey(origin);
  }
  // An exporter with more memory may well make the golden that this one cannot.
  std::string InputsKeyOf(absl::string_view golden_key) const {
    return KeyBeside(golden_key, absl::StrCat("inputs ", stage_.exporter_->options().memory_bytes));
  }

  ExportRequest Request() const {
    const v1::Assignment& assignment = job_.assignment;
    ExportRequest request;
    request.folder = found_.folder;
    request.root = found_.root;
    request.id = assignment.checkpoint().id();
    request.commit = found_.commit;
    request.model_class = job_.entry_model_class;
    request.task = assignment.model().task();
    request.template_name = assignment.model().template_();
    request.entry = job_.entry;
    request.catalogue = job_.catalogue;
    request.weights_digest = weights_digest_;
    return request;
  }

  std::pair<ExportAnswer, Verdict> RunExporter(const ExportRequest& request, const char* what) {
    const fs::path out = scratch_.path() / absl::StrCat(++runs_, "-", what);
    std::error_code error;
    fs::create_directories(out, error);
    ExportAnswer answer = stage_.exporter_->Run(request, out, job_.log, job_.cancelled);
    Verdict verdict;
    if (answer.outcome != v1::PASSED) verdict = {answer.outcome, answer.message, "", answer.signal};
    return {std::move(answer), std::move(verdict)};
  }

  absl::StatusOr<std::string> UploadFile(const fs::path& path, const std::string& key) {
    ASSAY_ASSIGN_OR_RETURN(const auto mapped, checkpoint::MappedFile::Open(path));
    return artifacts_.Upload(mapped->text(), key);
  }

  ExportStage& stage_;
  const ExportJob& job_;
  Artifacts& artifacts_;
  v1::ExportResult* result_ = nullptr;
  hub::Found found_;
  ScratchFolder scratch_;
  std::string config_json_;  // empty: inside a GGUF file
  std::string config_digest_;
  std::string weights_digest_;  // empty: they cannot be read, because
  std::string broken_;
  std::vector<std::string> small_files_;
  std::string samples_digest_;
  std::string program_key_;
  bool own_shapes_ = false;
  int runs_ = 0;
};

v1::TestResult ExportStage::Run(const ExportJob& job) {
  const absl::Time start = absl::Now();
  v1::TestResult result;
  Work work(this, job);
  const Verdict verdict = work.Do(*result.mutable_export_());
  result.set_outcome(verdict.over() ? verdict.outcome : v1::PASSED);
  result.set_message(verdict.message);
  result.set_signal(verdict.signal);
  if (!verdict.reason.empty()) result.set_message(absl::StrCat(verdict.reason, ": ", verdict.message));
  result.set_seconds(absl::ToDoubleSeconds(absl::Now() - start) + job.fetch_seconds);
  return result;
}

}  // namespace assay::worker

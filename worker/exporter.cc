#include "worker/exporter.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/bounded_run.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr absl::Duration kIdentityLimit = absl::Minutes(5);  // a cold disk has a gigabyte of Python to read
constexpr size_t kTailBytes = 4096;
constexpr size_t kMaxResultBytes = size_t{1} << 20;
constexpr int kRefused = 126;  // assay-sandbox: a wall does not hold

uint64_t ThreeQuartersOfMemory() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE)) /
         4 * 3;
}

// Keeps the end of what is printed: it says why a process died.
class Tail {
 public:
  void Append(absl::string_view text) {
    text_.append(text.data(), text.size());
    if (text_.size() > kTailBytes) text_.erase(0, text_.size() - kTailBytes);
  }
  std::string Get() const {
    std::string text(absl::StripAsciiWhitespace(text_));
    for (char& c : text) {
      if (!absl::ascii_isprint(static_cast<unsigned char>(c)) && c != '\n' && c != '\t') c = '?';
    }
    return text;
  }

 private:
  std::string text_;
};

// Reads the fields of result.json; the first that is not what it should be is kept as the fault.
class Fields {
 public:
  Fields(const Json& json, fs::path folder) : json_(json), folder_(std::move(folder)) {}

  std::string Text(const char* name) {
    const auto at = json_.find(name);
    if (at == json_.end() || at->is_null()) return "";
    if (at->is_string()) return at->get<std::string>();
    Fault(absl::StrCat(name, " is no text"));
    return "";
  }
  // A file of the folder, named plainly; empty: none.
  fs::path File(const char* name) {
    const std::string file = Text(name);
    if (file.empty()) return {};
    std::error_code error;
    const fs::path path = folder_ / file;
    if (file != fs::path(file).filename() || file == "." || file == "..") {
      Fault(absl::StrCat(name, " '", file, "' is no plain file name"));
    } else if (fs::symlink_status(path, error).type() != fs::file_type::regular) {
      Fault(absl::StrCat(name, " '", file, "' is not there"));
    }
    return path;
  }
  double Seconds(const char* name) {
    const auto seconds = json_.find("seconds");
    if (seconds == json_.end() || !seconds->is_object()) return 0;
    const auto at = seconds->find(name);
    if (at == seconds->end() || !at->is_number()) return 0;
    const double value = at->get<double>();
    return std::isfinite(value) && value > 0 ? value : 0;
  }
  uint64_t Bytes(const char* name) {
    const auto at = json_.find(name);
    if (at == json_.end() || at->is_null()) return 0;
    if (at->is_number_unsigned()) return at->get<uint64_t>();
    Fault(absl::StrCat(name, " is no number of bytes"));
    return 0;
  }
  void Fault(std::string what) {
    if (fault_.empty()) fault_ = std::move(what);
  }
  const std::string& fault() const { return fault_; }

 private:
  const Json& json_;
  const fs::path folder_;
  std::string fault_;
};

ExportAnswer Ended(v1::Outcome outcome, std::string message) {
  ExportAnswer answer;
  answer.outcome = outcome;
  answer.message = std::move(message);
  return answer;
}

ExportAnswer ReadResult(const fs::path& folder, const ExportRequest& request) {
  const auto lie = [](absl::string_view what) {
    return Ended(v1::INFRASTRUCTURE_ERROR, absl::StrCat("the exporter's result.json cannot be used: ", what));
  };
  const absl::StatusOr<std::string> text = ReadFile(folder / "result.json", kMaxResultBytes);
  if (!text.ok()) return lie(text.status().message());
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return lie("it is no JSON object");
  Fields fields(json, folder);
  ExportAnswer answer;
  const std::string outcome = fields.Text("outcome");
  for (v1::Outcome known : {v1::PASSED, v1::FAILED, v1::UNSUPPORTED, v1::OUT_OF_MEMORY}) {
    if (outcome == v1::Outcome_Name(known)) answer.outcome = known;
  }
  if (answer.outcome == v1::OUTCOME_UNSPECIFIED) fields.Fault(absl::StrCat("outcome '", outcome, "'"));
  answer.message = fields.Text("message");
  answer.model_class = fields.Text("model_class");
  answer.model_type = fields.Text("model_type");
  answer.program = fields.File("program");
  answer.golden = fields.File("golden");
  answer.no_golden = fields.Text("no_golden");
  answer.weights = fields.File("weights");
  answer.memory_bytes = fields.Bytes("memory_bytes");
  answer.program_seconds = fields.Seconds("program");
  answer.golden_seconds = fields.Seconds("golden");
  if (answer.outcome == v1::PASSED) {
    if (answer.program.empty() && request.program.empty()) fields.Fault("a pass without a program");
    if (request.want_golden && answer.golden.empty() && answer.no_golden.empty()) {
      fields.Fault("neither a golden nor why there is none");
    }
  } else if (answer.message.empty()) {
    fields.Fault(absl::StrCat(outcome, " without a message"));
  }
  if (!fields.fault().empty()) return lie(fields.fault());
  return answer;
}

class SandboxedExporter final : public Exporter {
 public:
  explicit SandboxedExporter(ExporterOptions options) : options_(std::move(options)) {}

  const ExporterIdentity& identity() const override { return identity_; }
  const ExporterOptions& options() const override { return options_; }

  absl::Status Introduce() {
    std::error_code error;
    if (!fs::exists(Python(), error)) {
      return absl::FailedPreconditionError(absl::StrCat(options_.folder.string(),
                                                        ": no exporter with a .venv; ",
                                                        options_.folder.string(), "/setup makes it"));
    }
    // What links of the environment lead to: the interpreter that it was made from.
    python_home_ = fs::canonical(Python(), error).parent_path().parent_path();
    if (error) return absl::FailedPreconditionError(absl::StrCat(Python().string(), ": ", error.message()));
    std::string scratch = (fs::temp_directory_path() / "assay-exporter.XXXXXX").string();
    if (::mkdtemp(scratch.data()) == nullptr) return absl::ErrnoToStatus(errno, scratch);
    const absl::Status asked = AskIdentity(scratch);
    fs::remove_all(scratch, error);
    return asked;
  }

  ExportAnswer Run(const ExportRequest& request, const fs::path& scratch,
                   const std::function<void(absl::string_view)>& log,
                   const std::function<bool()>& cancelled) override {
    const Json json = {{"folder", request.folder.string()},
                       {"id", request.id},
                       {"commit", request.commit},
                       {"model_class", request.model_class},
                       {"task", request.task},
                       {"template", request.template_name},
                       {"entry", request.entry.string()},
                       {"catalogue", request.catalogue.string()},
                       {"weights_digest", request.weights_digest},
                       {"program", request.program.string()},
                       {"want_golden", request.want_golden},
                       // Less than what kills it: an exporter that sees in time that it cannot says so.
                       {"max_golden_bytes", options_.memory_bytes / 8 * 7},
                       {"allow_pickle", request.allow_pickle},
                       {"samples", options_.samples.string()}};
    const fs::path request_file = scratch / "request.json";
    if (absl::Status wrote =
            WriteFileAtomically(request_file, json.dump(1, ' ', true, Json::error_handler_t::replace));
        !wrote.ok()) {
      return Ended(v1::INFRASTRUCTURE_ERROR, wrote.ToString());
    }
    std::vector<fs::path> shown = {request.folder,    request.root,    request.entry,
                                   request.catalogue, request.program, options_.samples};
    Tail tail;
    const auto output = [&](absl::string_view text) {
      tail.Append(text);
      log(text);
    };
    // A pickle is code: it is looked at behind every wall or not at all.
    const bool strict = strict_ || request.allow_pickle;
    const auto end =
        Start({"checkpoint", "--request", request_file.string(), "--out", scratch.string()}, shown, scratch,
              strict, {options_.timeout, options_.memory_bytes}, output, cancelled);
    if (!end.ok()) return Ended(v1::INFRASTRUCTURE_ERROR, end.status().ToString());
    ExportAnswer answer = Judge(*end, scratch, request);
    if (answer.outcome != v1::PASSED && end->why == BoundedEnd::Why::kItself && end->wait_status != 0 &&
        !tail.Get().empty()) {
      absl::StrAppend(&answer.message, "; its last output: ", tail.Get());
    }
    return answer;
  }

 private:
  fs::path Python() const { return options_.folder / ".venv" / "bin" / "python"; }

  ExportAnswer Judge(const BoundedEnd& end, const fs::path& scratch, const ExportRequest& request) const {
    using Why = BoundedEnd::Why;
    switch (end.why) {
      case Why::kCancelled:
        return Ended(v1::CANCELLED, "the export was cancelled");
      case Why::kTimedOut:
        return Ended(v1::TIMED_OUT, absl::StrCat("the exporter was not done after ",
                                                 absl::FormatDuration(options_.timeout), " and was killed"));
      case Why::kOutOfMemory:
        return Ended(v1::OUT_OF_MEMORY,
                     absl::StrCat("the exporter took ", end.peak_memory_bytes >> 20, " MiB of memory, ",
                                  options_.memory_bytes >> 20, " MiB are allowed; it was killed"));
      case Why::kItself:
        break;
    }
    if (WIFSIGNALED(end.wait_status)) {
      ExportAnswer answer =
          Ended(v1::CRASHED, absl::StrCat("the exporter died: ", DescribeWaitStatus(end.wait_status)));
      answer.signal = WTERMSIG(end.wait_status);
      return answer;
    }
    if (end.wait_status != 0) {
      return Ended(v1::INFRASTRUCTURE_ERROR,
                   absl::StrCat("the exporter ended with ", DescribeWaitStatus(end.wait_status)));
    }
    return ReadResult(scratch, request);
  }

  absl::StatusOr<BoundedEnd> Start(const std::vector<std::string>& words, const std::vector<fs::path>& shown,
                                   const fs::path& scratch, bool strict, const Bounds& bounds,
                                   const std::function<void(absl::string_view)>& output,
                                   const std::function<bool()>& cancelled) const {
    std::error_code error;
    const fs::path home = scratch / "home";
    fs::create_directories(home, error);
    std::vector<std::string> arguments;
    if (strict) arguments.push_back("--strict");
    const auto show = [&arguments](const fs::path& path) {
      if (path.empty()) return;
      arguments.push_back("--read");
      arguments.push_back(path.string());
    };
    show(options_.folder);
    show(python_home_);
    for (const fs::path& path : shown) show(path);
    arguments.insert(arguments.end(),
                     {"--write", scratch.string(), "--", Python().string(), "-m", "assay_exporter"});
    arguments.insert(arguments.end(), words.begin(), words.end());
    // Nothing of the worker's own environment: it may hold secrets, and an export must not depend on it.
    const unsigned threads = std::max(1U, std::thread::hardware_concurrency() / std::max(1U, options_.slots));
    const std::vector<std::string> environment = {
        "PATH=/usr/bin:/bin",
        "LANG=C.UTF-8",
        "HOME=" + home.string(),
        "TMPDIR=" + home.string(),
        "HF_HOME=" + home.string(),
        "HF_HUB_OFFLINE=1",
        "TRANSFORMERS_OFFLINE=1",
        "CUDA_VISIBLE_DEVICES=",
        "OMP_NUM_THREADS=" + std::to_string(threads),
        "TOKENIZERS_PARALLELISM=false",
        "PYTHONPATH=" + options_.folder.string(),
        "PYTHONSAFEPATH=1",
        "PYTHONNOUSERSITE=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
    };
    return RunBounded(options_.sandbox_binary, arguments, environment, bounds, output, cancelled);
  }

  absl::Status AskIdentity(const fs::path& scratch) {
    for (strict_ = true;; strict_ = false) {
      std::string printed;
      Tail tail;
      const auto output = [&](absl::string_view text) {
        tail.Append(text);
        if (printed.size() < kMaxResultBytes) absl::StrAppend(&printed, text);
      };
      ASSAY_ASSIGN_OR_RETURN(const BoundedEnd end, Start({"identity"}, {}, scratch, strict_,
                                                         {kIdentityLimit, 0}, output, [] { return false; }));
      if (end.why == BoundedEnd::Why::kItself && WIFEXITED(end.wait_status) &&
          WEXITSTATUS(end.wait_status) == kRefused && strict_) {
        if (options_.allow_pickle) {
          return absl::FailedPreconditionError(
              absl::StrCat("pickles may only be converted in a sandbox that holds: ", tail.Get()));
        }
        spdlog::error("exports run without a whole sandbox: {}", tail.Get());
        continue;
      }
      if (end.why != BoundedEnd::Why::kItself || end.wait_status != 0 || !TakeIdentity(printed)) {
        return absl::FailedPreconditionError(absl::StrCat(
            "the exporter in ", options_.folder.string(), " does not say who it is (",
            end.why == BoundedEnd::Why::kItself ? DescribeWaitStatus(end.wait_status) : "no answer in time",
            "): ", tail.Get()));
      }
      return absl::OkStatus();
    }
  }

  // From the line that is it: libraries print warnings around it.
  bool TakeIdentity(const std::string& printed) {
    size_t start = 0;
    while (start < printed.size()) {
      const size_t end = std::min(printed.find('\n', start), printed.size());
      const Json json = Json::parse(printed.begin() + static_cast<std::ptrdiff_t>(start),
                                    printed.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      start = end + 1;
      if (!json.is_object()) continue;
      Fields fields(json, {});
      identity_ = {fields.Text("exporter"), fields.Text("transformers"), fields.Text("torch")};
      if (fields.fault().empty() && !identity_.code.empty() && !identity_.transformers.empty() &&
          !identity_.torch.empty()) {
        return true;
      }
    }
    return false;
  }

  const ExporterOptions options_;
  fs::path python_home_;
  bool strict_ = true;  // constant after Introduce(), as is what follows
  ExporterIdentity identity_;
};

}  // namespace

std::string ExporterIdentity::Text() const {
  return absl::StrCat("assay-exporter ", code.substr(0, 12), ", transformers ", transformers, ", torch ",
                      torch);
}

absl::StatusOr<std::unique_ptr<Exporter>> Exporter::Start(ExporterOptions options) {
  if (options.slots < 1 || options.slots > 64) return absl::InvalidArgumentError("export slots: 1 to 64");
  if (options.memory_bytes == 0) options.memory_bytes = ThreeQuartersOfMemory();
  if (options.samples.empty()) options.samples = options.folder / ".." / "models" / "samples";
  for (fs::path* path : {&options.folder, &options.samples, &options.sandbox_binary}) {
    *path = fs::absolute(*path).lexically_normal();
  }
  auto exporter = std::make_unique<SandboxedExporter>(std::move(options));
  ASSAY_RETURN_IF_ERROR(exporter->Introduce());
  return exporter;
}

}  // namespace assay::worker

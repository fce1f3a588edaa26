#include "cli/gate.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "assay/v1/gate.pb.h"
#include "cli/gate_report.h"
#include "cli/host_process.h"
#include "cli/output.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

void AddCommon(std::vector<std::string>& arguments, const std::vector<std::string>& models,
               const std::string& device, const std::string& dtype, uint32_t timeout_seconds) {
  for (const std::string& model : models) arguments.insert(arguments.end(), {"--model", model});
  arguments.insert(arguments.end(),
                   {"--device", device, "--dtype", dtype, "--timeout", absl::StrCat(timeout_seconds)});
}

absl::Status CheckCode(int code, const std::string& what) {
  if (code == kExitOk) return absl::OkStatus();
  if (code == kExitUsage)
    return absl::InvalidArgumentError(absl::StrCat(what, ": the host says above why not"));
  return absl::InternalError(absl::StrCat(what, " ended with exit code ", code));
}

// Runs the comparisons of one command, in a temporary folder of its own.
class Gatherer {
 public:
  explicit Gatherer(const GateOptions& options) : options_(options) {}
  ~Gatherer() {
    std::error_code error;
    if (!folder_.empty()) fs::remove_all(folder_, error);
  }
  Gatherer(const Gatherer&) = delete;
  Gatherer& operator=(const Gatherer&) = delete;

  absl::Status Start() {
    std::string temporary = (fs::temp_directory_path() / "assay-gate-XXXXXX").string();
    if (mkdtemp(temporary.data()) == nullptr)
      return absl::ErrnoToStatus(errno, absl::StrCat("making ", temporary));
    folder_ = temporary;
    return absl::OkStatus();
  }

  // Of side `a` against side `b`, by index.
  absl::StatusOr<v1::GateReport> Compare(size_t a, size_t b, const std::vector<std::string>& models) {
    std::vector<std::string> arguments = {"gate"};
    ASSAY_RETURN_IF_ERROR(AddSide(a, models, "--from", options_.from_checkpoint, options_.from_golden,
                                  options_.from_host, a, arguments));
    ASSAY_RETURN_IF_ERROR(AddSide(b, models, "--to", options_.to_checkpoint, options_.to_golden,
                                  options_.to_host, a, arguments));
    AddCommon(arguments, models, options_.device, options_.dtype, options_.timeout_seconds);
    const fs::path file = folder_ / "report";
    arguments.insert(arguments.end(), {"--output", file.string()});
    ASSAY_ASSIGN_OR_RETURN(const int code, RunHost(options_.host_binary, arguments));
    ASSAY_RETURN_IF_ERROR(
        CheckCode(code, absl::StrCat("comparing ", options_.sides[a], " with ", options_.sides[b])));
    ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
    v1::GateReport report;
    if (!report.ParseFromString(bytes) || report.format() != 1) {
      return absl::InternalError("the host's report cannot be read: is it of another build?");
    }
    report.set_from(options_.sides[a]);
    report.set_to(options_.sides[b]);
    return report;
  }

 private:
  // A side of another build of the host is recorded by that build, with the weights and inputs of side
  // `like`.
  absl::Status AddSide(size_t index, const std::vector<std::string>& models, const std::string& flag,
                       const std::string& checkpoint, const std::string& golden, const std::string& host,
                       size_t like, std::vector<std::string>& into) {
    const std::string& side = options_.sides[index];
    std::vector<std::string> given;
    if (!checkpoint.empty()) given.insert(given.end(), {"-checkpoint", checkpoint});
    if (!golden.empty()) given.insert(given.end(), {"-golden", golden});
    if (host.empty()) {
      into.insert(into.end(), {flag, side});
      for (size_t i = 0; i < given.size(); i += 2) into.insert(into.end(), {flag + given[i], given[i + 1]});
      return absl::OkStatus();
    }
    const fs::path recordings = folder_ / absl::StrCat("recorded", index);
    std::vector<std::string> arguments = {"record", "--from", side, "--output", recordings.string()};
    for (size_t i = 0; i < given.size(); i += 2)
      arguments.insert(arguments.end(), {"--from" + given[i], given[i + 1]});
    if (index != like && checkpoint.empty())
      arguments.insert(arguments.end(), {"--like", options_.sides[like]});
    AddCommon(arguments, models, options_.device, options_.dtype, options_.timeout_seconds);
    ASSAY_ASSIGN_OR_RETURN(const int code, RunHost(host, arguments));
    // Models that it could not record are not in the folder: the comparison says so of each.
    if (code != kExitTestsFailed) ASSAY_RETURN_IF_ERROR(CheckCode(code, absl::StrCat("recording ", side)));
    // A file is compared with a file, whatever their names.
    const fs::path alone = recordings / absl::StrCat(fs::path(side).stem().string(), ".recording");
    const bool is_file = fs::is_regular_file(side) && fs::is_regular_file(alone);
    into.insert(into.end(), {flag, is_file ? alone.string() : recordings.string()});
    return absl::OkStatus();
  }

  const GateOptions& options_;
  fs::path folder_;
};

// One model's way through the sides: `candidates` are indexes after `low` that may have changed; the last of
// them did.
struct Search {
  size_t low = 0;
  std::vector<size_t> candidates;
  std::vector<size_t> skipped;
  v1::GateResult result;
  size_t Middle() const { return candidates[(candidates.size() - 1) / 2]; }
  bool done() const { return candidates.size() <= 1; }
};

absl::StatusOr<v1::BisectReport> Bisect(const GateOptions& options, Gatherer& gatherer) {
  v1::BisectReport report;
  report.set_format(1);
  for (const std::string& side : options.sides) report.add_side(side);
  const size_t last = options.sides.size() - 1;
  ASSAY_ASSIGN_OR_RETURN(const v1::GateReport whole, gatherer.Compare(0, last, options.models));
  std::map<std::string, Search> searches;
  for (const v1::GateResult& result : whole.result()) {
    if (result.verdict() != v1::CHANGED) continue;
    Search& search = searches[result.model()];
    search.result = result;
    for (size_t i = 1; i <= last; ++i) search.candidates.push_back(i);
  }
  for (;;) {
    std::map<size_t, std::vector<std::string>> wanted;
    for (const auto& [model, search] : searches) {
      if (!search.done()) wanted[search.Middle()].push_back(model);
    }
    if (wanted.empty()) break;
    for (const auto& [side, models] : wanted) {
      ASSAY_ASSIGN_OR_RETURN(const v1::GateReport one, gatherer.Compare(0, side, models));
      std::map<std::string, v1::GateResult> found;
      for (const v1::GateResult& result : one.result()) found[result.model()] = result;
      for (const std::string& model : models) {
        Search& search = searches[model];
        const v1::GateResult& result = found[model];
        const auto at = std::find(search.candidates.begin(), search.candidates.end(), side);
        switch (result.verdict()) {
          case v1::CHANGED:
            search.candidates.erase(at + 1, search.candidates.end());
            search.result = result;
            break;
          case v1::SAME:
          case v1::WITHIN_TOLERANCE:
            search.low = side;
            search.candidates.erase(search.candidates.begin(), at + 1);
            break;
          default:
            search.skipped.push_back(side);
            search.candidates.erase(at);
        }
      }
    }
  }
  for (const v1::GateResult& result : whole.result()) {
    v1::BisectResult& made = *report.add_result();
    made.set_model(result.model());
    const auto search = searches.find(result.model());
    if (search == searches.end()) {
      if (result.verdict() != v1::NOT_COMPARABLE) made.set_last_unchanged(options.sides[last]);
      *made.mutable_result() = result;
      continue;
    }
    const size_t first = search->second.candidates[0];
    made.set_last_unchanged(options.sides[search->second.low]);
    made.set_first_changed(options.sides[first]);
    std::sort(search->second.skipped.begin(), search->second.skipped.end());
    for (const size_t skipped : search->second.skipped) {
      if (skipped > search->second.low && skipped < first) made.add_skipped(options.sides[skipped]);
    }
    *made.mutable_result() = search->second.result;
  }
  return report;
}

template <typename Report>
absl::StatusOr<ExitCode> Tell(const GateOptions& options, const Report& report) {
  ASSAY_ASSIGN_OR_RETURN(const std::string text, Render(report, options.format));
  ASSAY_RETURN_IF_ERROR(Write(options.output, text));
  const GateCounts counts = Count(report);
  if (counts.changed > 0) return kExitChanged;
  if (counts.not_comparable > 0 && !options.allow_not_comparable) return kExitTestsFailed;
  // What was allowed not to be compared does not make a green of nothing.
  return counts.same + counts.within > 0 ? kExitOk : kExitNoTests;
}

absl::StatusOr<ExitCode> Gate(const GateOptions& options) {
  if (options.sides.size() < 2) {
    return absl::InvalidArgumentError(options.bisect ? "--bisect takes two sides at least"
                                                     : "--from and --to name what is compared");
  }
  if (options.from_checkpoint.empty() != options.to_checkpoint.empty()) {
    return absl::InvalidArgumentError("--from-checkpoint and --to-checkpoint belong together");
  }
  Gatherer gatherer(options);
  ASSAY_RETURN_IF_ERROR(gatherer.Start());
  if (options.bisect) {
    ASSAY_ASSIGN_OR_RETURN(const v1::BisectReport report, Bisect(options, gatherer));
    return Tell(options, report);
  }
  ASSAY_ASSIGN_OR_RETURN(const v1::GateReport report, gatherer.Compare(0, 1, options.models));
  return Tell(options, report);
}

}  // namespace

ExitCode GateCommand(const GateOptions& options) {
  const absl::StatusOr<ExitCode> code = Gate(options);
  return code.ok() ? *code : Complain(code.status());
}

ExitCode RecordCommand(const RecordOptions& options) {
  std::vector<std::string> arguments = {"record", "--from", options.side, "--output", options.output_dir};
  if (!options.like.empty()) arguments.insert(arguments.end(), {"--like", options.like});
  if (!options.checkpoint.empty())
    arguments.insert(arguments.end(), {"--from-checkpoint", options.checkpoint});
  if (!options.golden.empty()) arguments.insert(arguments.end(), {"--from-golden", options.golden});
  AddCommon(arguments, options.models, options.device, options.dtype, options.timeout_seconds);
  const absl::StatusOr<int> code = RunHost(options.host_binary, arguments);
  return code.ok() ? static_cast<ExitCode>(*code) : Complain(code.status());
}

}  // namespace assay::cli

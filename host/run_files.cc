#include "host/run_files.h"

#include <poll.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "engine/run_test.h"
#include "google/protobuf/util/json_util.h"
#include "host/signals.h"

namespace assay::host {
namespace {

// A name out of a test file becomes part of a path only if it stays below its folder.
bool IsPlainPath(absl::string_view path) {
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
    for (char c : part) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-')
        return false;
    }
  }
  return true;
}

absl::Status AddFiles(const RunFilesOptions& options, v1::RunTest& request) {
  for (const std::string& given : options.files) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(given, absl::MaxSplits('=', 1));
    if (!IsDigest(parts.first) || parts.second.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--file ", given, " is not DIGEST=PATH"));
    }
    v1::BlobFile& file = *request.add_file();
    file.set_digest(parts.first);
    file.set_path(parts.second);
  }
  if (options.blobs.empty()) return absl::OkStatus();
  for (const v1::Case& c : request.test().case_()) {
    for (const std::string& digest : {c.program_digest(), c.golden_digest()}) {
      // A digest out of a test file becomes part of a path only if it is one.
      if (!IsDigest(digest)) continue;
      v1::BlobFile& file = *request.add_file();
      file.set_digest(digest);
      file.set_path((std::filesystem::path(options.blobs) / digest).string());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::RunTest> ReadTest(const std::string& file, const RunFilesOptions& options) {
  v1::RunTest request;
  ASSAY_ASSIGN_OR_RETURN(std::string text, ReadFile(file));
  ASSAY_RETURN_IF_ERROR(ParseTextProto(file, text, *request.mutable_test()));
  v1::ModelTest& test = *request.mutable_test();
  if (!IsPlainPath(test.name()) || absl::StrContains(test.name(), '/')) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": name '", test.name(), "' is no file name"));
  }
  if (options.dtype != v1::DTYPE_UNSPECIFIED) test.mutable_set_up()->set_dtype(options.dtype);
  request.set_id(file);
  request.set_profile(options.profile);
  if (test.set_up().device() == v1::AUTO && options.device != v1::DEVICE_CHOICE_UNSPECIFIED) {
    test.mutable_set_up()->set_device(options.device);
  }
  if (!test.program_digest().empty()) {
    request.set_program_path((std::filesystem::path(options.programs) / (test.name() + ".assay")).string());
  }
  if (!options.checkpoint_root.empty() && IsPlainPath(test.checkpoint())) {
    std::filesystem::path folder = std::filesystem::path(options.checkpoint_root) / test.checkpoint();
    if (std::error_code ignored; std::filesystem::is_directory(folder, ignored)) {
      request.set_checkpoint_dir(folder.string());
    }
  }
  if (!options.checkpoint.empty()) request.set_checkpoint_dir(options.checkpoint);
  ASSAY_RETURN_IF_ERROR(AddFiles(options, request));
  return request;
}

class Printer {
 public:
  explicit Printer(bool verbose) : verbose_(verbose) {}

  void Print(const v1::ModelTest& test, const v1::TestResult& result) {
    ++counts_[result.outcome()];
    const v1::DeviceInfo& device = result.provenance().device();
    std::string line = absl::StrFormat("%-20s %-28s %s %s %.3f s", v1::Outcome_Name(result.outcome()),
                                       test.name(), device.kind(), device.capability(), result.seconds());
    if (!result.message().empty()) absl::StrAppend(&line, "  ", result.message());
    printf("%s\n", line.c_str());
    for (const v1::CaseResult& c : result.case_()) Print(c);
    if (!result.output_tail().empty()) {
      for (absl::string_view text : absl::StrSplit(result.output_tail(), '\n', absl::SkipEmpty())) {
        printf("    | %s\n", std::string(text).c_str());
      }
    }
    fflush(stdout);
  }

  // The last line, and the exit code that it stands for.
  int Finish(bool interrupted) {
    std::vector<std::string> parts;
    int total = 0;
    for (const auto& [outcome, count] : counts_) {
      parts.push_back(absl::StrCat(count, " ", v1::Outcome_Name(outcome)));
      total += count;
    }
    printf("%d tests: %s\n", total, parts.empty() ? "none was run" : absl::StrJoin(parts, ", ").c_str());
    fflush(stdout);
    if (interrupted) return kExitInterrupted;
    int good = counts_[v1::PASSED] + counts_[v1::SKIPPED];
    if (total > good) return kExitTestsFailed;
    return counts_[v1::PASSED] > 0 ? kExitOk : kExitNoTests;
  }

 private:
  void Print(const v1::CaseResult& c) {
    bool passed = c.outcome() == v1::PASSED;
    if (passed && !verbose_ && c.cost().operator__size() == 0) return;
    if (c.outcome() == v1::SKIPPED && !verbose_) return;
    printf("    %s %s %s%s%s\n", v1::Outcome_Name(c.outcome()).c_str(), c.name().c_str(), c.reason().c_str(),
           c.message().empty() ? "" : ": ", c.message().c_str());
    if (c.has_load()) PrintLoad(c.load());
    for (const v1::OperatorCost& cost : c.cost().operator_()) {
      printf("      %9.6f s  %6llu x %s\n", cost.seconds(), static_cast<unsigned long long>(cost.calls()),
             cost.op().c_str());
    }
    if (!c.no_golden().empty()) printf("      no golden: %s\n", c.no_golden().c_str());
    for (const v1::AnswerResult& answer : c.answer()) {
      printf("      %s: %s -> %s (eager: %s%s)\n", answer.name().c_str(), answer.question().c_str(),
             answer.text().c_str(), answer.expected().c_str(), answer.known() ? ", known" : "");
    }
    for (const v1::CheckResult& check : c.check()) {
      if (check.outcome() == v1::PASSED && !verbose_) continue;
      std::string measured =
          check.has_error() ? absl::StrFormat(" error %.3g of %.3g", check.error(), check.tolerance()) : "";
      printf("      %s %s%s%s%s\n", v1::Outcome_Name(check.outcome()).c_str(), check.name().c_str(),
             measured.c_str(), check.message().empty() ? "" : ": ", check.message().c_str());
    }
    if (c.has_divergence()) {
      printf("      first to differ: %s (%s) in '%s': %s\n", c.divergence().node().c_str(),
             c.divergence().op().c_str(), c.divergence().module().c_str(), c.divergence().detail().c_str());
      if (!c.divergence().fault_reason().empty()) {
        printf("      at fault: %s: %s\n", v1::FaultVerdict_Name(c.divergence().fault()).c_str(),
               c.divergence().fault_reason().c_str());
      }
    }
  }

  static void PrintLoad(const v1::LoadReport& load) {
    printf(
        "      %s: %u bound, %u missing, %u unexpected, %u mismatched, %u tied, %u converted, %u defects; "
        "%.1f MiB in %.3f s\n",
        load.format().c_str(), load.bound(), load.missing_count(), load.unexpected_count(),
        load.mismatched_count(), load.tied_count(), load.converted_count(), load.defect_count(),
        static_cast<double>(load.bytes()) / (1 << 20), load.seconds());
    const auto print = [](const char* what, const google::protobuf::RepeatedPtrField<std::string>& names) {
      for (const std::string& name : names) printf("        %s %s\n", what, name.c_str());
    };
    print("missing", load.missing());
    print("mismatched", load.mismatched());
    print("defect", load.defect());
  }

  const bool verbose_;
  std::map<v1::Outcome, int> counts_;
};

// Results as JSON, a line each, as they come.
class ResultFile {
 public:
  absl::Status Open(const std::string& path) {
    if (path.empty()) return absl::OkStatus();
    file_.open(path, std::ios::trunc);
    return Check(path);
  }

  // An error is kept for Close.
  void Add(const v1::ModelTest& test, const v1::TestResult& result) {
    if (!file_.is_open()) return;
    std::string json;
    google::protobuf::util::JsonPrintOptions print;
    print.preserve_proto_field_names = true;
    const auto made = google::protobuf::util::MessageToJsonString(result, &json, print);
    if (!made.ok()) file_.setstate(std::ios::failbit);
    // The name is a plain file name (ReadTest): nothing in it needs an escape.
    file_ << "{\"test\": \"" << test.name() << "\", \"result\": " << json << "}\n" << std::flush;
  }

  absl::Status Check(const std::string& path) {
    if (!file_.is_open() && path.empty()) return absl::OkStatus();
    if (file_.good()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--results: ", path, " cannot be written"));
  }

 private:
  std::ofstream file_;
};

class SilentSink final : public engine::TestSink {
 public:
  void CaseStarted(absl::string_view) override {}
  void CaseFinished(const v1::CaseResult&) override {}
  void Log(absl::string_view text) override { fwrite(text.data(), 1, text.size(), stderr); }
};

}  // namespace

int RunFiles(const RunFilesOptions& options) {
  std::vector<v1::RunTest> requests;
  std::set<std::string> files;
  for (const std::string& file : options.tests) {
    if (!files.insert(file).second) continue;
    auto request = ReadTest(file, options);
    if (!request.ok()) {
      fprintf(stderr, "%s\n", std::string(request.status().message()).c_str());
      return kExitUsage;
    }
    requests.push_back(*std::move(request));
  }

  Printer printer(options.verbose);
  ResultFile results;
  const auto finish = [&](bool interrupted) -> int {
    const int code = printer.Finish(interrupted);
    const absl::Status written = results.Check(options.results);
    if (written.ok()) return code;
    fprintf(stderr, "%s\n", std::string(written.message()).c_str());
    return kExitUsage;
  };
  if (!results.Open(options.results).ok()) return finish(false);
  if (options.in_process) {
    for (const v1::RunTest& request : requests) {
      SilentSink sink;
      engine::RunOptions run{request.program_path(), request.checkpoint_dir(), options.processes.allow_cuda};
      for (const v1::BlobFile& file : request.file()) run.files[file.digest()] = file.path();
      run.reduce_to = options.reduce_to;
      run.profile = options.profile;
      const v1::TestResult result = options.processes.runner(request.test(), run, sink);
      printer.Print(request.test(), result);
      results.Add(request.test(), result);
    }
    return finish(false);
  }

  std::map<std::string, const v1::ModelTest*> by_id;
  for (const v1::RunTest& request : requests) by_id[request.id()] = &request.test();
  TestProcesses processes(options.processes, [&](const v1::HostEvent& event) {
    if (!event.has_result()) return;
    printer.Print(*by_id.at(event.id()), event.result());
    results.Add(*by_id.at(event.id()), event.result());
  });
  size_t next = 0;
  std::vector<pollfd> fds;
  while (next < requests.size() || processes.running() > 0) {
    while (next < requests.size() && processes.running() < static_cast<size_t>(options.jobs)) {
      processes.Start(requests[next++]);
    }
    fds.assign({{StopSignals(), POLLIN, 0}});
    processes.AppendPollFds(fds);
    poll(fds.data(), fds.size(), processes.NextTimeout());
    if (fds[0].revents != 0) return finish(true);
    processes.Step();
  }
  return finish(false);
}

}  // namespace assay::host

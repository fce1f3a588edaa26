#include "cli/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/parity.h"
#include "coordinator/report/words.h"
#include "google/protobuf/util/json_util.h"

namespace assay::cli {

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::vector<std::string>> clean = rows;
  std::vector<size_t> widths;
  for (auto& row : clean) {
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = report::CleanText(row[i]);
      std::replace(row[i].begin(), row[i].end(), '\n', ' ');
      if (widths.size() <= i) widths.push_back(0);
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string out;
  for (const auto& row : clean) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out.append(widths[i] - row[i].size() + 2, ' ');
    }
    out += '\n';
  }
  return out;
}

std::string Indented(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) {
    std::string clean = report::Shorten(report::CleanText(line), 400);
    std::replace(clean.begin(), clean.end(), '\n', ' ');
    absl::StrAppend(&out, "    ", clean, "\n");
  }
  return out;
}

namespace {

absl::StatusOr<std::string> PrintJson(const google::protobuf::Message& message, bool whitespace) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = whitespace;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok())
    return absl::InternalError(absl::StrCat("cannot be written as JSON: ", status.ToString()));
  if (json.empty() || json.back() != '\n') json += '\n';
  return json;
}

}  // namespace

absl::StatusOr<std::string> ToJson(const google::protobuf::Message& message) {
  return PrintJson(message, true);
}

absl::StatusOr<std::string> ToJsonLine(const google::protobuf::Message& message) {
  return PrintJson(message, false);
}

absl::Status Write(const std::string& path, absl::string_view content) {
  if (!path.empty()) return WriteFileAtomically(path, content);
  if (std::fwrite(content.data(), 1, content.size(), stdout) != content.size() || std::fflush(stdout) != 0) {
    return absl::ErrnoToStatus(errno, "standard output");
  }
  return absl::OkStatus();
}

ExitCode Complain(const absl::Status& status) {
  std::fprintf(stderr, "assay: %s\n", std::string(status.message()).c_str());
  return ExitCodeOf(status);
}

void ComplainOf(const std::vector<v1::FileError>& errors) {
  for (const v1::FileError& error : errors) {
    std::string line = report::CleanText(error.file());
    // Some errors are about the whole file.
    if (error.line() > 0) absl::StrAppend(&line, ":", error.line(), ":", error.column());
    if (!error.field().empty()) absl::StrAppend(&line, ": ", report::CleanText(error.field()));
    std::fprintf(stderr, "%s: %s\n", line.c_str(), report::CleanText(error.message()).c_str());
  }
}

ExitCode ExitCodeOfJobs(const std::vector<v1::Job>& jobs) {
  bool ran = false, failed = false, infrastructure = false, cancelled = false;
  std::vector<const v1::Job*> pointers;
  for (const v1::Job& job : jobs) {
    pointers.push_back(&job);
    switch (job.result().outcome()) {
      case v1::PASSED:
        ran = true;
        break;
      case v1::SKIPPED:
        break;
      case v1::CANCELLED:
        cancelled = true;
        break;
      case v1::INFRASTRUCTURE_ERROR:
        infrastructure = true;
        break;
      default:
        failed = true;
    }
  }
  // Each may have passed on its own device, by its own bound: that they differ is a fault all the same.
  for (const report::ParityCheck& check : report::CompareDevices(pointers)) {
    failed = failed || check.parity == report::Parity::kDiffer;
  }
  if (failed) return kExitTestsFailed;
  if (infrastructure) return kExitInfrastructure;
  if (cancelled) return kExitInterrupted;
  return ran ? kExitOk : kExitNoTests;
}

std::string BatchLine(const v1::Batch& batch) {
  std::string line = absl::StrCat("batch ", batch.batch_id(), " (", report::CleanText(batch.name()), "): ");
  absl::string_view before = "";
  for (const v1::OutcomeCount& count : batch.counts()) {
    if (count.count() == 0) continue;
    absl::StrAppend(&line, before, count.count(), " ", report::OutcomeWord(count.outcome()));
    before = ", ";
  }
  if (before.empty()) absl::StrAppend(&line, batch.done());
  absl::StrAppend(&line, " of ", batch.total());
  if (batch.cancelled()) absl::StrAppend(&line, ", cancelled");
  return line;
}

}  // namespace assay::cli

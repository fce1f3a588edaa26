#include "cli/remote_commands.h"

#include <cstdio>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report_files.h"
#include "cli/terminal.h"
#include "coordinator/report/real.h"
#include "coordinator/report/scope.h"
#include "coordinator/report/words.h"
#include "nlohmann/json.hpp"

namespace assay::cli {
namespace {

ExitCode WriteOr(const absl::Status& status) { return status.ok() ? kExitOk : Complain(status); }

ExitCode WriteJson(const google::protobuf::Message& message) {
  absl::StatusOr<std::string> json = ToJson(message);
  if (!json.ok()) return Complain(json.status());
  return WriteOr(Write("", *json));
}

ExitCode ComplainOfWatch(const absl::Status& status, const std::vector<std::string>& batch_ids) {
  if (!absl::IsCancelled(status)) return Complain(status);
  std::fprintf(stderr, "assay: interrupted; the coordinator goes on with: %s\n",
               absl::StrJoin(batch_ids, " ").c_str());
  return kExitInterrupted;
}

// Follows, and says how each batch ended. `answer`: where progress goes.
ExitCode FollowToTheEnd(Connection& connection, const std::vector<std::string>& batch_ids, size_t total,
                        std::FILE* answer, std::vector<v1::GetBatchResponse>* ended) {
  Interrupt interrupt;
  Progress progress(answer, TerminalOf(answer), total);
  absl::StatusOr<std::vector<v1::GetBatchResponse>> followed = Follow(
      connection, batch_ids, [&](const v1::BatchEvent& event) { progress.Show(event); }, interrupt);
  progress.Clear();
  if (!followed.ok()) return ComplainOfWatch(followed.status(), batch_ids);
  std::vector<v1::Job> jobs;
  for (const v1::GetBatchResponse& batch : *followed) {
    std::fprintf(answer, "%s\n", BatchLine(batch.batch()).c_str());
    jobs.insert(jobs.end(), batch.job().begin(), batch.job().end());
  }
  std::fflush(answer);
  *ended = *std::move(followed);
  return ExitCodeOfJobs(jobs);
}

// Hands on every event as a line of JSON.
ExitCode FollowAsJson(Connection& connection, const std::string& batch_id) {
  Interrupt interrupt;
  absl::Status written;
  absl::StatusOr<std::vector<v1::GetBatchResponse>> followed = Follow(
      connection, {batch_id},
      [&](const v1::BatchEvent& event) {
        absl::StatusOr<std::string> line = ToJsonLine(event);
        written.Update(line.ok() ? Write("", *line) : line.status());
      },
      interrupt);
  if (!followed.ok()) return ComplainOfWatch(followed.status(), {batch_id});
  if (!written.ok()) return Complain(written);
  const v1::GetBatchResponse& ended = followed->front();
  return ExitCodeOfJobs({ended.job().begin(), ended.job().end()});
}

std::string TargetWord(const v1::Job& job) { return report::TargetOf(job); }

}  // namespace

ExitCode SubmitCommand(const ConnectionOptions& to, const Submission& submission,
                       const SubmitOptions& options) {
  Connection connection(to);
  std::vector<v1::Batch> batches;
  std::vector<v1::FileError> errors;
  const absl::Status submitted = SubmitFiles(connection, submission, &batches, &errors);
  std::vector<std::string> batch_ids;
  size_t total = 0;
  for (const v1::Batch& batch : batches) {
    batch_ids.push_back(batch.batch_id());
    total += batch.total();
    // With JSON the answer is one document; without, an id a line is known even where a later file is
    // refused.
    if (!options.json)
      std::printf("%s  %s  %u jobs\n", batch.batch_id().c_str(), batch.name().c_str(), batch.total());
  }
  std::fflush(stdout);
  if (!submitted.ok()) {
    ComplainOf(errors);
    if (!errors.empty()) {
      std::fprintf(stderr, "assay: refused; batches submitted: %zu of %zu\n", batches.size(),
                   submission.files.size());
      return kExitUsage;
    }
    return Complain(submitted);
  }
  ExitCode code = kExitOk;
  if (options.watch) {
    std::vector<v1::GetBatchResponse> ended;
    code = FollowToTheEnd(connection, batch_ids, total, options.json ? stderr : stdout, &ended);
    for (size_t i = 0; i < ended.size(); ++i) batches[i] = ended[i].batch();
    if (!ended.empty() && !options.output_dir.empty()) {
      const absl::Status written = WriteReportFiles(connection, ended, options.output_dir);
      if (!written.ok()) return Complain(written);
    }
  }
  if (options.json) {
    v1::ListBatchesResponse answer;
    for (const v1::Batch& batch : batches) *answer.add_batch() = batch;
    const ExitCode written = WriteJson(answer);
    if (written != kExitOk) return written;
  }
  return code;
}

ExitCode WatchCommand(const ConnectionOptions& options, const std::string& batch_id, bool json) {
  Connection connection(options);
  if (json) return FollowAsJson(connection, batch_id);
  absl::StatusOr<v1::GetBatchResponse> batch = connection.GetBatch(batch_id);
  if (!batch.ok()) return Complain(batch.status());
  std::vector<v1::GetBatchResponse> ended;
  return FollowToTheEnd(connection, {batch_id}, batch->batch().total(), stdout, &ended);
}

ExitCode BatchesCommand(const ConnectionOptions& options, size_t limit, bool json) {
  Connection connection(options);
  absl::StatusOr<std::vector<v1::Batch>> batches = connection.ListBatches(limit);
  if (!batches.ok()) return Complain(batches.status());
  if (json) {
    v1::ListBatchesResponse answer;
    for (const v1::Batch& batch : *batches) *answer.add_batch() = batch;
    return WriteJson(answer);
  }
  std::vector<std::vector<std::string>> rows = {{"BATCH", "FILE", "SUBMITTED (UTC)", "DONE", "OUTCOMES"}};
  for (const v1::Batch& batch : *batches) {
    std::vector<std::string> counts;
    for (const v1::OutcomeCount& count : batch.counts()) {
      if (count.count() > 0)
        counts.push_back(absl::StrCat(count.count(), " ", report::OutcomeWord(count.outcome())));
    }
    if (batch.cancelled()) counts.push_back("cancelled");
    rows.push_back({batch.batch_id(), batch.name(), report::TimeText(batch.create_time()),
                    absl::StrCat(batch.done(), "/", batch.total()), absl::StrJoin(counts, ", ")});
  }
  return WriteOr(Write("", Table(rows)));
}

ExitCode ShowCommand(const ConnectionOptions& options, const std::string& batch_id, bool json) {
  Connection connection(options);
  absl::StatusOr<v1::GetBatchResponse> batch = connection.GetBatch(batch_id);
  if (!batch.ok()) return Complain(batch.status());
  if (json) return WriteJson(*batch);
  std::vector<std::vector<std::string>> rows = {
      {"OUTCOME", "MODEL", "TARGET", "TIME", "ATTEMPTS", "WORKER", "JOB", "DETAIL"}};
  for (const v1::Job& job : batch->job()) {
    rows.push_back({report::JobWord(job), job.model().name(), TargetWord(job),
                    report::SecondsText(job.result().seconds()), absl::StrCat(job.attempt()), job.worker(),
                    job.job_id(),
                    job.result().outcome() == v1::PASSED ? (job.flaky() ? "flaky" : "")
                                                         : report::Shorten(report::Complaint(job), 200)});
  }
  // What the jobs have to say of checkpoints takes lines of its own.
  std::string checkpoints;
  for (const v1::Job& job : batch->job()) {
    std::vector<std::string> lines = report::CheckpointLines(job);
    if (job.state() == v1::QUEUED && !job.waiting().empty())
      lines.push_back(absl::StrCat("waits: ", job.waiting()));
    if (lines.empty()) continue;
    absl::StrAppend(&checkpoints, "\n", job.model().name(), "  ", job.job_id(), "\n", Indented(lines));
  }
  return WriteOr(Write("", absl::StrCat(BatchLine(batch->batch()), "\n", Table(rows), checkpoints)));
}

ExitCode CancelCommand(const ConnectionOptions& options, const std::string& batch_id) {
  Connection connection(options);
  absl::StatusOr<v1::Batch> batch = connection.Cancel(batch_id);
  if (!batch.ok()) return Complain(batch.status());
  return WriteOr(Write("", absl::StrCat(BatchLine(*batch), "\n")));
}

ExitCode ReportCommand(const ConnectionOptions& options, const std::string& batch_id, v1::ReportFormat format,
                       const std::string& output) {
  Connection connection(options);
  absl::StatusOr<std::string> report = connection.GetReport(batch_id, format, 0);
  if (!report.ok()) return Complain(report.status());
  return WriteOr(Write(output, *report));
}

ExitCode NextBatchCommand(const ConnectionOptions& options, uint32_t size, const std::string& output) {
  Connection connection(options);
  absl::StatusOr<std::string> next = connection.GetReport("", v1::NEXT_BATCH, size);
  if (!next.ok()) return Complain(next.status());
  absl::StatusOr<std::string> everything = connection.GetReport("", v1::JSON, 0);
  if (!everything.ok()) return Complain(everything.status());
  std::vector<std::string> uncatalogued;
  try {
    std::set<std::string> named;
    const auto batch = nlohmann::json::parse(*next);
    for (const auto& models : batch) {
      for (const auto& model : models) named.insert(model.at("name").get<std::string>());
    }
    const auto report = nlohmann::json::parse(*everything);
    for (const auto& model : report.at("models")) {
      if (!model.at("catalogued").get<bool>() && named.count(model.at("name").get<std::string>()) > 0) {
        uncatalogued.push_back(model.at("name").get<std::string>());
      }
    }
  } catch (const nlohmann::json::exception& error) {
    return Complain(
        absl::InternalError(absl::StrCat("the coordinator's answer is no report: ", error.what())));
  }
  if (!uncatalogued.empty()) {
    std::fprintf(
        stderr,
        "assay: no catalogue entry yet, so template and task are those usual for the architecture type, and "
        "the outcome is UNSUPPORTED until there is a program: %s\n",
        absl::StrJoin(uncatalogued, " ").c_str());
  }
  return WriteOr(Write(output, *next));
}

ExitCode LogsCommand(const ConnectionOptions& options, const std::string& job_id, v1::Stage stage) {
  Connection connection(options);
  absl::Status written = absl::OkStatus();
  const absl::Status status = connection.GetLogs(job_id, stage, [&](const std::string& chunk) {
    if (written.ok()) written = Write("", chunk);
  });
  if (!status.ok()) return Complain(status);
  return WriteOr(written);
}

}  // namespace assay::cli

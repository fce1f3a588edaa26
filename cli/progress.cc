#include "cli/progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/output.h"
#include "coordinator/report/escape.h"
#include "coordinator/report/real.h"
#include "coordinator/report/scope.h"
#include "coordinator/report/words.h"

namespace assay::cli {
namespace {

absl::string_view ColourOf(v1::Outcome outcome) {
  if (outcome == v1::PASSED) return "\x1b[32m";
  if (outcome == v1::FAILED || outcome == v1::CRASHED) return "\x1b[31m";
  if (outcome == v1::SKIPPED || outcome == v1::CANCELLED) return "\x1b[2m";
  return "\x1b[33m";
}

}  // namespace

std::string JobLine(const v1::Job& job) {
  size_t checks = 0;
  for (const v1::CaseResult& one : job.result().case_()) {
    checks += std::count_if(one.check().begin(), one.check().end(), [](const v1::CheckResult& check) {
      return check.outcome() != v1::SKIPPED && check.outcome() != v1::OUTCOME_UNSPECIFIED;
    });
  }
  std::string line = absl::StrFormat("%-13s  %-24s  %6.2f s  %2d checks", report::JobWord(job),
                                     job.model().name(), job.result().seconds(), checks);
  if (job.flaky()) absl::StrAppend(&line, "  flaky");
  if (job.result().outcome() != v1::PASSED) {
    std::string why = report::Shorten(report::CleanText(report::Complaint(job)), 200);
    std::replace(why.begin(), why.end(), '\n', ' ');
    if (!why.empty()) absl::StrAppend(&line, "  ", why);
  }
  return line;
}

Progress::Progress(std::FILE* file, Terminal terminal, size_t total)
    : file_(file), terminal_(terminal), total_(total) {}

Progress::~Progress() { Clear(); }

void Progress::Show(const v1::BatchEvent& event) {
  if (event.kind_case() != v1::BatchEvent::kJob) return;
  const v1::Job& job = event.job();
  absl::MutexLock lock(&mutex_);
  if (job.state() == v1::RUNNING) {
    running_[job.job_id()] =
        absl::StrCat(job.model().name(), job.stage() == v1::STAGE_EXPORT ? " (export)" : "");
  }
  if (job.state() == v1::QUEUED) running_.erase(job.job_id());
  if (job.state() == v1::DONE) {
    running_.erase(job.job_id());
    if (!done_.insert(job.job_id()).second) return;
    ++counts_[job.result().outcome()];
    ClearLocked();
    std::string line = JobLine(job);
    if (terminal_.colour) {
      const std::string word = report::JobWord(job);
      line = absl::StrCat(ColourOf(job.result().outcome()), word, "\x1b[0m", line.substr(word.size()));
    }
    std::fprintf(file_, "%s\n", line.c_str());
    if (report::TriedCheckpoint(job)) std::fputs(Indented(report::CheckpointLines(job)).c_str(), file_);
  }
  Draw();
}

std::map<v1::Outcome, size_t> Progress::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

void Progress::Clear() {
  absl::MutexLock lock(&mutex_);
  ClearLocked();
  std::fflush(file_);
}

void Progress::ClearLocked() {
  if (drawn_) std::fputs("\r\x1b[K", file_);
  drawn_ = false;
}

void Progress::Draw() {
  if (terminal_.live && done_.size() < total_) {
    std::string line = absl::StrCat(done_.size(), "/", total_);
    for (const auto& [outcome, count] : counts_) {
      absl::StrAppend(&line, "  ", count, " ", report::OutcomeWord(outcome));
    }
    absl::string_view before = "  running: ";
    for (const auto& [job_id, model] : running_) {
      absl::StrAppend(&line, before, model);
      before = ", ";
    }
    // A line that wraps could not be cleared. Names are ASCII, so bytes are columns.
    const size_t width = static_cast<size_t>(std::max(terminal_.columns - 1, 10));
    if (line.size() > width) line.resize(width);
    ClearLocked();
    std::fputs(line.c_str(), file_);
    drawn_ = true;
  }
  std::fflush(file_);
}

}  // namespace assay::cli

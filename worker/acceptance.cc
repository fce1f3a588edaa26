#include "worker/acceptance.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/textproto.h"
#include "worker/steady.h"

namespace assay::worker {
namespace {

constexpr uint32_t kRepetitions = 3;
constexpr int kMostFindings = 100;

// Of each case and output, in order.
std::vector<std::pair<std::string, std::string>> DigestsOf(const v1::TestResult& result) {
  std::vector<std::pair<std::string, std::string>> digests;
  for (const v1::CaseResult& one : result.case_()) {
    for (const v1::OutputDigest& output : one.output_digest()) {
      digests.emplace_back(absl::StrCat(output.name(), " of ", one.name()), output.digest());
    }
  }
  return digests;
}

bool ComparedWithGolden(const v1::TestResult& result) {
  return std::any_of(result.case_().begin(), result.case_().end(), [](const v1::CaseResult& one) {
    return one.outcome() == v1::PASSED && one.evidence() == v1::GOLDEN;
  });
}

// Why a repetition does not speak for its node, by itself; empty: it does.
std::string FaultOf(const v1::TestResult& result) {
  if (result.outcome() != v1::PASSED) return result.message().empty() ? "did not pass" : result.message();
  if (!ComparedWithGolden(result)) return "was compared with no golden";
  if (DigestsOf(result).empty())
    return "its host told no digests of its outputs: worker and host are of different builds";
  return "";
}

// How the bits of two repetitions differ; empty: they do not.
std::string Difference(const v1::TestResult& first, uint32_t first_number, const v1::TestResult& other,
                       uint32_t number) {
  const auto expected = DigestsOf(first), got = DigestsOf(other);
  if (expected == got) return "";
  std::string outputs;
  for (size_t i = 0; i < std::max(expected.size(), got.size()); ++i) {
    if (i < expected.size() && i < got.size() && expected[i] == got[i]) continue;
    absl::StrAppend(&outputs, outputs.empty() ? "" : ", ", i < got.size() ? got[i].first : expected[i].first);
  }
  return absl::StrCat("repetition ", number, " gave other bits than repetition ", first_number, " (", outputs,
                      ")");
}

// The first of those repetitions without a fault whose bits came most often; null: there is none.
const std::pair<const uint32_t, v1::TestResult>* Usual(const std::map<uint32_t, v1::TestResult>& results) {
  const std::pair<const uint32_t, v1::TestResult>* usual = nullptr;
  size_t most = 0;
  for (const auto& one : results) {
    if (!FaultOf(one.second).empty()) continue;
    const auto digests = DigestsOf(one.second);
    const auto same =
        static_cast<size_t>(std::count_if(results.begin(), results.end(), [&](const auto& other) {
          return FaultOf(other.second).empty() && DigestsOf(other.second) == digests;
        }));
    if (same > most) {
      usual = &one;
      most = same;
    }
  }
  return usual;
}

bool Means(v1::DeviceChoice choice, const v1::DeviceInfo& device) {
  if (choice == v1::CPU) return device.kind() == "cpu";
  if (choice == v1::CUDA) return device.kind() == "cuda";
  return true;
}

}  // namespace

void SweepFindings::Plan(const std::string& model, const v1::DeviceInfo& device, uint32_t repetitions) {
  Planned& planned = planned_[{model, device.id()}];
  planned.device = device;
  planned.repetitions = repetitions;
  open_ += repetitions;
}

void SweepFindings::Add(const std::string& model, const std::string& device_id, uint32_t repetition,
                        v1::TestResult result) {
  const auto at = planned_.find({model, device_id});
  if (at == planned_.end()) return;
  open_ -= at->second.results.emplace(repetition, std::move(result)).second ? 1 : 0;
}

v1::AcceptanceReport SweepFindings::Report() const {
  v1::AcceptanceReport report;
  bool rejected = planned_.empty() || !Complete();
  std::set<std::string> devices;
  const auto find = [&](const std::string& model, const std::string& device_id, uint32_t repetition,
                        v1::Outcome outcome, const std::string& message) {
    rejected = true;
    if (report.finding_size() >= kMostFindings) return;
    v1::AcceptanceFinding& finding = *report.add_finding();
    finding.set_model(model);
    finding.set_device_id(device_id);
    finding.set_repetition(repetition);
    finding.set_outcome(outcome);
    finding.set_message(message);
  };
  if (planned_.empty()) find("", "", 0, v1::SKIPPED, "no test was run: none is for a device of this node");
  for (const auto& [key, planned] : planned_) {
    if (devices.insert(key.second).second) *report.add_device() = planned.device;
    const std::pair<const uint32_t, v1::TestResult>* usual = Usual(planned.results);
    for (const auto& repetition : planned.results) {
      const auto& [number, result] = repetition;
      report.set_runs(report.runs() + 1);
      if (const std::string fault = FaultOf(result); !fault.empty()) {
        find(key.first, key.second, number, result.outcome(), fault);
        continue;
      }
      if (const std::string fault = Difference(usual->second, usual->first, result, number); !fault.empty()) {
        find(key.first, key.second, number, v1::FAILED, fault);
      }
    }
  }
  report.set_state(rejected ? v1::AcceptanceReport::REJECTED : v1::AcceptanceReport::ACCEPTED);
  return report;
}

Acceptance::Acceptance(std::filesystem::path file, RunApart run, Told told)
    : file_(std::move(file)), run_(std::move(run)), told_(std::move(told)) {
  Read();
}

void Acceptance::Read() {
  std::error_code error;
  if (!std::filesystem::exists(file_, error)) return;
  absl::StatusOr<std::string> text = ReadFile(file_);
  v1::AcceptanceReport report;
  absl::Status read = text.ok() ? ParseTextProto(file_.string(), *text, report) : text.status();
  absl::MutexLock lock(&mutex_);
  if (read.ok()) {
    newest_ = std::move(report);
  } else {
    spdlog::warn("the last acceptance report is not read: {}", std::string(read.message()));
  }
}

bool Acceptance::Sweep(const v1::AcceptanceRequest& request, const std::vector<v1::DeviceInfo>& devices) {
  const uint32_t repetitions = request.repetitions() == 0 ? kRepetitions : request.repetitions();
  struct Run {
    v1::Assignment assignment;
    std::string model;
    uint32_t repetition;
  };
  std::vector<Run> runs;
  v1::AcceptanceReport nothing;
  {
    absl::MutexLock lock(&mutex_);
    if (running_.has_value()) return false;
    running_.emplace();
    running_->id = request.id();
    running_->start = SteadyNow();
    std::set<std::pair<std::string, std::string>> seen;
    for (const v1::Assignment& test : request.test()) {
      for (const v1::DeviceInfo& device : devices) {
        const std::string& model = test.model().name();
        if (!Means(test.target().device(), device) || !seen.emplace(model, device.id()).second) continue;
        running_->findings.Plan(model, device, repetitions);
        for (uint32_t i = 1; i <= repetitions; ++i) {
          Run run{test, model, i};
          run.assignment.set_device_id(device.id());
          run.assignment.mutable_target()->set_device(device.kind() == "cpu" ? v1::CPU : v1::CUDA);
          run.assignment.mutable_attempt()->set_job_id(
              absl::StrCat("acceptance ", request.id(), ": ", model, " on ", device.id()));
          run.assignment.mutable_attempt()->set_attempt(i);
          runs.push_back(std::move(run));
        }
      }
    }
    if (runs.empty()) {
      nothing = running_->findings.Report();
      nothing.set_id(request.id());
      running_.reset();
    }
  }
  if (runs.empty()) {
    told_(nothing);
    return true;
  }
  spdlog::info("acceptance {}: {} runs on {} devices", request.id(), runs.size(), devices.size());
  for (Run& run : runs) {
    const std::string device_id = run.assignment.device_id();
    run_(std::move(run.assignment),
         [this, id = request.id(), model = run.model, device_id, repetition = run.repetition](
             v1::TestResult result) { Ended(id, model, device_id, repetition, std::move(result)); });
  }
  return true;
}

void Acceptance::Ended(const std::string& id, const std::string& model, const std::string& device_id,
                       uint32_t repetition, v1::TestResult result) {
  v1::AcceptanceReport report;
  {
    absl::MutexLock lock(&mutex_);
    if (!running_.has_value() || running_->id != id) return;
    running_->findings.Add(model, device_id, repetition, std::move(result));
    if (!running_->findings.Complete()) return;
    report = running_->findings.Report();
    report.set_id(id);
    report.set_seconds(absl::ToDoubleSeconds(SteadyNow() - running_->start));
    report.mutable_end_time()->set_seconds(absl::ToUnixSeconds(absl::Now()));
    running_.reset();
    newest_ = report;
  }
  if (absl::Status written = WriteFileAtomically(file_, FormatTextProto(report)); !written.ok()) {
    spdlog::error("the acceptance report is not kept: {}", written.ToString());
  }
  if (report.state() == v1::AcceptanceReport::ACCEPTED) {
    spdlog::info("{}", FormatReport(report));
  } else {
    spdlog::error("{}", FormatReport(report));
  }
  told_(report);
}

std::optional<v1::AcceptanceReport> Acceptance::Holding(const std::vector<v1::DeviceInfo>& devices) const {
  absl::MutexLock lock(&mutex_);
  if (!newest_.has_value()) return std::nullopt;
  std::set<std::string> now, then;
  for (const v1::DeviceInfo& device : devices) now.insert(FormatTextProto(device));
  for (const v1::DeviceInfo& device : newest_->device()) then.insert(FormatTextProto(device));
  return now == then ? newest_ : std::nullopt;
}

std::string FormatReport(const v1::AcceptanceReport& report) {
  std::string text = absl::StrFormat("acceptance %s: %s, %d runs on %d devices in %.1f s", report.id(),
                                     v1::AcceptanceReport::State_Name(report.state()), report.runs(),
                                     report.device_size(), report.seconds());
  for (const v1::AcceptanceFinding& finding : report.finding()) {
    absl::StrAppend(&text, "\n  ", finding.model().empty() ? "-" : finding.model(), " on ",
                    finding.device_id().empty() ? "-" : finding.device_id(), ", repetition ",
                    finding.repetition(), ": ", v1::Outcome_Name(finding.outcome()), ": ", finding.message());
  }
  return text;
}

}  // namespace assay::worker

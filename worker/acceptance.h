// Node acceptance: known goldens on each device, each several times, before a node is trusted with work. A
// golden that does not come out, or does not come out bit for bit the same each time, is a fault of the node.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/coordinator.pb.h"
#include "assay/v1/worker.pb.h"

namespace assay::worker {

// What a sweep has seen, and what follows from it. Not thread-safe.
class SweepFindings {
 public:
  // `model` was to be run on `device` `repetitions` times.
  void Plan(const std::string& model, const v1::DeviceInfo& device, uint32_t repetitions);
  // The result of one repetition, from 1.
  void Add(const std::string& model, const std::string& device_id, uint32_t repetition,
           v1::TestResult result);
  bool Complete() const { return open_ == 0; }
  // ACCEPTED only where something was planned, and every repetition PASSED against a golden and gave the same
  // bits; else REJECTED, with what was found. id, time and seconds are the caller's.
  v1::AcceptanceReport Report() const;

 private:
  struct Planned {
    v1::DeviceInfo device;
    uint32_t repetitions = 0;
    std::map<uint32_t, v1::TestResult> results;  // by repetition
  };
  std::map<std::pair<std::string, std::string>, Planned> planned_;  // by model and device's id
  size_t open_ = 0;
};

// Runs sweeps, one at a time, and keeps the newest report. Thread-safe.
class Acceptance {
 public:
  // Runs a test apart from all attempts and calls `done` with its result, once, or never where everything
  // stops.
  using RunApart = std::function<void(v1::Assignment, std::function<void(v1::TestResult)> done)>;
  using Told = std::function<void(const v1::AcceptanceReport&)>;

  // Reports are kept in `file`, and `told` hears each new one, on the thread that ended its last test. `run`
  // and `told` outlive everything that `run` was given.
  Acceptance(std::filesystem::path file, RunApart run, Told told);

  // Runs every test `repetitions` times (0: 3) on each of `devices` that its target means; a target without a
  // device means all. False where another sweep is under way: then nothing happens.
  bool Sweep(const v1::AcceptanceRequest& request, const std::vector<v1::DeviceInfo>& devices);

  // The newest report, where it speaks of exactly these devices, drivers included.
  std::optional<v1::AcceptanceReport> Holding(const std::vector<v1::DeviceInfo>& devices) const;

 private:
  struct Running {
    std::string id;
    absl::Time start;  // SteadyNow()
    SweepFindings findings;
  };
  void Read();
  void Ended(const std::string& id, const std::string& model, const std::string& device_id,
             uint32_t repetition, v1::TestResult result);

  const std::filesystem::path file_;
  const RunApart run_;
  const Told told_;
  mutable absl::Mutex mutex_;
  std::optional<Running> running_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::AcceptanceReport> newest_ ABSL_GUARDED_BY(mutex_);
};

// A report for people, several lines.
std::string FormatReport(const v1::AcceptanceReport& report);

}  // namespace assay::worker

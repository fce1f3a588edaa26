#include "coordinator/store/expectation.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "coordinator/needs.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

constexpr uint64_t kContextBytes = uint64_t{512}
                                   << 20;  // of the driver and its libraries, a process on a GPU

// "/org/model" where a checkpoint is loaded.
std::string OfCheckpoint(const v1::Job& job) {
  const v1::TestResult* exported = ExportOf(job);
  if (exported == nullptr || exported->outcome() != v1::PASSED) return "";
  return absl::StrCat("/", AskedCheckpoint(job)->id());
}

std::string TimeKey(const v1::Job& job) {
  if (StageOf(job) == v1::STAGE_EXPORT) return absl::StrCat("export/", AskedCheckpoint(job)->id());
  return absl::StrCat(TargetKey(job.target()), OfCheckpoint(job));
}

// Empty where the result does not name its device.
std::string TimeKeyOn(const v1::Job& job, const v1::DeviceInfo& device) {
  if (device.name().empty()) return "";
  return absl::StrCat(TimeKey(job), " on ", device.name(), device.mig_profile().empty() ? "" : " ",
                      device.mig_profile());
}

std::string GpuMemoryKey(const v1::Job& job) {
  return absl::StrCat("gpu memory/", v1::Dtype_Name(job.target().dtype()), OfCheckpoint(job));
}

std::string MemoryKey(const v1::Job& job) {
  return absl::StrCat("memory/", v1::Dtype_Name(job.target().dtype()), OfCheckpoint(job));
}

std::optional<double> Known(const Figures& figures, const std::string& key) {
  auto found = figures.find(key);
  if (found == figures.end()) return std::nullopt;
  return found->second;
}

uint64_t KnownBytes(const Figures& figures, const std::string& key) {
  return static_cast<uint64_t>(Known(figures, key).value_or(0));
}

// Of one that was cut short the peak says nothing.
bool TellsItsPeak(const v1::TestResult& result) {
  return result.outcome() == v1::PASSED || result.outcome() == v1::FAILED;
}

bool OnGpu(const v1::TestResult& result) { return result.provenance().device().kind() == "cuda"; }
bool OnCpu(const v1::TestResult& result) { return result.provenance().device().kind() == "cpu"; }

uint64_t GpuPeakOf(const v1::TestResult& result) {
  if (!TellsItsPeak(result) || !OnGpu(result) || result.device_peak_memory_bytes() == 0) return 0;
  return result.device_peak_memory_bytes() + kContextBytes;
}

uint64_t PeakOf(const v1::TestResult& result) {
  return TellsItsPeak(result) && OnCpu(result) ? result.peak_memory_bytes() : 0;
}

bool IsStated(const v1::Needs& needs) { return needs.gpu_memory_bytes() > 0 && !needs.predicted(); }

}  // namespace

double ExpectedSeconds(const v1::Job& job, const Figures& figures) {
  return Known(figures, TimeKey(job)).value_or(kUnknownSeconds);
}

void PredictNeeds(const Figures& figures, v1::Job& job) {
  if (IsStated(job.needs())) return;
  uint64_t of_gpu = 0, of_node = 0;
  if (job.target().device() != v1::CPU) of_gpu = PredictedBytes(KnownBytes(figures, GpuMemoryKey(job)));
  if (job.target().device() != v1::CUDA) {
    uint64_t peak = KnownBytes(figures, MemoryKey(job));
    if (peak == 0 && !OfCheckpoint(job).empty()) peak = ExportOf(job)->export_().memory_bytes();
    if (peak >= kCountedMemory) of_node = PredictedBytes(peak);
  }
  if (of_gpu == 0 && of_node == 0 && !job.needs().predicted()) return;
  v1::Needs& needs = *job.mutable_needs();
  needs.set_gpu_memory_bytes(of_gpu);
  needs.set_memory_bytes(of_node);
  needs.set_predicted(of_gpu > 0 || of_node > 0);
}

v1::Prediction PredictionOf(const v1::Job& job, const v1::TestResult& result, const Figures& figures) {
  v1::Prediction prediction;
  if (StageOf(job) == v1::STAGE_EXPORT) return prediction;
  prediction.set_seconds(Known(figures, TimeKeyOn(job, result.provenance().device())).value_or(0));
  if (OnCpu(result)) prediction.set_memory_bytes(KnownBytes(figures, MemoryKey(job)));
  if (OnGpu(result)) prediction.set_gpu_memory_bytes(KnownBytes(figures, GpuMemoryKey(job)));
  return prediction;
}

Figures Learned(const v1::Job& job, const v1::TestResult& result, const Figures& figures) {
  Figures learned;
  auto learn = [&](const std::string& key, double value, bool rises_at_once) {
    const std::optional<double> known = Known(figures, key);
    if (known && std::abs(*known - value) <= 0.1 * *known) return;
    const bool takes_it = !known || (rises_at_once && value > *known);
    learned[key] = takes_it ? value : *known + (value - *known) / 3;
  };
  const double seconds = std::max(0.0, result.seconds());
  learn(TimeKey(job), seconds, false);
  if (StageOf(job) == v1::STAGE_EXPORT) return learned;
  if (const std::string key = TimeKeyOn(job, result.provenance().device()); !key.empty()) {
    learn(key, seconds, false);
  }
  if (const uint64_t peak = GpuPeakOf(result); peak > 0) {
    learn(GpuMemoryKey(job), static_cast<double>(peak), true);
  }
  if (const uint64_t peak = PeakOf(result); peak > 0) learn(MemoryKey(job), static_cast<double>(peak), true);
  return learned;
}

}  // namespace assay::coordinator

#include "worker/gpus.h"

#include <algorithm>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "assay/v1/host.pb.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "worker/nvml.h"

namespace assay::worker {
namespace {

constexpr absl::string_view kVisible = "CUDA_VISIBLE_DEVICES=";
constexpr absl::string_view kByAddress = "CUDA_DEVICE_ORDER=PCI_BUS_ID";

bool IsGpuFile(absl::string_view name) {
  return absl::ConsumePrefix(&name, "nvidia") && !name.empty() &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

size_t CountGpuFiles(const std::filesystem::path& devices) {
  size_t count = 0;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(devices, error)) {
    count += IsGpuFile(file.path().filename().string()) ? 1 : 0;
  }
  return count;
}

// The entries of CUDA_VISIBLE_DEVICES; nullopt where it is not set.
std::optional<std::vector<std::string>> VisibleIn(const std::vector<std::string>& environment) {
  std::optional<std::vector<std::string>> chosen;
  for (const std::string& entry : environment) {
    absl::string_view value = entry;
    if (!absl::ConsumePrefix(&value, kVisible)) continue;
    chosen = absl::StrSplit(value, ',', absl::SkipWhitespace());
    for (std::string& name : *chosen) name = std::string(absl::StripAsciiWhitespace(name));
    // As CUDA reads it: what comes after an invalid name is not visible.
    chosen->erase(std::find(chosen->begin(), chosen->end(), "-1"), chosen->end());
  }
  return chosen;
}

Gpu FromNvml(const NvmlGpu& found) {
  Gpu gpu;
  gpu.info = found.info;
  gpu.visible = found.info.id();
  return gpu;
}

absl::StatusOr<std::vector<Gpu>> Choose(const std::vector<NvmlGpu>& found,
                                        const std::vector<std::string>& names, bool by_address) {
  std::set<std::string> models;
  for (const NvmlGpu& gpu : found) {
    if (gpu.info.mig_profile().empty()) models.insert(gpu.info.name());
  }
  std::vector<Gpu> gpus;
  for (const std::string& name : names) {
    unsigned index = 0;
    const bool by_number = absl::SimpleAtoi(name, &index);
    if (by_number && models.size() > 1 && !by_address) {
      return absl::FailedPreconditionError(
          absl::StrCat("CUDA_VISIBLE_DEVICES names GPU ", name,
                       " of several models by number: set CUDA_DEVICE_ORDER=PCI_BUS_ID too, or name GPUs by "
                       "their UUIDs (nvidia-smi -L)"));
    }
    // As CUDA: a UUID may be cut short, and a number or UUID of a GPU with slices means its first slice.
    const auto at = std::find_if(found.begin(), found.end(), [&](const NvmlGpu& gpu) {
      return by_number ? gpu.index == index
                       : absl::StartsWith(gpu.info.id(), name) || absl::StartsWith(gpu.gpu_id, name);
    });
    if (at == found.end()) {
      spdlog::warn("CUDA_VISIBLE_DEVICES names {}, which is not there; what comes after it is not visible",
                   name);
      break;
    }
    gpus.push_back(FromNvml(*at));
  }
  return gpus;
}

}  // namespace

absl::StatusOr<std::vector<Gpu>> FindGpus(const std::vector<std::string>& environment,
                                          const GpuPlaces& places) {
  const std::optional<std::vector<std::string>> chosen = VisibleIn(environment);
  const absl::StatusOr<std::vector<NvmlGpu>> found = AskNvml(places.nvml);
  if (found.ok()) {
    if (chosen.has_value()) {
      const bool by_address =
          std::find(environment.begin(), environment.end(), kByAddress) != environment.end();
      return Choose(*found, *chosen, by_address);
    }
    std::vector<Gpu> gpus;
    for (const NvmlGpu& gpu : *found) gpus.push_back(FromNvml(gpu));
    return gpus;
  }
  const size_t files = CountGpuFiles(places.devices);
  if (files == 0) {
    if (!absl::IsNotFound(found.status())) {
      spdlog::warn("NVML is there and does not answer ({}); without device files there is no GPU",
                   std::string(found.status().message()));
    }
    return std::vector<Gpu>();
  }
  if (!absl::IsNotFound(found.status())) return found.status();
  spdlog::warn(
      "no NVML ({}): GPUs are told by their device files alone, without memory, model or slices; "
      "each runs one test at a time",
      std::string(found.status().message()));
  std::vector<std::string> names;
  for (size_t i = 0; i < files; ++i) names.push_back(absl::StrCat(i));
  std::vector<Gpu> gpus;
  for (std::string& name : chosen.has_value() ? std::vector<std::string>(*chosen) : names) {
    Gpu gpu;
    gpu.info.set_kind("cuda");
    gpu.info.set_id(absl::StartsWith(name, "GPU-") || absl::StartsWith(name, "MIG-")
                        ? name
                        : absl::StrCat("cuda:", name));
    gpu.visible = std::move(name);
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

absl::StatusOr<std::vector<Gpu>> ReadSimulatedGpus(const std::filesystem::path& file) {
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  v1::SimulatedGpus simulated;
  ASSAY_RETURN_IF_ERROR(ParseTextProto(file.string(), text, simulated));
  std::vector<Gpu> gpus;
  std::set<std::string> ids;
  for (const v1::DeviceInfo& info : simulated.gpu()) {
    if (info.id().empty() || !ids.insert(info.id()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.string(), ": every GPU needs an id of its own; '", info.id(), "' is not one"));
    }
    Gpu gpu;
    gpu.info = info;
    gpu.info.set_kind("cuda");
    gpu.info.set_name(absl::StrCat("SIMULATED ", info.name(), " (its tests run on the CPU)"));
    gpu.simulated = true;
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

std::string DriverOf(const std::string& nvml, const std::string& host) {
  if (nvml.empty() || absl::StrContains(host, nvml)) return host;
  return host.empty() ? nvml : absl::StrCat(nvml, " (", host, ")");
}

std::vector<std::string> WithVisibleGpus(const std::vector<std::string>& environment,
                                         const std::string& gpus) {
  std::vector<std::string> changed;
  for (const std::string& entry : environment) {
    if (!absl::StartsWith(entry, kVisible)) changed.push_back(entry);
  }
  changed.push_back(absl::StrCat(kVisible, gpus));
  return changed;
}

}  // namespace assay::worker

#include "worker/nvml.h"

#include <dlfcn.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"

namespace assay::worker {
namespace {

// From NVML's API reference (https://docs.nvidia.com/deploy/nvml-api/): only what is called here, by the
// versioned names that keep their form. A handle is a pointer to something opaque, a result an int.
using Handle = void*;
constexpr int kSuccess = 0;
constexpr int kInvalidArgument = 2;  // also: an index of a slice beyond the last
constexpr int kNotSupported = 3;
constexpr int kNotFound = 6;
constexpr unsigned kMigEnabled = 1;
// NVML_DEVICE_NAME_V2_BUFFER_SIZE and NVML_DEVICE_UUID_V2_BUFFER_SIZE; the driver's version takes 80.
constexpr unsigned kTextBytes = 96;

// nvmlMemory_t, version 1: what nvmlDeviceGetMemoryInfo fills in.
struct Memory {
  unsigned long long total;  // NOLINT(google-runtime-int): the API's own type
  unsigned long long free;   // NOLINT(google-runtime-int)
  unsigned long long used;   // NOLINT(google-runtime-int)
};

class Library {
 public:
  static absl::StatusOr<Library> Open(const std::string& name) {
    Library library;
    // Never closed: the driver's library keeps threads and handlers of its own.
    library.handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle_ == nullptr) return absl::NotFoundError(dlerror());
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlErrorString", library.error_string_));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlInit_v2", library.init));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlShutdown", library.shutdown));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlSystemGetDriverVersion", library.driver_version));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetCount_v2", library.count));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetHandleByIndex_v2", library.by_index));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetName", library.name));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetUUID", library.uuid));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetMemoryInfo", library.memory));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetCudaComputeCapability", library.capability));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetMigMode", library.mig_mode));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetMaxMigDeviceCount", library.max_slices));
    ASSAY_RETURN_IF_ERROR(library.Find("nvmlDeviceGetMigDeviceHandleByIndex", library.slice_by_index));
    return library;
  }

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*by_index)(unsigned, Handle*) = nullptr;
  int (*name)(Handle, char*, unsigned) = nullptr;
  int (*uuid)(Handle, char*, unsigned) = nullptr;
  int (*memory)(Handle, Memory*) = nullptr;
  int (*capability)(Handle, int*, int*) = nullptr;
  int (*mig_mode)(Handle, unsigned*, unsigned*) = nullptr;
  int (*max_slices)(Handle, unsigned*) = nullptr;
  int (*slice_by_index)(Handle, unsigned, Handle*) = nullptr;

  absl::Status Check(int result, absl::string_view call) const {
    if (result == kSuccess) return absl::OkStatus();
    const char* text = error_string_(result);
    return absl::UnavailableError(
        absl::StrCat(call, ": ", text == nullptr ? "error" : text, " (", result, ")"));
  }

 private:
  template <typename Function>
  absl::Status Find(const char* symbol, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle_, symbol));
    if (function != nullptr) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the driver's libnvidia-ml has no ", symbol, ": it is older than this program knows"));
  }

  void* handle_ = nullptr;
  const char* (*error_string_)(int) = nullptr;
};

absl::StatusOr<std::string> Text(const Library& nvml, Handle device, int (*ask)(Handle, char*, unsigned),
                                 absl::string_view call) {
  char text[kTextBytes + 1] = "";
  ASSAY_RETURN_IF_ERROR(nvml.Check(ask(device, text, kTextBytes), call));
  return std::string(text);
}

absl::StatusOr<v1::DeviceInfo> Describe(const Library& nvml, Handle device, uint64_t* memory_used) {
  v1::DeviceInfo info;
  info.set_kind("cuda");
  ASSAY_ASSIGN_OR_RETURN(*info.mutable_name(), Text(nvml, device, nvml.name, "nvmlDeviceGetName"));
  ASSAY_ASSIGN_OR_RETURN(*info.mutable_id(), Text(nvml, device, nvml.uuid, "nvmlDeviceGetUUID"));
  Memory memory{};
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.memory(device, &memory), "nvmlDeviceGetMemoryInfo"));
  info.set_memory_bytes(memory.total);
  *memory_used = memory.used;
  return info;
}

// "1g.10gb" of "NVIDIA H100 80GB HBM3 MIG 1g.10gb", as the driver names a slice.
std::string ProfileIn(absl::string_view name) {
  constexpr absl::string_view kMark = " MIG ";
  const size_t at = name.rfind(kMark);
  return at == absl::string_view::npos ? "unknown" : std::string(name.substr(at + kMark.size()));
}

// The slices of a GPU, or the GPU itself where it is not cut into any.
absl::Status AddGpu(const Library& nvml, unsigned index, const std::string& driver,
                    std::vector<NvmlGpu>& gpus) {
  Handle device = nullptr;
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.by_index(index, &device), "nvmlDeviceGetHandleByIndex"));
  NvmlGpu gpu;
  gpu.index = index;
  ASSAY_ASSIGN_OR_RETURN(gpu.info, Describe(nvml, device, &gpu.memory_used));
  gpu.gpu_id = gpu.info.id();
  int major = 0, minor = 0;
  ASSAY_RETURN_IF_ERROR(
      nvml.Check(nvml.capability(device, &major, &minor), "nvmlDeviceGetCudaComputeCapability"));
  const std::string capability = absl::StrCat(major, ".", minor);
  gpu.info.set_capability(capability);
  gpu.info.set_driver(driver);

  unsigned current = 0, pending = 0;
  const int mig = nvml.mig_mode(device, &current, &pending);
  if (mig != kNotSupported) ASSAY_RETURN_IF_ERROR(nvml.Check(mig, "nvmlDeviceGetMigMode"));
  if (mig == kNotSupported || current != kMigEnabled) {
    gpus.push_back(std::move(gpu));
    return absl::OkStatus();
  }
  unsigned most = 0;
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.max_slices(device, &most), "nvmlDeviceGetMaxMigDeviceCount"));
  for (unsigned i = 0; i < most; ++i) {
    Handle slice = nullptr;
    const int found = nvml.slice_by_index(device, i, &slice);
    if (found == kNotFound || found == kInvalidArgument) continue;  // no slice was made at this place
    ASSAY_RETURN_IF_ERROR(nvml.Check(found, "nvmlDeviceGetMigDeviceHandleByIndex"));
    NvmlGpu part = gpu;
    ASSAY_ASSIGN_OR_RETURN(part.info, Describe(nvml, slice, &part.memory_used));
    part.info.set_mig_profile(ProfileIn(part.info.name()));
    part.info.set_capability(capability);  // the call above is for whole GPUs
    part.info.set_driver(driver);
    gpus.push_back(std::move(part));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<NvmlGpu>> AskNvml(const std::string& library) {
  ASSAY_ASSIGN_OR_RETURN(const Library nvml, Library::Open(library));
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.init(), "nvmlInit"));
  absl::Cleanup shutdown = [&nvml] { nvml.shutdown(); };
  char driver[kTextBytes + 1] = "";
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.driver_version(driver, kTextBytes), "nvmlSystemGetDriverVersion"));
  unsigned count = 0;
  ASSAY_RETURN_IF_ERROR(nvml.Check(nvml.count(&count), "nvmlDeviceGetCount"));
  std::vector<NvmlGpu> gpus;
  for (unsigned i = 0; i < count; ++i) ASSAY_RETURN_IF_ERROR(AddGpu(nvml, i, driver, gpus));
  return gpus;
}

}  // namespace assay::worker

#include "engine/cuda_device.h"

#include <dlfcn.h>

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace assay::engine {
namespace {

// From the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api/): attributes by their numbers
// there.
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

template <typename Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// The driver's own version ("550.54.14"), which the CUDA API does not tell. Empty: not known. Calls by
// https://docs.nvidia.com/deploy/nvml-api/; NVML makes no CUDA context.
std::string DriverVersion(const std::string& library) {
  constexpr unsigned kBytes = 80;  // NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
  void* nvml = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (nvml == nullptr) return "";
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*version)(char*, unsigned) = nullptr;
  if (!Find(nvml, "nvmlInit_v2", init) || !Find(nvml, "nvmlShutdown", shutdown) ||
      !Find(nvml, "nvmlSystemGetDriverVersion", version) || init() != 0) {
    return "";
  }
  char text[kBytes + 1] = "";
  const bool told = version(text, kBytes) == 0;
  shutdown();
  return told ? text : "";
}

}  // namespace

std::optional<v1::DeviceInfo> FindCudaDevice(const CudaLibraries& libraries) {
  void* driver = dlopen(libraries.cuda.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (driver == nullptr) return std::nullopt;
  int (*init)(unsigned) = nullptr;
  int (*get)(int*, int) = nullptr;
  int (*name_of)(char*, int, int) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;
  int (*memory_of)(size_t*, int) = nullptr;
  int (*version)(int*) = nullptr;
  if (!Find(driver, "cuInit", init) || !Find(driver, "cuDeviceGet", get) ||
      !Find(driver, "cuDeviceGetName", name_of) || !Find(driver, "cuDeviceGetAttribute", attribute) ||
      !Find(driver, "cuDeviceTotalMem_v2", memory_of) || !Find(driver, "cuDriverGetVersion", version)) {
    return std::nullopt;
  }
  int device = 0, major = 0, minor = 0, driver_version = 0;
  size_t memory = 0;
  char name[256] = {};
  if (init(0) != 0 || get(&device, 0) != 0 || name_of(name, sizeof name, device) != 0 ||
      attribute(&major, kComputeCapabilityMajor, device) != 0 ||
      attribute(&minor, kComputeCapabilityMinor, device) != 0 || memory_of(&memory, device) != 0 ||
      version(&driver_version) != 0) {
    return std::nullopt;
  }
  v1::DeviceInfo info;
  info.set_kind("cuda");
  info.set_name(name);
  info.set_capability(absl::StrCat(major, ".", minor));
  const std::string cuda = absl::StrCat("CUDA ", driver_version / 1000, ".", driver_version % 1000 / 10);
  const std::string own = DriverVersion(libraries.nvml);
  info.set_driver(own.empty() ? cuda : absl::StrCat(own, " (", cuda, ")"));
  info.set_memory_bytes(memory);
  return info;
}

}  // namespace assay::engine

// A libnvidia-ml.so.1 for tests, with the true library's names and layouts. What it has is in a file that
// $ASSAY_FAKE_NVML names; a line each:
//   driver VERSION
//   gpu UUID MEMORY_BYTES MAJOR MINOR MIG(-: not supported, 0: off, 1: on) NAME…
//   slice UUID MEMORY_BYTES NAME…            of the gpu before it
//   used UUID BYTES                          of the memory of a gpu or slice before it
//   hole                                     a place without a slice
//   fail FUNCTION CODE                       that function gives that error
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Device {
  std::string uuid, name;
  unsigned long long memory = 0, used = 0;  // NOLINT(google-runtime-int)
  int major = 0, minor = 0;
  std::string mig = "-";
  bool hole = false, is_slice = false;
  std::vector<Device> slices;
};

struct Memory {
  unsigned long long total, free, used;  // NOLINT(google-runtime-int)
};

std::vector<Device> devices;
std::string driver;
std::map<std::string, int> failing;
int open_count = 0;

int Fill(const std::string& text, char* into, unsigned length) {
  if (text.size() >= length) return 7;  // NVML_ERROR_INSUFFICIENT_SIZE
  std::memcpy(into, text.c_str(), text.size() + 1);
  return 0;
}

int Fails(const char* function) {
  if (open_count == 0) return 1;  // NVML_ERROR_UNINITIALIZED
  const auto at = failing.find(function);
  return at == failing.end() ? 0 : at->second;
}

std::string Rest(std::istringstream& line) {
  std::string rest;
  std::getline(line >> std::ws, rest);
  return rest;
}

}  // namespace

extern "C" {

int nvmlInit_v2() {
  const char* file = std::getenv("ASSAY_FAKE_NVML");
  if (file == nullptr) return 9;  // NVML_ERROR_DRIVER_NOT_LOADED
  devices.clear();
  failing.clear();
  std::ifstream lines(file);
  for (std::string text; std::getline(lines, text);) {
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "driver") {
      line >> driver;
    } else if (word == "gpu") {
      Device gpu;
      line >> gpu.uuid >> gpu.memory >> gpu.major >> gpu.minor >> gpu.mig;
      gpu.name = Rest(line);
      devices.push_back(gpu);
    } else if (word == "slice") {
      Device slice;
      line >> slice.uuid >> slice.memory;
      slice.name = Rest(line);
      slice.is_slice = true;
      devices.back().slices.push_back(slice);
    } else if (word == "used") {
      std::string uuid;
      unsigned long long bytes = 0;  // NOLINT(google-runtime-int)
      line >> uuid >> bytes;
      for (Device& gpu : devices) {
        if (gpu.uuid == uuid) gpu.used = bytes;
        for (Device& slice : gpu.slices) slice.used = slice.uuid == uuid ? bytes : slice.used;
      }
    } else if (word == "hole") {
      Device hole;
      hole.hole = true;
      devices.back().slices.push_back(hole);
    } else if (word == "fail") {
      std::string function;
      int code = 0;
      line >> function >> code;
      failing[function] = code;
    }
  }
  ++open_count;
  return Fails("nvmlInit_v2");
}

int nvmlShutdown() {
  --open_count;
  return 0;
}

const char* nvmlErrorString(int result) { return result == 15 ? "GPU is lost" : "Unknown Error"; }

int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  if (const int failed = Fails("nvmlSystemGetDriverVersion")) return failed;
  return Fill(driver, version, length);
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  if (const int failed = Fails("nvmlDeviceGetCount_v2")) return failed;
  *count = static_cast<unsigned>(devices.size());
  return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (const int failed = Fails("nvmlDeviceGetHandleByIndex_v2")) return failed;
  if (index >= devices.size()) return 2;
  *device = &devices[index];
  return 0;
}

int nvmlDeviceGetName(void* device, char* name, unsigned length) {
  return Fill(static_cast<Device*>(device)->name, name, length);
}

int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  return Fill(static_cast<Device*>(device)->uuid, uuid, length);
}

int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  if (const int failed = Fails("nvmlDeviceGetMemoryInfo")) return failed;
  const Device& asked = *static_cast<Device*>(device);
  *memory = {asked.memory, asked.memory - asked.used, asked.used};
  return 0;
}

int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  const Device& asked = *static_cast<Device*>(device);
  if (asked.is_slice) return 3;  // as the API says, of slices it is not told
  *major = asked.major;
  *minor = asked.minor;
  return 0;
}

int nvmlDeviceGetMigMode(void* device, unsigned* current, unsigned* pending) {
  const Device& asked = *static_cast<Device*>(device);
  if (asked.mig == "-") return 3;
  *current = *pending = asked.mig == "1" ? 1 : 0;
  return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(void*, unsigned* count) {
  *count = 7;
  return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void* device, unsigned index, void** slice) {
  Device& asked = *static_cast<Device*>(device);
  if (index >= 7) return 2;
  if (index >= asked.slices.size() || asked.slices[index].hole) return 6;
  *slice = &asked.slices[index];
  return 0;
}

}  // extern "C"

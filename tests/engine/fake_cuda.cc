// A libcuda.so.1 for tests, with what is asked of the true one: one device, CUDA 12.4.
#include <cstddef>
#include <cstring>

extern "C" {

int cuInit(unsigned) { return 0; }

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? 0 : 101;  // CUDA_ERROR_INVALID_DEVICE
}

int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "NVIDIA H100 80GB HBM3", static_cast<size_t>(length));
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t{80} << 30;
  return 0;
}

int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
}

#include "bench/shifted_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstring>
#include <utility>

namespace assay::steady {
namespace {

// The shift is the type's: who frees is given the tensor's address and nothing else (c10's raw_deallocate).
template <size_t kShift>
class ShiftedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    if (size == 0) return {nullptr, nullptr, &Free, c10::Device(c10::DeviceType::CPU)};
    void* const begin = static_cast<char*>(c10::alloc_cpu(size + kShift)) + kShift;
    return {begin, begin, &Free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    std::memcpy(to, from, count);
  }

 private:
  static void Free(void* begin) {
    if (begin != nullptr) c10::free_cpu(static_cast<char*>(begin) - kShift);
  }
};

// Never freed: tensors may outlive the next call.
template <size_t... kEights>
std::array<c10::Allocator*, sizeof...(kEights)> Allocators(std::index_sequence<kEights...>) {
  return {new ShiftedAllocator<8 * kEights>...};
}

}  // namespace

void ShiftMemory(size_t bytes) {
  TORCH_CHECK(bytes < 64 && bytes % 8 == 0, "memory cannot be shifted by ", bytes, " bytes");
  static c10::Allocator* const own = c10::GetDefaultCPUAllocator();
  static const auto shifted = Allocators(std::make_index_sequence<8>());
  c10::SetCPUAllocator(bytes == 0 ? own : shifted[bytes / 8]);
}

}  // namespace assay::steady

#include "engine/device_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace assay::engine {
namespace {

constexpr c10::DeviceIndex kDevice = 0;  // a test host sees one GPU

// LibTorch's allocator of GPU memory; null where no CUDA half is loaded, or nothing has used it yet.
c10::DeviceAllocator* Allocator() {
  if (!c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA)) return nullptr;
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  return allocator != nullptr && allocator->initialized() ? allocator : nullptr;
}

}  // namespace

void StartDeviceMemory() {
  if (c10::DeviceAllocator* allocator = Allocator()) allocator->resetPeakStats(kDevice);
}

DeviceMemory GiveBackDeviceMemory() {
  DeviceMemory memory;
  c10::DeviceAllocator* allocator = Allocator();
  if (allocator == nullptr) return memory;
  c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->synchronizeDevice(kDevice);
  allocator->emptyCache();
  const c10::CachingDeviceAllocator::DeviceStats stats = allocator->getDeviceStats(kDevice);
  const auto& reserved =
      stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  memory.peak_bytes = static_cast<uint64_t>(reserved.peak);
  memory.kept_bytes = static_cast<uint64_t>(reserved.current);
  return memory;
}

}  // namespace assay::engine

#include "engine/device_staging.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <array>

namespace assay::engine {
namespace {

// Large enough that a copy's start does not matter, small enough to be page-locked anywhere.
constexpr int64_t kBufferBytes = int64_t{32} << 20;

class TorchDevice final : public StagingDevice {
 public:
  TorchDevice(const std::vector<at::Tensor>& tensors, at::Device device)
      : tensors_(tensors),
        guard_(device.type()),
        stream_(guard_.getStreamFromGlobalPool(device)),
        events_{c10::Event(device.type()), c10::Event(device.type())} {
    for (at::Tensor& buffer : buffers_) {
      buffer = at::empty({kBufferBytes}, at::TensorOptions(at::kByte).pinned_memory(true));
    }
    // The tensors' memory may have been another's, whose last use is still queued on the computing stream.
    guard_.synchronizeStream(guard_.getStream(device));
  }

  absl::Span<uint8_t> Buffer(int slot) override {
    at::Tensor& buffer = buffers_[static_cast<size_t>(slot)];
    return {buffer.mutable_data_ptr<uint8_t>(), static_cast<size_t>(buffer.numel())};
  }

  absl::Status Begin(int slot, size_t tensor, size_t at, size_t size) override {
    const c10::StreamGuard on_side(stream_);
    const at::Tensor& to = tensors_[tensor];
    at::Tensor place = at::from_blob(static_cast<uint8_t*>(to.mutable_data_ptr()) + at,
                                     {static_cast<int64_t>(size)}, to.options().dtype(at::kByte));
    place.copy_(buffers_[static_cast<size_t>(slot)].narrow(0, 0, static_cast<int64_t>(size)),
                /*non_blocking=*/true);
    events_[static_cast<size_t>(slot)].record(stream_);
    return absl::OkStatus();
  }

  absl::Status Wait(int slot) override {
    const c10::Event& event = events_[static_cast<size_t>(slot)];
    if (event.was_marked_for_recording()) event.synchronize();
    return absl::OkStatus();
  }

 private:
  const std::vector<at::Tensor>& tensors_;
  const c10::impl::VirtualGuardImpl guard_;
  const c10::Stream stream_;
  std::array<at::Tensor, 2> buffers_;
  std::array<c10::Event, 2> events_;
};

}  // namespace

absl::Status StageOnto(const std::vector<at::Tensor>& tensors, absl::Span<const StagedSource> sources) {
  if (tensors.empty()) return absl::OkStatus();
  TorchDevice device(tensors, tensors.front().device());
  return Stage(sources, device);
}

}  // namespace assay::engine

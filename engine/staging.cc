#include "engine/staging.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "common/status_macros.h"

namespace assay::engine {
namespace {

absl::Status Run(absl::Span<const StagedSource> sources, StagingDevice& device) {
  int slot = 0;
  std::vector<uint8_t> made;
  for (size_t tensor = 0; tensor < sources.size(); ++tensor) {
    const StagedSource& source = sources[tensor];
    absl::Span<const uint8_t> bytes = source.data;
    if (bytes.empty() && source.size > 0) {
      try {
        made.resize(source.size);
      } catch (const std::bad_alloc&) {
        return absl::ResourceExhaustedError("out of memory for a tensor to be converted");
      }
      ASSAY_RETURN_IF_ERROR(source.read(made.data()));
      bytes = made;
    }
    for (size_t at = 0; at < bytes.size();) {
      // Of the copy before the last: while this one is filled, the last goes on.
      ASSAY_RETURN_IF_ERROR(device.Wait(slot));
      const absl::Span<uint8_t> buffer = device.Buffer(slot);
      if (buffer.empty()) return absl::InternalError("a staging buffer without room");
      const size_t size = std::min(buffer.size(), bytes.size() - at);
      std::memcpy(buffer.data(), bytes.data() + at, size);
      ASSAY_RETURN_IF_ERROR(device.Begin(slot, tensor, at, size));
      at += size;
      slot = 1 - slot;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Stage(absl::Span<const StagedSource> sources, StagingDevice& device) {
  absl::Status status = Run(sources, device);
  for (const int slot : {0, 1}) status.Update(device.Wait(slot));
  return status;
}

}  // namespace assay::engine

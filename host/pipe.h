// The pipes between a host, the worker that started it and the processes of its tests.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message_lite.h"

namespace assay::host {

// A longer message is refused: the stream is not ours, or broken.
inline constexpr size_t kMaxMessageBytes = size_t{16} << 20;

// Writes all of it, waiting where the pipe is full. UNAVAILABLE where the other end is gone.
absl::Status WriteAll(int fd, absl::string_view bytes);

// Writes the framed message as WriteAll does.
absl::Status WriteFrame(int fd, const google::protobuf::MessageLite& message);

}  // namespace assay::host

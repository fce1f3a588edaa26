// Length-delimited messages, as assay-host speaks them: a varint with the length, then that many bytes
// (the form of Protobuf's delimited streams).
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message_lite.h"

namespace assay {

// A message larger than this is a fault of the sender, not something to allocate.
inline constexpr size_t kMaxFrameBytes = size_t{64} << 20;

// Appends the framed message to `out`.
void AppendFrame(const google::protobuf::MessageLite& message, std::string& out);

// Cuts a byte stream, taken in pieces of any size, into frames. Not thread-safe.
class FrameReader {
 public:
  explicit FrameReader(size_t max_frame_bytes = kMaxFrameBytes) : max_frame_bytes_(max_frame_bytes) {}

  void Append(absl::string_view bytes);

  // Moves the next whole frame into `frame`; false: more bytes are needed.
  //   DATA_LOSS  the stream is not what it should be. Nothing after this can be trusted, and every later call
  //              says so too.
  absl::StatusOr<bool> Next(std::string& frame);

  // True where the stream may end: no half frame is left.
  bool empty() const { return start_ == buffer_.size(); }

 private:
  size_t max_frame_bytes_;
  std::string buffer_;
  size_t start_ = 0;  // what lies before it has been handed out
};

}  // namespace assay

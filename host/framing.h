// Length-delimited messages on a byte stream: the length as a base-128 varint, then the message
// (https://protobuf.dev/programming-guides/techniques/#streaming).
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message_lite.h"

namespace assay::host {

// A length above this is refused: the stream is not ours, or broken.
inline constexpr size_t kMaxFrameBytes = size_t{16} << 20;

std::string Frame(const google::protobuf::MessageLite& message);

// Takes a stream in pieces of any size and gives whole messages. Not thread-safe.
class FrameReader {
 public:
  void Feed(absl::string_view bytes);

  // The next whole message; nullopt where more bytes are needed. INVALID_ARGUMENT for a length that cannot
  // be: the stream is lost from there on, and every later call says so too.
  absl::StatusOr<std::optional<std::string>> Next();

  // True where no part of a message is left over: a stream that ends here ends well.
  bool AtBoundary() const { return read_ == buffer_.size(); }

 private:
  std::string buffer_;
  size_t read_ = 0;  // bytes of buffer_ that were given out
};

// Writes all of it, waiting where the pipe is full. UNAVAILABLE where the other end is gone.
absl::Status WriteAll(int fd, absl::string_view bytes);

}  // namespace assay::host

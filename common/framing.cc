#include "common/framing.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace assay {

void AppendFrame(const google::protobuf::MessageLite& message, std::string& out) {
  uint64_t size = message.ByteSizeLong();
  while (size >= 0x80) {
    out.push_back(static_cast<char>(0x80 | (size & 0x7f)));
    size >>= 7;
  }
  out.push_back(static_cast<char>(size));
  message.AppendToString(&out);
}

void FrameReader::Append(absl::string_view bytes) {
  // Moved together only when half of the buffer is spent, so that every byte is moved a bounded number of
  // times.
  if (start_ > 0 && start_ >= buffer_.size() / 2) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  buffer_.append(bytes.data(), bytes.size());
}

absl::StatusOr<bool> FrameReader::Next(std::string& frame) {
  uint64_t size = 0;
  size_t at = start_;
  bool ended = false;
  for (int shift = 0; !ended; shift += 7) {
    if (shift > 28) return absl::DataLossError("a frame's length does not end");
    if (at == buffer_.size()) break;
    const auto byte = static_cast<uint8_t>(buffer_[at++]);
    size |= static_cast<uint64_t>(byte & 0x7f) << shift;
    ended = (byte & 0x80) == 0;
  }
  // A length only grows with its bytes: one that is too large already need not be waited for.
  if (size > max_frame_bytes_) {
    return absl::DataLossError(absl::StrCat("a frame of ", size, " bytes; at most ", max_frame_bytes_));
  }
  if (!ended) return false;
  if (buffer_.size() - at < size) return false;
  frame.assign(buffer_, at, size);
  start_ = at + size;
  return true;
}

}  // namespace assay

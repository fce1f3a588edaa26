#include "host/framing.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace assay::host {

std::string Frame(const google::protobuf::MessageLite& message) {
  size_t size = message.ByteSizeLong();
  std::string frame;
  frame.reserve(size + 5);
  for (size_t rest = size;; rest >>= 7) {
    if (rest < 0x80) {
      frame.push_back(static_cast<char>(rest));
      break;
    }
    frame.push_back(static_cast<char>((rest & 0x7f) | 0x80));
  }
  message.AppendToString(&frame);
  return frame;
}

void FrameReader::Feed(absl::string_view bytes) {
  // Given-out bytes are dropped in bulk, so that many small messages do not move the buffer each time.
  if (read_ == buffer_.size()) {
    buffer_.clear();
    read_ = 0;
  } else if (read_ > (size_t{1} << 16)) {
    buffer_.erase(0, read_);
    read_ = 0;
  }
  buffer_.append(bytes.data(), bytes.size());
}

absl::StatusOr<std::optional<std::string>> FrameReader::Next() {
  size_t size = 0;
  size_t at = read_;
  for (int shift = 0;; shift += 7) {
    if (at == buffer_.size()) return std::nullopt;
    auto byte = static_cast<unsigned char>(buffer_[at++]);
    size |= static_cast<size_t>(byte & 0x7f) << shift;
    if (size > kMaxFrameBytes || shift > 28) {
      return absl::InvalidArgumentError(
          absl::StrCat("a message's length is above ", kMaxFrameBytes, " bytes: the stream is broken"));
    }
    if (byte < 0x80) break;
  }
  if (buffer_.size() - at < size) return std::nullopt;
  std::string message = buffer_.substr(at, size);
  read_ = at + size;
  return message;
}

absl::Status WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd ready{fd, POLLOUT, 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("cannot write to the pipe: ", strerror(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace assay::host

#include "common/id.h"

#include <array>

#include "absl/random/random.h"
#include "absl/strings/str_format.h"

namespace assay {

std::string NewUuid() {
  thread_local absl::BitGen random;
  const uint64_t high = (absl::Uniform<uint64_t>(random) & ~uint64_t{0xf000}) | 0x4000;
  const uint64_t low = (absl::Uniform<uint64_t>(random) & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);
  return absl::StrFormat("%08x-%04x-%04x-%04x-%012x", high >> 32, (high >> 16) & 0xffff, high & 0xffff,
                         low >> 48, low & 0xffffffffffff);
}

}  // namespace assay

#include "host/memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace assay::host {
namespace {

// The value of "Key:   123 kB" in bytes.
std::optional<uint64_t> Field(absl::string_view status, absl::string_view key) {
  size_t at = status.find(key);
  if (at == absl::string_view::npos) return std::nullopt;
  absl::string_view value = status.substr(at + key.size());
  value = value.substr(0, value.find('\n'));
  value = absl::StripSuffix(absl::StripAsciiWhitespace(value), " kB");
  uint64_t kib = 0;
  if (!absl::SimpleAtoi(value, &kib)) return std::nullopt;
  return kib * 1024;
}

}  // namespace

std::optional<MemoryUse> ReadMemoryUse(pid_t pid) {
  std::string path = pid == 0 ? "/proc/self/status" : absl::StrCat("/proc/", pid, "/status");
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  char buffer[4096];
  ssize_t got = read(fd, buffer, sizeof buffer);
  close(fd);
  if (got <= 0) return std::nullopt;
  absl::string_view status(buffer, static_cast<size_t>(got));
  std::optional<uint64_t> anon = Field(status, "\nRssAnon:");
  std::optional<uint64_t> shmem = Field(status, "\nRssShmem:");
  std::optional<uint64_t> file = Field(status, "\nRssFile:");
  std::optional<uint64_t> peak = Field(status, "\nVmHWM:");
  if (!anon || !shmem || !file || !peak) return std::nullopt;  // a zombie has none
  MemoryUse use;
  use.own_bytes = *anon + *shmem;
  use.resident_peak_bytes = *peak;
  use.own_peak_bytes = std::max(use.own_bytes, *peak > *file ? *peak - *file : 0);
  return use;
}

}  // namespace assay::host

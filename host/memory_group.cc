#include "host/memory_group.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::host {
namespace {

// The kernel's files take one write as one command, and are never made by us.
absl::Status Command(const std::filesystem::path& file, const std::string& text) {
  int fd = open(file.c_str(), O_WRONLY | O_CLOEXEC);
  bool written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  int error = errno;
  if (fd >= 0) close(fd);
  if (written) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot write '", text, "' to ", file.string(), ": ", strerror(error)));
}

bool Lists(const std::string& words, absl::string_view word) {
  for (absl::string_view one : absl::StrSplit(words, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (one == word) return true;
  }
  return false;
}

}  // namespace

absl::Status PrepareDelegated(const std::filesystem::path& delegated) {
  absl::StatusOr<std::string> controllers = ReadFile(delegated / "cgroup.controllers");
  if (!controllers.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(delegated.string(), " is no cgroup v2 folder"));
  }
  if (!Lists(*controllers, "memory")) {
    return absl::FailedPreconditionError(absl::StrCat(delegated.string(), " has no memory controller"));
  }
  absl::StatusOr<std::string> enabled = ReadFile(delegated / "cgroup.subtree_control");
  if (enabled.ok() && Lists(*enabled, "memory")) return absl::OkStatus();
  return Command(delegated / "cgroup.subtree_control", "+memory");
}

absl::StatusOr<std::unique_ptr<MemoryGroup>> MemoryGroup::Make(const std::filesystem::path& delegated,
                                                               const std::string& name,
                                                               uint64_t limit_bytes) {
  std::filesystem::path folder = delegated / name;
  std::error_code error;
  if (!std::filesystem::create_directory(folder, error)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot make ", folder.string(), ": ", error.message()));
  }
  auto group = std::unique_ptr<MemoryGroup>(new MemoryGroup(folder));
  ASSAY_RETURN_IF_ERROR(Command(folder / "memory.max", absl::StrCat(limit_bytes)));
  // Not there where the kernel has no swap accounting: then nothing swaps on this group's behalf either.
  (void)Command(folder / "memory.swap.max", "0");
  return group;
}

MemoryGroup::~MemoryGroup() { rmdir(folder_.c_str()); }

absl::Status MemoryGroup::Add(pid_t pid) { return Command(folder_ / "cgroup.procs", absl::StrCat(pid)); }

bool MemoryGroup::KilledForMemory() const {
  absl::StatusOr<std::string> events = ReadFile(folder_ / "memory.events");
  return events.ok() && CountsKill(*events);
}

bool CountsKill(absl::string_view memory_events) {
  for (absl::string_view line : absl::StrSplit(memory_events, '\n')) {
    std::pair<absl::string_view, absl::string_view> entry = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    uint64_t count = 0;
    if (entry.first == "oom_kill" && absl::SimpleAtoi(entry.second, &count)) return count > 0;
  }
  return false;
}

}  // namespace assay::host

// Memory limits that the kernel keeps: a control group a test, below a folder that was delegated to this user
// (cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay::host {

// The group of one process; it ends with the object, which must outlive the process.
class MemoryGroup {
 public:
  // Makes a group `name` below `delegated` whose members together may hold `limit_bytes`, swap included. The
  // files that they read count, but the kernel drops those before it refuses anything.
  static absl::StatusOr<std::unique_ptr<MemoryGroup>> Make(const std::filesystem::path& delegated,
                                                           const std::string& name, uint64_t limit_bytes);
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;

  absl::Status Add(pid_t pid);
  // True if the kernel has killed a member because the group had no memory left.
  bool KilledForMemory() const;

 private:
  explicit MemoryGroup(std::filesystem::path folder) : folder_(std::move(folder)) {}
  const std::filesystem::path folder_;
};

// Whether memory.events, as the kernel writes it, counts a member that was killed for want of memory.
bool CountsKill(absl::string_view memory_events);

// OK if groups with a memory limit can be made below `delegated`: the controller is there and switched on for
// its children. FAILED_PRECONDITION says what is missing.
absl::Status PrepareDelegated(const std::filesystem::path& delegated);

}  // namespace assay::host

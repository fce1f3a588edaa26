#include "worker/bounded_run.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "host/memory.h"
#include "worker/steady.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(100);

// Of all processes of a group. A page that two of them share since a fork counts twice: the bound is kept,
// and reached a little early.
uint64_t MemoryOfGroup(pid_t group) {
  uint64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator at("/proc", error), end; !error && at != end;
       at.increment(error)) {
    int pid = 0;
    if (!absl::SimpleAtoi(at->path().filename().string(), &pid) || ::getpgid(pid) != group) continue;
    if (const auto use = host::ReadMemoryUse(pid); use.has_value()) bytes += use->own_bytes;
  }
  return bytes;
}

void ReadAll(Fd& from, const std::function<void(absl::string_view)>& output) {
  char buffer[4096];
  ssize_t got;
  while ((got = ::read(from.get(), buffer, sizeof(buffer))) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) output(absl::string_view(buffer, static_cast<size_t>(got)));
  }
  if (got == 0) from.Close();
}

}  // namespace

absl::StatusOr<BoundedEnd> RunBounded(const std::filesystem::path& binary,
                                      const std::vector<std::string>& arguments,
                                      const std::vector<std::string>& environment, const Bounds& bounds,
                                      const std::function<void(absl::string_view)>& output,
                                      const std::function<bool()>& cancelled) {
  ASSAY_ASSIGN_OR_RETURN(const std::unique_ptr<Subprocess> process,
                         Subprocess::Start(binary, arguments, environment));
  process->input().Close();
  const absl::Time deadline = SteadyNow() + bounds.timeout;
  BoundedEnd end;
  using Why = BoundedEnd::Why;
  while (true) {
    pollfd fds[] = {{process->ended().get(), POLLIN, 0}, {process->output().get(), POLLIN, 0}};
    ::poll(fds, std::size(fds), static_cast<int>(absl::ToInt64Milliseconds(kLook)));
    if (fds[1].revents != 0) ReadAll(process->output(), output);
    if (fds[0].revents != 0) break;
    if (bounds.memory_bytes > 0) {
      const uint64_t bytes = MemoryOfGroup(process->pid());
      end.peak_memory_bytes = std::max(end.peak_memory_bytes, bytes);
      if (bytes > bounds.memory_bytes) end.why = Why::kOutOfMemory;
    }
    if (SteadyNow() >= deadline) end.why = Why::kTimedOut;
    if (cancelled()) end.why = Why::kCancelled;
    if (end.why != Why::kItself) break;
  }
  end.wait_status = process->KillAndReap();
  ReadAll(process->output(), output);
  return end;
}

}  // namespace assay::worker

#include "worker/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"

namespace assay::worker {

absl::StatusOr<Fd> LockFolder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::filesystem::path path = folder / "lock";
  Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.open()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path.string()));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("another worker uses ", folder.string()));
  }
  return lock;
}

void MakePathsAbsolute(AgentOptions& options) {
  std::vector<std::filesystem::path*> paths = {&options.state_dir,        &options.host_binary,
                                               &options.label_file,       &options.checkpoint_root,
                                               &options.hub.cache_dir,    &options.exporter.folder,
                                               &options.exporter.samples, &options.exporter.sandbox_binary};
  for (std::filesystem::path& folder : options.checkpoint_folders) paths.push_back(&folder);
  for (std::filesystem::path* path : paths) {
    if (!path->empty()) *path = std::filesystem::absolute(*path);
  }
}

}  // namespace assay::worker

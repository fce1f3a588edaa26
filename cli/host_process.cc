#include "cli/host_process.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "cli/content_dir.h"

namespace assay::cli {

absl::StatusOr<int> RunHost(const std::string& binary, const std::vector<std::string>& arguments) {
  std::string path = binary.empty() ? (ExecutablePath().parent_path() / "assay-host").string() : binary;
  std::vector<char*> raw = {path.data()};
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) raw.push_back(argument.data());
  raw.push_back(nullptr);
  std::fflush(nullptr);
  pid_t child = 0;
  const int failed = posix_spawn(&child, path.c_str(), nullptr, nullptr, raw.data(), environ);
  if (failed != 0) return absl::ErrnoToStatus(failed, absl::StrCat("starting ", path));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return absl::UnavailableError(absl::StrCat(path, " was ended by signal ", WTERMSIG(status)));
}

}  // namespace assay::cli

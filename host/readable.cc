#include "host/readable.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "checkpoint/mapped_file.h"

namespace assay::host {
namespace {

namespace fs = std::filesystem;

// Of other processes' entries in /proc, Landlock hides what only a debugger may see: environment and memory.
constexpr const char* kSystemPaths[] = {"/usr", "/lib", "/lib64",           "/proc",
                                        "/sys", "/dev", "/etc/ld.so.cache", "/etc/localtime"};

// Folders of the libraries that are loaded: more of them may be opened from there.
std::set<std::string> LibraryFolders() {
  std::set<std::string> folders;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t slash = line.find('/');
    if (slash == std::string::npos || line.find(".so") == std::string::npos) continue;
    folders.insert(fs::path(line.substr(slash)).parent_path().string());
  }
  return folders;
}

}  // namespace

std::vector<std::string> ReadableFor(const v1::RunTest& request) {
  std::vector<std::string> readable(std::begin(kSystemPaths), std::end(kSystemPaths));
  for (const std::string& folder : LibraryFolders()) readable.push_back(folder);
  if (!request.program_path().empty()) readable.push_back(request.program_path());
  for (const v1::BlobFile& file : request.file()) readable.push_back(file.path());
  if (request.checkpoint_dir().empty()) return readable;
  const fs::path folder = request.checkpoint_dir();
  readable.push_back(folder.string());
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (!entry->is_symlink(ignored)) continue;
    const absl::StatusOr<fs::path> place =
        checkpoint::ResolveInside(folder, entry->path().filename().string());
    if (place.ok()) readable.push_back(place->string());
  }
  return readable;
}

}  // namespace assay::host

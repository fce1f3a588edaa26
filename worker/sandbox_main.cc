// assay-sandbox: becomes another program behind walls: no network, no way into other processes, no files but
// those that are named, no new privileges.
//
//   assay-sandbox [--strict] [--read PATH]… [--write FOLDER]… -- PROGRAM [ARGUMENT]…
//
// A wall that the kernel refuses is named on standard error; with --strict the program is then not started
// (exit code 126). Exit code 127: the program cannot be started. The environment is passed on as it is.
#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "common/build_info.h"
#include "host/protection.h"

namespace {

// What any program needs that is linked dynamically, and what LibTorch asks the machine about itself.
constexpr const char* kSystem[] = {"/usr",
                                   "/lib",
                                   "/lib64",
                                   "/bin",
                                   "/etc/ld.so.cache",
                                   "/etc/localtime",
                                   "/etc/passwd",
                                   "/etc/group",
                                   "/etc/nsswitch.conf",
                                   "/proc",
                                   "/sys/devices/system",
                                   "/sys/fs/cgroup",
                                   "/dev/null",
                                   "/dev/zero",
                                   "/dev/urandom",
                                   "/dev/random"};

constexpr int kRefused = 126;
constexpr int kNotStarted = 127;

}  // namespace

int main(int argc, char** argv) {
  assay::host::ShownFiles files;
  for (const char* path : kSystem) files.read.emplace_back(path);
  files.write.emplace_back("/dev/null");
  bool strict = false;
  int i = 1;
  for (; i < argc && strcmp(argv[i], "--") != 0; ++i) {
    if (strcmp(argv[i], "--version") == 0) {
      puts(assay::VersionLine("assay-sandbox").c_str());
      return 0;
    }
    if (strcmp(argv[i], "--strict") == 0) {
      strict = true;
    } else if (strcmp(argv[i], "--read") == 0 && i + 1 < argc) {
      files.read.emplace_back(argv[++i]);
    } else if (strcmp(argv[i], "--write") == 0 && i + 1 < argc) {
      files.write.emplace_back(argv[++i]);
    } else {
      fprintf(stderr, "assay-sandbox: unexpected argument %s\n", argv[i]);
      return 2;
    }
  }
  if (i + 1 >= argc) {
    fprintf(stderr, "assay-sandbox: no program is named\n");
    return 2;
  }
  std::vector<std::string> refused = assay::host::Protect(assay::host::ProtectionFor::kProgram);
  if (!assay::host::ShowOnly(files)) {
    refused.push_back(std::string("no files but those that it needs (Landlock): ") + strerror(errno));
  }
  for (const std::string& wall : refused) {
    fprintf(stderr, "assay-sandbox: the kernel refuses: %s\n", wall.c_str());
  }
  if (strict && !refused.empty()) return kRefused;
  execv(argv[i + 1], argv + i + 1);
  fprintf(stderr, "assay-sandbox: cannot run %s: %s\n", argv[i + 1], strerror(errno));
  return kNotStarted;
}

#include "host/protection.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

extern char** environ;

namespace assay::host {
namespace {

bool Limit(int resource, rlim_t value) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return false;
  limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? value : std::min<rlim_t>(value, limit.rlim_max);
  limit.rlim_max = limit.rlim_cur;
  return setrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0;
}

constexpr uint64_t kTruncate = uint64_t{1} << 14;  // LANDLOCK_ACCESS_FS_TRUNCATE, of Landlock 3 (kernel 6.2)

// Landlock (kernel 5.13): no rule allows anything, so no file can be written, made, renamed or removed.
bool DenyFileChanges() {
  landlock_ruleset_attr rules{};
  rules.handled_access_fs =
      LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
      LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
      LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
      LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_EXECUTE;
  long fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
  if (fd < 0) return false;
  bool held = syscall(SYS_landlock_restrict_self, fd, 0) == 0;
  close(static_cast<int>(fd));
  return held;
}

// Root without capabilities is a user like any other; with no_new_privs no program gives them back. With them
// a process may read others' memory and environment whatever Landlock says (CAP_PERFMON, kernel 6.15).
bool DropCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  return syscall(SYS_capset, &header, none) == 0;
}

// One rule: `path` and all below it. A path that is not there needs no rule.
bool Allow(int rules, const std::string& path, uint64_t access) {
  const int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR || errno == EACCES;
  struct stat info {};
  bool held = fstat(fd, &info) == 0;
  constexpr uint64_t kOfFiles =
      LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | kTruncate;
  landlock_path_beneath_attr rule{};
  rule.allowed_access = S_ISDIR(info.st_mode) ? access : access & kOfFiles;
  rule.parent_fd = fd;
  held = held && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
  const int error = errno;
  close(fd);
  errno = error;
  return held;
}

#ifdef __x86_64__
// The filter's program is built instruction by instruction, each block falling through to the next.
class SyscallFilter {
 public:
  SyscallFilter() {
    // Another architecture's numbers mean other calls: refuse them all.
    Add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    Add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    Add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    Add(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));  // x32
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  void Deny(long number, int error = EPERM) {
    Add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)));
  }
  // The call is allowed only where its first argument, masked, is `value`. The low 32 bits hold all that the
  // arguments tested here can say.
  void DenyUnless(long number, uint32_t mask, uint32_t value) {
    Add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 5));
    Add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)));
    Add(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
    Add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
  }
  bool Install() {
    Add(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog program{static_cast<unsigned short>(instructions_.size()), instructions_.data()};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
  }

 private:
  void Add(sock_filter instruction) { instructions_.push_back(instruction); }
  std::vector<sock_filter> instructions_;
};

bool DenySystemCalls(ProtectionFor device) {
  SyscallFilter filter;
  if (device == ProtectionFor::kCuda) {
    filter.DenyUnless(SYS_socket, 0xffffffffu, AF_UNIX);
  } else {
    filter.Deny(SYS_socket);
    filter.Deny(SYS_connect);
  }
  // A ring could make sockets behind the filter's back.
  filter.Deny(SYS_io_uring_setup, ENOSYS);
  filter.Deny(SYS_ptrace);
  filter.Deny(SYS_process_vm_readv);
  filter.Deny(SYS_process_vm_writev);
  filter.Deny(SYS_bpf);
  filter.Deny(SYS_perf_event_open);
  filter.Deny(SYS_userfaultfd);
  filter.Deny(SYS_unshare);
  filter.Deny(SYS_setns);
  filter.Deny(SYS_mount);
  if (device == ProtectionFor::kProgram) return filter.Install();
  filter.Deny(SYS_execve);
  filter.Deny(SYS_execveat);
  filter.Deny(SYS_fork);
  filter.Deny(SYS_vfork);
  // Threads, but no processes. clone3's flags lie in memory, where a filter cannot look: without it, the C
  // library falls back to clone.
  filter.Deny(SYS_clone3, ENOSYS);
  filter.DenyUnless(SYS_clone, CLONE_THREAD, CLONE_THREAD);
  return filter.Install();
}
#else
bool DenySystemCalls(ProtectionFor) { return false; }
#endif

}  // namespace

std::vector<std::string> Protect(ProtectionFor device) {
  std::vector<std::string> refused;
  auto want = [&](bool held, absl::string_view what) {
    if (!held) refused.push_back(absl::StrCat(what, ": ", strerror(errno)));
  };
  bool cpu = device == ProtectionFor::kCpu;
  want(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges (PR_SET_NO_NEW_PRIVS)");
  want(Limit(RLIMIT_CORE, 0), "no core dumps (RLIMIT_CORE)");
  want(Limit(RLIMIT_NOFILE, cpu ? 256 : 4096), "few open files (RLIMIT_NOFILE)");
  if (cpu) {
    // Writing past a file's allowed size sends a signal; the error is enough.
    signal(SIGXFSZ, SIG_IGN);
    want(Limit(RLIMIT_FSIZE, 0), "no file grows (RLIMIT_FSIZE)");
    want(DenyFileChanges(), "no file is changed (Landlock)");
  }
  if (device == ProtectionFor::kProgram) want(DropCapabilities(), "no capabilities (capset)");
  want(DenySystemCalls(device), device == ProtectionFor::kProgram
                                    ? "no network (seccomp)"
                                    : "no network, programs or processes (seccomp)");
  return refused;
}

bool ShowOnly(const ShownFiles& files) {
  const long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 0) return false;
  constexpr uint64_t kRead =
      LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  uint64_t all = kRead | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                 LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                 LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;
  if (version >= 2) all |= LANDLOCK_ACCESS_FS_REFER;
  if (version >= 3) all |= kTruncate;
  landlock_ruleset_attr handled{};
  handled.handled_access_fs = all;
  const int rules = static_cast<int>(syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0));
  if (rules < 0) return false;
  bool held = true;
  for (const std::string& path : files.read) held = held && Allow(rules, path, kRead);
  for (const std::string& path : files.write) held = held && Allow(rules, path, all);
  held = held && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
  const int error = errno;
  close(rules);
  errno = error;
  return held;
}

std::vector<std::string> RefusedProtections(ProtectionFor device) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {absl::StrCat("all: cannot try them: ", strerror(errno))};
  pid_t child = fork();
  if (child == 0) {
    std::vector<std::string> refused_here = Protect(device);
    if (device == ProtectionFor::kCpu && !ShowOnly({})) {
      refused_here.push_back(
          absl::StrCat("only the test's own files are read (Landlock): ", strerror(errno)));
    }
    std::string refused = absl::StrJoin(refused_here, "\n");
    [[maybe_unused]] ssize_t written = write(ends[1], refused.data(), refused.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[1024];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
    return {"all: the process that tried them failed"};
  }
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

void ScrubEnvironment() {
  static constexpr absl::string_view kNames[] = {
      "PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "NO_COLOR"};
  static constexpr absl::string_view kPrefixes[] = {"LC_",   "ATEN_",   "OMP_",  "GOMP_",  "KMP_",
                                                    "MKL_",  "ONEDNN_", "DNNL_", "CUDA_",  "NVIDIA_",
                                                    "ASAN_", "UBSAN_",  "TSAN_", "MALLOC_"};
  std::vector<std::string> dropped;
  for (char** variable = environ; variable && *variable; ++variable) {
    absl::string_view name(*variable);
    name = name.substr(0, name.find('='));
    bool kept = false;
    for (absl::string_view known : kNames) kept |= name == known;
    for (absl::string_view prefix : kPrefixes) kept |= absl::StartsWith(name, prefix);
    if (!kept) dropped.emplace_back(name);
  }
  for (const std::string& name : dropped) unsetenv(name.c_str());
}

}  // namespace assay::host

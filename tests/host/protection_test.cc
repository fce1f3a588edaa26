// Walls around a test's process: each is tried from inside.
#include "host/protection.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "host/readable.h"
#include "tests/matchers.h"

namespace assay::host {
namespace {

using ::testing::IsEmpty;

// Exit status of a process that protects itself and then does this.
int InProtectedProcess(ProtectionFor device, const std::function<int()>& action) {
  pid_t child = fork();
  if (child == 0) {
    Protect(device);
    _exit(action());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// 0 where the call is refused, 1 where it works.
int Works(bool worked) { return worked ? 1 : 0; }

TEST(Protection, HoldsOnThisKernel) { EXPECT_THAT(RefusedProtections(ProtectionFor::kCpu), IsEmpty()); }

TEST(Protection, NoSockets) {
  auto inet = [] { return Works(socket(AF_INET, SOCK_STREAM, 0) >= 0); };
  auto local = [] { return Works(socket(AF_UNIX, SOCK_STREAM, 0) >= 0); };
  EXPECT_EQ(inet(), 1) << "this machine has no network to refuse";
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, inet), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, local), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCuda, inet), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCuda, local), 1) << "the CUDA driver needs these";
}

TEST(Protection, NoFileIsWrittenMadeOrRemoved) {
  std::string folder = ::testing::TempDir() + "/protected";
  std::filesystem::create_directories(folder);
  std::string file = folder + "/file";
  fclose(fopen(file.c_str(), "w"));
  auto write_file = [&] { return Works(open(file.c_str(), O_WRONLY) >= 0); };
  auto make_file = [&] { return Works(open((folder + "/new").c_str(), O_WRONLY | O_CREAT, 0600) >= 0); };
  auto remove_file = [&] { return Works(unlink(file.c_str()) == 0); };
  auto read_file = [&] { return Works(open(file.c_str(), O_RDONLY) >= 0); };
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, write_file), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, make_file), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, remove_file), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, read_file), 1);
  EXPECT_EQ(remove_file(), 1);
}

TEST(Protection, ATestReadsItsOwnFilesAndNoOthers) {
  const std::string folder = ::testing::TempDir() + "/readable_" + std::to_string(getpid());
  const std::string repository = folder + "/models--a--b", snapshot = repository + "/snapshots/c";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(repository + "/blobs");
  for (const char* name :
       {"/secret", "/program", "/golden", "/models--a--b/blobs/x", "/models--a--b/blobs/other"}) {
    fclose(fopen((folder + name).c_str(), "w"));
  }
  std::filesystem::create_symlink("../../blobs/x", snapshot + "/model.safetensors");
  std::filesystem::create_symlink(folder + "/secret", snapshot + "/config.json");
  v1::RunTest request;
  request.set_program_path(folder + "/program");
  request.add_file()->set_path(folder + "/golden");
  request.set_checkpoint_dir(snapshot);
  auto reads = [&](const std::string& path) {
    return InProtectedProcess(ProtectionFor::kCpu, [&] {
      if (!ShowOnly({ReadableFor(request), {}})) return 77;
      return Works(open(path.c_str(), O_RDONLY) >= 0);
    });
  };
  EXPECT_EQ(reads(folder + "/program"), 1);
  EXPECT_EQ(reads(folder + "/golden"), 1);
  EXPECT_EQ(reads(snapshot), 1);
  EXPECT_EQ(reads(snapshot + "/model.safetensors"), 1);
  EXPECT_EQ(reads("/proc/meminfo"), 1);
  EXPECT_EQ(reads(folder + "/secret"), 0);
  EXPECT_EQ(reads(snapshot + "/config.json"), 0) << "a link out of the cache leads nowhere";
  EXPECT_EQ(reads(repository + "/blobs/other"), 0);
  std::filesystem::remove_all(folder);
}

TEST(Protection, NoProgramsAndNoProcessesButThreads) {
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu,
                               [] {
                                 execl("/bin/true", "true", nullptr);
                                 return 77;
                               }),
            77);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu, [] { return Works(fork() >= 0); }), 0);
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu,
                               [] {
                                 pthread_t thread;
                                 auto body = [](void*) -> void* { return nullptr; };
                                 return Works(pthread_create(&thread, nullptr, body, nullptr) == 0 &&
                                              pthread_join(thread, nullptr) == 0);
                               }),
            1);
}

TEST(Protection, NoCoreDumps) {
  EXPECT_EQ(InProtectedProcess(ProtectionFor::kCpu,
                               [] {
                                 rlimit limit{};
                                 getrlimit(RLIMIT_CORE, &limit);
                                 return Works(limit.rlim_max > 0);
                               }),
            0);
}

TEST(Protection, SecretsLeaveTheEnvironmentAndWhatLibTorchReadsStays) {
  int status = InProtectedProcess(ProtectionFor::kCpu, [] {
    setenv("HF_TOKEN", "secret", 1);
    setenv("ASSAY_TOKEN", "secret", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    setenv("ATEN_CPU_CAPABILITY", "avx2", 1);
    setenv("LD_LIBRARY_PATH", "/lib", 1);
    ScrubEnvironment();
    bool scrubbed = !getenv("HF_TOKEN") && !getenv("ASSAY_TOKEN") && !getenv("AWS_SECRET_ACCESS_KEY");
    bool kept = getenv("ATEN_CPU_CAPABILITY") && getenv("LD_LIBRARY_PATH") && getenv("PATH");
    return (scrubbed ? 1 : 0) + (kept ? 2 : 0);
  });
  EXPECT_EQ(status, 3);
}

}  // namespace
}  // namespace assay::host

// A child process with pipes for its standard input, its output (standard output and error together) and one
// channel of events. It dies with the thread that started it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace assay::worker {

// The file descriptor on which a child finds its events pipe.
inline constexpr int kEventsFd = 3;

// A file descriptor that is closed once.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.Release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { Close(); }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void Close();

 private:
  int fd_ = -1;
};

// What a test host may know of its surroundings: the entries of `environment` ("NAME=value") whose name is
// needed to find libraries and devices. Secrets of the worker never reach a test.
std::vector<std::string> ScrubEnvironment(const std::vector<std::string>& environment);

// This process's environment.
std::vector<std::string> OwnEnvironment();

// Not thread-safe; start it, use it and destroy it on one thread, because the kernel ends the child with that
// thread (PR_SET_PDEATHSIG).
class Subprocess {
 public:
  // NOT_FOUND where the binary is missing or not executable.
  static absl::StatusOr<std::unique_ptr<Subprocess>> Start(const std::filesystem::path& binary,
                                                           const std::vector<std::string>& arguments,
                                                           const std::vector<std::string>& environment);
  ~Subprocess();  // kills and reaps

  pid_t pid() const { return pid_; }
  // These three do not block. Close the input to ask the child to end.
  Fd& input() { return input_; }
  Fd& output() { return output_; }
  Fd& events() { return events_; }
  // Readable once the child has ended, even while its own children hold its pipes (pidfd_open(2)).
  const Fd& ended() const { return ended_; }

  // SIGKILL to the child's process group, then waits for the child. Gives what it ended with, as in wait(2).
  int KillAndReap();

 private:
  Subprocess() = default;
  pid_t pid_ = -1;
  int wait_status_ = 0;
  Fd input_, output_, events_, ended_;
};

// "exit code 3", "signal 11 (Segmentation fault)".
std::string DescribeWaitStatus(int wait_status);

}  // namespace assay::worker

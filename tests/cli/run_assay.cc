#include "tests/cli/run_assay.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/file.h"
#include "gtest/gtest.h"

namespace assay::cli {
namespace {

// In the child; never returns.
void Exec(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) {
  for (const std::string& variable : environment) putenv(const_cast<char*>(variable.c_str()));
  const std::string binary = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin/assay";
  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(binary.c_str(), argv.data());
  _exit(127);
}

int ExitCodeOf(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string Content(const std::string& path) {
  auto content = ReadFile(path);
  EXPECT_TRUE(content.ok()) << content.status();
  return content.ok() ? *content : "";
}

pid_t Start(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
            const std::string& out_path, const std::string& err_path) {
  const pid_t pid = fork();
  if (pid == 0) {
    const int out = open(out_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int err = open(err_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    Exec(arguments, environment);
  }
  return pid;
}

}  // namespace

std::string NewFolder() {
  std::string path = ::testing::TempDir() + "/assay_cli_XXXXXX";
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

Ended RunAssay(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) {
  const std::string folder = NewFolder();
  const pid_t pid = Start(arguments, environment, folder + "/out", folder + "/err");
  Ended ended;
  ended.exit_code = ExitCodeOf(pid);
  ended.out = Content(folder + "/out");
  ended.err = Content(folder + "/err");
  std::filesystem::remove_all(folder);
  return ended;
}

Ended RunAssayOnTerminal(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment) {
  winsize size = {};
  size.ws_col = 80;
  size.ws_row = 24;
  int terminal = -1;
  const pid_t pid = forkpty(&terminal, nullptr, nullptr, &size);
  if (pid == 0) Exec(arguments, environment);
  Ended ended;
  char buffer[4096];
  ssize_t got;
  while ((got = read(terminal, buffer, sizeof(buffer))) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) ended.out.append(buffer, got);
  }
  close(terminal);
  ended.exit_code = ExitCodeOf(pid);
  return ended;
}

RunningAssay::RunningAssay(const std::vector<std::string>& arguments,
                           const std::vector<std::string>& environment) {
  err_path_ = NewFolder() + "/err";
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  pid_ = fork();
  if (pid_ == 0) {
    const int err = open(err_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(ends[1], STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    Exec(arguments, environment);
  }
  close(ends[1]);
  out_ = ends[0];
}

void RunningAssay::AwaitOutput(const std::string& text) {
  char buffer[4096];
  while (text.empty() || out_so_far_.find(text) == std::string::npos) {
    const ssize_t got = read(out_, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    out_so_far_.append(buffer, got);
  }
}

void RunningAssay::Signal(int signal) { kill(pid_, signal); }

Ended RunningAssay::Wait() {
  AwaitOutput("");
  close(out_);
  Ended ended;
  ended.exit_code = ExitCodeOf(pid_);
  ended.out = out_so_far_;
  ended.err = Content(err_path_);
  return ended;
}

}  // namespace assay::cli

#include "tests/coordinator/postgres_server.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/file.h"
#include "common/id.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_schema.h"
#include "gtest/gtest.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr char kTemplate[] = "assay_template";

[[noreturn]] void Give(const std::string& why) {
  std::fprintf(stderr, "No PostgreSQL server to test against: %s\n", why.c_str());
  std::_Exit(1);
}

// Newest first.
fs::path Binaries() {
  for (int version = 30; version >= 15; --version) {
    const fs::path dir = absl::StrCat("/usr/lib/postgresql/", version, "/bin");
    if (fs::exists(dir / "initdb") && fs::exists(dir / "postgres")) return dir;
  }
  Give(
      "there is no /usr/lib/postgresql/<15 or later>/bin with initdb and postgres; scripts/setup --tests"
      " installs them");
}

std::string TextOf(const fs::path& path) {
  auto text = ReadFile(path);
  return text.ok() ? *text : "";
}

// Those that run in the folder, which is where a server and all its processes are. Not those that have ended
// and wait for their parent to take note.
std::vector<pid_t> ProcessesIn(const fs::path& folder) {
  std::vector<pid_t> processes;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    pid_t pid = 0;
    std::error_code gone;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (fs::read_symlink(entry.path() / "cwd", gone) == folder) processes.push_back(pid);
  }
  return processes;
}

}  // namespace

PostgresServer& PostgresServer::Get() {
  static PostgresServer server;
  return server;
}

PostgresServer::PostgresServer()
    // Short: a socket's path has at most 107 bytes.
    : dir_(fs::path("/tmp") / absl::StrCat("assay-pg-", NewUuid().substr(0, 8))),
      uid_(geteuid()),
      gid_(getegid()) {
  if (uid_ == 0) {
    const passwd* user = getpwnam("postgres");
    if (user == nullptr) user = getpwnam("nobody");
    if (user == nullptr) Give("run by root, and there is no user postgres or nobody to run it as");
    uid_ = user->pw_uid;
    gid_ = user->pw_gid;
  }
  fs::create_directories(dir_);
  if (chown(dir_.c_str(), uid_, gid_) != 0) Give(absl::StrCat("cannot give ", dir_.string(), " to its user"));
  const std::string log = (dir_ / "initdb.log").string();
  const pid_t initdb = Spawn({(Binaries() / "initdb").string(), "-D", (dir_ / "data").string(), "-U", "assay",
                              "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"},
                             log);
  int status = 0;
  if (waitpid(initdb, &status, 0) != initdb || status != 0) Give(absl::StrCat("initdb: ", TextOf(log)));
  Start();
  const std::string create = absl::StrCat("CREATE DATABASE ", kTemplate);
  if (absl::Status made = Run(UrlOf("postgres"), create); !made.ok()) Give(made.ToString());
  auto connection = PostgresConnection::Connect(UrlOf(kTemplate), "template");
  if (!connection.ok()) Give(connection.status().ToString());
  if (absl::Status made = MigratePostgres(**connection, PostgresSchemaSteps()); !made.ok())
    Give(made.ToString());
}

PostgresServer::~PostgresServer() {
  Kill();
  fs::remove_all(dir_);
}

pid_t PostgresServer::Spawn(const std::vector<std::string>& words, const std::string& log) const {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const bool other_user = geteuid() == 0;
  const pid_t pid = fork();
  if (pid != 0) return pid;
  // Nothing but system calls from here on: other threads may have held locks.
  if (other_user && (setgroups(0, nullptr) != 0 || setgid(gid_) != 0 || setuid(uid_) != 0)) _exit(126);
  prctl(PR_SET_PDEATHSIG, SIGQUIT);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0640);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  if (chdir("/") != 0) _exit(126);
  execv(arguments[0], arguments.data());
  _exit(127);
}

void PostgresServer::Start() {
  const std::string log = (dir_ / "server.log").string();
  // A process of the last one may need a moment to be gone, and a new one does not start beside it.
  for (int attempt = 0; attempt < 100; ++attempt) {
    // What was written survives SIGKILL without fsync, which a power cut alone would need.
    pid_ =
        Spawn({(Binaries() / "postgres").string(), "-D", (dir_ / "data").string(), "-c",
               "listen_addresses=", "-c", absl::StrCat("unix_socket_directories=", dir_.string()), "-c",
               "max_connections=30", "-c", "shared_buffers=32MB", "-c", "autovacuum=off", "-c", "fsync=off"},
              log);
    if (pid_ < 0) Give("cannot fork");
    while (waitpid(pid_, nullptr, WNOHANG) == 0) {
      // It cannot be told to say when it is ready.
      if (Run(UrlOf("postgres"), "SELECT 1").ok()) return;
      absl::SleepFor(absl::Milliseconds(10));
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  Give(absl::StrCat("it does not start: ", TextOf(log)));
}

void PostgresServer::Kill() {
  if (pid_ <= 0) return;
  // Stopped, it makes no more of them; killed first, it would leave them to finish their work.
  kill(pid_, SIGSTOP);
  waitpid(pid_, nullptr, WUNTRACED);
  for (pid_t process : ProcessesIn(dir_ / "data")) {
    if (process != pid_) kill(process, SIGKILL);
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  // One that is killed while it runs may answer once more before it notices.
  for (auto left = ProcessesIn(dir_ / "data"); !left.empty(); left = ProcessesIn(dir_ / "data")) {
    for (pid_t process : left) kill(process, SIGKILL);
    usleep(1000);
  }
  pid_ = -1;
}

std::string PostgresServer::UrlOf(const std::string& database, const std::string& socket_dir) const {
  return absl::StrCat("postgres://assay@/", database, "?host=", socket_dir);
}

absl::Status PostgresServer::Run(const std::string& url, const std::string& sql) {
  auto connection = PostgresConnection::Connect(url, "test");
  if (!connection.ok()) return connection.status();
  return (*connection)->Execute(sql);
}

std::string PostgresServer::NewDatabase(const std::string& options) {
  const std::string name = absl::StrCat("t", ++databases_);
  EXPECT_TRUE(Run(UrlOf("postgres"), absl::StrCat("CREATE DATABASE ", name, " ", options)).ok());
  return UrlOf(name);
}

std::string PostgresServer::NewStore() { return NewDatabase(absl::StrCat("TEMPLATE ", kTemplate)); }

}  // namespace assay::coordinator

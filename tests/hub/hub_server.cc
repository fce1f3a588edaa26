#include "tests/hub/hub_server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <sstream>

#include "gtest/gtest.h"
#include "hub/http.h"

extern char** environ;

namespace assay::hub {

namespace fs = std::filesystem;

Child::Child(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) {
  std::vector<std::string> variables = environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    // A proxy has no part in loopback, and no setting of the machine in a test.
    const auto begins = [&](const char* with) { return text.rfind(with, 0) == 0; };
    if (begins("HF_") || begins("HUGGING") || begins("TRANSFORMERS_") || begins("NO_PROXY=") ||
        begins("no_proxy=")) {
      continue;
    }
    variables.push_back(text);
  }
  variables.push_back("NO_PROXY=127.0.0.1,localhost");
  std::vector<char*> argv, envp;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  for (const std::string& variable : variables) envp.push_back(const_cast<char*>(variable.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(ends[1], 1);
    ::dup2(ends[1], 2);
    ::execvpe(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  out_ = ends[0];
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (out_ >= 0) ::close(out_);
}

std::string Child::ReadLine() {
  std::string line;
  char c = 0;
  while (::read(out_, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

void Child::Kill(int signal) { ::kill(pid_, signal); }

Ran Child::Wait() {
  Ran ran;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = ::read(out_, buffer, sizeof buffer)) > 0) ran.output.append(buffer, static_cast<size_t>(got));
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  ran.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

TemporaryFolder::TemporaryFolder() {
  std::string path = (fs::temp_directory_path() / "assay-hub-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) std::abort();
  path_ = fs::canonical(path);
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
}

HubServer::HubServer(const std::vector<fs::path>& tls)
    : server_(
          [&] {
            fs::create_directories(repos_);
            std::vector<std::string> arguments = {"python3", "tests/hub/hub_server.py", "--repos",
                                                  repos_.string()};
            if (!tls.empty()) {
              arguments.push_back("--tls");
              for (const fs::path& path : tls) arguments.push_back(path.string());
            }
            return arguments;
          }(),
          {}) {
  ::setenv("NO_PROXY", "127.0.0.1,localhost", 1);
  ::unsetenv("no_proxy");
  const std::string line = server_.ReadLine();
  std::istringstream words(line);
  std::string word, port, storage_port;
  words >> word >> port >> word >> storage_port;
  EXPECT_NE(storage_port, "") << "hub_server.py says: " << line;
  endpoint_ = (tls.empty() ? "http://127.0.0.1:" : "https://127.0.0.1:") + port;
  storage_ = "http://127.0.0.1:" + storage_port;
  if (!tls.empty()) ca_ = tls.front().string();
}

void HubServer::Reset() const {
  Get("/_reset");
  std::error_code error;
  fs::remove_all(cache_, error);
  fs::remove_all(repos_, error);
  fs::create_directories(repos_);
}

void HubServer::Put(const std::string& repo, const std::string& name, const std::string& content) const {
  const fs::path path = repos_ / repo / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

std::string HubServer::Random(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string content(bytes, '\0');
  for (char& c : content) c = static_cast<char>(random());
  return content;
}

void HubServer::PutModel(const std::string& repo, size_t bytes, unsigned seed) const {
  Put(repo, "config.json", R"({"model_type": "bert", "seed": )" + std::to_string(seed) + "}");
  Put(repo, "tokenizer.json", R"({"of": ")" + repo + "\"}");
  Put(repo, "tokenizer_config.json", "{}");
  Put(repo, "model.safetensors", Random(bytes, seed));
  Put(repo, "pytorch_model.bin", "a pickle");
  Put(repo, "README.md", "read me");
  Put(repo, "modeling_x.py", "print('never')");
  Put(repo, "onnx/model.onnx", "another form");
}

std::string HubServer::Get(const std::string& path) const {
  std::string body;
  HttpRequest request;
  request.url = *ParseUrl(endpoint_ + path);
  request.on_body = [&](absl::string_view piece) {
    body.append(piece.data(), piece.size());
    return absl::OkStatus();
  };
  const HttpResult result = Http(ca_).Do(request);
  EXPECT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.head.status, 200);
  return body;
}

void HubServer::Misbehave(const nlohmann::json& fault) const {
  Get("/_control?" + PercentEncode(fault.dump(), ""));
}
void HubServer::Release() const { Get("/_release"); }

std::vector<nlohmann::json> HubServer::Log(const std::string& where, const std::string& path) const {
  std::vector<nlohmann::json> rows;
  for (const nlohmann::json& row : nlohmann::json::parse(Get("/_log"))) {
    if (row["where"] == where && row["path"].get<std::string>().find(path) != std::string::npos)
      rows.push_back(row);
  }
  return rows;
}

HubOptions HubServer::Options() const {
  HubOptions options;
  options.endpoint = endpoint_;
  options.cache_dir = cache_;
  options.sleep = [](absl::Duration) {};
  return options;
}

std::string HubFetch() {
  const char* build = ::getenv("ASSAY_BUILD_DIR");
  return std::string(build != nullptr ? build : "build") + "/bin/hub_fetch";
}

}  // namespace assay::hub

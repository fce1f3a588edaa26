// A hub of one's own on loopback (hub_server.py), a folder for its repositories and one for a cache.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hub/hub.h"

namespace assay::hub {

// What a child process came to. Its two outputs in one.
struct Ran {
  int exit_code = -1;  // or 128 + signal
  std::string output;
};

// A child process with its output in a pipe; killed when this is destroyed.
class Child {
 public:
  // environment: "NAME=value", over this process's own.
  Child(const std::vector<std::string>& arguments, const std::vector<std::string>& environment);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  std::string ReadLine();
  void Kill(int signal);
  Ran Wait();

 private:
  int pid_ = -1;
  int out_ = -1;
};

// A new folder, gone when this is.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class HubServer {
 public:
  // tls: its certificate's file and key's; empty: plain HTTP.
  explicit HubServer(const std::vector<std::filesystem::path>& tls = {});

  // As new: no repositories, an empty cache, no faults, no log.
  void Reset() const;
  // A file of a repository, "owner/name".
  void Put(const std::string& repo, const std::string& name, const std::string& content) const;
  // config.json, tokenizer.json, tokenizer_config.json, a weight file of `bytes` random bytes (from `seed`),
  // and what nobody needs: README.md, modeling_x.py, pytorch_model.bin, onnx/model.onnx.
  void PutModel(const std::string& repo, size_t bytes, unsigned seed = 1) const;
  static std::string Random(size_t bytes, unsigned seed);

  // See hub_server.py.
  void Misbehave(const nlohmann::json& fault) const;
  void Release() const;
  // Requests so far; of `where` ("hub", "storage") whose path contains `path`.
  std::vector<nlohmann::json> Log(const std::string& where, const std::string& path = "") const;

  const std::string& endpoint() const { return endpoint_; }
  const std::string& storage() const { return storage_; }
  // For this server and a cache in a temporary folder; waits take no time.
  HubOptions Options() const;
  const std::filesystem::path& cache() const { return cache_; }

 private:
  std::string Get(const std::string& path) const;

  TemporaryFolder folder_;
  std::filesystem::path repos_ = folder_.path() / "repos";
  std::filesystem::path cache_ = folder_.path() / "cache";
  Child server_;
  std::string ca_;
  std::string endpoint_;
  std::string storage_;
};

// The program hub_fetch of this build.
std::string HubFetch();

}  // namespace assay::hub

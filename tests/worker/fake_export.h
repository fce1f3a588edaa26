// What tests of export stages need: a checkpoint, an exporter that makes nothing, artifacts in memory.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/zstd_frame.h"
#include "tests/matchers.h"
#include "worker/artifact.h"
#include "worker/export_stage.h"

namespace assay::worker {

inline void Write(const std::filesystem::path& path, absl::string_view content) {
  ASSERT_THAT(WriteFileAtomically(path, content), IsOk());
}

template <typename Message>
std::string Frame(const Message& message) {
  return CompressFrame(message.SerializeAsString()).value();
}

// One float32 tensor of one element.
inline std::string Safetensors(absl::string_view name, absl::string_view four_bytes) {
  std::string header =
      absl::StrCat("{\"", name, "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
  while (header.size() % 8 != 0) header += ' ';
  std::string length(8, '\0');
  length[0] = static_cast<char>(header.size());
  return absl::StrCat(length, header, four_bytes);
}

// A folder with exporter/ (see fake_exporter.py), checkpoint/ and home/.
class FakeExport {
 public:
  explicit FakeExport(const std::filesystem::path& folder) : folder_(folder) {
    namespace fs = std::filesystem;
    fs::create_directories(exporter() / ".venv/bin");
    fs::create_directories(exporter() / "assay_exporter");
    fs::create_symlink("/usr/bin/python3", exporter() / ".venv/bin/python");
    fs::copy_file("tests/worker/fake_exporter.py", exporter() / "assay_exporter/__main__.py");
    Write(folder_ / "home/secret", "secret");
    Write(checkpoint() / "config.json", R"({"model_type": "gpt2", "id2label": {"0": "no", "1": "yes"}})");
    Write(checkpoint() / "tokenizer.json", "{}");
    Write(checkpoint() / "model.safetensors", Safetensors("a", "1234"));
    Behave("good");
    v1::Program program;
    program.mutable_manifest()->set_architecture("transformers.GPT2LMHeadModel");
    program.mutable_manifest()->add_inputs()->set_name("input_ids");
    program.mutable_manifest()->add_outputs()->set_name("logits");
    program_ = Frame(program);
    Make();
  }

  std::filesystem::path exporter() const { return folder_ / "exporter"; }
  std::filesystem::path checkpoint() const { return folder_ / "checkpoint"; }
  std::string program_digest() const { return Sha256Hex(program_); }
  std::string weights_digest() const {
    auto opened = checkpoint::Checkpoint::Open(checkpoint());
    return opened.ok() ? opened->Digest() : "";
  }
  void Behave(const std::string& kind) { Write(exporter() / "behaviour", kind); }

  // Lays ready what the exporter hands out, for the checkpoint as it is.
  void Make() {
    const std::filesystem::path made = exporter() / "made";
    v1::CheckpointGolden golden;
    golden.set_program_digest(program_digest());
    golden.set_weights_digest(weights_digest());
    golden.mutable_golden()->add_inputs()->set_name("input_ids");
    Write(made / "inputs", Frame(golden));
    golden.mutable_golden()->add_outputs()->mutable_tensor()->set_name("logits");
    Write(made / "golden", Frame(golden));
    golden.set_weights_digest(Sha256Hex("others"));
    Write(made / "other_golden", Frame(golden));
    Write(made / "program", program_);
    Write(made / "model.safetensors", Safetensors("a", "1234"));
  }

  ExporterOptions Options() const {
    ExporterOptions options;
    options.folder = exporter();
    options.samples = folder_ / "samples";
    options.sandbox_binary = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin/assay-sandbox";
    options.memory_bytes = uint64_t{300} << 20;
    return options;
  }

 private:
  const std::filesystem::path folder_;
  std::string program_;
};

// Thread-safe.
class FakeArtifacts final : public Artifacts {
 public:
  explicit FakeArtifacts(const std::filesystem::path& folder) {
    cache_ = BlobCache::Open(folder / "blobs", uint64_t{1} << 30,
                             [this](const std::vector<std::string>& digests, BlobReceiver& receiver) {
                               for (const std::string& digest : digests) {
                                 const std::string content = Content(digest);
                                 if (absl::Status s = receiver.Begin(digest, content.size()); !s.ok())
                                   return s;
                                 if (absl::Status s = receiver.Append(content); !s.ok()) return s;
                               }
                               return absl::OkStatus();
                             })
                 .value();
  }
  absl::StatusOr<std::map<std::string, std::string>> Lookup(const std::vector<std::string>& keys) override {
    absl::MutexLock lock(&mutex_);
    std::map<std::string, std::string> found;
    for (const std::string& key : keys) {
      if (auto at = keys_.find(key); at != keys_.end()) found[key] = at->second;
    }
    return found;
  }
  absl::StatusOr<std::string> Upload(absl::string_view content, const std::string& key) override {
    absl::MutexLock lock(&mutex_);
    const std::string digest = Sha256Hex(content);
    blobs_[digest] = std::string(content);
    return key.empty() ? digest : keys_.try_emplace(key, digest).first->second;
  }
  absl::StatusOr<Blob> Get(const std::string& digest) override {
    auto blobs = cache_->Get({digest});
    if (!blobs.ok()) return blobs.status();
    return std::move(blobs->front());
  }
  std::string Content(const std::string& digest) {
    absl::MutexLock lock(&mutex_);
    return blobs_[digest];
  }
  size_t keys() {
    absl::MutexLock lock(&mutex_);
    return keys_.size();
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::string> blobs_, keys_;
  std::unique_ptr<BlobCache> cache_;
};

}  // namespace assay::worker

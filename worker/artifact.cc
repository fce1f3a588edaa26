#include "worker/artifact.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/mapped_file.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/zstd_frame.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMaxSmallFileBytes = size_t{256} << 20;

template <typename Message>
absl::StatusOr<Message> ReadMessage(absl::string_view kind, const fs::path& path) {
  ASSAY_ASSIGN_OR_RETURN(const std::string file, ReadFile(path, FrameLimits().max_file_bytes));
  absl::StatusOr<std::string> content = DecompressFrame(kind, file);
  if (!content.ok()) {
    return absl::Status(content.status().code(),
                        absl::StrCat(path.filename().string(), ": ", content.status().message()));
  }
  Message message;
  if (!message.ParseFromString(*content)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.filename().string(), ": no ", message.GetDescriptor()->name()));
  }
  return message;
}

// What differs between fine-tunes of one architecture and changes nothing of its graph.
Json Canonical(Json config) {
  for (const char* field :
       {"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"}) {
    config.erase(field);
  }
  // How many labels there are decides the head's width; their texts do not.
  if (const auto labels = config.find("id2label"); labels != config.end() && labels->is_object()) {
    config["id2label"] = labels->size();
    config.erase("label2id");
  }
  for (auto& [name, value] : config.items()) {
    if (value.is_object()) value = Canonical(value);
  }
  return config;
}

absl::StatusOr<Json> CanonicalConfig(absl::string_view config_json) {
  Json config = Json::parse(config_json.begin(), config_json.end(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("config.json is no JSON object");
  return Canonical(std::move(config));
}

// nlohmann's objects are ordered by name and dumped without white space: canonical.
std::string KeyOf(const Json& json) {
  return Sha256Hex(json.dump(-1, ' ', true, Json::error_handler_t::replace));
}

Json IdentityOf(const ExporterIdentity& exporter) {
  return {{"code", exporter.code}, {"transformers", exporter.transformers}, {"torch", exporter.torch}};
}

bool IsSmallFile(absl::string_view name) {
  // Of the folder itself: what lies deeper is for other libraries.
  if (absl::StrContains(name, '/') || absl::EndsWith(name, ".index.json")) return false;
  for (absl::string_view end :
       {".json", ".txt", ".model", ".jinja", ".vocab", ".spm", ".tiktoken", ".bpe", ".codes"}) {
    if (absl::EndsWith(name, end)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<v1::Program> ReadProgramFile(const fs::path& path) {
  return ReadMessage<v1::Program>("program", path);
}

absl::StatusOr<v1::CheckpointGolden> ReadGoldenFile(const fs::path& path) {
  return ReadMessage<v1::CheckpointGolden>("golden", path);
}

absl::StatusOr<std::string> ConfigDigest(absl::string_view config_json) {
  ASSAY_ASSIGN_OR_RETURN(const Json config, CanonicalConfig(config_json));
  return KeyOf(config);
}

absl::StatusOr<std::string> ProgramKey(const ProgramOrigin& origin) {
  Json config;
  if (!origin.config_json.empty()) {
    ASSAY_ASSIGN_OR_RETURN(config, CanonicalConfig(origin.config_json));
  }
  return KeyOf({{"kind", "program"},
                {"config", std::move(config)},
                {"config_digest", origin.config_json.empty() ? origin.config_digest : ""},
                {"model_class", origin.model_class},
                {"task", origin.task},
                {"template", origin.template_name},
                {"catalogue", origin.catalogue_digest},
                {"entry", origin.entry_digest},
                {"processor", origin.processor_digests},
                {"exporter", IdentityOf(origin.exporter)}});
}

std::string GoldenKey(const GoldenOrigin& origin) {
  return KeyOf({{"kind", "golden"},
                {"program", origin.program_digest},
                {"weights", origin.weights_digest},
                {"entry", origin.entry_digest},
                {"files", origin.file_digests},
                {"samples", origin.samples_digest},
                {"exporter", IdentityOf(origin.exporter)}});
}

std::string KeyBeside(absl::string_view key, absl::string_view what) {
  return Sha256Hex(absl::StrCat(key, " ", what));
}

absl::StatusOr<std::vector<std::string>> DigestsOfSmallFiles(const hub::Found& found) {
  std::vector<std::string> digests;
  for (const hub::FoundFile& file : found.files) {
    if (file.weights || !IsSmallFile(file.name)) continue;
    ASSAY_ASSIGN_OR_RETURN(const std::string content, ReadFile(file.path, kMaxSmallFileBytes));
    digests.push_back(absl::StrCat(file.name, "=", Sha256Hex(content)));
  }
  std::sort(digests.begin(), digests.end());
  return digests;
}

std::vector<std::string> ProcessorDigests(const std::vector<std::string>& small_files) {
  std::vector<std::string> digests;
  for (const std::string& file : small_files) {
    for (absl::string_view name :
         {"preprocessor_config.json=", "processor_config.json=", "video_preprocessor_config.json="}) {
      if (absl::StartsWith(file, name)) digests.push_back(file);
    }
  }
  return digests;
}

absl::StatusOr<std::string> FileDigest(const fs::path& path) {
  std::error_code error;
  const fs::path file = fs::canonical(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path.string(), ": ", error.message()));
  ASSAY_ASSIGN_OR_RETURN(const auto mapped, checkpoint::MappedFile::Open(file));
  return Sha256Hex(mapped->text());
}

absl::StatusOr<std::string> FolderDigest(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->is_regular_file(error)) files.push_back(at->path());
  }
  std::sort(files.begin(), files.end());
  Sha256 digest;
  for (const fs::path& file : files) {
    ASSAY_ASSIGN_OR_RETURN(const std::string content, ReadFile(file, kMaxSmallFileBytes));
    digest.Update(absl::StrCat(file.filename().string(), "=", Sha256Hex(content), "\n"));
  }
  return digest.FinishHex();
}

}  // namespace assay::worker

// What the exporter makes, as files: programs, goldens of checkpoints, and the keys under which they are
// known. Pure, safe from any thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "hub/hub.h"
#include "worker/exporter.h"

namespace assay::worker {

// One zstd frame (common/zstd_frame.h) around one message. INVALID_ARGUMENT where the file is something else,
// RESOURCE_EXHAUSTED beyond the limits; whether the message makes sense is for the engine.
absl::StatusOr<v1::Program> ReadProgramFile(const std::filesystem::path& path);
absl::StatusOr<v1::CheckpointGolden> ReadGoldenFile(const std::filesystem::path& path);

// Everything that decides what a program is, beside its key's kind. See "Keys of artifacts" in
// docs/checkpoints.md.
struct ProgramOrigin {
  // config.json; empty for a GGUF file, which has its configuration inside: then `config_digest` stands for
  // it.
  std::string config_json;
  std::string config_digest;
  std::string model_class;  // asked for; empty: the exporter decides
  std::string task;
  std::string template_name;
  std::string catalogue_digest;
  // What shapes depend on: what is known of the checkpoint (its samples), and how pictures and sound are cut.
  std::string entry_digest;
  std::vector<std::string> processor_digests;
  ExporterIdentity exporter;
};

// INVALID_ARGUMENT: config_json is no JSON object.
absl::StatusOr<std::string> ProgramKey(const ProgramOrigin& origin);

// What a pin of a configuration names: SHA-256 of config.json without what changes nothing of the numbers, in
// canonical JSON. INVALID_ARGUMENT: it is no JSON object.
absl::StatusOr<std::string> ConfigDigest(absl::string_view config_json);

struct GoldenOrigin {
  std::string program_digest;
  std::string weights_digest;
  std::string entry_digest;
  std::vector<std::string> file_digests;  // DigestsOfSmallFiles
  std::string samples_digest;
  ExporterIdentity exporter;
};
std::string GoldenKey(const GoldenOrigin& origin);

// A key made of another one and a word: what is recorded of an artifact beside it.
std::string KeyBeside(absl::string_view key, absl::string_view what);

// Of the checkpoint's files that a golden depends on beside its weights: "name=SHA-256", in order of name.
absl::StatusOr<std::vector<std::string>> DigestsOfSmallFiles(const hub::Found& found);
// Of them, those that say how pictures and sound become inputs.
std::vector<std::string> ProcessorDigests(const std::vector<std::string>& small_files);

// SHA-256 of a file, or of what a link leads to. NOT_FOUND where there is none.
absl::StatusOr<std::string> FileDigest(const std::filesystem::path& path);

// SHA-256 over names and contents of the files of a folder, in order of name; of none where there is no
// folder.
absl::StatusOr<std::string> FolderDigest(const std::filesystem::path& folder);

}  // namespace assay::worker

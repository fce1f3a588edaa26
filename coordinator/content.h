// What workers need for a job, by digest: resolved templates, catalogue entries, programs, entries of known
// checkpoints. Read once.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/catalogue.pb.h"
#include "coordinator/report/registry.h"

namespace assay::coordinator {

// Of the blobs that a job needs. Empty: there is none.
struct JobDigests {
  std::string template_digest;
  std::string catalogue_digest;
  std::string program_digest;
};

// Immutable, so thread-safe.
class Content {
 public:
  // Reads templates/, models/registry.json, models/catalogue/, models/programs/ and models/checkpoints/ of
  // `dir`. INVALID_ARGUMENT or NOT_FOUND, naming the file. Of the last three a folder that is missing or
  // empty is none.
  static absl::StatusOr<std::shared_ptr<const Content>> Load(const std::filesystem::path& dir);

  const std::set<std::string>& template_names() const { return template_names_; }
  const report::Registry& registry() const { return registry_; }
  const std::map<std::string, v1::CatalogueEntry>& catalogue() const { return catalogue_; }

  // A model that is not tracked is MEDIUM.
  report::Priority PriorityOf(const std::string& model) const;
  JobDigests DigestsOf(const v1::ModelRef& model) const;
  // The checkpoint that the catalogue names for a model; unset: it names none.
  std::optional<v1::CheckpointRef> DefaultCheckpointOf(const std::string& model) const;
  // Of the entry that knows this checkpoint: its file's digest. Empty: there is none.
  std::string EntryDigestOf(const std::string& checkpoint) const;
  // The entry itself. nullptr: there is none.
  const v1::CheckpointEntry* EntryOf(const std::string& checkpoint) const;
  // nullptr: not content.
  std::shared_ptr<const std::string> Find(absl::string_view digest) const;

 private:
  Content() = default;
  // The digest.
  std::string Keep(std::string bytes);

  std::set<std::string> template_names_;
  report::Registry registry_;
  std::map<std::string, report::Priority> priorities_;
  std::map<std::string, v1::CatalogueEntry> catalogue_;
  std::map<std::string, v1::CheckpointEntry> checkpoints_;  // by the checkpoint's id, as their digests
  std::map<std::string, std::string> checkpoint_digests_;
  // By name.
  std::map<std::string, std::string> template_digests_;
  std::map<std::string, std::string> catalogue_digests_;
  std::map<std::string, std::string> program_digests_;
  std::map<std::string, std::shared_ptr<const std::string>, std::less<>> blobs_;
};

}  // namespace assay::coordinator

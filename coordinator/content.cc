#include "coordinator/content.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/catalogue.h"
#include "generator/checkpoint_entry.h"
#include "generator/templates.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

template <typename Map>
auto FindOrEmpty(const Map& map, const std::string& key) {
  auto found = map.find(key);
  return found == map.end() ? typename Map::mapped_type() : found->second;
}

}  // namespace

std::string Content::Keep(std::string bytes) {
  std::string digest = Sha256Hex(bytes);
  blobs_.try_emplace(digest, std::make_shared<const std::string>(std::move(bytes)));
  return digest;
}

absl::StatusOr<std::shared_ptr<const Content>> Content::Load(const fs::path& dir) {
  std::shared_ptr<Content> content(new Content);
  ASSAY_ASSIGN_OR_RETURN(auto templates, generator::LoadTemplates(dir / "templates"));
  content->template_names_ = generator::TemplateNames(templates);
  for (const auto& [name, resolved] : templates) {
    content->template_digests_[name] = content->Keep(FormatTextProto(resolved));
  }

  const fs::path models = dir / "models";
  ASSAY_ASSIGN_OR_RETURN(content->registry_, report::LoadRegistry((models / "registry.json").string()));
  for (const report::TrackedModel& model : content->registry_.models) {
    content->priorities_[model.name] = model.priority;
  }
  if (fs::is_directory(models / "catalogue")) {
    ASSAY_ASSIGN_OR_RETURN(content->catalogue_, generator::LoadCatalogue(models / "catalogue"));
    for (const auto& [name, entry] : content->catalogue_) {
      ASSAY_ASSIGN_OR_RETURN(std::string bytes, ReadFile(models / "catalogue" / (name + ".textproto")));
      content->catalogue_digests_[name] = content->Keep(std::move(bytes));
    }
  }
  if (fs::is_directory(models / "checkpoints")) {
    ASSAY_ASSIGN_OR_RETURN(content->checkpoints_, generator::LoadCheckpointEntries(models / "checkpoints"));
    for (const auto& [id, entry] : content->checkpoints_) {
      ASSAY_ASSIGN_OR_RETURN(std::string bytes,
                             ReadFile(models / "checkpoints" / (entry.name() + ".textproto")));
      content->checkpoint_digests_[id] = content->Keep(std::move(bytes));
    }
  }
  std::error_code error;
  for (fs::directory_iterator file(models / "programs", error), end; !error && file != end;
       file.increment(error)) {
    if (file->path().extension() != ".assay") continue;
    ASSAY_ASSIGN_OR_RETURN(std::string bytes, ReadFile(file->path()));
    content->program_digests_[file->path().stem().string()] = content->Keep(std::move(bytes));
  }
  spdlog::info(
      "content of {}: {} templates, {} tracked models, {} catalogue entries, {} programs, {} checkpoints "
      "known",
      dir.string(), templates.size(), content->registry_.models.size(), content->catalogue_.size(),
      content->program_digests_.size(), content->checkpoints_.size());
  return content;
}

report::Priority Content::PriorityOf(const std::string& model) const {
  auto found = priorities_.find(model);
  return found == priorities_.end() ? report::Priority::kMedium : found->second;
}

JobDigests Content::DigestsOf(const v1::ModelRef& model) const {
  return {FindOrEmpty(template_digests_, model.template_()), FindOrEmpty(catalogue_digests_, model.name()),
          FindOrEmpty(program_digests_, model.name())};
}

std::optional<v1::CheckpointRef> Content::DefaultCheckpointOf(const std::string& model) const {
  auto entry = catalogue_.find(model);
  if (entry == catalogue_.end() || entry->second.checkpoint().empty()) return std::nullopt;
  v1::CheckpointRef checkpoint;
  checkpoint.set_id(entry->second.checkpoint());
  return checkpoint;
}

std::string Content::EntryDigestOf(const std::string& checkpoint) const {
  return FindOrEmpty(checkpoint_digests_, checkpoint);
}

const v1::CheckpointEntry* Content::EntryOf(const std::string& checkpoint) const {
  auto found = checkpoints_.find(checkpoint);
  return found == checkpoints_.end() ? nullptr : &found->second;
}

std::shared_ptr<const std::string> Content::Find(absl::string_view digest) const {
  auto found = blobs_.find(std::string(digest));
  return found == blobs_.end() ? nullptr : found->second;
}

}  // namespace assay::coordinator

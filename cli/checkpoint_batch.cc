#include "cli/checkpoint_batch.h"

#include <array>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "generator/checkpoint_ref.h"
#include "generator/names.h"
#include "nlohmann/json.hpp"

namespace assay::cli {
namespace {

using generator::Quoted;

// What a class ends in tells its task, where the library's naming leaves no choice. Longer endings first.
constexpr std::array<std::pair<absl::string_view, absl::string_view>, 12> kTaskOfEnding = {{
    {"ForMaskedLM", "fill-mask"},
    {"ForCausalLM", "text-generation"},
    {"LMHeadModel", "text-generation"},
    {"ForSequenceClassification", "text-classification"},
    {"ForTokenClassification", "token-classification"},
    {"ForQuestionAnswering", "question-answering"},
    {"ForImageClassification", "image-classification"},
    {"ForObjectDetection", "object-detection"},
    {"ForSemanticSegmentation", "image-segmentation"},
    {"ForAudioClassification", "audio-classification"},
    {"ForCTC", "automatic-speech-recognition"},
    {"ForSpeechSeq2Seq", "automatic-speech-recognition"},
}};

std::string TaskOfClass(absl::string_view name) {
  for (const auto& [ending, task] : kTaskOfEnding) {
    if (absl::EndsWith(name, ending)) return std::string(task);
  }
  return "";
}

struct Architecture {
  std::string model_type;   // "bert"; may be empty
  std::string model_class;  // "BertModel", the first of its architectures; may be empty
};

absl::StatusOr<Architecture> ReadConfig(absl::string_view config) {
  Architecture read;
  const auto json = nlohmann::json::parse(config.begin(), config.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("its config.json is no JSON object");
  if (const auto type = json.find("model_type"); type != json.end() && type->is_string()) {
    read.model_type = type->get<std::string>();
  }
  const auto classes = json.find("architectures");
  if (classes != json.end() && classes->is_array() && !classes->empty() && classes->front().is_string()) {
    read.model_class = classes->front().get<std::string>();
  }
  return read;
}

// The entry whose class it is; else the one of its model type's name; null: none. Several of one class agree,
// or the one of the model type's name decides.
const v1::CatalogueEntry* FindEntry(const Architecture& of,
                                    const std::map<std::string, v1::CatalogueEntry>& catalogue) {
  const auto by_type = catalogue.find(generator::NormaliseName(of.model_type));
  const v1::CatalogueEntry* typed = by_type == catalogue.end() ? nullptr : &by_type->second;
  std::vector<const v1::CatalogueEntry*> same_class;
  std::set<std::pair<std::string, std::string>> ways;
  for (const auto& [name, entry] : catalogue) {
    if (of.model_class.empty() || !absl::EndsWith(entry.model_class(), absl::StrCat(".", of.model_class)))
      continue;
    if (&entry == typed) return typed;
    same_class.push_back(&entry);
    ways.emplace(entry.template_(), entry.task());
  }
  return ways.size() == 1 ? same_class.front() : typed;
}

// What is common to the catalogue's models of a template; "other" where nothing is.
std::string ArchTypeOf(const std::string& template_name,
                       const std::map<std::string, v1::CatalogueEntry>& catalogue) {
  std::set<std::string> types;
  for (const auto& [name, entry] : catalogue) {
    if (entry.template_() == template_name) types.insert(entry.arch_type());
  }
  return types.size() == 1 ? *types.begin() : "other";
}

const v1::CheckpointEntry* EntryOf(const std::string& id,
                                   const std::map<std::string, v1::CheckpointEntry>& entries) {
  const auto found = entries.find(id);
  return found == entries.end() ? nullptr : &found->second;
}

}  // namespace

bool NeedsNoConfig(const CheckpointWish& wish, const std::map<std::string, v1::CheckpointEntry>& entries) {
  const absl::StatusOr<v1::CheckpointRef> ref = generator::ParseCheckpointName(wish.checkpoint);
  const v1::CheckpointEntry* entry = ref.ok() ? EntryOf(ref->id(), entries) : nullptr;
  return (!wish.template_name.empty() || (entry != nullptr && !entry->template_().empty())) &&
         (!wish.task.empty() || (entry != nullptr && !entry->task().empty()));
}

absl::StatusOr<NamedBatch> BatchOfCheckpoint(const CheckpointWish& wish,
                                             const std::map<std::string, v1::CheckpointEntry>& entries,
                                             const std::map<std::string, v1::CatalogueEntry>& catalogue,
                                             absl::string_view config) {
  const absl::StatusOr<v1::CheckpointRef> ref = generator::ParseCheckpointName(wish.checkpoint);
  if (!ref.ok()) return absl::InvalidArgumentError(absl::StrCat("--checkpoint ", ref.status().message()));
  const v1::CheckpointEntry* known = EntryOf(ref->id(), entries);
  std::string template_name = wish.template_name, task = wish.task, name, arch_type;
  if (known != nullptr) {
    name = known->model();
    if (template_name.empty()) template_name = known->template_();
    if (task.empty()) task = known->task();
  }
  if (name.empty()) {
    ASSAY_ASSIGN_OR_RETURN(name, generator::NameOfCheckpoint(ref->id()));
  } else if (const auto model = catalogue.find(name); model != catalogue.end()) {
    arch_type = model->second.arch_type();
    // A wish for another template is not for this model.
    if (model->second.template_() != template_name) {
      ASSAY_ASSIGN_OR_RETURN(name, generator::NameOfCheckpoint(ref->id()));
      arch_type.clear();
    }
  }
  if (template_name.empty() || task.empty()) {
    std::string tried = "it has no config.json";
    if (!config.empty()) {
      absl::StatusOr<Architecture> architecture = ReadConfig(config);
      if (!architecture.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("checkpoint ", Quoted(wish.checkpoint), ": ", architecture.status().message()));
      }
      const v1::CatalogueEntry* entry = FindEntry(*architecture, catalogue);
      if (entry != nullptr) {
        const bool its_class =
            absl::EndsWith(entry->model_class(), absl::StrCat(".", architecture->model_class));
        if (template_name.empty()) template_name = entry->template_();
        if (task.empty()) task = TaskOfClass(architecture->model_class);
        if (task.empty() && its_class) task = entry->task();
        // A model without a head: what it gives is features.
        if (task.empty() && absl::EndsWith(architecture->model_class, "Model")) {
          task = entry->arch_type() == "vision" ? "image-feature-extraction" : "feature-extraction";
        }
        if (arch_type.empty() && entry->template_() == template_name) arch_type = entry->arch_type();
      }
      tried = absl::StrCat("its config.json has model_type ", Quoted(architecture->model_type),
                           " and architecture ", Quoted(architecture->model_class),
                           entry == nullptr ? ", which the catalogue does not know" : "");
    }
    std::vector<std::string> needed;
    if (template_name.empty()) needed.push_back("--template");
    if (task.empty()) needed.push_back("--task");
    if (!needed.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("checkpoint ", Quoted(wish.checkpoint), ": give ",
                                                     absl::StrJoin(needed, " and "), ": ", tried));
    }
  }
  if (arch_type.empty()) arch_type = ArchTypeOf(template_name, catalogue);
  nlohmann::ordered_json batch;
  batch[arch_type] = nlohmann::ordered_json::array(
      {{{"name", name}, {"checkpoint", wish.checkpoint}, {"template", template_name}, {"task", task}}});
  return NamedBatch{absl::StrCat(name, ".json"),
                    batch.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"};
}

}  // namespace assay::cli

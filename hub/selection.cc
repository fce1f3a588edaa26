#include "hub/selection.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hub/cache.h"

namespace assay::hub {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kPickle = "pytorch_model.bin";
constexpr const char* kPickleIndex = "pytorch_model.bin.index.json";

bool InRoot(absl::string_view name) { return !absl::StrContains(name, '/'); }

bool EndsWithAny(absl::string_view name, std::initializer_list<absl::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](absl::string_view end) { return absl::EndsWith(name, end); });
}

bool IsConfig(absl::string_view name) { return name == "config.json" || name == "generation_config.json"; }

// Of tokenizers and processors, as transformers and sentence-transformers name them.
bool IsTokenizerOrProcessor(const std::string& name) {
  static const std::set<std::string> known = {"special_tokens_map.json",
                                              "added_tokens.json",
                                              "preprocessor_config.json",
                                              "processor_config.json",
                                              "normalizer.json",
                                              "video_preprocessor_config.json",
                                              "chat_template.json",
                                              "chat_template.jinja",
                                              "bpe.codes",
                                              "modules.json",
                                              "sentence_bert_config.json",
                                              "config_sentence_transformers.json",
                                              "1_Pooling/config.json"};
  if (known.contains(name)) return true;
  if (!InRoot(name)) return false;
  const bool prefix = absl::StartsWith(name, "tokenizer") || absl::StartsWith(name, "vocab") ||
                      absl::StartsWith(name, "merges");
  if (prefix && EndsWithAny(name, {".json", ".txt", ".model", ".bpe"})) return true;
  return EndsWithAny(name, {".spm", ".tiktoken"}) ||
         EndsWithAny(name, {"spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model",
                            "bpe.model"});
}

// What a quantisation loses, least first; those that the GGUF reader takes.
constexpr std::array<absl::string_view, 8> kQuantisations = {"f32",  "bf16", "f16",  "q8_0",
                                                             "q6_k", "q4_k", "q4_1", "q4_0"};
size_t Inexactness(const std::string& name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (size_t at = 0; at < kQuantisations.size(); ++at) {
    if (absl::StrContains(lower, kQuantisations[at])) return at;
  }
  return kQuantisations.size();
}

// One of several shards: model-00001-of-00003.gguf, which a single file cannot stand for.
bool IsGgufShard(const std::string& name) {
  return name.size() > 20 && absl::StartsWith(absl::string_view(name).substr(name.size() - 14), "-of-");
}

absl::StatusOr<std::vector<std::string>> Shards(const std::set<std::string>& names,
                                                const std::string& index_name, const std::string& index) {
  const nlohmann::json json = nlohmann::json::parse(index, nullptr, false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(index_name, " is no index: it has no weight_map"));
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) {
      return absl::FailedPreconditionError(absl::StrCat(index_name, " names no file for ", tensor));
    }
    const std::string name = shard.get<std::string>();
    if (!IsPlainName(name)) {
      return absl::FailedPreconditionError(absl::StrCat(index_name, " puts ", tensor, " into '", name,
                                                        "', which is no name of a file: refused"));
    }
    if (!names.contains(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(index_name, " puts ", tensor, " into ", name, ", which is not there"));
    }
    shards.insert(name);
  }
  if (shards.empty()) return absl::FailedPreconditionError(absl::StrCat(index_name, " names no file"));
  return std::vector<std::string>(shards.begin(), shards.end());
}

std::vector<std::string> Matching(const std::set<std::string>& names, absl::string_view end) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (InRoot(name) && absl::EndsWith(name, end)) found.push_back(name);
  }
  return found;
}

}  // namespace

std::vector<std::string> SmallFiles(const std::set<std::string>& names, Need need) {
  std::vector<std::string> files;
  for (const std::string& name : names) {
    if (IsConfig(name) || (need != Need::kConfig && IsTokenizerOrProcessor(name))) files.push_back(name);
  }
  return files;
}

std::string WeightIndex(const std::set<std::string>& names, const FindOptions& find_options,
                        bool allow_pickle) {
  if (!find_options.gguf_file.empty() || names.contains(kSingle)) return "";
  if (names.contains(kIndex)) return kIndex;
  if (!Matching(names, ".safetensors").empty() || !Matching(names, ".gguf").empty()) return "";
  if (allow_pickle && !names.contains(kPickle) && names.contains(kPickleIndex)) return kPickleIndex;
  return "";
}

absl::StatusOr<std::vector<std::string>> WeightFiles(const std::set<std::string>& names,
                                                     const std::string& index,
                                                     const FindOptions& find_options, bool allow_pickle) {
  if (!find_options.gguf_file.empty()) {
    if (!names.contains(find_options.gguf_file)) {
      return absl::NotFoundError(absl::StrCat("there is no ", find_options.gguf_file));
    }
    return std::vector<std::string>{find_options.gguf_file};
  }
  if (names.contains(kSingle)) return std::vector<std::string>{kSingle};
  const std::string index_name = WeightIndex(names, find_options, allow_pickle);
  if (!index_name.empty()) return Shards(names, index_name, index);
  std::vector<std::string> safetensors = Matching(names, ".safetensors");
  if (!safetensors.empty()) return safetensors;

  std::vector<std::string> gguf = Matching(names, ".gguf");
  gguf.erase(std::remove_if(gguf.begin(), gguf.end(), &IsGgufShard), gguf.end());
  if (!gguf.empty()) {
    const auto best =
        std::min_element(gguf.begin(), gguf.end(), [](const std::string& a, const std::string& b) {
          return std::pair(Inexactness(a), a) < std::pair(Inexactness(b), b);
        });
    return std::vector<std::string>{*best};
  }
  std::vector<std::string> pickles = Matching(names, ".bin");
  pickles.erase(
      std::remove_if(pickles.begin(), pickles.end(),
                     [](const std::string& name) { return !absl::StartsWith(name, "pytorch_model"); }),
      pickles.end());
  if (pickles.empty()) {
    return absl::FailedPreconditionError(
        "there are no weights: neither safetensors nor a GGUF file in one piece");
  }
  if (!allow_pickle) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the weights are pickles alone (", absl::StrJoin(pickles, ", "),
        "), which can run code when they are read: refused. Convert them to safetensors, or let the "
        "operator allow the conversion step"));
  }
  if (names.contains(kPickle)) return std::vector<std::string>{kPickle};
  return pickles;
}

bool LooksComplete(const std::set<std::string>& names, const std::set<std::string>& known_absent) {
  const auto settled = [&](const char* name) { return names.contains(name) || known_absent.contains(name); };
  const auto is_vocabulary = [](const std::string& name) {
    return name == "tokenizer.json" || absl::StartsWith(name, "vocab") || absl::EndsWith(name, ".spm") ||
           absl::EndsWith(name, ".model") || absl::EndsWith(name, ".tiktoken");
  };
  const bool vocabulary = std::any_of(names.begin(), names.end(), is_vocabulary);
  if (names.contains("tokenizer_config.json") && !vocabulary) return false;
  if (names.contains("vocab.json") && !names.contains("tokenizer.json") && !settled("merges.txt"))
    return false;
  if (vocabulary || names.contains("preprocessor_config.json")) return true;
  return settled("tokenizer_config.json") && settled("preprocessor_config.json");
}

const std::vector<std::string>& WellKnownFiles() {
  static const std::vector<std::string>* files = new std::vector<std::string>{"config.json",
                                                                              "generation_config.json",
                                                                              "tokenizer.json",
                                                                              "tokenizer_config.json",
                                                                              "special_tokens_map.json",
                                                                              "added_tokens.json",
                                                                              "vocab.txt",
                                                                              "vocab.json",
                                                                              "merges.txt",
                                                                              "preprocessor_config.json",
                                                                              "processor_config.json",
                                                                              "chat_template.jinja",
                                                                              "chat_template.json",
                                                                              "model.safetensors",
                                                                              "model.safetensors.index.json"};
  return *files;
}

}  // namespace assay::hub

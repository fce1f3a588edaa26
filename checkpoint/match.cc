#include "absl/strings/match.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/decode.h"
#include "checkpoint/fit.h"
#include "checkpoint/names.h"
#include "common/dtype.h"

namespace assay::checkpoint {
namespace {

constexpr size_t kNamesWithNearest = 100;
constexpr int kMaxRules = 64;
constexpr size_t kMaxPatternBytes = 512;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::vector<int64_t> ShapeInProgram(const CheckpointTensor& tensor) {
  std::vector<int64_t> shape = tensor.shape;
  if (tensor.relayout == Relayout::kTranspose) std::reverse(shape.begin(), shape.end());
  return shape;
}

bool HasPrefix(absl::string_view name, absl::string_view prefix) {
  return name.size() > prefix.size() + 1 && absl::StartsWith(name, prefix) && name[prefix.size()] == '.';
}

// What a key of the checkpoint is for.
struct Target {
  int weight = -1;     // index into Manifest.weights; -1: nothing
  bool alias = false;  // the key is another name of that weight
};

struct Claim {
  std::string key;
  const CheckpointTensor* tensor;
  bool alias;
  std::string alias_name;  // as the program has it
};

// The weight of a key, by name alone.
class Names {
 public:
  Names(const Tensors& tensors, const v1::Manifest& manifest) : prefix_(manifest.base_model_prefix()) {
    for (int i = 0; i < manifest.weights_size(); ++i) weights_[manifest.weights(i).name()] = {i, false};
    for (const v1::TiedWeight& tied : manifest.tied()) {
      const auto weight = weights_.find(tied.weight());
      if (weight != weights_.end()) aliases_[tied.alias()] = {weight->second.weight, true};
    }
    if (!prefix_.empty()) ChoosePrefix(tensors);
    for (const v1::KeyRename& rule : manifest.key_rename()) AddRule(rule);
  }

  // Rules of the manifest that cannot be used.
  const std::vector<std::string>& faults() const { return faults_; }

  // `found` is the name under which the program has it.
  Target Find(const std::string& key, std::string* found) const {
    Target target = FindRenamed(key, found);
    if (target.weight < 0) {
      const std::string modern = ModernName(key);
      if (!modern.empty()) target = FindRenamed(modern, found);
    }
    return target;
  }

 private:
  // As transformers decides: for the whole checkpoint, by whether it has the first part and the program does.
  void ChoosePrefix(const Tensors& tensors) {
    const auto starts = [this](const std::string& name) { return HasPrefix(name, prefix_); };
    const bool in_checkpoint = std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) {
      return starts(item.second.library_name.empty() ? item.first : item.second.library_name);
    });
    const bool in_program =
        std::any_of(weights_.begin(), weights_.end(), [&](const auto& item) { return starts(item.first); });
    add_prefix_ = in_program && !in_checkpoint;
    strip_prefix_ = in_checkpoint && !in_program;
  }

  void AddRule(const v1::KeyRename& rule) {
    if (rules_.size() >= kMaxRules || rule.pattern().size() > kMaxPatternBytes ||
        rule.replacement().size() > kMaxPatternBytes) {
      faults_.push_back(absl::StrCat("key_rename: more than ", kMaxRules, " rules, or one of more than ",
                                     kMaxPatternBytes, " bytes"));
      return;
    }
    try {
      // Matching in polynomial time, and without a stack as deep as the name is long; no back-references.
      rules_.emplace_back(
          std::regex(rule.pattern(), std::regex::ECMAScript | std::regex_constants::__polynomial),
          rule.replacement());
    } catch (const std::regex_error& error) {
      faults_.push_back(absl::StrCat("key_rename: '", rule.pattern(), "': ", error.what()));
    }
  }

  Target FindExact(const std::string& name, std::string* found) const {
    *found = name;
    if (const auto weight = weights_.find(name); weight != weights_.end()) return weight->second;
    if (const auto alias = aliases_.find(name); alias != aliases_.end()) return alias->second;
    return {};
  }

  Target FindPrefixed(const std::string& name, std::string* found) const {
    Target target = FindExact(name, found);
    if (target.weight < 0 && add_prefix_) target = FindExact(absl::StrCat(prefix_, ".", name), found);
    if (target.weight < 0 && strip_prefix_ && HasPrefix(name, prefix_)) {
      target = FindExact(name.substr(prefix_.size() + 1), found);
    }
    return target;
  }

  Target FindRenamed(const std::string& name, std::string* found) const {
    const Target target = FindPrefixed(name, found);
    if (target.weight >= 0) return target;
    for (const auto& [pattern, replacement] : rules_) {
      if (!std::regex_search(name, pattern)) continue;
      const std::string renamed = std::regex_replace(name, pattern, replacement);
      return renamed == name ? Target{} : FindPrefixed(renamed, found);
    }
    return {};
  }

  // Names of before PyTorch renamed them: layer norms out of TensorFlow, weight norms before
  // parametrizations.
  static std::string ModernName(absl::string_view name) {
    static constexpr std::pair<absl::string_view, absl::string_view> kNames[] = {
        {"LayerNorm.gamma", "LayerNorm.weight"},
        {"LayerNorm.beta", "LayerNorm.bias"},
        {"weight_g", "parametrizations.weight.original0"},
        {"weight_v", "parametrizations.weight.original1"},
    };
    for (const auto& [old_name, new_name] : kNames) {
      if (absl::ConsumeSuffix(&name, old_name)) return absl::StrCat(name, new_name);
    }
    return {};
  }

  std::string prefix_;
  bool add_prefix_ = false;
  bool strip_prefix_ = false;
  std::unordered_map<std::string, Target> weights_;
  std::unordered_map<std::string, Target> aliases_;
  std::vector<std::pair<std::regex, std::string>> rules_;
  std::vector<std::string> faults_;
};

// Empty if the tensor's elements can become the weight's.
std::string Mismatch(const BoundWeight& weight, const CheckpointTensor& tensor) {
  const bool widens = weight.dtype == v1::FLOAT && DecodesToFloat(tensor);
  const bool same = tensor.encoding == Encoding::kPlain && tensor.dtype != v1::SCALAR_TYPE_UNSPECIFIED &&
                    tensor.dtype == weight.dtype;
  // Only float32 has its rows and columns put in order.
  const bool in_order = tensor.relayout == Relayout::kNone || weight.dtype == v1::FLOAT;
  if ((widens || same) && in_order && ShapeInProgram(tensor) == weight.shape) return "";
  return absl::StrCat(weight.name, ": ", DtypeName(weight.dtype), " ", ShapeText(weight.shape),
                      " in the program, ", tensor.dtype_name, " ", ShapeText(ShapeInProgram(tensor)),
                      " in the checkpoint");
}

bool SameContent(const CheckpointTensor& a, const CheckpointTensor& b) {
  return a.dtype_name == b.dtype_name && a.shape == b.shape && a.data.size() == b.data.size() &&
         (a.data.empty() || std::memcmp(a.data.data(), b.data.data(), a.data.size()) == 0);
}

// Chooses among the keys that claim a weight. The same tensor stored under both names of a tied weight is one
// tensor; anything else that two keys claim is a mismatch.
void Bind(const std::vector<Claim>& claims, BoundWeight& weight, Fit& fit) {
  const auto own =
      std::find_if(claims.begin(), claims.end(), [](const Claim& claim) { return !claim.alias; });
  const Claim& chosen = own == claims.end() ? claims.front() : *own;
  for (const Claim& claim : claims) {
    if (&claim == &chosen) continue;
    const bool tied = claim.alias_name != chosen.alias_name;
    if (!tied || !SameContent(*claim.tensor, *chosen.tensor)) {
      fit.mismatched.push_back(absl::StrCat(weight.name, ": both ", chosen.key, " and ", claim.key,
                                            " are for it",
                                            tied ? ", tied in the program, and they differ" : ""));
      return;
    }
    fit.tied.push_back(absl::StrCat(claim.alias ? claim.alias_name : weight.name, " = ",
                                    claim.alias ? weight.name : claim.alias_name));
  }
  std::string mismatch = Mismatch(weight, *chosen.tensor);
  if (!mismatch.empty()) {
    if (chosen.key != weight.name) absl::StrAppend(&mismatch, " under ", chosen.key);
    fit.mismatched.push_back(std::move(mismatch));
    return;
  }
  if (chosen.alias) fit.tied.push_back(absl::StrCat(weight.name, " = ", chosen.alias_name));
  weight.bound = true;
  weight.key = chosen.key;
  weight.tensor = *chosen.tensor;
}

void AddNearest(const std::vector<std::string>& nearest, std::vector<std::string>& names) {
  for (size_t i = 0; i < nearest.size(); ++i) {
    if (!nearest[i].empty()) absl::StrAppend(&names[i], "; nearest: ", nearest[i]);
  }
}

}  // namespace

Fit MatchTensors(const Tensors& tensors, const std::string& format, const v1::Manifest& manifest) {
  Fit fit;
  fit.format = format;
  const Names names(tensors, manifest);
  fit.mismatched = names.faults();
  std::vector<std::vector<Claim>> claims(static_cast<size_t>(manifest.weights_size()));
  for (const auto& [key, tensor] : tensors) {
    std::string found;
    const Target target = names.Find(tensor.library_name.empty() ? key : tensor.library_name, &found);
    if (target.weight < 0) {
      fit.unexpected.push_back(key);
    } else {
      claims[static_cast<size_t>(target.weight)].push_back({key, &tensor, target.alias, found});
    }
  }
  for (int i = 0; i < manifest.weights_size(); ++i) {
    const v1::WeightSpec& spec = manifest.weights(i);
    BoundWeight weight;
    weight.name = spec.name();
    weight.dtype = spec.dtype();
    weight.shape.assign(spec.shape().begin(), spec.shape().end());
    if (const auto& claimed = claims[static_cast<size_t>(i)]; claimed.empty()) {
      fit.missing.push_back(spec.name());
    } else {
      Bind(claimed, weight, fit);
    }
    fit.weights.push_back(std::move(weight));
  }
  const auto near_missing = NearestNames(fit.missing, fit.unexpected, kNamesWithNearest);
  const auto near_unexpected = NearestNames(fit.unexpected, fit.missing, kNamesWithNearest);
  AddNearest(near_missing, fit.missing);
  AddNearest(near_unexpected, fit.unexpected);
  return fit;
}

}  // namespace assay::checkpoint

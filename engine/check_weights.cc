#include "engine/check_weights.h"

#include <ATen/ops/equal.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/numbered_names.h"
#include "engine/tensors.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

constexpr int kLevels = 127;  // of each sign, of a tensor of 8 bits

// Weights by their names without numbers and their shapes.
std::map<std::string, std::vector<int>> ByLikeness(const v1::Manifest& manifest) {
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < manifest.weights_size(); ++i) {
    const v1::WeightSpec& spec = manifest.weights(i);
    groups[absl::StrCat(WithoutNumbers(spec.name()), " ", absl::StrJoin(spec.shape(), ","))].push_back(i);
  }
  return groups;
}

// Which weights some output depends on.
std::set<std::string> Reachable(const v1::Graph& graph) {
  std::vector<bool> live(graph.value_count(), false);
  const auto mark = [&](const v1::Argument& argument) {
    if (argument.kind_case() == v1::Argument::kValue) live[argument.value()] = true;
    for (const uint32_t value : argument.values().values()) live[value] = true;
    for (const uint32_t value : argument.optional_values().values_plus_one()) {
      if (value > 0) live[value - 1] = true;
    }
  };
  for (const v1::Argument& output : graph.outputs()) mark(output);
  for (int i = graph.nodes_size() - 1; i >= 0; --i) {
    const v1::Node& node = graph.nodes(i);
    if (std::none_of(node.outputs().begin(), node.outputs().end(),
                     [&](uint32_t value) { return live[value]; }))
      continue;
    for (const v1::NamedArgument& one : node.arguments()) mark(one.value());
  }
  std::set<std::string> names;
  for (const v1::GraphInput& input : graph.inputs()) {
    if (input.kind() == v1::GraphInput::WEIGHT && live[input.value()]) names.insert(input.name());
  }
  return names;
}

std::string ModuleOf(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

// Parts of an architecture that its task leaves out, whatever the model: the pooler of a sequence, what
// stands for a hidden place in pre-training.
bool NobodyAsksFor(absl::string_view parameter) {
  for (const char* part : {"pooler.", "mask_token", "masked_spec_embed", "mask_emb"}) {
    if (absl::StrContains(parameter, part)) return true;
  }
  return false;
}

enum class Content { kZero, kConstant, kVaried };

Content ContentOf(const at::Tensor& numbers) {
  const double* data = numbers.const_data_ptr<double>();
  const int64_t count = numbers.numel();
  if (std::any_of(data, data + count, [&](double x) { return x != data[0]; })) return Content::kVaried;
  return count > 0 && data[0] != 0 ? Content::kConstant : Content::kZero;
}

// Every value a whole number of steps of largest / 127, with enough different ones that this is no chance.
bool OnGridOf8Bits(const at::Tensor& numbers) {
  constexpr size_t kFewest = 16;
  constexpr double kOff = 1e-3;  // of a step: what float32 leaves of a product
  const double* data = numbers.const_data_ptr<double>();
  double largest = 0;
  for (int64_t i = 0; i < numbers.numel(); ++i) largest = std::max(largest, std::abs(data[i]));
  if (!(largest > 0) || !std::isfinite(largest)) return false;
  std::set<double> levels;
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    const double level = data[i] * kLevels / largest;
    if (std::abs(level - std::nearbyint(level)) > kOff) return false;
    levels.insert(std::abs(std::nearbyint(level)));
  }
  return levels.size() >= kFewest;
}

}  // namespace

Finding CheckWeightInfluence(const v1::Check::WeightInfluence& check, const v1::Program& program) {
  const v1::Manifest& manifest = program.manifest();
  const std::set<std::string> reachable = Reachable(program.graph());
  const auto reached = [&](int i) { return reachable.count(manifest.weights(i).name()) > 0; };
  // Modules of which some weight is used: the others do not run (a pooler that nobody asks for).
  std::set<std::string> used;
  for (const std::string& name : reachable) used.insert(ModuleOf(name));
  // Whether a weight must have its use although none of its like has.
  const auto has_its_own_use = [&](const v1::WeightSpec& spec, bool alone) {
    if (check.every_parameter()) return !spec.buffer() && !NobodyAsksFor(spec.name());
    // What is neither weight nor bias of a layer may have its use elsewhere (the mask token of pre-training).
    const bool of_layer = absl::EndsWith(spec.name(), ".weight") || absl::EndsWith(spec.name(), ".bias");
    return alone && of_layer && used.count(ModuleOf(spec.name())) > 0;
  };
  std::vector<std::string> without;
  for (const auto& [like, members] : ByLikeness(manifest)) {
    const bool any = std::any_of(members.begin(), members.end(), reached);
    for (const int i : members) {
      const v1::WeightSpec& spec = manifest.weights(i);
      const bool asked_for = any || has_its_own_use(spec, members.size() == 1);
      if (asked_for && !reached(i) && !IsExempt(check.except(), spec.name())) without.push_back(spec.name());
    }
  }
  Finding finding;
  if (!without.empty()) finding.Break(absl::StrCat("no output depends on ", FirstOf(without)));
  return finding;
}

absl::StatusOr<Finding> CheckWeightsAlike(const v1::Check::WeightsAlike& check, const BoundCase& bound) {
  if (bound.tensors == nullptr) return absl::InvalidArgumentError("the case does not know its weights");
  const v1::Manifest& manifest = bound.program.manifest();
  static constexpr const char* kSaid[] = {"all zero", "one number", "not constant"};
  Finding finding;
  for (const auto& [like, members] : ByLikeness(manifest)) {
    int first = -1;
    Content content = Content::kVaried;
    for (const int i : members) {
      const v1::WeightSpec& spec = manifest.weights(i);
      const at::Tensor& tensor = (*bound.tensors)[static_cast<size_t>(i)];
      if (!tensor.is_floating_point() || tensor.numel() == 0 || IsExempt(check.except(), spec.name()))
        continue;
      const at::Tensor numbers = ToNumbers(tensor);
      const Content own = ContentOf(numbers);
      if (!spec.buffer() && OnGridOf8Bits(numbers)) {
        finding.Break(absl::StrCat("weight '", spec.name(), "' has no more than 8 bits a number"));
      }
      if (first < 0) content = own;
      if (own != content) {
        finding.Break(absl::StrCat("weight '", spec.name(), "' is ", kSaid[static_cast<int>(own)], ", '",
                                   manifest.weights(first).name(), "' is ",
                                   kSaid[static_cast<int>(content)]));
      }
      if (first < 0) first = i;
    }
  }
  return finding;
}

absl::StatusOr<Finding> CheckWeightsIntact(const BoundCase& bound) {
  if (!bound.reload) return absl::InvalidArgumentError("the case does not know where its weights come from");
  ASSAY_ASSIGN_OR_RETURN(const Weights again, bound.reload());
  const v1::Manifest& manifest = bound.program.manifest();
  Finding finding;
  if (again.size() != static_cast<size_t>(manifest.weights_size())) {
    finding.Break(absl::StrCat(again.size(), " weights instead of ", manifest.weights_size()));
    return finding;
  }
  std::vector<std::string> differ;
  for (int i = 0; i < manifest.weights_size(); ++i) {
    const at::Tensor runs = bound.plan.BoundWeight(i);
    if (!runs.defined()) continue;  // no operator reads it
    const at::Tensor source = Place(again[static_cast<size_t>(i)], bound.plan.placement());
    if (runs.sizes() != source.sizes() || runs.scalar_type() != source.scalar_type() ||
        !at::equal(runs, source)) {
      differ.push_back(manifest.weights(i).name());
    }
  }
  if (!differ.empty()) finding.Break(absl::StrCat("read again, other numbers have ", FirstOf(differ)));
  return finding;
}

}  // namespace assay::engine

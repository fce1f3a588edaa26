#include "engine/check_configuration.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/numbered_names.h"

namespace assay::engine {
namespace {

using nlohmann::json;

constexpr double kDefaultEpsilons[] = {1e-5, 1e-6, 1e-12};
constexpr double kLargestEpsilon = 0.1;  // what is added below a root beyond it is no guard against zero
constexpr double kRelative = 1e-5;       // a float32 in a graph, a decimal in a configuration

bool Near(double a, double b) { return std::abs(a - b) <= kRelative * std::abs(b); }

bool AnyNear(const std::vector<double>& known, double value) {
  return std::any_of(known.begin(), known.end(), [&](double one) { return Near(value, one); });
}

// What a configuration says, whatever part of it says so.
struct Facts {
  std::vector<double> epsilons;
  std::vector<double> bases;  // of rotary positions
  bool tanh_gelu = false;
  bool scaled = false;  // rotary positions are scaled
};

void Read(const std::string& key, const json& value, Facts& facts) {
  if (value.is_object()) {
    for (const auto& [name, part] : value.items()) Read(name, part, facts);
    return;
  }
  if (value.is_array()) {
    for (const json& part : value) Read(key, part, facts);
    return;
  }
  const std::string lower = absl::AsciiStrToLower(key);
  if (value.is_number()) {
    if (absl::StrContains(lower, "eps")) facts.epsilons.push_back(value.get<double>());
    if (absl::StrContains(lower, "theta") || lower == "rotary_emb_base" || lower == "rope_local_base_freq") {
      facts.bases.push_back(value.get<double>());
    }
  } else if (value.is_string()) {
    const std::string text = value.get<std::string>();
    facts.tanh_gelu |= text == "gelu_pytorch_tanh" || text == "gelu_new" || text == "gelu_fast" ||
                       text == "gelu_accurate" || text == "gelu_python_tanh" ||
                       absl::StrContains(text, "gated-gelu");
    // "default" scales nothing; "mrope" is default with positions of several kinds.
    if (lower == "rope_type" || (lower == "type" && text != "mrope")) facts.scaled |= text != "default";
  }
}

const v1::Argument* Find(const v1::Node& node, absl::string_view name) {
  for (const v1::NamedArgument& one : node.arguments()) {
    if (one.name() == name) return &one.value();
  }
  return nullptr;
}

}  // namespace

Finding CheckConfiguration(const v1::Check::Configuration& check, const v1::Program& program) {
  Finding finding;
  // Python writes infinities that JSON has not.
  const std::string text =
      absl::StrReplaceAll(program.manifest().config_json(), {{"Infinity", "1e300"}, {"NaN", "null"}});
  const json config = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    finding.Break("the program's configuration is no JSON object");
    return finding;
  }
  Facts facts;
  Read("", config, facts);
  facts.epsilons.insert(facts.epsilons.end(), std::begin(kDefaultEpsilons), std::end(kDefaultEpsilons));
  const v1::Graph& graph = program.graph();
  std::vector<const v1::Node*> maker(graph.value_count(), nullptr);
  bool any = false;
  const auto epsilon = [&](const v1::Node& node, double value) {
    any = true;
    if (AnyNear(facts.epsilons, value) || IsExempt(check.except(), absl::StrCat(value))) return;
    finding.Break(absl::StrCat("node '", node.name(), "' has the epsilon ", value,
                               ", which the configuration does not name"));
  };
  for (const v1::Node& node : graph.nodes()) {
    for (const uint32_t value : node.outputs()) maker[value] = &node;
    const std::string& op = graph.operators(static_cast<int>(node.op())).name();
    const v1::Argument* eps = Find(node, "eps");
    if (op == "aten::layer_norm" || op == "aten::group_norm" || op == "aten::rms_norm" ||
        op == "aten::_native_batch_norm_legit_no_training") {
      epsilon(node, eps != nullptr && eps->has_real() ? eps->real() : 1e-5);
    } else if (op == "aten::rsqrt" || op == "aten::sqrt") {
      const v1::Argument* self = Find(node, "self");
      const v1::Node* added =
          self != nullptr && self->kind_case() == v1::Argument::kValue ? maker[self->value()] : nullptr;
      if (added == nullptr || graph.operators(static_cast<int>(added->op())).name() != "aten::add") continue;
      const v1::Argument* other = Find(*added, "other");
      if (other != nullptr && other->has_real() && other->real() < kLargestEpsilon)
        epsilon(*added, other->real());
    } else if (op == "aten::gelu") {
      any = true;
      const v1::Argument* form = Find(node, "approximate");
      const bool tanh = form != nullptr && form->text() == "tanh";
      if (tanh && !facts.tanh_gelu && !IsExempt(check.except(), "gelu")) {
        finding.Break(absl::StrCat("node '", node.name(),
                                   "' has gelu's tanh form, which the configuration does not name"));
      }
    }
  }
  for (const v1::Tensor& constant : program.constants()) {
    if (absl::EndsWith(constant.name(), "position_ids") && constant.dtype() == v1::LONG &&
        !IsExempt(check.except(), constant.name())) {
      any = true;
      std::vector<int64_t> ids(constant.data().size() / sizeof(int64_t));
      std::memcpy(ids.data(), constant.data().data(), ids.size() * sizeof(int64_t));
      const auto gap =
          std::adjacent_find(ids.begin(), ids.end(), [](int64_t a, int64_t b) { return b != a + 1; });
      if (gap != ids.end()) {
        finding.Break(absl::StrCat("constant '", constant.name(), "' does not count on after ", *gap));
      }
    }
    if (!absl::EndsWith(constant.name(), "inv_freq") || constant.dtype() != v1::FLOAT || facts.scaled ||
        facts.bases.empty() || IsExempt(check.except(), constant.name())) {
      continue;
    }
    any = true;
    std::vector<float> found(constant.data().size() / sizeof(float));
    std::memcpy(found.data(), constant.data().data(), found.size() * sizeof(float));
    const auto is = [&](double base) {
      // The rotated part of a head may be odd: then the last frequency stands for one number alone.
      const auto count = static_cast<double>(found.size());
      for (const double width : {2 * count, 2 * count - 1}) {
        bool all = true;
        for (size_t i = 0; i < found.size(); ++i)
          all &= Near(found[i], std::pow(base, -2.0 * static_cast<double>(i) / width));
        if (all) return true;
      }
      return false;
    };
    if (std::none_of(facts.bases.begin(), facts.bases.end(), is)) {
      finding.Break(absl::StrCat("constant '", constant.name(),
                                 "' has not the frequencies of a base that the configuration names"));
    }
  }
  if (finding.held && !any) finding.nothing = "the graph has no literal that a configuration names";
  return finding;
}

}  // namespace assay::engine

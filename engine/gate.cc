#include "engine/gate.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/gate_place.h"
#include "engine/tolerance.h"
#include "nlohmann/json.hpp"

namespace assay::engine {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr int kMaxListed = 12;

double Share(const Placement& placement, bool same_processor) {
  if (placement.dtype != at::ScalarType::Float) return placement.dtype == at::ScalarType::Half ? 5e-3 : 4e-2;
  if (placement.device.is_cuda()) return 1e-4;
  return same_processor ? 1e-6 : 5e-6;
}

// "a.b": value, of every leaf; lists are leaves.
void Flatten(const std::string& path, const nlohmann::json& value, std::map<std::string, std::string>& into) {
  if (!value.is_object()) {
    into[path] = value.dump();
    return;
  }
  for (const auto& [key, item] : value.items())
    Flatten(path.empty() ? key : absl::StrCat(path, ".", key), item, into);
}

// Fields of both configurations that differ, also those that one version keeps elsewhere under the same last
// name (rope_theta, rope_parameters.rope_theta). What only one version writes down may be its default on the
// other.
void AddConfiguration(const v1::Manifest& from, const v1::Manifest& to, v1::GateResult& result) {
  std::map<std::string, std::string> a, b;
  const auto parse = [](const std::string& text, std::map<std::string, std::string>& into) {
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_object()) Flatten("", json, into);
  };
  parse(from.config_json(), a);
  parse(to.config_json(), b);
  const auto same = [](const std::string& x, const std::string& y) {
    if (x == y) return true;
    const nlohmann::json p = nlohmann::json::parse(x, nullptr, false),
                         q = nlohmann::json::parse(y, nullptr, false);
    return p == q;  // 0 and 0.0
  };
  const auto leaf = [](const std::string& field) { return field.substr(field.rfind('.') + 1); };
  int more = 0;
  for (const auto& [field, was] : a) {
    if (leaf(field) == "transformers_version") continue;
    auto is = b.find(field);
    if (is == b.end()) {
      int found = 0;
      for (auto other = b.begin(); other != b.end(); ++other) {
        if (leaf(other->first) == leaf(field) && a.count(other->first) == 0) {
          is = other;
          ++found;
        }
      }
      if (found != 1) continue;
    }
    if (same(is->second, was)) continue;
    if (result.configuration_size() < kMaxListed) {
      result.add_configuration(absl::StrCat(field, ": ", was, ", then ", is->second,
                                            is->first == field ? "" : absl::StrCat(" (", is->first, ")")));
    } else {
      ++more;
    }
  }
  if (more > 0) result.add_configuration(absl::StrCat(more, " more"));
}

void AddPatches(const v1::Manifest& from, const v1::Manifest& to, v1::GateResult& result) {
  const auto names = [](const v1::Manifest& manifest) {
    std::set<std::string> made;
    for (const v1::Patch& patch : manifest.patches()) made.insert(patch.name());
    return made;
  };
  const std::set<std::string> a = names(from), b = names(to);
  for (const std::string& name : a) {
    if (b.count(name) == 0)
      result.add_note(absl::StrCat("exported with the patch ", name, " on the from side alone"));
  }
  for (const std::string& name : b) {
    if (a.count(name) == 0)
      result.add_note(absl::StrCat("exported with the patch ", name, " on the to side alone"));
  }
}

// What the two runs were made by, where it differs: the versions that a change may come from.
void AddMachines(const v1::Provenance& from, const v1::Provenance& to, v1::GateResult& result) {
  const auto add = [&](const char* what, const std::string& was, const std::string& is) {
    if (was == is) return;
    const auto told = [](const std::string& text) { return text.empty() ? std::string("unknown") : text; };
    result.add_note(absl::StrCat(what, " ", told(was), ", then ", told(is)));
  };
  add("torch", from.torch_version(), to.torch_version());
  add("device", absl::StrCat(from.device().kind(), " ", from.device().name()),
      absl::StrCat(to.device().kind(), " ", to.device().name()));
  add("capability", from.device().capability(), to.device().capability());
  if (from.device().kind() == "cuda" && to.device().kind() == "cuda") {
    add("driver", from.device().driver(), to.device().driver());
  }
}

std::string MismatchOf(const v1::Recording& from, const v1::Recording& to, bool same_weights) {
  if (from.model() != to.model()) return absl::StrCat("they are of ", from.model(), " and ", to.model());
  if (from.inputs_digest() != to.inputs_digest()) return "the sides were recorded with different inputs";
  if (same_weights && from.weights() != to.weights())
    return "one side has mock weights, the other those of a checkpoint";
  if (same_weights && from.weights_identity() != to.weights_identity()) {
    return "the sides were recorded with different weights; record one `--like` the other";
  }
  for (const v1::RecordedValue& output : from.output()) {
    const bool there =
        std::any_of(to.output().begin(), to.output().end(),
                    [&](const v1::RecordedValue& other) { return other.name() == output.name(); });
    if (!there) return absl::StrCat("only the from side gives the output ", output.name());
  }
  return "";
}

at::Tensor Numbers(const v1::RecordedValue& value) {
  at::Tensor made =
      at::empty(value.shape().empty() ? std::vector<int64_t>{}
                                      : std::vector<int64_t>(value.shape().begin(), value.shape().end()),
                at::TensorOptions().dtype(at::kDouble));
  std::copy(value.samples().begin(), value.samples().end(), made.mutable_data_ptr<double>());
  return made;
}

bool IsFloating(const std::string& dtype) {
  return dtype == "Float" || dtype == "Double" || dtype == "Half" || dtype == "BFloat16";
}

struct Compared {
  v1::GateOutput output;
  bool same = false;
  bool beyond = false;
  std::string not_comparable;  // beyond it, rounding alone could have done it
};

absl::StatusOr<Compared> CompareOutput(const v1::Recording& from, const v1::RecordedValue& was,
                                       const v1::RecordedValue& is, const Placement& placement) {
  Compared made;
  v1::GateOutput& output = made.output;
  output.set_name(was.name());
  if (was.digest() == is.digest()) {
    made.same = true;
    return made;
  }
  if (was.dtype() != is.dtype() ||
      !std::equal(was.shape().begin(), was.shape().end(), is.shape().begin(), is.shape().end())) {
    made.beyond = true;
    output.set_error(kInfinite);
    output.set_tolerances(kInfinite);
    output.set_detail(absl::StrCat(is.dtype(), " [", absl::StrJoin(is.shape(), ", "), "] instead of ",
                                   was.dtype(), " [", absl::StrJoin(was.shape(), ", "), "]"));
    return made;
  }
  at::Tensor a = Numbers(is), b = Numbers(was);
  ASSAY_ASSIGN_OR_RETURN(const Difference difference, Compare(a, b));
  output.set_error(difference.error);
  output.set_rms_error(difference.rms);
  Bound bound;
  if (IsFloating(was.dtype())) {
    const v1::GoldenOutput* golden = nullptr;
    for (const v1::GoldenOutput& one : from.program().golden().outputs()) {
      if (one.tensor().name() == was.name()) golden = &one;
    }
    // What the golden calls legitimate is of mock weights; of others only the factors are known.
    if (from.weights() != v1::MOCK) golden = nullptr;
    ASSAY_ASSIGN_OR_RETURN(bound, BoundFor(v1::Tolerance(), placement, golden, b.to(at::kFloat)));
  } else {
    bound.rms = 0;
  }
  output.set_allowed(bound.max);
  output.set_rms_allowed(bound.rms);
  const auto in_tolerances = [](double error, double allowed) {
    if (error == 0 || allowed == kInfinite) return 0.0;
    return allowed > 0 ? error / allowed : kInfinite;
  };
  output.set_tolerances(
      std::max(in_tolerances(difference.error, bound.max), in_tolerances(difference.rms, bound.rms)));
  // Written so that NaN is beyond.
  made.beyond = !(output.tolerances() <= 1);
  made.not_comparable = made.beyond ? bound.not_comparable : "";
  if (made.beyond) output.set_detail(Describe(difference, b.sizes()));
  return made;
}

v1::GateResult CompareAll(const v1::Recording& from, const v1::Recording& to, bool same_weights) {
  v1::GateResult result;
  result.set_model(from.model());
  result.set_from(SideText(from));
  result.set_to(SideText(to));
  const auto refuse = [&](std::string why) {
    result.set_verdict(v1::NOT_COMPARABLE);
    result.set_reason(std::move(why));
    return result;
  };
  if (const std::string why = MismatchOf(from, to, same_weights); !why.empty()) return refuse(why);
  const Placement placement = CoarserOf(PlacementOf(from.provenance()), PlacementOf(to.provenance()));
  bool same = true, beyond = false;
  std::string unproven;
  std::vector<int> different, changed;
  const Compared* worst = nullptr;
  std::vector<Compared> all;
  all.reserve(static_cast<size_t>(from.output_size()));
  for (const v1::RecordedValue& was : from.output()) {
    for (int i = 0; i < to.output_size(); ++i) {
      if (to.output(i).name() != was.name()) continue;
      absl::StatusOr<Compared> compared = CompareOutput(from, was, to.output(i), placement);
      if (!compared.ok()) return refuse(std::string(compared.status().message()));
      all.push_back(*std::move(compared));
      const Compared& one = all.back();
      same = same && one.same;
      if (!one.same) different.push_back(i);
      if (one.beyond && one.not_comparable.empty()) beyond = true;
      if (one.beyond && !one.not_comparable.empty()) unproven = one.not_comparable;
      if (one.beyond) changed.push_back(i);
      if (worst == nullptr || one.output.tolerances() > worst->output.tolerances()) worst = &one;
      *result.add_output() = one.output;
    }
  }
  if (worst == nullptr) return refuse("there is no output to compare");
  result.set_tolerances(worst->output.tolerances());
  for (const v1::RecordedValue& output : to.output()) {
    const bool there =
        std::any_of(from.output().begin(), from.output().end(),
                    [&](const v1::RecordedValue& other) { return other.name() == output.name(); });
    if (!there)
      result.add_note(
          absl::StrCat("only the to side gives the output ", output.name(), ": compared with nothing"));
  }
  AddMachines(from.provenance(), to.provenance(), result);
  for (const std::string& note : from.note()) result.add_note(note);
  for (const std::string& note : to.note()) result.add_note(note);
  if (!same_weights) {
    int others = 0;
    std::string first;
    for (int i = 0; i < from.weight_size() && i < to.weight_size(); ++i) {
      if (from.weight(i).digest() == to.weight(i).digest()) continue;
      if (others++ == 0) first = from.weight(i).name();
    }
    result.add_note(
        others == 0 ? std::string("all weights are the same to the bit")
                    : absl::StrCat(others, " of ", from.weight_size(), " weights differ, the first ", first));
  }
  if (same) {
    result.set_verdict(v1::SAME);
    return result;
  }
  if (beyond) AddPatches(from.program().manifest(), to.program().manifest(), result);
  AddConfiguration(from.program().manifest(), to.program().manifest(), result);
  const bool same_processor =
      from.provenance().device().capability() == to.provenance().device().capability();
  if (const absl::Status placed = engine::Place(from, to, changed.empty() ? different : changed,
                                                Share(placement, same_processor), result);
      !placed.ok()) {
    result.set_not_placed(std::string(placed.message()));
  }
  if (beyond) {
    result.set_verdict(v1::CHANGED);
    result.set_reason(absl::StrFormat("%s: %s, off by %.3g; allowed %.3g", worst->output.name(),
                                      worst->output.detail(), worst->output.error(),
                                      worst->output.allowed()));
  } else if (!unproven.empty()) {
    return refuse(absl::StrCat("beyond the tolerance, but rounding alone could have done it: ", unproven));
  } else {
    result.set_verdict(v1::WITHIN_TOLERANCE);
  }
  return result;
}

}  // namespace

std::string SideText(const v1::Recording& recording) {
  const v1::Manifest& manifest = recording.program().manifest();
  const v1::Provenance& provenance = recording.provenance();
  const std::string library = manifest.transformers_version();
  const bool bare = !library.empty() && library[0] >= '0' && library[0] <= '9';
  std::string text =
      absl::StrCat(bare ? "transformers " : "", library, "; torch ", provenance.torch_version(), ", ",
                   provenance.device().kind(), " ", provenance.device().capability());
  if (!provenance.device().driver().empty())
    absl::StrAppend(&text, ", driver ", provenance.device().driver());
  if (provenance.dtype() == v1::DTYPE_BFLOAT16) absl::StrAppend(&text, ", bfloat16");
  if (provenance.dtype() == v1::FLOAT16) absl::StrAppend(&text, ", float16");
  return text;
}

Placement PlacementOf(const v1::Provenance& provenance) {
  Placement placement;
  if (provenance.device().kind() == "cuda") placement.device = at::Device(at::DeviceType::CUDA, 0);
  if (provenance.dtype() == v1::DTYPE_BFLOAT16) placement.dtype = at::ScalarType::BFloat16;
  if (provenance.dtype() == v1::FLOAT16) placement.dtype = at::ScalarType::Half;
  return placement;
}

Placement CoarserOf(const Placement& a, const Placement& b) {
  Placement made = a;
  if (b.device.is_cuda()) made.device = b.device;
  if (UnitRoundoff(b.dtype) > UnitRoundoff(a.dtype)) made.dtype = b.dtype;
  return made;
}

v1::GateResult CompareRecordings(const v1::Recording& from, const v1::Recording& to, bool same_weights) {
  try {
    return CompareAll(from, to, same_weights);
  } catch (const c10::Error& error) {
    v1::GateResult result;
    result.set_model(from.model());
    result.set_verdict(v1::NOT_COMPARABLE);
    result.set_reason(error.what_without_backtrace());
    return result;
  }
}

}  // namespace assay::engine

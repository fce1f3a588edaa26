#include "engine/weight_map.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace assay::engine {
namespace {

using Parts = std::vector<std::string>;

Parts PartsOf(absl::string_view name) { return absl::StrSplit(std::string(name), '.'); }

bool IsNumber(const std::string& part) {
  return !part.empty() &&
         std::all_of(part.begin(), part.end(), [](char c) { return absl::ascii_isdigit(c); });
}

Parts NumbersOf(const Parts& parts) {
  Parts numbers;
  for (const std::string& part : parts) {
    if (IsNumber(part)) numbers.push_back(part);
  }
  return numbers;
}

// Parts that both have, in the same order.
int Shared(const Parts& a, const Parts& b) {
  std::vector<std::vector<int>> best(a.size() + 1, std::vector<int>(b.size() + 1, 0));
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < b.size(); ++j) {
      best[i + 1][j + 1] = a[i] == b[j] ? best[i][j] + 1 : std::max(best[i][j + 1], best[i + 1][j]);
    }
  }
  return best[a.size()][b.size()];
}

// Experts that one version holds one by one and the other as one tensor: `experts.gate_up_proj` is, for each
// expert, the rows of these one after the other.
struct StackedForm {
  const char* name;
  std::vector<std::vector<const char*>> parts;  // by their names, of several models
};
const std::vector<StackedForm>& kStacked() {
  static const std::vector<StackedForm>& forms = *new std::vector<StackedForm>{
      {"experts.gate_up_proj", {{"gate_proj.weight", "up_proj.weight"}, {"w1.weight", "w3.weight"}}},
      {"experts.down_proj", {{"down_proj.weight"}, {"w2.weight"}, {"fc2.weight"}, {"wo.weight"}}},
      {"experts.up_proj", {{"up_proj.weight"}, {"fc1.weight"}, {"wi.weight"}}},
      {"experts.fc1", {{"fc1.weight"}}},
      {"experts.fc2", {{"fc2.weight"}}},
      {"experts.wi", {{"wi.weight"}}},
      {"experts.wo", {{"wo.weight"}}},
  };
  return forms;
}

class Mapper {
 public:
  Mapper(const v1::Program& from, const GivenWeights& given, v1::Program& to)
      : from_(from.manifest()), from_program_(from), given_(given), to_(to.manifest()), to_program_(to) {
    for (int i = 0; i < from_.weights_size(); ++i) by_name_[from_.weights(i).name()] = i;
    for (const v1::TiedWeight& tie : from_.tied()) from_ties_[tie.alias()] = tie.weight();
    for (const v1::TiedWeight& tie : to_.tied()) to_ties_[tie.weight()].push_back(tie.alias());
  }

  absl::StatusOr<GivenWeights> Map() {
    made_.kind = given_.kind;
    made_.identity = given_.identity;
    made_.notes = given_.notes;
    made_.values.resize(static_cast<size_t>(to_.weights_size()));
    for (int i = 0; i < to_.weights_size(); ++i) ByName(i);
    for (int i = 0; i < to_.weights_size(); ++i) {
      if (!Done(i)) Stack(i);
    }
    Renamed();
    for (int i = 0; i < to_.weights_size(); ++i) {
      if (!Done(i)) ASSAY_RETURN_IF_ERROR(Buffer(i));
    }
    Constants();
    std::vector<std::string> left;
    for (int i = 0; i < to_.weights_size(); ++i) {
      if (Done(i)) continue;
      const v1::WeightSpec& spec = to_.weights(i);
      const auto same = by_name_.find(spec.name());
      left.push_back(absl::StrCat(
          spec.name(), " [", absl::StrJoin(spec.shape(), ", "), "]",
          same == by_name_.end()
              ? ""
              : absl::StrCat(", which is [", absl::StrJoin(from_.weights(same->second).shape(), ", "),
                             "] on the other side"),
          ambiguous_.count(i) > 0 ? ", which could be several" : ""));
    }
    if (!left.empty()) {
      const size_t count = left.size();
      if (count > 5) left.resize(5);
      std::vector<std::string> over = Unused();
      const size_t unused = over.size();
      if (unused > 5) over.resize(5);
      return absl::FailedPreconditionError(absl::StrCat(
          "no rule gives ", count, " weights of one side from the other's: ", absl::StrJoin(left, "; "),
          count > 5 ? "; …" : "", unused > 0 ? "; left over there: " : "", absl::StrJoin(over, ", "),
          unused > 5 ? ", …" : ""));
    }
    if (const std::vector<std::string> over = Unused(); !over.empty()) {
      made_.notes.push_back(absl::StrCat("only one side has the weights ", absl::StrJoin(over, ", ")));
    }
    return std::move(made_);
  }

 private:
  bool Done(int i) const { return made_.values[static_cast<size_t>(i)].defined(); }

  bool SameForm(const v1::WeightSpec& a, const v1::WeightSpec& b) const {
    return a.dtype() == b.dtype() &&
           std::equal(a.shape().begin(), a.shape().end(), b.shape().begin(), b.shape().end());
  }

  bool Take(int i, int source) {
    if (!SameForm(to_.weights(i), from_.weights(source))) return false;
    made_.values[static_cast<size_t>(i)] = given_.values[static_cast<size_t>(source)];
    used_.insert(source);
    return true;
  }

  // Of this name or the weight that it is tied to.
  std::optional<int> Find(const std::string& name) const {
    auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      const auto tie = from_ties_.find(name);
      if (tie != from_ties_.end()) found = by_name_.find(tie->second);
    }
    if (found == by_name_.end()) return std::nullopt;
    return found->second;
  }

  void ByName(int i) {
    const std::string& name = to_.weights(i).name();
    if (const std::optional<int> same = Find(name); same && Take(i, *same)) return;
    const auto aliases = to_ties_.find(name);
    if (aliases == to_ties_.end()) return;
    for (const std::string& alias : aliases->second) {
      if (const std::optional<int> same = Find(alias); same && Take(i, *same)) return;
    }
  }

  void Stack(int i) {
    const v1::WeightSpec& spec = to_.weights(i);
    if (spec.shape_size() != 3) return;
    for (const StackedForm& form : kStacked()) {
      if (!absl::EndsWith(spec.name(), form.name)) continue;
      for (const auto& parts : form.parts) {
        if (StackParts(i, parts)) return;
      }
    }
  }

  // The experts' parts of the layer that shares most of its name with this weight's.
  bool StackParts(int i, const std::vector<const char*>& parts) {
    const v1::WeightSpec& spec = to_.weights(i);
    const int64_t experts = spec.shape(0);
    const Parts own = PartsOf(spec.name());
    const Parts numbers = NumbersOf(own);
    // Folders "…experts" of `from` in which expert 0 has the first part, with the same layer numbers.
    std::map<int, std::vector<std::string>> folders;
    for (const auto& [name, index] : by_name_) {
      for (const char* expert : {".0.", ".expert_0."}) {
        const std::string end = absl::StrCat(expert, parts[0]);
        if (!absl::EndsWith(name, end)) continue;
        const std::string folder =
            name.substr(0, name.size() - end.size()) + (expert[1] == '0' ? "." : ".expert_");
        if (NumbersOf(PartsOf(folder)) == numbers) folders[-Shared(own, PartsOf(folder))].push_back(folder);
      }
    }
    if (folders.empty() || folders.begin()->second.size() != 1) return false;
    const std::string& folder = folders.begin()->second[0];
    std::vector<at::Tensor> rows;
    std::vector<int> sources;
    for (int64_t e = 0; e < experts; ++e) {
      std::vector<at::Tensor> one;
      for (const char* part : parts) {
        const auto found = by_name_.find(absl::StrCat(folder, e, ".", part));
        if (found == by_name_.end()) return false;
        one.push_back(given_.values[static_cast<size_t>(found->second)]);
        if (one.back().dim() != 2) return false;
        sources.push_back(found->second);
      }
      rows.push_back(at::cat(one, 0));
    }
    if (by_name_.count(absl::StrCat(folder, experts, ".", parts[0])) > 0) return false;
    at::Tensor stacked = at::stack(rows, 0).contiguous();
    const auto fits = [&] {
      return std::equal(stacked.sizes().begin(), stacked.sizes().end(), spec.shape().begin(),
                        spec.shape().end());
    };
    std::string how = "stacked";
    if (!fits()) {
      stacked = stacked.transpose(1, 2).contiguous();
      how = "stacked and transposed";
    }
    if (!fits()) return false;
    made_.values[static_cast<size_t>(i)] = stacked;
    used_.insert(sources.begin(), sources.end());
    made_.notes.push_back(
        absl::StrCat(spec.name(), " is ", folder, "*.", absl::StrJoin(parts, " and "), " ", how));
    return true;
  }

  struct Candidate {
    int index = -1;
    int shared = -1;
    bool tie = false;
    void Offer(int other, int parts) {
      if (parts == shared) tie = true;
      if (parts <= shared) return;
      *this = {other, parts, false};
    }
  };

  // Rounds, because what one round settles is out of the way of the next.
  void Renamed() {
    size_t renamed = 0;
    std::string example;
    for (bool again = true; again;) {
      again = false;
      ambiguous_.clear();
      std::map<int, Candidate> of_to, of_from;
      for (int i = 0; i < to_.weights_size(); ++i) {
        if (Done(i)) continue;
        const Parts own = PartsOf(to_.weights(i).name());
        for (int j = 0; j < from_.weights_size(); ++j) {
          if (used_.count(j) > 0 || !SameForm(to_.weights(i), from_.weights(j))) continue;
          const Parts other = PartsOf(from_.weights(j).name());
          if (own.back() != other.back() || NumbersOf(own) != NumbersOf(other)) continue;
          const int shared = Shared(own, other);
          of_to[i].Offer(j, shared);
          of_from[j].Offer(i, shared);
        }
      }
      for (const auto& [i, candidate] : of_to) {
        const Candidate& back = of_from[candidate.index];
        if (candidate.tie || back.tie || back.index != i) {
          ambiguous_.insert(i);
          continue;
        }
        Take(i, candidate.index);
        if (renamed++ == 0) {
          example = absl::StrCat(from_.weights(candidate.index).name(), " to ", to_.weights(i).name());
        }
        again = true;
      }
    }
    if (renamed > 0) made_.notes.push_back(absl::StrCat(renamed, " weights are renamed, such as ", example));
  }

  absl::Status Buffer(int i) {
    const v1::WeightSpec& spec = to_.weights(i);
    for (const v1::Tensor& constant : from_program_.constants()) {
      if (constant.name() != spec.name() || constant.dtype() != spec.dtype() ||
          !std::equal(constant.shape().begin(), constant.shape().end(), spec.shape().begin(),
                      spec.shape().end())) {
        continue;
      }
      ASSAY_ASSIGN_OR_RETURN(made_.values[static_cast<size_t>(i)], MakeTensor(constant));
      made_.notes.push_back(absl::StrCat(spec.name(), " is a constant on the other side"));
      return absl::OkStatus();
    }
    const bool random = spec.mock().has_normal() || spec.mock().has_uniform() || spec.mock().has_int_range();
    if (!spec.buffer() || random || given_.kind != v1::MOCK) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(
        made_.values[static_cast<size_t>(i)],
        MakeMockTensor(spec.name(), to_.mock_seed(), spec.mock(), spec.dtype(), spec.shape()));
    made_.notes.push_back(
        absl::StrCat("only one side has the buffer ", spec.name(), ", whose values are fixed"));
    return absl::OkStatus();
  }

  void Constants() {
    for (int c = 0; c < to_program_.constants_size(); ++c) {
      v1::Tensor& constant = *to_program_.mutable_constants(c);
      const auto found = by_name_.find(constant.name());
      if (found == by_name_.end() || used_.count(found->second) > 0) continue;
      const v1::WeightSpec& spec = from_.weights(found->second);
      if (spec.dtype() != constant.dtype() || !std::equal(spec.shape().begin(), spec.shape().end(),
                                                          constant.shape().begin(), constant.shape().end())) {
        continue;
      }
      const at::Tensor value = given_.values[static_cast<size_t>(found->second)].contiguous();
      constant.set_data(value.const_data_ptr(), value.nbytes());
      used_.insert(found->second);
      made_.notes.push_back(
          absl::StrCat(spec.name(), " is a weight on one side, a constant on the other: given it"));
    }
  }

  std::vector<std::string> Unused() const {
    std::vector<std::string> names;
    for (int j = 0; j < from_.weights_size(); ++j) {
      if (used_.count(j) == 0) names.push_back(from_.weights(j).name());
    }
    return names;
  }

  const v1::Manifest& from_;
  const v1::Program& from_program_;
  const GivenWeights& given_;
  const v1::Manifest& to_;
  v1::Program& to_program_;
  std::map<std::string, int> by_name_;
  std::map<std::string, std::string> from_ties_;
  std::map<std::string, std::vector<std::string>> to_ties_;
  std::set<int> used_, ambiguous_;
  GivenWeights made_;
};

}  // namespace

absl::StatusOr<GivenWeights> MapWeights(const v1::Program& from, const GivenWeights& given, v1::Program& to) {
  try {
    return Mapper(from, given, to).Map();
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
}

}  // namespace assay::engine

#include "engine/gate_place.h"

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
#include "engine/graph_values.h"
#include "engine/side_alignment.h"

namespace assay::engine {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
// Numbers beyond this stand for "minus infinity" in masks: they say nothing about the size of the rest.
constexpr double kMaskMagnitude = 1e30;
constexpr size_t kMaxListed = 8;
constexpr size_t kMaxGrowth = 200;

double Magnitude(const v1::RecordedValue& value) {
  const double largest = std::max(std::abs(value.min()), std::abs(value.max()));
  if (largest < kMaskMagnitude) return largest;
  double found = 0;
  for (const double sample : value.samples()) {
    if (std::isfinite(sample) && std::abs(sample) < kMaskMagnitude) found = std::max(found, std::abs(sample));
  }
  return found;
}

int64_t Numel(const v1::RecordedValue& value) {
  int64_t numel = 1;
  for (const int64_t size : value.shape()) numel *= size;
  return numel;
}

bool IsFloating(const v1::RecordedValue& value) {
  return value.dtype() == "Float" || value.dtype() == "Double" || value.dtype() == "Half" ||
         value.dtype() == "BFloat16";
}

std::string ArgumentText(const v1::Argument& argument) {
  switch (argument.kind_case()) {
    case v1::Argument::kValue:
    case v1::Argument::kValues:
    case v1::Argument::kOptionalValues:
      return "";  // which values it reads is the wiring, not a literal
    case v1::Argument::kInteger:
      return absl::StrCat(argument.integer());
    case v1::Argument::kReal:
      return absl::StrFormat("%.9g", argument.real());
    case v1::Argument::kBoolean:
      return argument.boolean() ? "true" : "false";
    case v1::Argument::kText:
      return absl::StrCat("'", argument.text(), "'");
    case v1::Argument::kNone:
      return "none";
    case v1::Argument::kInts:
      return absl::StrCat("[", absl::StrJoin(argument.ints().values(), ", "), "]");
    case v1::Argument::kFloats:
      return absl::StrCat("[", absl::StrJoin(argument.floats().values(), ", "), "]");
    case v1::Argument::kScalarType:
      return v1::ScalarType_Name(argument.scalar_type());
    default:
      return argument.ShortDebugString();
  }
}

std::map<std::string, std::string> Literals(const v1::Node& node) {
  std::map<std::string, std::string> made;
  for (const v1::NamedArgument& argument : node.arguments()) {
    const std::string text = ArgumentText(argument.value());
    if (!text.empty()) made[argument.name()] = text;
  }
  return made;
}

// "eps 1e-05, then 1e-06" for literals that differ; one at its default is not in the graph.
std::string LiteralDifferences(const v1::Node& from, const v1::Node& to) {
  const auto a = Literals(from), b = Literals(to);
  std::set<std::string> names;
  for (const auto& [name, text] : a) names.insert(name);
  for (const auto& [name, text] : b) names.insert(name);
  std::vector<std::string> made;
  for (const std::string& name : names) {
    const auto x = a.find(name), y = b.find(name);
    const std::string before = x == a.end() ? "default" : x->second,
                      after = y == b.end() ? "default" : y->second;
    if (before != after) made.push_back(absl::StrCat(name, " ", before, ", then ", after));
  }
  return absl::StrJoin(made, "; ");
}

std::string NodeText(const v1::Graph& graph, uint32_t index) {
  const v1::Node& node = graph.nodes(static_cast<int>(index));
  const std::string& module = graph.modules(static_cast<int>(node.module()));
  return absl::StrCat(node.name(), " (", OperatorName(graph, index), ")", module.empty() ? "" : " in ",
                      module);
}

v1::ValueStatistics Statistics(const v1::RecordedValue& value, const v1::RecordedValue* other, bool agrees) {
  v1::ValueStatistics made;
  made.set_name(value.name());
  made.set_source("operator");
  made.set_dtype(value.dtype());
  *made.mutable_shape() = value.shape();
  made.set_mean(value.mean());
  made.set_std(value.std());
  made.set_min(value.min());
  made.set_max(value.max());
  made.set_nan(value.nan());
  made.set_inf(value.inf());
  const int kept = value.samples_size();
  const int count = std::min(4, kept);
  for (int k = 0; k < count; ++k) made.add_samples(value.samples((2 * k + 1) * kept / (2 * count)));
  made.set_agrees(agrees);
  if (other == nullptr) return made;
  made.set_expected(true);
  made.set_expected_mean(other->mean());
  made.set_expected_abs_max(std::max(std::abs(other->min()), std::abs(other->max())));
  const int there = other->samples_size();
  for (int k = 0; k < std::min(4, there); ++k) {
    made.add_expected_samples(other->samples((2 * k + 1) * there / (2 * std::min(4, there))));
  }
  return made;
}

// One side's values by the number that the graph gives them.
struct Side {
  explicit Side(const v1::Recording& recording) : recording(recording), graph(recording.program().graph()) {
    of_value.assign(graph.value_count(), -1);
    node_of.assign(graph.value_count(), -1);
    for (int i = 0; i < graph.nodes_size(); ++i) {
      for (const uint32_t value : graph.nodes(i).outputs()) node_of[value] = i;
    }
    for (int i = 0; i < recording.value_size(); ++i) {
      const v1::RecordedValue& value = recording.value(i);
      of_value[graph.nodes(static_cast<int>(value.node())).outputs(static_cast<int>(value.output()))] = i;
    }
  }
  const v1::Recording& recording;
  const v1::Graph& graph;
  std::vector<int> of_value;  // index into Recording.value, or -1: an input, or no tensor
  std::vector<int> node_of;   // the node that makes a value, or -1: an input of the graph

  // Recorded values that the node reads; through nodes that give no tensors (sizes), what those read.
  std::vector<int> Reads(uint32_t node) const {
    std::vector<int> made;
    std::set<uint32_t> seen;
    std::vector<uint32_t> open;
    ForValues(graph.nodes(static_cast<int>(node)), [&](uint32_t value) { open.push_back(value); });
    while (!open.empty()) {
      const uint32_t value = open.back();
      open.pop_back();
      if (!seen.insert(value).second) continue;
      if (of_value[value] >= 0) {
        made.push_back(of_value[value]);
      } else if (node_of[value] >= 0) {
        ForValues(graph.nodes(node_of[value]), [&](uint32_t read) { open.push_back(read); });
      }
    }
    return made;
  }
};

class Placer {
 public:
  Placer(const v1::Recording& from, const v1::Recording& to, std::vector<int> pairs, double share)
      : from_(from), to_(to), pair_(std::move(pairs)), share_(share) {
    back_.assign(static_cast<size_t>(from.value_size()), -1);
    std::vector<double> magnitude(static_cast<size_t>(to.value_size()), 0);
    for (int i = 0; i < to.value_size(); ++i) {
      const v1::RecordedValue& value = to.value(i);
      double scale = magnitude[static_cast<size_t>(i)] = Magnitude(value);
      for (const int read : to_.Reads(value.node()))
        scale = std::max(scale, magnitude[static_cast<size_t>(read)]);
      const int other = pair_[static_cast<size_t>(i)];
      Compared made;
      made.scale = scale;
      if (other >= 0) {
        back_[static_cast<size_t>(other)] = i;
        made.scale = std::max(scale, Magnitude(from.value(other)));
        made.difference = CompareValues(from.value(other), value);
        made.beyond = made.difference.error > (IsFloating(value) ? share_ * made.scale : 0);
      }
      compared_.push_back(std::move(made));
    }
  }

  absl::Status Fill(const std::vector<int>& different, v1::GateResult& result) const {
    std::vector<int> outputs;
    for (const int output : different) {
      const v1::Argument& argument = to_.graph.outputs(output);
      if (argument.kind_case() == v1::Argument::kValue && to_.of_value[argument.value()] >= 0) {
        outputs.push_back(to_.of_value[argument.value()]);
      }
    }
    if (outputs.empty()) return absl::NotFoundError("the outputs that differ are computed by no operator");
    const std::vector<int> beyond = Beginnings(outputs, [&](int i) { return compared_[Index(i)].beyond; });
    const std::vector<int> bits =
        Beginnings(outputs, [&](int i) { return !compared_[Index(i)].difference.exact; });
    const std::vector<int>& found = beyond.empty() ? bits : beyond;
    if (found.empty()) return OnlyThere(outputs, result);
    Describe(found[0], result);
    for (size_t i = 1; i < found.size() && i <= kMaxListed; ++i) {
      result.add_also(NodeText(to_.graph, to_.recording.value(found[i]).node()));
    }
    if (!bits.empty() && bits[0] < found[0]) {
      result.set_first_other_bits(
          absl::StrFormat("%s: off by %.3g of %.3g", NodeText(to_.graph, to_.recording.value(bits[0]).node()),
                          compared_[Index(bits[0])].difference.error, compared_[Index(bits[0])].scale));
    }
    return absl::OkStatus();
  }

 private:
  struct Compared {
    ValueDifference difference;
    double scale = 0;
    bool beyond = false;
  };
  static size_t Index(int i) { return static_cast<size_t>(i); }
  bool Paired(int i) const { return pair_[Index(i)] >= 0; }

  // The nearest paired values that value `i` of `to` is computed from, and what lies between.
  template <typename Reads, typename IsPaired>
  static std::vector<int> Nearest(int i, const Reads& reads, const IsPaired& paired,
                                  std::vector<int>& between) {
    std::vector<int> found;
    std::set<int> seen = {i};
    std::vector<int> open = {i};
    while (!open.empty()) {
      const int next = open.back();
      open.pop_back();
      for (const int read : reads(next)) {
        if (!seen.insert(read).second) continue;
        if (paired(read)) {
          found.push_back(read);
        } else {
          between.push_back(read);
          open.push_back(read);
        }
      }
    }
    std::sort(between.begin(), between.end());
    return found;
  }
  std::vector<int> NearestTo(int i, std::vector<int>& between) const {
    return Nearest(
        i, [&](int value) { return to_.Reads(to_.recording.value(value).node()); },
        [&](int value) { return Paired(value); }, between);
  }
  std::vector<int> NearestFrom(int i, std::vector<int>& between) const {
    return Nearest(
        i, [&](int value) { return from_.Reads(from_.recording.value(value).node()); },
        [&](int value) { return back_[Index(value)] >= 0; }, between);
  }

  // Paired values that are bad, reach one of `outputs` through nothing that is good, and are computed from
  // good ones alone. In the order of the run.
  template <typename Bad>
  std::vector<int> Beginnings(const std::vector<int>& outputs, const Bad& bad) const {
    std::set<int> cone, made;
    std::vector<int> open;
    for (const int output : outputs) {
      if ((!Paired(output) || bad(output)) && cone.insert(output).second) open.push_back(output);
    }
    while (!open.empty()) {
      const int next = open.back();
      open.pop_back();
      for (const int read : to_.Reads(to_.recording.value(next).node())) {
        if ((!Paired(read) || bad(read)) && cone.insert(read).second) open.push_back(read);
      }
    }
    for (const int value : cone) {
      if (!Paired(value)) continue;
      std::vector<int> between;
      const std::vector<int> nearest = NearestTo(value, between);
      if (std::none_of(nearest.begin(), nearest.end(), bad)) made.insert(value);
    }
    return {made.begin(), made.end()};
  }

  void Name(uint32_t node, v1::Divergence& divergence) const {
    divergence.set_node(to_.graph.nodes(static_cast<int>(node)).name());
    divergence.set_op(OperatorName(to_.graph, node));
    divergence.set_module(
        to_.graph.modules(static_cast<int>(to_.graph.nodes(static_cast<int>(node)).module())));
  }

  // The only value among `values` that is computed, not merely seen in another shape; -1: none, or several.
  static int OnlyComputed(const Side& side, const std::vector<int>& values) {
    int found = -1;
    for (const int value : values) {
      if (side.recording.value(value).view()) continue;
      if (found >= 0) return -1;
      found = value;
    }
    return found;
  }

  std::string LiteralsThatDiffer(int from, int to) const {
    return LiteralDifferences(from_.graph.nodes(static_cast<int>(from_.recording.value(from).node())),
                              to_.graph.nodes(static_cast<int>(to_.recording.value(to).node())));
  }

  // `origin`: the first pair that differs. Where one operator took another's place right before it, and the
  // pair itself runs the same one, it is that operator which is told.
  void Describe(int origin, v1::GateResult& result) const {
    std::vector<int> only_to, only_from;
    NearestTo(origin, only_to);
    NearestFrom(pair_[Index(origin)], only_from);
    int told = origin, counterpart = pair_[Index(origin)];
    if (const int replaced = OnlyComputed(to_, only_to), by = OnlyComputed(from_, only_from);
        replaced >= 0 && by >= 0 && LiteralsThatDiffer(counterpart, origin).empty()) {
      told = replaced;
      counterpart = by;
    }
    Tell(told, counterpart, result);
    List(to_, only_to, *result.mutable_only_to(), result.mutable_divergence());
    List(from_, only_from, *result.mutable_only_from(), nullptr);
  }

  void Tell(int told, int counterpart, v1::GateResult& result) const {
    const v1::RecordedValue& value = to_.recording.value(told);
    const v1::RecordedValue& other = from_.recording.value(counterpart);
    const ValueDifference difference = CompareValues(other, value);
    v1::Divergence& divergence = *result.mutable_divergence();
    Name(value.node(), divergence);
    divergence.set_error(difference.error);
    divergence.set_detail(
        absl::StrFormat("%s (largest magnitude %.3g)", difference.detail, compared_[Index(told)].scale));
    ForValues(to_.graph.nodes(static_cast<int>(value.node())), [&](uint32_t read) {
      for (const v1::GraphInput& input : to_.graph.inputs()) {
        if (input.value() == read && input.kind() == v1::GraphInput::WEIGHT)
          divergence.add_weight(input.name());
      }
    });
    for (const int read : to_.Reads(value.node())) {
      const int there = pair_[Index(read)];
      *divergence.add_input() =
          Statistics(to_.recording.value(read), there < 0 ? nullptr : &from_.recording.value(there),
                     there >= 0 && !compared_[Index(read)].beyond);
    }
    *divergence.add_output() = Statistics(value, &other, false);
    Growth(divergence);
    const std::string literals = LiteralsThatDiffer(counterpart, told);
    result.set_counterpart(
        absl::StrCat(NodeText(from_.graph, other.node()), literals.empty() ? "" : ": ", literals));
  }

  static void List(const Side& side, const std::vector<int>& values,
                   google::protobuf::RepeatedPtrField<std::string>& into, v1::Divergence* divergence) {
    std::set<uint32_t> nodes;
    for (const int value : values) nodes.insert(side.recording.value(value).node());
    for (const uint32_t node : nodes) {
      if (divergence != nullptr) divergence->add_suspect(side.graph.nodes(static_cast<int>(node)).name());
      if (into.size() < static_cast<int>(kMaxListed)) *into.Add() = NodeText(side.graph, node);
    }
    if (nodes.size() > kMaxListed) *into.Add() = absl::StrCat(nodes.size() - kMaxListed, " more");
  }

  // No paired value begins it: what only `to` has computes the outputs.
  absl::Status OnlyThere(const std::vector<int>& outputs, v1::GateResult& result) const {
    for (const int output : outputs) {
      if (Paired(output)) continue;
      v1::Divergence& divergence = *result.mutable_divergence();
      Name(to_.recording.value(output).node(), divergence);
      divergence.set_error(kInfinite);
      divergence.set_detail("an operator that only this side has; every one of both sides agrees");
      std::vector<int> only_to = {output};
      NearestTo(output, only_to);
      List(to_, only_to, *result.mutable_only_to(), nullptr);
      return absl::OkStatus();
    }
    return absl::NotFoundError("every recorded value agrees: the difference is in numbers that are not kept");
  }

  void Growth(v1::Divergence& divergence) const {
    const size_t stretch = std::max<size_t>(1, (compared_.size() + kMaxGrowth - 1) / kMaxGrowth);
    for (size_t start = 0; start < compared_.size(); start += stretch) {
      int worst = -1;
      double most = -1;
      for (size_t i = start; i < std::min(compared_.size(), start + stretch); ++i) {
        if (pair_[i] < 0) continue;
        const Compared& one = compared_[i];
        const double relative = one.difference.error == 0 ? 0
                                : one.scale > 0           ? one.difference.error / one.scale
                                                          : kInfinite;
        if (relative > most) most = relative, worst = static_cast<int>(i);
      }
      if (worst < 0) continue;
      const uint32_t node = to_.recording.value(worst).node();
      v1::GrowthPoint& point = *divergence.add_growth();
      point.set_node(node);
      point.set_name(to_.graph.nodes(static_cast<int>(node)).name());
      point.set_module(to_.graph.modules(static_cast<int>(to_.graph.nodes(static_cast<int>(node)).module())));
      point.set_error(most);
      point.set_allowed(share_);
    }
  }

  const Side from_, to_;
  const std::vector<int> pair_;  // by index into to.value
  std::vector<int> back_;        // by index into from.value
  const double share_;
  std::vector<Compared> compared_;  // by index into to.value
};

}  // namespace

ValueDifference CompareValues(const v1::RecordedValue& from, const v1::RecordedValue& to) {
  ValueDifference made;
  if (from.digest() == to.digest()) return made;
  const int64_t numel = Numel(from);
  if (numel != Numel(to) || from.samples_size() != to.samples_size()) {
    made.exact = false;
    made.error = kInfinite;
    made.detail = absl::StrCat("shape [", absl::StrJoin(to.shape(), ", "), "] instead of [",
                               absl::StrJoin(from.shape(), ", "), "]");
    return made;
  }
  const auto compare = [&](const std::string& what, double was, double is) {
    if (was == is || (std::isnan(was) && std::isnan(is))) return;
    made.exact = false;
    double error = std::abs(was - is);
    if (!std::isfinite(error)) error = kInfinite;
    // What stands for minus infinity in a mask may be rounded in another way.
    if (std::abs(was) >= kMaskMagnitude && error <= 1e-2 * std::abs(was)) return;
    if (error <= made.error) return;
    made.error = error;
    made.detail = absl::StrFormat("%s is %.9g instead of %.9g", what, is, was);
  };
  const int64_t count = from.samples_size();
  for (int64_t k = 0; k < count; ++k) {
    compare(absl::StrCat("element ", (2 * k + 1) * numel / (2 * count)), from.samples(static_cast<int>(k)),
            to.samples(static_cast<int>(k)));
  }
  compare("the smallest number", from.min(), to.min());
  compare("the largest number", from.max(), to.max());
  if (from.nan() != to.nan() || from.inf() != to.inf()) {
    made.exact = false;
    made.error = kInfinite;
    made.detail = absl::StrCat(to.nan(), " NaN and ", to.inf(), " infinities instead of ", from.nan(),
                               " and ", from.inf());
  }
  // The same numbers in the same order, only seen in another shape or dtype.
  if (made.exact && count == numel) return made;
  made.exact =
      made.exact && from.mean() == to.mean() && from.std() == to.std() &&
      std::equal(from.shape().begin(), from.shape().end(), to.shape().begin(), to.shape().end()) == false;
  if (!made.exact && made.detail.empty()) {
    made.error = std::max(std::abs(from.mean() - to.mean()), std::abs(from.std() - to.std()));
    made.detail = absl::StrFormat("the mean is %.9g instead of %.9g; no number that is kept differs",
                                  to.mean(), from.mean());
  }
  return made;
}

absl::Status Place(const v1::Recording& from, const v1::Recording& to, const std::vector<int>& different,
                   double share, v1::GateResult& result) {
  ASSAY_ASSIGN_OR_RETURN(std::vector<int> pairs, AlignValues(from, to));
  return Placer(from, to, std::move(pairs), share).Fill(different, result);
}

}  // namespace assay::engine

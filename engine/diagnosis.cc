#include "engine/diagnosis.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "engine/graph_values.h"
#include "engine/invariance.h"
#include "engine/run_values.h"
#include "engine/tolerance.h"
#include "engine/trace_comparison.h"
#include "engine/verdict.h"

namespace assay::engine {
namespace {

constexpr size_t kMaxGrowth = 200;
// Numbers of each value that a reference run is remembered by.
constexpr int64_t kReferenceSamples = 4096;
// A comparison beyond this share of the largest magnitude is no rounding of one operator
// (docs/tolerances.md).
constexpr double kClearlyNoRounding = 3e-7;
constexpr size_t kEnoughExact = 3;

// Which nodes depend on node `first`, itself included.
std::vector<bool> DependOn(const v1::Graph& graph, uint32_t first) {
  std::vector<bool> value(graph.value_count(), false), node(graph.nodes_size(), false);
  for (int i = static_cast<int>(first); i < graph.nodes_size(); ++i) {
    bool depends = i == static_cast<int>(first);
    ForValues(graph.nodes(i), [&](uint32_t read) { depends = depends || value[read]; });
    node[i] = depends;
    for (const uint32_t made : graph.nodes(i).outputs()) value[made] = depends;
  }
  return node;
}

// The value that the error comes from; null: none is seen to differ.
const TracedValue* FindOrigin(const v1::Graph& graph, const std::vector<TracedValue>& values,
                              bool bits_expected) {
  const auto by = [&](bool beyond) -> const TracedValue* {
    for (const TracedValue& value : values) {
      if (beyond ? value.beyond : !value.exact) return &value;
    }
    return nullptr;
  };
  const TracedValue* first_beyond = by(true);
  const TracedValue* first_inexact = by(false);
  if (!bits_expected || first_inexact == nullptr || first_inexact == first_beyond) return first_beyond;
  const std::vector<bool> depends = DependOn(graph, first_inexact->node);
  size_t exact_elsewhere = 0;
  for (const TracedValue& value : values) {
    if (depends[value.node]) continue;
    if (!value.exact) return first_beyond;  // there is noise, or a second fault
    ++exact_elsewhere;
  }
  const bool clear = first_inexact->error > kClearlyNoRounding * first_inexact->scale;
  return clear || exact_elsewhere >= kEnoughExact ? first_inexact : first_beyond;
}

// Nodes without a trace that `node` reads through, ascending, itself last; and the nodes whose traced values
// they start from.
std::vector<uint32_t> WithUntraced(const v1::Graph& graph, const TraceComparison& comparison, uint32_t node) {
  const std::vector<ValueOrigin> origins = OriginsOf(graph);
  std::set<uint32_t> found = {node};
  std::vector<uint32_t> open = {node};
  while (!open.empty()) {
    const uint32_t next = open.back();
    open.pop_back();
    ForValues(graph.nodes(static_cast<int>(next)), [&](uint32_t value) {
      const ValueOrigin& origin = origins[value];
      if (origin.node < 0) return;
      const auto index = static_cast<uint32_t>(origin.node);
      if (comparison.TraceOf(index, origin.output) != nullptr) return;
      if (found.insert(index).second) open.push_back(index);
    });
  }
  return {found.begin(), found.end()};
}

void AddGrowth(const v1::Graph& graph, const std::vector<TracedValue>& values, const TracedValue* origin,
               v1::Divergence& divergence) {
  const size_t stretch = std::max<size_t>(1, (values.size() + kMaxGrowth / 2 - 1) / (kMaxGrowth / 2));
  const auto relative = [](const TracedValue& value) {
    if (value.error == 0) return 0.0;
    return value.scale > 0 ? value.error / value.scale : std::numeric_limits<double>::infinity();
  };
  const auto add = [&](const TracedValue& value) {
    if (divergence.growth_size() >= static_cast<int>(kMaxGrowth)) return;
    const v1::Node& node = graph.nodes(static_cast<int>(value.node));
    v1::GrowthPoint& point = *divergence.add_growth();
    point.set_node(value.node);
    point.set_name(node.name());
    point.set_module(graph.modules(static_cast<int>(node.module())));
    point.set_error(relative(value));
    point.set_allowed(value.scale > 0 ? value.bound / value.scale : 0);
  };
  for (size_t from = 0; from < values.size(); from += stretch) {
    const size_t to = std::min(values.size(), from + stretch);
    size_t worst = from;
    const TracedValue* own = nullptr;
    for (size_t i = from; i < to; ++i) {
      if (relative(values[i]) > relative(values[worst])) worst = i;
      if (&values[i] == origin) own = origin;
    }
    // The origin itself stands in its stretch, whatever comes after it there.
    add(own != nullptr ? *own : values[from]);
    if (worst != from && &values[worst] != own) add(values[worst]);
  }
}

void Name(const v1::Graph& graph, uint32_t index, v1::Divergence& divergence) {
  const v1::Node& node = graph.nodes(static_cast<int>(index));
  const v1::Operator& op = graph.operators(static_cast<int>(node.op()));
  divergence.set_node(node.name());
  divergence.set_op(op.overload().empty() ? op.name() : absl::StrCat(op.name(), ".", op.overload()));
  divergence.set_module(graph.modules(static_cast<int>(node.module())));
}

// What the node read and gave, from a run of its own. `comparison` may be null.
absl::Status AddStatistics(const v1::Graph& graph, const Plan& plan, absl::Span<const at::Tensor> inputs,
                           const TraceComparison* comparison, uint32_t index, v1::Divergence& divergence) {
  const v1::Node& node = graph.nodes(static_cast<int>(index));
  std::vector<uint32_t> read;
  ForValues(node, [&](uint32_t value) {
    if (std::find(read.begin(), read.end(), value) == read.end()) read.push_back(value);
  });
  std::set<uint32_t> wanted(read.begin(), read.end());
  wanted.insert(node.outputs().begin(), node.outputs().end());
  ASSAY_ASSIGN_OR_RETURN(const RunValues values, KeepValues(graph, plan, inputs, wanted, index));
  const std::vector<ValueOrigin> origins = OriginsOf(graph);
  const auto add = [&](uint32_t value, v1::ValueStatistics* made) {
    const ValueOrigin& origin = origins[value];
    const bool traced = comparison != nullptr && origin.node >= 0;
    const v1::NodeTrace* trace =
        traced ? comparison->TraceOf(static_cast<uint32_t>(origin.node), origin.output) : nullptr;
    *made = StatisticsOf(origin, values.at(value).toTensor(), trace);
    if (!traced) return;
    for (const TracedValue& compared : comparison->values()) {
      if (static_cast<int>(compared.node) == origin.node && compared.output == origin.output) {
        made->set_agrees(!compared.beyond);
      }
    }
  };
  for (const uint32_t value : read) {
    const auto found = values.find(value);
    if (found != values.end() && found->second.isTensor()) add(value, divergence.add_input());
    if (origins[value].source == "weight") divergence.add_weight(origins[value].name);
  }
  for (const uint32_t value : node.outputs()) {
    const auto found = values.find(value);
    if (found == values.end() || !found->second.isTensor()) continue;
    add(value, divergence.add_output());
    if (static_cast<int>(index) == origins[value].node && node.name() == divergence.node()) {
      divergence.mutable_output(divergence.output_size() - 1)->set_agrees(false);
    }
  }
  return absl::OkStatus();
}

struct Found {
  v1::Divergence divergence;
  Suspicion suspicion;
};

// One run held against a trace, whoever recorded it.
class Compared {
 public:
  Compared(const v1::Graph& graph, const v1::Golden& reference, const Plan& plan,
           absl::Span<const at::Tensor> inputs, double share)
      : graph_(graph), plan_(plan), inputs_(inputs), comparison_(graph, reference, share) {}

  // `bits`: the machine is expected to give the reference's numbers to the bit.
  absl::StatusOr<std::optional<Found>> Find(bool bits) {
    const absl::Status status = plan_.Run(inputs_, &comparison_).status();
    const TracedValue* origin = FindOrigin(graph_, comparison_.values(), bits);
    if (origin == nullptr) {
      ASSAY_RETURN_IF_ERROR(status);
      return std::optional<Found>();
    }
    std::optional<Found> found = Found();
    v1::Divergence& divergence = found->divergence;
    Name(graph_, origin->node, divergence);
    divergence.set_error(origin->error);
    divergence.set_detail(
        origin->beyond ? origin->detail
                       : absl::StrFormat("off by %.3g of %.3g; every value that does not come from it is "
                                         "the reference's to the bit",
                                         origin->error, origin->scale));
    found->suspicion.nodes = WithUntraced(graph_, comparison_, origin->node);
    found->suspicion.output = origin->output;
    found->suspicion.bound = origin->bound;
    found->suspicion.expected = comparison_.TraceOf(origin->node, origin->output);
    for (const uint32_t node : found->suspicion.nodes) {
      if (node != origin->node) divergence.add_suspect(graph_.nodes(static_cast<int>(node)).name());
    }
    AddGrowth(graph_, comparison_.values(), origin, divergence);
    ASSAY_RETURN_IF_ERROR(AddStatistics(graph_, plan_, inputs_, &comparison_, origin->node, divergence));
    return found;
  }

 private:
  const v1::Graph& graph_;
  const Plan& plan_;
  const absl::Span<const at::Tensor> inputs_;
  TraceComparison comparison_;
};

// A trace of a run, finer than a golden's.
class TraceRecorder final : public Observer {
 public:
  explicit TraceRecorder(v1::Golden& golden) : golden_(golden) {}
  bool ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool is_view) override {
    if (is_view || value.numel() == 0) return true;
    const at::Tensor numbers = ToNumbers(value);
    const double* data = numbers.const_data_ptr<double>();
    const int64_t numel = numbers.numel();
    v1::NodeTrace& trace = *golden_.add_trace();
    trace.set_node(place.index);
    trace.set_output(output);
    trace.set_numel(static_cast<uint64_t>(numel));
    double sum = 0, largest = 0;
    for (int64_t i = 0; i < numel; ++i) {
      sum += data[i];
      largest = std::isnan(data[i]) || std::isnan(largest) ? std::numeric_limits<double>::quiet_NaN()
                                                           : std::max(largest, std::abs(data[i]));
    }
    trace.set_mean(static_cast<float>(sum / static_cast<double>(numel)));
    trace.set_abs_max(static_cast<float>(largest));
    const int64_t count = std::min(kReferenceSamples, numel);
    for (int64_t k = 0; k < count; ++k) {
      trace.add_samples(static_cast<float>(data[(2 * k + 1) * numel / (2 * count)]));
    }
    return true;
  }

 private:
  v1::Golden& golden_;
};

// The bound plan's program on the CPU in float32, with the weights as they are bound.
absl::StatusOr<std::unique_ptr<Plan>> OnCpu(const BoundCase& bound) {
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, Plan::Build(bound.program, Placement{}));
  Weights weights;
  for (const v1::WeightSpec& spec : bound.program.manifest().weights()) {
    at::Tensor weight;
    for (const v1::GraphInput& input : bound.program.graph().inputs()) {
      if (input.kind() == v1::GraphInput::WEIGHT && input.name() == spec.name()) {
        weight = bound.plan.Fixed(input.value());
      }
    }
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(spec.dtype()));
    if (weight.defined()) weight = weight.to(at::TensorOptions(at::kCPU).dtype(dtype));
    weights.push_back(std::move(weight));  // one that nothing reads is not asked for
  }
  ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
  return plan;
}

bool BitsExpected(const BoundCase& bound) {
  return bound.plan.placement().device.is_cpu() && bound.plan.placement().dtype == at::ScalarType::Float &&
         bound.golden.cpu_capability() == CpuCapability() && at::get_num_threads() == 1;
}

bool TraceIsOfTheseWeights(const BoundCase& bound) {
  if (bound.golden.trace().empty()) return false;
  if (bound.checkpoint != nullptr) return true;
  return bound.weights == v1::MOCK && bound.seed == bound.program.manifest().mock_seed();
}

absl::StatusOr<std::optional<Found>> FindNonFinite(const v1::Graph& graph, const Plan& plan,
                                                   absl::Span<const at::Tensor> inputs) {
  for (const bool infinities : {false, true}) {
    FirstNonFinite watch(infinities);
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan.Run(inputs, &watch));
    const bool bad = std::any_of(outputs.begin(), outputs.end(),
                                 [&](const at::Tensor& output) { return HasNonFinite(output, infinities); });
    if (!bad || !watch.hit()) continue;
    std::optional<Found> found = Found();
    found->suspicion.nodes = {watch.hit()->node};
    found->suspicion.output = watch.hit()->output;
    v1::Divergence& divergence = found->divergence;
    divergence.set_from(v1::NON_FINITE);
    Name(graph, watch.hit()->node, divergence);
    divergence.set_error(std::numeric_limits<double>::infinity());
    ASSAY_RETURN_IF_ERROR(AddStatistics(graph, plan, inputs, nullptr, watch.hit()->node, divergence));
    uint64_t count = 0, of = 1;
    for (const v1::ValueStatistics& output : divergence.output()) {
      count = infinities ? output.inf() : output.nan();
      of = 1;
      for (const int64_t size : output.shape()) of *= static_cast<uint64_t>(size);
      if (count > 0) break;
    }
    divergence.set_detail(absl::StrCat("the first to give ", infinities ? "an infinity" : "NaN", ": ", count,
                                       " of ", of, " numbers"));
    return found;
  }
  return std::optional<Found>();
}

// From what `check` compared, or from anything that is known.
absl::StatusOr<std::optional<Found>> Find(const v1::Check& check, const BoundCase& bound) {
  const v1::Graph& graph = bound.program.graph();
  std::optional<Found> found;
  if (TraceIsOfTheseWeights(bound)) {
    const double share = DivergenceShare(bound.golden, bound.plan.placement());
    ASSAY_ASSIGN_OR_RETURN(
        found, Compared(graph, bound.golden, bound.plan, bound.inputs, share).Find(BitsExpected(bound)));
    if (found) found->divergence.set_from(v1::GOLDEN_TRACE);
    if (found) return found;
  }
  ASSAY_ASSIGN_OR_RETURN(found, FindNonFinite(graph, bound.plan, bound.inputs));
  if (found) return found;
  if (check.has_deterministic()) {
    v1::Golden again;
    TraceRecorder recorder(again);
    ASSAY_RETURN_IF_ERROR(bound.plan.Run(bound.inputs, &recorder).status());
    ASSAY_ASSIGN_OR_RETURN(found, Compared(graph, again, bound.plan, bound.inputs, 0).Find(false));
    if (found) found->divergence.set_from(v1::SECOND_RUN);
    return found;
  }
  if (const std::optional<AlteredRuns> runs = AlteredRunsOf(check, bound)) {
    v1::Divergence divergence;
    ASSAY_ASSIGN_OR_RETURN(const std::optional<uint32_t> node, FirstLeak(bound, *runs, divergence));
    if (!node) return std::optional<Found>();
    found.emplace();
    found->divergence = std::move(divergence);
    found->divergence.set_from(v1::ALTERED_RUN);
    Name(graph, *node, found->divergence);
    found->suspicion.nodes = {*node};
    ASSAY_RETURN_IF_ERROR(AddStatistics(graph, bound.plan, runs->altered, nullptr, *node, found->divergence));
    return found;
  }
  if (bound.plan.placement().device.is_cpu() && bound.plan.placement().dtype == at::ScalarType::Float) {
    return std::optional<Found>();
  }
  ASSAY_ASSIGN_OR_RETURN(const std::unique_ptr<Plan> cpu, OnCpu(bound));
  v1::Golden reference;
  TraceRecorder recorder(reference);
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& input : bound.inputs) {
    const at::Tensor there = input.to(at::kCPU);
    inputs.push_back(there.is_floating_point() ? there.to(at::kFloat) : there);
  }
  ASSAY_RETURN_IF_ERROR(cpu->Run(inputs, &recorder).status());
  const double share = DivergenceShare(bound.golden, bound.plan.placement());
  ASSAY_ASSIGN_OR_RETURN(found, Compared(graph, reference, bound.plan, bound.inputs, share).Find(false));
  if (!found) return found;
  found->divergence.set_from(v1::CPU_RUN);
  // Its trace ends with this function: the verdict is told from the operands alone.
  found->suspicion.expected = nullptr;
  return found;
}

}  // namespace

std::string CpuCapability() { return at::get_cpu_capability(); }

double DivergenceShare(const v1::Golden& golden, const Placement& placement) {
  if (placement.dtype != at::ScalarType::Float) return placement.dtype == at::ScalarType::Half ? 5e-3 : 4e-2;
  if (placement.device.is_cuda()) return 1e-4;
  return golden.cpu_capability() == CpuCapability() ? 1e-6 : 5e-6;
}

absl::StatusOr<std::optional<v1::Divergence>> FirstDivergence(const v1::Graph& graph,
                                                              const v1::Golden& golden, const Plan& plan,
                                                              absl::Span<const at::Tensor> inputs,
                                                              double share) {
  try {
    const bool bits = plan.placement().device.is_cpu() && plan.placement().dtype == at::ScalarType::Float &&
                      golden.cpu_capability() == CpuCapability() && at::get_num_threads() == 1;
    ASSAY_ASSIGN_OR_RETURN(std::optional<Found> found,
                           Compared(graph, golden, plan, inputs, share).Find(bits));
    if (!found) return std::optional<v1::Divergence>();
    found->divergence.set_from(v1::GOLDEN_TRACE);
    return std::optional<v1::Divergence>(std::move(found->divergence));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
}

absl::StatusOr<std::optional<Suspicion>> Suspect(const BoundCase& bound) {
  if (!TraceIsOfTheseWeights(bound)) return std::optional<Suspicion>();
  const double share = DivergenceShare(bound.golden, bound.plan.placement());
  ASSAY_ASSIGN_OR_RETURN(const std::optional<Found> found,
                         Compared(bound.program.graph(), bound.golden, bound.plan, bound.inputs, share)
                             .Find(BitsExpected(bound)));
  if (!found) return std::optional<Suspicion>();
  return std::optional<Suspicion>(found->suspicion);
}

absl::StatusOr<std::optional<v1::Divergence>> Diagnose(const v1::Check& check, const BoundCase& bound) {
  const auto start = std::chrono::steady_clock::now();
  try {
    ASSAY_ASSIGN_OR_RETURN(std::optional<Found> found, Find(check, bound));
    if (!found) return std::optional<v1::Divergence>();
    v1::Divergence& divergence = found->divergence;
    divergence.set_check(check.name());
    switch (divergence.from()) {
      case v1::GOLDEN_TRACE:
      case v1::NON_FINITE:
      case v1::CPU_RUN:
        Judge(bound, found->suspicion, divergence);
        break;
      default:
        divergence.set_fault(v1::FAULT_COMPUTATION);
        divergence.set_fault_reason("the same weights were used in both runs");
    }
    divergence.set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    return std::optional<v1::Divergence>(std::move(divergence));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

}  // namespace assay::engine

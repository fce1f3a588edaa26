#include "engine/verdict.h"

#include <ATen/ops/eq.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "engine/cut.h"
#include "engine/run_values.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

struct Verdict {
  v1::FaultVerdict fault = v1::FAULT_UNKNOWN;
  std::string reason;
};

// At the trace's places.
std::vector<double> SamplesOf(const at::Tensor& numbers, int64_t count) {
  std::vector<double> samples;
  const double* data = numbers.const_data_ptr<double>();
  for (int64_t k = 0; k < count; ++k) samples.push_back(data[(2 * k + 1) * numbers.numel() / (2 * count)]);
  return samples;
}

double Apart(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double error = std::abs(a[i] - b[i]);
    worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
  }
  return worst;
}

bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         (x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0);
}

class Judgement {
 public:
  Judgement(const BoundCase& bound, const Suspicion& suspicion)
      : bound_(bound), graph_(bound.program.graph()), suspicion_(suspicion) {}

  absl::StatusOr<Verdict> Make() {
    const uint32_t last = suspicion_.nodes.back();
    const v1::Node& node = graph_.nodes(static_cast<int>(last));
    CutWish wish;
    wish.nodes = suspicion_.nodes;
    wish.in_float64 = true;
    wish.outputs = {node.outputs(static_cast<int>(suspicion_.output))};
    const std::set<uint32_t> boundary = BoundaryOf(graph_, wish);
    ASSAY_ASSIGN_OR_RETURN(const RunValues known,
                           KeepValues(graph_, bound_.plan, bound_.inputs, boundary, last));
    const std::vector<ValueOrigin> origins = OriginsOf(graph_);
    for (const uint32_t value : boundary) {
      if (origins[value].source == "weight") weights_.push_back(value);
    }
    if (std::optional<Verdict> bad = BadWeight(origins, known)) return *bad;
    ASSAY_ASSIGN_OR_RETURN(const Cut cut, CutProgram(bound_.program, wish, known));
    ASSAY_ASSIGN_OR_RETURN(const auto plan, Plan::Build(cut.program, Placement{}));
    ASSAY_RETURN_IF_ERROR(plan->Bind({}));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> exact, plan->Run(cut.inputs));
    return Weigh(node, origins, known.at(node.outputs(static_cast<int>(suspicion_.output))).toTensor(),
                 exact[0]);
  }

 private:
  absl::StatusOr<Verdict> Weigh(const v1::Node& node, const std::vector<ValueOrigin>& origins,
                                const at::Tensor& ours, const at::Tensor& exact) {
    const at::Tensor found = ToNumbers(ours), right = ToNumbers(exact);
    const std::string what = absl::StrCat("computed in float64 from the same operands, ", node.name());
    if (found.numel() != right.numel()) {
      return Verdict{v1::FAULT_UNKNOWN, absl::StrCat(what, " has another number of elements")};
    }
    // Without a reference: is what came out what should have come out at all?
    if (suspicion_.expected == nullptr) {
      const bool finite_now = AllFinite(right);
      if (!AllFinite(found) && finite_now) {
        return Verdict{v1::FAULT_COMPUTATION, absl::StrCat(what, " is finite: ", Narrow(),
                                                           " does not hold the numbers, or its kernel "
                                                           "gave others")};
      }
      return Operands(origins, absl::StrCat(what, finite_now ? " is the same" : " is not finite either"));
    }
    const v1::NodeTrace& trace = *suspicion_.expected;
    if (trace.numel() != static_cast<uint64_t>(found.numel()) || trace.numel() == 0) {
      return Operands(
          origins, absl::StrCat(node.name(), " has ", found.numel(), " elements instead of ", trace.numel()));
    }
    const int64_t count = trace.samples_size();
    std::vector<double> expected(trace.samples().begin(), trace.samples().end());
    std::vector<double> of_run = SamplesOf(found, count), of_exact = SamplesOf(right, count);
    const auto add_figures = [](const at::Tensor& numbers, std::vector<double>& to) {
      const double* data = numbers.const_data_ptr<double>();
      double sum = 0, largest = 0;
      for (int64_t i = 0; i < numbers.numel(); ++i) {
        sum += data[i];
        largest = std::isnan(data[i]) ? data[i] : std::max(largest, std::abs(data[i]));
      }
      to.push_back(sum / static_cast<double>(numbers.numel()));
      to.push_back(largest);
    };
    expected.push_back(trace.mean());
    expected.push_back(trace.abs_max());
    add_figures(found, of_run);
    add_figures(right, of_exact);
    const double gap = Apart(of_run, expected);
    const double run_off = Apart(of_run, of_exact), reference_off = Apart(expected, of_exact);
    if (reference_off <= gap / 4 && run_off >= gap / 2) {
      return Verdict{
          v1::FAULT_COMPUTATION,
          absl::StrFormat("%s gives what the reference has (off by %.2g), and not what this run gave "
                          "(off by %.2g): the kernel computed it wrong",
                          what, reference_off, run_off)};
    }
    if (run_off <= gap / 4 && reference_off >= gap / 2) {
      return Operands(origins, absl::StrFormat("%s gives what this run gave (off by %.2g), and not what the "
                                               "reference has (off by %.2g)",
                                               what, run_off, reference_off));
    }
    return Verdict{v1::FAULT_UNKNOWN,
                   absl::StrFormat("%s lies between this run (off by %.2g) and the reference (off by %.2g)",
                                   what, run_off, reference_off)};
  }

  // A weight that is no number, or not the one that its mock rule gives.
  std::optional<Verdict> BadWeight(const std::vector<ValueOrigin>& origins, const RunValues& known) const {
    for (const uint32_t value : weights_) {
      const at::Tensor& weight = known.at(value).toTensor();
      if (weight.is_floating_point() && !AllFinite(ToNumbers(weight))) {
        return Verdict{v1::FAULT_WEIGHTS, absl::StrCat("weight ", origins[value].name, " holds NaN or Inf")};
      }
      if (bound_.weights != v1::MOCK) continue;
      for (const v1::WeightSpec& spec : bound_.program.manifest().weights()) {
        if (spec.name() != origins[value].name) continue;
        const auto made = MakeMockTensor(spec.name(), bound_.seed, spec.mock(), spec.dtype(), spec.shape());
        if (!made.ok()) continue;
        if (SameBits(weight.cpu(), Place(*made, bound_.plan.placement()).cpu())) continue;
        return Verdict{v1::FAULT_WEIGHTS,
                       absl::StrCat("weight ", spec.name(), " is not what its mock rule gives")};
      }
    }
    return std::nullopt;
  }

  // The operator was computed right, from what it was given; what it reads of the run agrees with the
  // reference.
  absl::StatusOr<Verdict> Operands(const std::vector<ValueOrigin>& origins, const std::string& because) {
    if (weights_.empty()) {
      return Verdict{v1::FAULT_COMPUTATION,
                     absl::StrCat(because,
                                  "; it reads no weight: the program's operators, their arguments or "
                                  "constants are not the reference's")};
    }
    std::vector<std::string> names;
    for (const uint32_t value : weights_) names.push_back(origins[value].name);
    const std::string read = absl::StrJoin(names, ", ");
    if (bound_.weights == v1::MOCK) {
      return Verdict{
          v1::FAULT_COMPUTATION,
          absl::StrCat(because, "; the weights it reads (", read,
                       ") are bit for bit what their mock rules give: the program's operators, their "
                       "arguments or constants are not the reference's")};
    }
    const v1::Program& program = bound_.program;
    if (!program.has_golden() || program.golden().outputs().empty()) {
      return Verdict{
          v1::FAULT_WEIGHTS,
          absl::StrCat(because, "; it reads ", read,
                       ". The program was exported for this checkpoint and compared with eager then; "
                       "it has no golden of mock weights to run it against")};
    }
    ASSAY_ASSIGN_OR_RETURN(const bool agrees, MockAgrees());
    if (agrees) {
      return Verdict{v1::FAULT_WEIGHTS,
                     absl::StrCat(because, "; it reads ", read,
                                  "; the same graph with mock weights agrees with its golden")};
    }
    return Verdict{
        v1::FAULT_COMPUTATION,
        absl::StrCat(because, "; the same graph with mock weights does not agree with its golden, either")};
  }

  absl::StatusOr<bool> MockAgrees() const {
    const v1::Program& program = bound_.program;
    ASSAY_ASSIGN_OR_RETURN(const Weights weights,
                           MockWeights(program.manifest(), program.manifest().mock_seed()));
    ASSAY_ASSIGN_OR_RETURN(const auto plan, Plan::Build(program, bound_.plan.placement()));
    ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan->Run(inputs));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> expected, GoldenOutputs(program));
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSAY_ASSIGN_OR_RETURN(const Bound allowed,
                             BoundFor(v1::Tolerance(), plan->placement(),
                                      &program.golden().outputs(static_cast<int>(i)), expected[i]));
      const auto difference = Compare(outputs[i], expected[i]);
      if (!difference.ok() || !(difference->error <= allowed.max)) return false;
    }
    return true;
  }

  static bool AllFinite(const at::Tensor& numbers) {
    const double* data = numbers.const_data_ptr<double>();
    return std::all_of(data, data + numbers.numel(), [](double x) { return std::isfinite(x); });
  }
  std::string Narrow() const { return c10::toString(bound_.plan.placement().dtype); }

  const BoundCase& bound_;
  const v1::Graph& graph_;
  const Suspicion& suspicion_;
  std::vector<uint32_t> weights_;  // values, that the suspected nodes read
};

}  // namespace

void Judge(const BoundCase& bound, const Suspicion& suspicion, v1::Divergence& divergence) {
  absl::StatusOr<Verdict> verdict = absl::InternalError("it was not tried");
  try {
    verdict = Judgement(bound, suspicion).Make();
  } catch (const c10::Error& error) {
    verdict = absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    verdict = absl::ResourceExhaustedError("out of memory");
  }
  if (!verdict.ok()) {
    divergence.set_fault(v1::FAULT_UNKNOWN);
    divergence.set_fault_reason(
        absl::StrCat("the operator could not be computed once more: ", verdict.status().message()));
    return;
  }
  divergence.set_fault(verdict->fault);
  divergence.set_fault_reason(std::move(verdict->reason));
}

}  // namespace assay::engine

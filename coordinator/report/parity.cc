#include "coordinator/report/parity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace assay::report {
namespace {

// What two results must share, so that a difference can only come of the device.
auto InputsOf(const v1::Job& job) {
  const v1::Provenance& from = job.result().provenance();
  return std::make_tuple(job.model().name(), static_cast<int>(from.dtype()), from.program_digest(),
                         from.checkpoint_program_digest(), from.golden_digest(), from.weights_digest(),
                         from.mock_seed());
}

// Holds pairs of figures against each other and keeps the worst.
class Comparison {
 public:
  explicit Comparison(ParityCheck& check) : check_(check) {}

  void Figure(const std::string& what, double a, double b, double allowed) {
    if (a == b) return;  // infinities too
    double error = std::abs(a - b);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error * std::max(check_.allowed, kLeast) > check_.error * std::max(allowed, kLeast) ||
        check_.message.empty()) {
      check_.error = error;
      check_.allowed = allowed;
      check_.message =
          absl::StrFormat("%s: %.9g and %.9g, off by %.3g, allowed %.3g", what, a, b, error, allowed);
    }
    if (!(error <= allowed)) Break();
  }

  void Differ(std::string why) {
    check_.message = std::move(why);
    check_.error = std::numeric_limits<double>::infinity();
    check_.allowed = 0;
    check_.parity = Parity::kDiffer;
  }

  void set_not_comparable(bool not_comparable) { not_comparable_ = not_comparable; }

 private:
  static constexpr double kLeast = 1e-300;

  void Break() {
    // What proves a fault outweighs what does not.
    if (!not_comparable_) check_.parity = Parity::kDiffer;
    if (check_.parity == Parity::kAgree) check_.parity = Parity::kNotComparable;
  }

  ParityCheck& check_;
  bool not_comparable_ = false;
};

void Compare(const v1::OutputSummary& a, const v1::OutputSummary& b, Comparison& comparison) {
  comparison.set_not_comparable(!a.not_comparable().empty() || !b.not_comparable().empty());
  const bool same_shape = std::equal(a.shape().begin(), a.shape().end(), b.shape().begin(), b.shape().end());
  if (a.name() != b.name() || !same_shape || a.samples_size() != b.samples_size() ||
      a.discrete() != b.discrete()) {
    return comparison.Differ(absl::StrCat("output '", a.name(), "' has another name, shape or dtype"));
  }
  // Both lie near the truth by their own bounds: the wider of them holds for the pair.
  const double allowed = std::max(a.allowed(), b.allowed());
  const double rms = std::max(a.allowed_rms(), b.allowed_rms());
  double count = 1;
  for (const int64_t size : a.shape()) count *= static_cast<double>(size);
  const std::string output = absl::StrCat("output '", a.name(), "', ");
  for (int i = 0; i < a.samples_size(); ++i) {
    comparison.Figure(absl::StrCat(output, "sample ", i), a.samples(i), b.samples(i), allowed);
  }
  comparison.Figure(output + "the largest magnitude", a.abs_max(), b.abs_max(), allowed);
  // Means differ by no more than the mean square of the differences (Cauchy and Schwarz), norms by no more
  // than the norm of the differences. The last bits are those of the sums themselves.
  const double bits = 1e-12 * std::max(a.norm(), b.norm());
  comparison.Figure(output + "the mean", a.mean(), b.mean(), rms + bits);
  comparison.Figure(output + "the norm", a.norm(), b.norm(), rms * std::sqrt(count) + bits);
}

const v1::CaseResult* CaseOf(const v1::Job& job, const std::string& name) {
  for (const v1::CaseResult& one : job.result().case_()) {
    if (one.name() == name) return &one;
  }
  return nullptr;
}

void CompareJobs(const v1::Job& first, const v1::Job& second, std::vector<ParityCheck>& checks) {
  for (const v1::CaseResult& a : first.result().case_()) {
    const v1::CaseResult* b = CaseOf(second, a.name());
    if (b == nullptr || a.output().empty() || b->output().empty()) continue;
    ParityCheck check;
    check.first = &first;
    check.second = &second;
    check.case_name = a.name();
    Comparison comparison(check);
    if (a.output_size() != b->output_size()) {
      comparison.Differ(absl::StrCat(a.output_size(), " outputs and ", b->output_size()));
    } else {
      for (int i = 0; i < a.output_size(); ++i) Compare(a.output(i), b->output(i), comparison);
    }
    checks.push_back(std::move(check));
  }
}

}  // namespace

std::string DeviceWord(const v1::Job& job) {
  const v1::DeviceInfo& device = job.result().provenance().device();
  // Processors differ by what their kernels may use, GPUs by their model.
  const std::string& which = device.kind() == "cpu" ? device.capability() : device.name();
  return which.empty() ? device.kind() : absl::StrCat(device.kind(), " ", which);
}

std::vector<ParityCheck> CompareDevices(const std::vector<const v1::Job*>& jobs) {
  std::map<decltype(InputsOf(std::declval<v1::Job>())), std::map<std::string, const v1::Job*>> groups;
  for (const v1::Job* job : jobs) {
    if (job->state() != v1::DONE || job->result().provenance().device().kind().empty()) continue;
    // Of several on one kind of device the first: they are compared by their goldens.
    groups[InputsOf(*job)].emplace(DeviceWord(*job), job);
  }
  std::vector<ParityCheck> checks;
  for (const auto& [inputs, by_device] : groups) {
    // "cpu …" sorts before "cuda …".
    for (auto first = by_device.begin(); first != by_device.end(); ++first) {
      for (auto second = std::next(first); second != by_device.end(); ++second) {
        CompareJobs(*first->second, *second->second, checks);
      }
    }
  }
  return checks;
}

std::string ParityWord(Parity parity) {
  if (parity == Parity::kAgree) return "agrees";
  return parity == Parity::kDiffer ? "DIFFERS" : "not comparable";
}

}  // namespace assay::report

#include "engine/invariance.h"

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "engine/alter.h"
#include "engine/diagnosis.h"
#include "engine/tolerance.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

constexpr uint64_t kMaxKeptBytes = uint64_t{1} << 30;

using Key = std::pair<uint32_t, uint32_t>;  // node, output

class KeepAll final : public Observer {
 public:
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) override {
    if (is_view) return true;
    bytes_ += value.nbytes();
    kept[{node.index, output}] = value;
    return bytes_ <= kMaxKeptBytes;
  }
  bool too_many() const { return bytes_ > kMaxKeptBytes; }
  std::map<Key, at::Tensor> kept;

 private:
  uint64_t bytes_ = 0;
};

class LeakWatch final : public Observer {
 public:
  LeakWatch(const AlteredRuns& runs, const std::map<Key, at::Tensor>& base, double share,
            v1::Divergence& divergence)
      : runs_(runs), base_(base), share_(share), divergence_(divergence) {}

  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) override {
    if (is_view) return true;
    const auto found = base_.find({node.index, output});
    if (found == base_.end()) return true;
    at::Tensor a = found->second, b = value;
    if (a.dim() != b.dim() || !Restrict(a, b) || a.sizes() != b.sizes() || a.numel() == 0) return true;
    const at::Tensor x = ToNumbers(a), y = ToNumbers(b);
    double scale = 0;
    const double* data = x.const_data_ptr<double>();
    for (int64_t i = 0; i < x.numel(); ++i) {
      if (std::isfinite(data[i]) && std::abs(data[i]) < 1e30) scale = std::max(scale, std::abs(data[i]));
    }
    const absl::StatusOr<Difference> difference = Compare(y, x);
    if (!difference.ok()) return true;
    // Many numbers were added on the way: both runs carry their rounding.
    const double allowed = value.is_floating_point() ? 10 * share_ * scale : 0;
    if (!(difference->error > allowed)) return true;
    leak = node.index;
    divergence_.set_error(difference->error);
    divergence_.set_detail(absl::StrFormat("%s in what must not move (largest magnitude %.3g)",
                                           Describe(*difference, x.sizes()), scale));
    return false;
  }

  std::optional<uint32_t> leak;

 private:
  // False where nothing says which part must not move.
  bool Restrict(at::Tensor& a, at::Tensor& b) const {
    bool any = false;
    for (int64_t d = 0; d < a.dim(); ++d) {
      if (runs_.row >= 0) {
        if (a.size(d) == runs_.batch && b.size(d) == 1) {
          a = a.narrow(d, runs_.row, 1);
          any = true;
        }
      } else if (d > 0 && a.size(d) == b.size(d) && runs_.lengths.count(a.size(d)) > 0) {
        const int64_t keep = a.size(d) - runs_.from_start - runs_.from_end;
        a = a.narrow(d, runs_.from_start, keep);
        b = b.narrow(d, runs_.from_start, keep);
        any = true;
      }
    }
    return any;
  }

  const AlteredRuns& runs_;
  const std::map<Key, at::Tensor>& base_;
  const double share_;
  v1::Divergence& divergence_;
};

}  // namespace

std::optional<AlteredRuns> AlteredRunsOf(const v1::Check& check, const BoundCase& bound) {
  const v1::Manifest& manifest = bound.program.manifest();
  AlteredRuns runs;
  runs.base = bound.inputs;
  runs.altered = bound.inputs;
  if (check.has_causality()) {
    const auto index = FindInput(manifest, "input", check.causality().input());
    const auto output = FindOutput(manifest, "output", check.causality().output());
    if (!index.ok() || !output.ok()) return std::nullopt;
    at::Tensor& input = runs.altered[static_cast<size_t>(*index)];
    const at::Tensor& rows = bound.outputs[static_cast<size_t>(*output)];
    if (input.dim() < 2 || rows.dim() < 2) return std::nullopt;
    const int64_t length = input.size(1), position = check.causality().position();
    const int64_t at = position < 0 ? length + position : position;
    auto changed = ChangePositions(input, manifest.inputs(*index), at, at + 1);
    if (!changed.ok()) return std::nullopt;
    input = *std::move(changed);
    runs.lengths = {length, rows.size(1)};
    runs.from_end = length - at;
    return runs;
  }
  if (check.has_padding_invariance()) {
    const auto& padding = check.padding_invariance();
    const auto index = FindInput(manifest, "input", padding.input());
    const auto mask = FindInput(manifest, "mask", padding.mask());
    if (!index.ok() || !mask.ok()) return std::nullopt;
    const bool left = padding.left();
    const auto shorter =
        (left ? MaskBeginning : MaskEnd)(bound.inputs[static_cast<size_t>(*mask)], padding.masked());
    if (!shorter.ok()) return std::nullopt;
    const int64_t length = shorter->size(1), masked = padding.masked();
    const auto changed = ChangePositions(bound.inputs[static_cast<size_t>(*index)], manifest.inputs(*index),
                                         left ? 0 : length - masked, left ? masked : length);
    if (!changed.ok()) return std::nullopt;
    runs.base[static_cast<size_t>(*mask)] = *shorter;
    runs.altered[static_cast<size_t>(*mask)] = *shorter;
    runs.altered[static_cast<size_t>(*index)] = *changed;
    runs.lengths = {length};
    (left ? runs.from_start : runs.from_end) = masked;
    return runs;
  }
  if (check.has_batch_invariance()) {
    runs.row = check.batch_invariance().row();
    for (int i = 0; i < manifest.inputs_size(); ++i) {
      if (!manifest.inputs(i).has_batch_dim()) continue;
      at::Tensor& input = runs.altered[static_cast<size_t>(i)];
      runs.batch = input.size(manifest.inputs(i).batch_dim());
      if (runs.row >= runs.batch) return std::nullopt;
      input = input.narrow(manifest.inputs(i).batch_dim(), runs.row, 1).contiguous();
    }
    if (runs.batch < 2) return std::nullopt;
    return runs;
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<uint32_t>> FirstLeak(const BoundCase& bound, const AlteredRuns& runs,
                                                  v1::Divergence& divergence) {
  KeepAll base;
  const absl::Status status = bound.plan.Run(runs.base, &base).status();
  if (base.too_many()) return absl::ResourceExhaustedError("the values of a run are more than 1 GiB");
  ASSAY_RETURN_IF_ERROR(status);
  LeakWatch watch(runs, base.kept, DivergenceShare(bound.golden, bound.plan.placement()), divergence);
  const absl::Status ran = bound.plan.Run(runs.altered, &watch).status();
  if (watch.leak) return watch.leak;
  ASSAY_RETURN_IF_ERROR(ran);
  return std::nullopt;
}

}  // namespace assay::engine

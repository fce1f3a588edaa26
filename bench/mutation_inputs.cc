#include "bench/mutation_inputs.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "common/status_macros.h"
#include "engine/mock.h"
#include "engine/tensors.h"

namespace assay::mutation {
namespace {

constexpr uint64_t kFirstSeed = 1000;

// Rows of another batch size, the golden's over and over.
at::Tensor Rows(const at::Tensor& tensor, int64_t dim, int64_t rows) {
  std::vector<at::Tensor> parts;
  int64_t have = 0;
  while (have < rows) {
    const int64_t take = std::min(tensor.size(dim), rows - have);
    parts.push_back(tensor.narrow(dim, 0, take));
    have += take;
  }
  return at::cat(parts, dim).contiguous();
}

bool IsAttentionMask(const v1::InputSpec& spec) {
  return absl::EndsWith(spec.name(), "attention_mask") && spec.shape_size() == 2 && spec.shape(1) > 3;
}

at::Tensor FreshMask(const at::Tensor& mask, uint64_t key, int form) {
  at::Tensor fresh = mask.to(at::kLong, false, true).contiguous();
  if (form == 0) return fresh.to(mask.scalar_type());
  auto* data = fresh.mutable_data_ptr<int64_t>();
  const int64_t length = fresh.size(1);
  for (int64_t row = 0; row < fresh.size(0); ++row) {
    const auto hidden = static_cast<int64_t>(engine::MockWord(key, static_cast<uint64_t>(row)) %
                                             static_cast<uint64_t>(length / 2 + 1));
    for (int64_t i = 0; i < hidden; ++i) data[row * length + (form == 1 ? length - 1 - i : i)] = 0;
  }
  return fresh.to(mask.scalar_type());
}

}  // namespace

absl::StatusOr<FreshInputs> MakeFreshInputs(const v1::Program& program, const std::vector<at::Tensor>& golden,
                                            int index) {
  const v1::Manifest& manifest = program.manifest();
  const uint64_t seed = kFirstSeed + static_cast<uint64_t>(index);
  const int64_t rows = index % 4 == 2 ? 1 : index % 4 == 3 ? 3 : 0;  // 0: as many as the golden has
  bool decoder = false;
  for (const v1::InputSpec& spec : manifest.inputs()) decoder |= absl::StartsWith(spec.name(), "decoder_");
  FreshInputs fresh;
  for (int i = 0; i < manifest.inputs_size(); ++i) {
    const v1::InputSpec& spec = manifest.inputs(i);
    at::Tensor value = golden[static_cast<size_t>(i)];
    const bool dynamic = spec.has_batch_dim() && rows > 0;
    const uint64_t key = engine::MockKey(spec.name(), seed);
    const v1::GoldenInput& source = program.golden().inputs(i);
    if (value.is_floating_point() && source.has_rule()) {
      auto shape = spec.shape();
      if (dynamic) shape.Set(spec.batch_dim(), rows);
      ASSAY_ASSIGN_OR_RETURN(value,
                             engine::MakeMockTensor(spec.name(), seed, source.rule(), spec.dtype(), shape));
    } else if (dynamic) {
      value = Rows(value, spec.batch_dim(), rows);
    }
    if (spec.has_id_low() && value.scalar_type() == at::kLong) {
      value = value.clone().contiguous();
      auto* data = value.mutable_data_ptr<int64_t>();
      const auto range = static_cast<uint64_t>(spec.id_high() - spec.id_low());
      for (int64_t k = 0; range > 0 && k < value.numel(); ++k) {
        if (data[k] < spec.id_low() || data[k] >= spec.id_high()) continue;
        data[k] =
            spec.id_low() + static_cast<int64_t>(engine::MockWord(key, static_cast<uint64_t>(k)) % range);
      }
    }
    if (IsAttentionMask(spec)) {
      value = FreshMask(value, key, index % 3);
      const bool of_output = spec.name() == (decoder ? "decoder_attention_mask" : "attention_mask");
      if (of_output && index % 3 != 0) fresh.seen = value.to(at::kBool);
    }
    fresh.inputs.push_back(std::move(value));
  }
  return fresh;
}

}  // namespace assay::mutation

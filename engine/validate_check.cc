#include "engine/validate_check.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

template <typename Specs>
absl::StatusOr<int> Index(const Specs& specs, absl::string_view field, const std::string& name) {
  std::vector<std::string> known;
  for (int i = 0; i < specs.size(); ++i) {
    if (specs[i].name() == name) return i;
    known.push_back(specs[i].name());
  }
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": the program has no '", name, "', only ", absl::StrJoin(known, ", ")));
}

}  // namespace

absl::StatusOr<int> FindInput(const v1::Manifest& manifest, absl::string_view field,
                              const std::string& name) {
  return Index(manifest.inputs(), field, name);
}

absl::StatusOr<int> FindOutput(const v1::Manifest& manifest, absl::string_view field,
                               const std::string& name) {
  return Index(manifest.outputs(), field, name);
}

absl::Status ValidateCheck(const v1::Check& check, const v1::Manifest& manifest) {
  auto input = [&](const std::string& name) { return FindInput(manifest, "input", name).status(); };
  auto mask = [&](const std::string& name) { return FindInput(manifest, "mask", name).status(); };
  auto output = [&](const std::string& name) { return FindOutput(manifest, "output", name).status(); };
  // The widest bounds that any placement has; where the check compares, its own placement's hold.
  auto tolerance = [](const v1::Tolerance& asked) {
    return FactorsFor(asked, Placement{at::kCPU, at::kBFloat16}).status();
  };
  absl::Status status;
  switch (check.kind_case()) {
    case v1::Check::kGolden:
      status = tolerance(check.golden().tolerance());
      break;
    case v1::Check::kCausality:
      status.Update(input(check.causality().input()));
      status.Update(output(check.causality().output()));
      status.Update(tolerance(check.causality().tolerance()));
      break;
    case v1::Check::kPaddingInvariance:
      status.Update(input(check.padding_invariance().input()));
      status.Update(mask(check.padding_invariance().mask()));
      status.Update(output(check.padding_invariance().output()));
      status.Update(tolerance(check.padding_invariance().tolerance()));
      break;
    case v1::Check::kBatchInvariance:
      status = tolerance(check.batch_invariance().tolerance());
      break;
    case v1::Check::kEncoderInfluence:
      status.Update(input(check.encoder_influence().input()));
      status.Update(output(check.encoder_influence().output()));
      break;
    case v1::Check::kInputInfluence:
      status.Update(input(check.input_influence().input()));
      status.Update(output(check.input_influence().output()));
      break;
    case v1::Check::kBoxRange:
      status = output(check.box_range().output());
      break;
    case v1::Check::kSimilaritySymmetry:
      status.Update(FindOutput(manifest, "first", check.similarity_symmetry().first()).status());
      status.Update(FindOutput(manifest, "second", check.similarity_symmetry().second()).status());
      status.Update(tolerance(check.similarity_symmetry().tolerance()));
      break;
    case v1::Check::kShapes:
    case v1::Check::kFinite:
    case v1::Check::kNotConstant:
    case v1::Check::kDeterministic:
    case v1::Check::kWeightsBound:
    case v1::Check::kWeightsSound:
    case v1::Check::kAnswers:
    case v1::Check::kRepeatedLayers:
    case v1::Check::kConfiguration:
    case v1::Check::kIdioms:
    case v1::Check::kWeightInfluence:
    case v1::Check::kWeightsAlike:
    case v1::Check::kWeightsIntact:
      break;
    case v1::Check::kEveryInput:
      for (const v1::Exemption& one : check.every_input().except()) status.Update(input(one.name()));
      break;
    case v1::Check::kPositionSensitivity:
      status.Update(input(check.position_sensitivity().input()));
      status.Update(output(check.position_sensitivity().output()));
      break;
    case v1::Check::kBatchOrder:
      status = tolerance(check.batch_order().tolerance());
      break;
    case v1::Check::kSdpa:
      status = tolerance(check.sdpa().tolerance());
      break;
    case v1::Check::kKvCache:
      status = tolerance(check.kv_cache().tolerance());
      break;
    case v1::Check::kGenerate:
      break;
    case v1::Check::kDynamicShapes:
      status = tolerance(check.dynamic_shapes().tolerance());
      break;
    case v1::Check::KIND_NOT_SET:
      status = absl::InvalidArgumentError("no kind, or one that this engine does not know");
      break;
  }
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("check '", check.name(), "': ", status.message()));
}

}  // namespace assay::engine

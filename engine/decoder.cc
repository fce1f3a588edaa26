#include "engine/decoder.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/tensors.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

bool HasOutput(const v1::Program& program, const std::string& name) {
  for (const v1::OutputSpec& output : program.manifest().outputs()) {
    if (output.name() == name) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Make(const v1::Variant& cache, const BoundCase& bound) {
  Decoder made(cache.decoding(), bound);
  const v1::Manifest& main = bound.program.manifest();
  ASSAY_ASSIGN_OR_RETURN(made.tokens_, FindInput(main, "decoding.tokens", cache.decoding().tokens()));
  ASSAY_ASSIGN_OR_RETURN(made.output_, FindOutput(main, "decoding.output", cache.decoding().output()));
  const at::Tensor& tokens = bound.inputs[static_cast<size_t>(made.tokens_)];
  if (tokens.dim() != 2 || tokens.scalar_type() != at::kLong || made.prompt() < 1 ||
      made.prompt() >= tokens.size(1)) {
    return absl::InvalidArgumentError(absl::StrCat("a prompt of ", made.prompt(),
                                                   " tokens must leave some of ", cache.decoding().tokens()));
  }
  ASSAY_ASSIGN_OR_RETURN(made.prefill_, BuildVariant(cache, "prefill", bound));
  ASSAY_ASSIGN_OR_RETURN(made.decode_, BuildVariant(cache, "decode", bound));
  ASSAY_RETURN_IF_ERROR(made.CheckSources(cache.decoding().prefill(), made.prefill_.program, true));
  ASSAY_RETURN_IF_ERROR(made.CheckSources(cache.decoding().decode(), made.decode_.program, false));
  return made;
}

absl::Status Decoder::CheckSources(const google::protobuf::RepeatedPtrField<v1::StepInput>& sources,
                                   const v1::Program& program, bool first) const {
  const auto& inputs = program.manifest().inputs();
  if (sources.size() != inputs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a step has ", sources.size(), " inputs, its program ", inputs.size()));
  }
  bool tokens = false;
  for (int i = 0; i < sources.size(); ++i) {
    const v1::StepInput& source = sources[i];
    const std::string what = absl::StrCat("step input ", source.input());
    if (source.input() != inputs[i].name()) {
      return absl::InvalidArgumentError(absl::StrCat(what, " stands where ", inputs[i].name(), " should"));
    }
    bool fine = true;
    switch (source.source_case()) {
      case v1::StepInput::kTokens:
        fine = source.tokens() && !std::exchange(tokens, true);
        break;
      case v1::StepInput::kMainInput:
        ASSAY_RETURN_IF_ERROR(FindInput(bound_.program.manifest(), what, source.main_input()).status());
        break;
      case v1::StepInput::kState:
        fine = !first && HasOutput(prefill_.program, source.state()) &&
               HasOutput(decode_.program, source.state());
        break;
      case v1::StepInput::kPrefillOutput:
        fine = !first && HasOutput(prefill_.program, source.prefill_output());
        break;
      case v1::StepInput::kCounted:
        fine = !(source.counted().add() != 0 && source.counted().append());
        break;
      case v1::StepInput::kAllTokens:  // not read yet
      case v1::StepInput::kGrown:
      case v1::StepInput::SOURCE_NOT_SET:
        fine = false;
        break;
    }
    if (!fine) return absl::InvalidArgumentError(absl::StrCat(what, ": it cannot be had from there"));
  }
  if (!tokens) return absl::InvalidArgumentError("no input of a step takes the tokens");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<at::Tensor>> Decoder::Inputs(
    const google::protobuf::RepeatedPtrField<v1::StepInput>& sources, const at::Tensor& tokens, uint32_t step,
    const Named& prefilled, const Named& last) const {
  std::vector<at::Tensor> made;
  for (const v1::StepInput& source : sources) {
    switch (source.source_case()) {
      case v1::StepInput::kTokens:
        made.push_back(tokens);
        break;
      case v1::StepInput::kMainInput: {
        ASSAY_ASSIGN_OR_RETURN(const int index,
                               FindInput(bound_.program.manifest(), "main_input", source.main_input()));
        made.push_back(bound_.inputs[static_cast<size_t>(index)]);
        break;
      }
      case v1::StepInput::kState:
        made.push_back(last.at(source.state()));
        break;
      case v1::StepInput::kPrefillOutput:
        made.push_back(prefilled.at(source.prefill_output()));
        break;
      default: {
        ASSAY_ASSIGN_OR_RETURN(at::Tensor value, MakeTensor(source.counted().first()));
        if (source.counted().add() != 0) value = at::add(value, at::Scalar(source.counted().add() * step));
        if (source.counted().append() && step > 0) {
          if (value.dim() < 1 || value.size(-1) < 1) {
            return absl::InvalidArgumentError(
                absl::StrCat("step input ", source.input(), ": nothing to append"));
          }
          at::Tensor more = value.narrow(-1, value.size(-1) - 1, 1);
          std::vector<int64_t> shape = more.sizes().vec();
          shape.back() = step;
          value = at::cat({value, more.expand(shape)}, -1);
        }
        made.push_back(std::move(value));
      }
    }
    made.back() = Place(made.back(), bound_.plan.placement());
  }
  return made;
}

absl::StatusOr<Decoder::Named> Decoder::RunOne(const VariantPlan& plan,
                                               const std::vector<at::Tensor>& inputs) const {
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan.plan->Run(inputs));
  Named made;
  for (size_t i = 0; i < outputs.size(); ++i) {
    made[plan.program.manifest().outputs(static_cast<int>(i)).name()] = outputs[i];
  }
  const at::Tensor& logits = outputs[0];
  if (logits.dim() != 3 || logits.size(1) < 1 || !logits.is_floating_point() ||
      logits.size(0) != bound_.inputs[static_cast<size_t>(tokens_)].size(0)) {
    return absl::InvalidArgumentError("the first output of a step is not [batch, positions, vocabulary]");
  }
  made[""] = logits.select(1, logits.size(1) - 1);
  return made;
}

absl::Status Decoder::Run(const Next& next) const {
  const at::Tensor prompt = bound_.inputs[static_cast<size_t>(tokens_)].narrow(1, 0, decoding_.prompt());
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> inputs,
                         Inputs(decoding_.prefill(), prompt.contiguous(), 0, {}, {}));
  ASSAY_ASSIGN_OR_RETURN(const Named prefilled, RunOne(prefill_, inputs));
  Named last = prefilled;
  for (uint32_t step = 0;; ++step) {
    ASSAY_ASSIGN_OR_RETURN(const at::Tensor tokens, next(step, last.at("")));
    if (!tokens.defined()) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(inputs, Inputs(decoding_.decode(), tokens, step, prefilled, last));
    ASSAY_ASSIGN_OR_RETURN(last, RunOne(decode_, inputs));
  }
}

}  // namespace assay::engine

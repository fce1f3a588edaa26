#include "engine/decoder.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>

#include <algorithm>
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

absl::StatusOr<Decoder> Decoder::Make(const v1::Variant& variant, const v1::Decoding& decoding,
                                      const BoundCase& bound) {
  Decoder made(decoding, bound);
  const v1::Manifest& main = bound.program.manifest();
  ASSAY_ASSIGN_OR_RETURN(made.tokens_, FindInput(main, "decoding.tokens", decoding.tokens()));
  ASSAY_ASSIGN_OR_RETURN(made.output_, FindOutput(main, "decoding.output", decoding.output()));
  const at::Tensor& tokens = bound.inputs[static_cast<size_t>(made.tokens_)];
  if (tokens.dim() != 2 || tokens.scalar_type() != at::kLong || made.prompt() < 1 ||
      made.prompt() >= tokens.size(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", made.prompt(), " tokens must leave some of ", decoding.tokens()));
  }
  ASSAY_RETURN_IF_ERROR(made.CheckRows());
  ASSAY_ASSIGN_OR_RETURN(VariantPlan decode, BuildVariant(variant, "decode", bound));
  made.decode_ = std::make_shared<const VariantPlan>(std::move(decode));
  made.prefill_ = made.decode_;
  if (variant.program_size() > 1) {
    ASSAY_ASSIGN_OR_RETURN(VariantPlan prefill, BuildVariant(variant, "prefill", bound));
    made.prefill_ = std::make_shared<const VariantPlan>(std::move(prefill));
  }
  ASSAY_RETURN_IF_ERROR(made.CheckSources(decoding.prefill(), made.prefill_->program, true));
  ASSAY_RETURN_IF_ERROR(made.CheckSources(decoding.decode(), made.decode_->program, false));
  return made;
}

absl::Status Decoder::CheckRows() const {
  const int64_t rows = decoding_.row_size();
  if (rows == 0) return absl::OkStatus();
  const at::Tensor& tokens = bound_.inputs[static_cast<size_t>(tokens_)];
  if (rows != tokens.size(0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("padding is told of ", rows, " rows, the batch has ", tokens.size(0)));
  }
  for (int64_t r = 0; r < rows; ++r) {
    if (padding(r) >= prompt() || following(r) < 0 || prompt() - padding(r) + following(r) > tokens.size(1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", r, " has ", padding(r), " tokens of padding and ", following(r),
                       " tokens behind a prompt of ", prompt(), ", the input has ", tokens.size(1)));
    }
  }
  return absl::OkStatus();
}

int64_t Decoder::padding(int64_t row) const {
  return decoding_.row_size() == 0 ? 0 : decoding_.row(static_cast<int>(row)).padding();
}

int64_t Decoder::following(int64_t row) const {
  if (decoding_.row_size() > 0) return decoding_.row(static_cast<int>(row)).tokens();
  return bound_.inputs[static_cast<size_t>(tokens_)].size(1) - prompt();
}

at::Tensor Decoder::Prompts() const {
  const at::Tensor tokens = bound_.inputs[static_cast<size_t>(tokens_)].to(at::kCPU);
  at::Tensor made = tokens.narrow(1, 0, prompt()).clone();
  for (int64_t r = 0; r < decoding_.row_size(); ++r) {
    if (padding(r) == 0) continue;
    made.select(0, r).narrow(0, 0, padding(r)).fill_(decoding_.pad_token());
    made.select(0, r)
        .narrow(0, padding(r), prompt() - padding(r))
        .copy_(tokens.select(0, r).narrow(0, 0, prompt() - padding(r)));
  }
  return made;
}

at::Tensor Decoder::Following(uint32_t step) const {
  const at::Tensor tokens = bound_.inputs[static_cast<size_t>(tokens_)].to(at::kCPU);
  at::Tensor made = tokens.narrow(1, 0, 1).clone();
  for (int64_t r = 0; r < batch(); ++r) {
    const int64_t at = std::min<int64_t>(prompt() - padding(r) + step, tokens.size(1) - 1);
    made.select(0, r).copy_(tokens.select(0, r).narrow(0, at, 1));
  }
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
        fine = !first && HasOutput(prefill_->program, source.state()) &&
               HasOutput(decode_->program, source.state());
        break;
      case v1::StepInput::kPrefillOutput:
        fine = !first && HasOutput(prefill_->program, source.prefill_output());
        break;
      case v1::StepInput::kCounted:
        fine = !(source.counted().add() != 0 && source.counted().append());
        break;
      case v1::StepInput::kAllTokens:
        fine = !std::exchange(tokens, true);
        break;
      case v1::StepInput::kGrown: {
        ASSAY_ASSIGN_OR_RETURN(const int index,
                               FindInput(bound_.program.manifest(), what, source.grown().main_input()));
        const at::Tensor& main = bound_.inputs[static_cast<size_t>(index)];
        const int64_t dim = source.grown().dim();
        fine = dim < main.dim() && main.size(dim) >= prompt() && source.grown().more() <= prompt();
        break;
      }
      case v1::StepInput::SOURCE_NOT_SET:
        fine = false;
        break;
    }
    if (!fine) return absl::InvalidArgumentError(absl::StrCat(what, ": it cannot be had from there"));
  }
  if (!tokens) return absl::InvalidArgumentError("no input of a step takes the tokens");
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> Decoder::Grow(const v1::StepInput::Grown& rule, uint32_t step) const {
  ASSAY_ASSIGN_OR_RETURN(const int index, FindInput(bound_.program.manifest(), "grown", rule.main_input()));
  const auto dim = static_cast<int64_t>(rule.dim());
  const at::Tensor cut = bound_.inputs[static_cast<size_t>(index)].narrow(dim, 0, prompt());
  std::vector<at::Tensor> pieces(1 + rule.more() + step, cut.narrow(dim, prompt() - 1, 1));
  pieces[0] = cut;
  return at::cat(pieces, dim);
}

absl::StatusOr<std::vector<at::Tensor>> Decoder::Inputs(
    const google::protobuf::RepeatedPtrField<v1::StepInput>& sources, uint32_t step,
    const Before& before) const {
  std::vector<at::Tensor> made;
  for (const v1::StepInput& source : sources) {
    switch (source.source_case()) {
      case v1::StepInput::kTokens:
        made.push_back(before.tokens);
        break;
      case v1::StepInput::kAllTokens: {
        std::vector<at::Tensor> pieces = {before.so_far};
        for (const int64_t token : source.all_tokens().then()) {
          pieces.push_back(at::full({batch(), 1}, token, before.so_far.options()));
        }
        made.push_back(at::cat(pieces, 1));
        break;
      }
      case v1::StepInput::kMainInput: {
        ASSAY_ASSIGN_OR_RETURN(const int index,
                               FindInput(bound_.program.manifest(), "main_input", source.main_input()));
        made.push_back(bound_.inputs[static_cast<size_t>(index)]);
        break;
      }
      case v1::StepInput::kGrown: {
        ASSAY_ASSIGN_OR_RETURN(at::Tensor value, Grow(source.grown(), step));
        made.push_back(std::move(value));
        break;
      }
      case v1::StepInput::kState:
        made.push_back(before.last.at(source.state()));
        break;
      case v1::StepInput::kPrefillOutput:
        made.push_back(before.prefilled.at(source.prefill_output()));
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
  if (logits.dim() != 3 || logits.size(1) < 1 || !logits.is_floating_point() || logits.size(0) != batch()) {
    return absl::InvalidArgumentError("the first output of a step is not [batch, positions, vocabulary]");
  }
  made[""] = logits.select(1, logits.size(1) - 1);
  return made;
}

absl::Status Decoder::Run(const Next& next) const {
  Before before;
  before.so_far = before.tokens = Prompts();
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> inputs, Inputs(decoding_.prefill(), 0, before));
  ASSAY_ASSIGN_OR_RETURN(before.prefilled, RunOne(*prefill_, inputs));
  before.last = before.prefilled;
  for (uint32_t step = 0;; ++step) {
    ASSAY_ASSIGN_OR_RETURN(const at::Tensor tokens, next(step, before.last.at("")));
    if (!tokens.defined()) return absl::OkStatus();
    before.tokens = tokens.to(at::kCPU);
    before.so_far = at::cat({before.so_far, before.tokens}, 1);
    ASSAY_ASSIGN_OR_RETURN(inputs, Inputs(decoding_.decode(), step, before));
    ASSAY_ASSIGN_OR_RETURN(before.last, RunOne(*decode_, inputs));
  }
}

absl::StatusOr<std::vector<Decoder::Part>> Decoder::Parts() const {
  Before before;
  before.so_far = before.tokens = Prompts();
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> first, Inputs(decoding_.prefill(), 0, before));
  std::vector<Part> made = {{prefill_.get(), first}};
  ASSAY_ASSIGN_OR_RETURN(before.prefilled, RunOne(*prefill_, first));
  before.last = before.prefilled;
  before.tokens = Following(0);
  before.so_far = at::cat({before.so_far, before.tokens}, 1);
  ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> second, Inputs(decoding_.decode(), 0, before));
  made.push_back({decode_.get(), std::move(second)});
  return made;
}

}  // namespace assay::engine

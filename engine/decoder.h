// Tokens written one by one with a cache: prefill, then a decode step a token (Decoding of program.proto).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/checks.h"
#include "engine/variants.h"

namespace assay::engine {

class Decoder {
 public:
  // `variant` has the programs, "prefill" and "decode" or "decode" alone; `decoding`, which must outlive the
  // decoder, says what their inputs are. INVALID_ARGUMENT: one of them is not what it should be.
  static absl::StatusOr<Decoder> Make(const v1::Variant& variant, const v1::Decoding& decoding,
                                      const BoundCase& bound);

  // Gives the next step's tokens, [batch, 1] on the CPU, from the logits [batch, vocabulary] of the step
  // before; an undefined tensor ends the run.
  using Next = std::function<absl::StatusOr<at::Tensor>(uint32_t step, const at::Tensor& logits)>;
  // Prefill, and a step for each token that `next` gives. Errors are those of Plan::Run and of `next`.
  absl::Status Run(const Next& next) const;

  // A run of one of the two programs, for whoever looks into it.
  struct Part {
    const VariantPlan* plan = nullptr;
    std::vector<at::Tensor> inputs;
  };
  // The first run of each: on the prompt, and on the main input's token after it. Errors as Run.
  absl::StatusOr<std::vector<Part>> Parts() const;

  // Index of the main program's tokens input and of the output that says the next token.
  int tokens() const { return tokens_; }
  int output() const { return output_; }
  int64_t prompt() const { return decoding_.prompt(); }
  // How many tokens of a row's prompt are padding, on its left.
  int64_t padding(int64_t row) const;
  // How many tokens follow each row's prompt in the main input, and are compared; at most what is there.
  int64_t following(int64_t row) const;
  int64_t batch() const { return bound_.inputs[static_cast<size_t>(tokens_)].size(0); }
  // The main input's token `step` after the prompt of each row, [batch, 1]; a row that has none there gives
  // some token of its.
  at::Tensor Following(uint32_t step) const;

 private:
  Decoder(const v1::Decoding& decoding, const BoundCase& bound) : decoding_(decoding), bound_(bound) {}

  using Named = std::map<std::string, at::Tensor>;
  absl::Status CheckSources(const google::protobuf::RepeatedPtrField<v1::StepInput>& sources,
                            const v1::Program& program, bool first) const;
  absl::Status CheckRows() const;
  at::Tensor Prompts() const;
  // What a step follows: all tokens so far on the CPU, the last of them, and what was given back.
  struct Before {
    at::Tensor so_far, tokens;
    Named prefilled, last;
  };
  absl::StatusOr<std::vector<at::Tensor>> Inputs(
      const google::protobuf::RepeatedPtrField<v1::StepInput>& sources, uint32_t step,
      const Before& before) const;
  absl::StatusOr<at::Tensor> Grow(const v1::StepInput::Grown& rule, uint32_t step) const;
  // Outputs by name; the last position's logits are under "".
  absl::StatusOr<Named> RunOne(const VariantPlan& plan, const std::vector<at::Tensor>& inputs) const;

  const v1::Decoding& decoding_;
  const BoundCase& bound_;
  std::shared_ptr<const VariantPlan> prefill_, decode_;  // the same where there is one program
  int tokens_ = 0, output_ = 0;
};

}  // namespace assay::engine

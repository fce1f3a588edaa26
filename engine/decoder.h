// Tokens written one by one with a cache: prefill, then a decode step a token (Decoding of program.proto).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
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
  // `cache`: a variant kv_cache. INVALID_ARGUMENT: its programs or its Decoding are not what they should be.
  static absl::StatusOr<Decoder> Make(const v1::Variant& cache, const BoundCase& bound);

  // Gives the next step's tokens, [batch, 1] on the CPU, from the logits [batch, vocabulary] of the step
  // before; an undefined tensor ends the run.
  using Next = std::function<absl::StatusOr<at::Tensor>(uint32_t step, const at::Tensor& logits)>;
  // Prefill, and a step for each token that `next` gives. Errors are those of Plan::Run and of `next`.
  absl::Status Run(const Next& next) const;

  // Index of the main program's tokens input and of the output that says the next token.
  int tokens() const { return tokens_; }
  int output() const { return output_; }
  int64_t prompt() const { return decoding_.prompt(); }

 private:
  Decoder(const v1::Decoding& decoding, const BoundCase& bound) : decoding_(decoding), bound_(bound) {}

  using Named = std::map<std::string, at::Tensor>;
  absl::Status CheckSources(const google::protobuf::RepeatedPtrField<v1::StepInput>& sources,
                            const v1::Program& program, bool first) const;
  absl::StatusOr<std::vector<at::Tensor>> Inputs(
      const google::protobuf::RepeatedPtrField<v1::StepInput>& sources, const at::Tensor& tokens,
      uint32_t step, const Named& prefilled, const Named& last) const;
  // Outputs by name; the last position's logits are under "".
  absl::StatusOr<Named> RunOne(const VariantPlan& plan, const std::vector<at::Tensor>& inputs) const;

  const v1::Decoding& decoding_;
  const BoundCase& bound_;
  VariantPlan prefill_, decode_;
  int tokens_ = 0, output_ = 0;
};

}  // namespace assay::engine

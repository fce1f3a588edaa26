// What a person reads off a model's outputs: the likeliest words or classes, a text, the nearest sentence.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

struct ReadAnswer {
  // What is compared with Answer.expected and KnownAnswer.text: the first label of Top, the text of Greedy,
  // the label of Nearest's row.
  std::string choice;
  // For a person: "paris (62 %), lyon (4 %)". ForPeople has had its way with it.
  std::string shown;
};

// Reads one answer that passed ValidateCheckpointGolden off a run, `inputs` and `outputs` being in the order
// of the manifest, on any device and in any dtype. INVALID_ARGUMENT: numbers that have no order (NaN), or
// sizes that are not the manifest's. Throws c10::Error where LibTorch does.
absl::StatusOr<ReadAnswer> ReadOff(const v1::Answer& answer, const v1::Manifest& manifest,
                                   absl::Span<const at::Tensor> inputs, absl::Span<const at::Tensor> outputs);

// A text out of a tokenizer's files, fit for a report or a terminal: without white space at its ends, control
// and direction characters escaped, bytes that are no UTF-8 replaced, at most about 600 bytes.
std::string ForPeople(absl::string_view text);

}  // namespace assay::engine

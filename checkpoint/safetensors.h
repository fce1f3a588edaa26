// The safetensors form, https://github.com/huggingface/safetensors: a little-endian length, a JSON header of
// that length, the data; and Hugging Face's index of shards.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/tensor.h"

namespace assay::checkpoint {

struct SafetensorsFile {
  Tensors tensors;
  bool synthetic = false;  // the metadata has "assay.weights"
};

// The tensors of one file, whose bytes `owner` keeps alive. INVALID_ARGUMENT, without the file's name: a
// header that is too long or no such JSON, a name that is there twice, dtypes, shapes and offsets that are
// wrong or do not cover the data exactly once. Time and memory are bounded by the header's length.
absl::StatusOr<SafetensorsFile> ReadSafetensors(absl::Span<const uint8_t> bytes,
                                                const std::shared_ptr<const void>& owner);

// The file of each tensor, out of model.safetensors.index.json. INVALID_ARGUMENT: no such JSON, a tensor that
// is there twice, more than 10,000 files, or one that is no plain file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(absl::string_view text);

}  // namespace assay::checkpoint

// The GGUF form, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/tensor.h"

namespace assay::checkpoint {

using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string>;

struct GgufFile {
  uint32_t version = 0;
  // Single values; arrays (vocabularies) and texts of more than 4 KiB are passed over.
  std::map<std::string, GgufValue> metadata;
  // By their names in the file, sizes outermost first (GGUF writes them innermost first).
  Tensors tensors;
};

// The tensors of one file, whose bytes `owner` keeps alive. Errors are without the file's name.
// INVALID_ARGUMENT: no such file, or counts, lengths, types and offsets that are wrong or do not cover the
// data in turn. UNIMPLEMENTED: another version, big-endian, a file that is one of several, a quantisation
// that is not read. Time and memory are bounded by the file's length.
absl::StatusOr<GgufFile> ReadGguf(absl::Span<const uint8_t> bytes, const std::shared_ptr<const void>& owner);

// Gives tensors the names and layouts that transformers' classes have: CheckpointTensor.library_name,
// relayout. UNIMPLEMENTED: an architecture whose names are not known. INVALID_ARGUMENT: metadata or shapes
// that do not go with the architecture.
absl::Status NameTensors(GgufFile& file);

// Both; what is wanted of a checkpoint.
absl::StatusOr<Tensors> ReadGgufTensors(absl::Span<const uint8_t> bytes,
                                        const std::shared_ptr<const void>& owner);

}  // namespace assay::checkpoint

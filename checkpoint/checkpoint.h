// A checkpoint folder: safetensors (https://github.com/huggingface/safetensors), single or sharded, or one
// GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Files are mapped, never read whole.
// A file that is cut short while it is mapped kills the process that reads it (SIGBUS): only a test's own
// child reads. No LibTorch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "checkpoint/fit.h"
#include "checkpoint/tensor.h"

namespace assay::checkpoint {

// What one pass over a checkpoint's data finds.
struct Inspection {
  std::string digest;  // as Checkpoint::Digest
  // "a.weight: 3 NaN of 1024, first at [0, 7]", "b.weight: all zero": of tensors that are bound.
  std::vector<std::string> defects;
};

// Immutable after Open, so any thread may use it.
class Checkpoint {
 public:
  // NOT_FOUND: no such folder, or no weights in it. FAILED_PRECONDITION: weights only as pickles, which are
  // code. UNIMPLEMENTED: a GGUF architecture or tensor type that is not read. INVALID_ARGUMENT: files that
  // lie about themselves (header size, offsets, overlaps, dtypes, duplicate names, shards and index that
  // disagree) or lie outside the folder. Every message names the file, and the tensor where it is about one.
  static absl::StatusOr<Checkpoint> Open(const std::filesystem::path& folder);

  // By the names of the file.
  const Tensors& tensors() const { return tensors_; }
  // "safetensors, 2 shards", "GGUF (Q4_1, F32)".
  const std::string& format() const { return format_; }
  // True if the metadata of the checkpoint has "assay.weights" ("synthetic"): its values are random.
  bool synthetic() const { return synthetic_; }
  // Of all tensors.
  uint64_t bytes() const;

  // SHA-256 over names, dtypes, shapes and data of all tensors, in order of name: independent of how they are
  // spread over files. Reads everything once. See "The weights' digest" in docs/checkpoints.md.
  std::string Digest() const;
  // The digest, and the defects of what `fit` binds, in one pass over the data by at most two threads.
  Inspection Inspect(const Fit& fit, int threads = 2) const;

  Fit Match(const v1::Manifest& manifest) const;

 private:
  Checkpoint() = default;
  Tensors tensors_;
  std::string format_;
  bool synthetic_ = false;
};

}  // namespace assay::checkpoint

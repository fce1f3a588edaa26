// A checkpoint folder in the safetensors form (https://github.com/huggingface/safetensors):
// model.safetensors, or shards named by model.safetensors.index.json. Files are mapped, never read whole. No
// LibTorch here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"

namespace assay::checkpoint {

// One tensor of a checkpoint, in a mapping that `owner` keeps alive.
struct CheckpointTensor {
  v1::ScalarType dtype = v1::SCALAR_TYPE_UNSPECIFIED;  // unspecified: a dtype that programs do not have
  std::string dtype_name;                              // as the file says, e.g. "F32"
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> data;  // little endian, row-major
  std::shared_ptr<const void> owner;
};

// How a checkpoint meets the weights of a program.
struct Fit {
  std::vector<std::string> missing;     // names of weights that it lacks, under their name and every alias
  std::vector<std::string> mismatched;  // "name: float32 [2, 3] in the program, F16 [2, 3] in the checkpoint"
  std::vector<std::string> unexpected;  // names that the program does not have; no hindrance
  bool fits() const { return missing.empty() && mismatched.empty(); }
  // One line with counts and the first few names.
  std::string Describe() const;
};

// Immutable after Open, so any thread may use it.
class Checkpoint {
 public:
  // NOT_FOUND: no such folder, or neither model.safetensors nor an index in it. INVALID_ARGUMENT: a file that
  // lies about itself (header size, offsets, overlaps, dtypes, duplicate names, shards that lack what the
  // index promises), with file and tensor named.
  static absl::StatusOr<Checkpoint> Open(const std::filesystem::path& folder);

  const std::map<std::string, CheckpointTensor>& tensors() const { return tensors_; }
  // True if the metadata of the checkpoint has "assay.weights" ("synthetic"): its values are random.
  bool synthetic() const { return synthetic_; }
  // SHA-256 over names, dtypes, shapes and data of all tensors, in order of name. Reads everything once.
  std::string Digest() const;

  // Compares with the weights of a program; aliases of Manifest.tied are accepted for the weight they name.
  Fit Match(const v1::Manifest& manifest) const;
  // The tensor of a weight, under its name or an alias; null if there is none.
  const CheckpointTensor* Find(const v1::Manifest& manifest, const std::string& weight) const;

 private:
  Checkpoint() = default;
  std::map<std::string, CheckpointTensor> tensors_;
  bool synthetic_ = false;
};

}  // namespace assay::checkpoint

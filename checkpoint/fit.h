// How a checkpoint meets the weights of a program. See "What is bound" in docs/checkpoints.md for the rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "checkpoint/tensor.h"

namespace assay::checkpoint {

// One weight of a program and the tensor bound to it.
struct BoundWeight {
  std::string name;  // of the program
  v1::ScalarType dtype = v1::SCALAR_TYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  bool bound = false;
  std::string key;          // of the checkpoint; empty unless bound
  CheckpointTensor tensor;  // keeps its mapping alive
};

// A value of its own: it keeps what it needs of the checkpoint. Immutable after Match, so any thread may read
// it.
struct Fit {
  std::vector<BoundWeight> weights;  // one per Manifest.weights, in its order
  // Everything that is not one weight bound to one key, in words. The first 100 names of `missing` and
  // `unexpected` carry "; nearest: …" where a close one is left over on the other side.
  std::vector<std::string> missing;     // weights that no key is for
  std::vector<std::string> mismatched;  // "name: float32 [2, 3] in the program, F32 [3, 2] in the checkpoint"
  std::vector<std::string> unexpected;  // keys that no weight is for; no hindrance
  std::vector<std::string> tied;        // "lm_head.weight = model.embed_tokens.weight"
  std::string format;                   // of the checkpoint

  bool fits() const { return missing.empty() && mismatched.empty(); }
  // One line with counts and the first few names.
  std::string Describe() const;
  // Tensors bound, in bytes as they lie in the checkpoint.
  uint64_t bytes() const;
  // Every key accounted for. Without `seconds`, and without defects unless given (Inspection::defects).
  v1::LoadReport Report(const std::vector<std::string>& defects = {}) const;

  // A bound weight's elements where they lie in the mapping: empty where they are not of the weight's dtype,
  // order or alignment (then Read), or there are none.
  absl::Span<const uint8_t> Data(size_t weight) const;
  // Writes a bound weight's elements to `out`, which has room for them in the weight's dtype: copied,
  // widened, dequantised, and put in the program's order. INVALID_ARGUMENT: not bound. RESOURCE_EXHAUSTED: no
  // memory. Different weights may be read from different threads at once.
  absl::Status Read(size_t weight, void* out) const;
};

// Binds by name: exact; an alias of Manifest.tied; base_model_prefix added or stripped; the first key_rename
// that is found; the old names of layer and weight norms. A key that two weights or a weight that two keys
// claim is a mismatch naming them. Reads data only of tied weights that are stored twice.
Fit MatchTensors(const Tensors& tensors, const std::string& format, const v1::Manifest& manifest);

}  // namespace assay::checkpoint

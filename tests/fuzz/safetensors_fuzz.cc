// Any bytes as a safetensors file: an error, or tensors that cover the data exactly, and can be matched,
// read, hashed and examined.
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/decode.h"
#include "checkpoint/fit.h"
#include "checkpoint/inspect.h"
#include "checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

using namespace assay;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto read = checkpoint::ReadSafetensors({data, size}, nullptr);
  if (!read.ok()) {
    FUZZ_EXPECT(!read.status().message().empty());
    return 0;
  }
  uint64_t covered = 0;
  v1::Manifest manifest;
  for (const auto& [name, tensor] : read->tensors) {
    covered += tensor.data.size();
    FUZZ_EXPECT(tensor.data.empty() ||
                (tensor.data.data() >= data + 8 && tensor.data.data() + tensor.data.size() <= data + size));
    v1::WeightSpec& spec = *manifest.add_weights();
    spec.set_name(name);
    spec.set_dtype(checkpoint::DecodesToFloat(tensor) ? v1::FLOAT : tensor.dtype);
    spec.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
  }
  FUZZ_EXPECT(covered <= size);
  const checkpoint::Fit fit = checkpoint::MatchTensors(read->tensors, "safetensors", manifest);
  FUZZ_EXPECT(fit.missing.empty() && fit.unexpected.empty());
  for (size_t i = 0; i < fit.weights.size(); ++i) {
    if (!fit.weights[i].bound) continue;
    std::vector<uint64_t> out(fit.weights[i].tensor.data.size() / 4 + 1);
    FUZZ_EXPECT(fit.Read(i, out.data()).ok());
    FUZZ_EXPECT(fit.Data(i).empty() || fit.Data(i).data() == fit.weights[i].tensor.data.data());
  }
  std::vector<std::string> defects;
  FUZZ_EXPECT(checkpoint::DigestAndInspect(read->tensors, fit, true, 1, &defects) ==
              checkpoint::DigestTensors(read->tensors));
  (void)fit.Report(defects).SerializeAsString();
  return 0;
}

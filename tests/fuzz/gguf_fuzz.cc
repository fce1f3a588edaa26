// Any bytes as a GGUF file: an error, or tensors inside the file that can be named, matched, read, hashed and
// examined.
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/decode.h"
#include "checkpoint/fit.h"
#include "checkpoint/gguf.h"
#include "checkpoint/inspect.h"
#include "tests/fuzz/fuzz.h"

using namespace assay;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = checkpoint::ReadGguf({data, size}, nullptr);
  if (!file.ok()) {
    FUZZ_EXPECT(!file.status().message().empty());
    return 0;
  }
  const bool named = checkpoint::NameTensors(*file).ok();
  v1::Manifest manifest;
  for (const auto& [name, tensor] : file->tensors) {
    FUZZ_EXPECT(!tensor.data.empty());
    FUZZ_EXPECT(tensor.data.data() >= data && tensor.data.data() + tensor.data.size() <= data + size);
    v1::WeightSpec& spec = *manifest.add_weights();
    spec.set_name(tensor.library_name.empty() ? name : tensor.library_name);
    spec.set_dtype(checkpoint::DecodesToFloat(tensor) ? v1::FLOAT : tensor.dtype);
    spec.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
    if (tensor.relayout == checkpoint::Relayout::kTranspose) {
      spec.mutable_shape()->SwapElements(0, 1);
    }
  }
  const checkpoint::Fit fit = checkpoint::MatchTensors(file->tensors, "GGUF", manifest);
  FUZZ_EXPECT(fit.missing.empty());
  for (size_t i = 0; named && i < fit.weights.size(); ++i) {
    if (!fit.weights[i].bound) continue;
    uint64_t bytes = 8;
    for (const int64_t dimension : fit.weights[i].shape) bytes *= static_cast<uint64_t>(dimension);
    // No block gives more than eight bytes for each of its own.
    FUZZ_EXPECT(bytes <= 64 * size);
    std::vector<uint64_t> out(bytes / 8);
    FUZZ_EXPECT(fit.Read(i, out.data()).ok());
  }
  std::vector<std::string> defects;
  FUZZ_EXPECT(checkpoint::DigestAndInspect(file->tensors, fit, true, 1, &defects) ==
              checkpoint::DigestTensors(file->tensors));
  // Protobuf takes UTF-8 only.
  FUZZ_EXPECT(v1::LoadReport().ParseFromString(fit.Report(defects).SerializeAsString()));
  return 0;
}

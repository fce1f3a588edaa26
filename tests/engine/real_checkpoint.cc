#include "tests/engine/real_checkpoint.h"

#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/checkpoint.h"
#include "common/digest.h"
#include "common/dtype.h"
#include "common/file.h"
#include "common/textproto.h"
#include "engine/mock.h"
#include "engine/program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

std::string FreshFolder() {
  static std::atomic<int> count{0};
  return absl::StrCat(::testing::TempDir(), "checkpoint_", getpid(), "_", count++);
}

std::string SafetensorsFile(const StoredTensor* begin, const StoredTensor* end, const std::string& marker) {
  nlohmann::ordered_json header;
  if (!marker.empty()) header["__metadata__"]["assay.weights"] = marker;
  std::string data;
  for (const StoredTensor* tensor = begin; tensor != end; ++tensor) {
    header[tensor->name] = {{"dtype", tensor->dtype},
                            {"shape", tensor->shape},
                            {"data_offsets", {data.size(), data.size() + tensor->data.size()}}};
    data += tensor->data;
  }
  std::string text = header.dump();
  while (text.size() % 8 != 0) text += ' ';
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + data;
}

// Writes a file named by its digest.
std::string WriteBlob(const std::string& folder, const std::string& bytes) {
  const std::string path = absl::StrCat(folder, "/", Sha256Hex(bytes));
  EXPECT_THAT(WriteFileAtomically(path, bytes), IsOk());
  return path;
}

const char* StoredDtype(v1::ScalarType dtype) {
  return dtype == v1::LONG ? "I64" : dtype == v1::BOOL ? "BOOL" : "F32";
}

}  // namespace

std::string WriteFolder(const std::vector<StoredTensor>& tensors, int shards, const std::string& marker) {
  const std::string folder = FreshFolder();
  if (shards == 1) {
    EXPECT_THAT(WriteFileAtomically(folder + "/model.safetensors",
                                    SafetensorsFile(tensors.data(), tensors.data() + tensors.size(), marker)),
                IsOk());
    return folder;
  }
  nlohmann::json index;
  const size_t each = (tensors.size() + static_cast<size_t>(shards) - 1) / static_cast<size_t>(shards);
  for (int shard = 0; shard < shards; ++shard) {
    const std::string name = absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards);
    const size_t begin = std::min(tensors.size(), static_cast<size_t>(shard) * each);
    const size_t end = std::min(tensors.size(), begin + each);
    for (size_t i = begin; i < end; ++i) index["weight_map"][tensors[i].name] = name;
    EXPECT_THAT(WriteFileAtomically(absl::StrCat(folder, "/", name),
                                    SafetensorsFile(tensors.data() + begin, tensors.data() + end, marker)),
                IsOk());
  }
  EXPECT_THAT(WriteFileAtomically(folder + "/model.safetensors.index.json", index.dump()), IsOk());
  return folder;
}

RealCheckpoint::RealCheckpoint(const std::string& model) : program(RealProgram(model)) {
  for (const v1::WeightSpec& spec : program.manifest().weights()) {
    StoredTensor tensor{
        spec.name(), StoredDtype(spec.dtype()), {spec.shape().begin(), spec.shape().end()}, ""};
    size_t numel = 1;
    for (const int64_t size : tensor.shape) numel *= static_cast<size_t>(size);
    tensor.data.resize(numel * ItemSize(spec.dtype()));
    EXPECT_THAT(FillMock(spec.name(), program.manifest().mock_seed(), spec.mock(), spec.dtype(), tensor.shape,
                         tensor.data.data()),
                IsOk());
    tensors.push_back(std::move(tensor));
  }
  golden.set_format(1);
  *golden.mutable_golden() = program.golden();
  program.clear_golden();
}

StoredTensor& RealCheckpoint::Named(const std::string& name) {
  for (StoredTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return tensors.front();
}

WrittenTest RealCheckpoint::Write() {
  WrittenTest written;
  written.options.checkpoint_dir = WriteFolder(tensors, shards, marker);
  const std::string program_file = *SerializeProgram(program);
  v1::CheckpointGolden with_digests = golden;
  if (golden.program_digest().empty()) with_digests.set_program_digest(Sha256Hex(program_file));
  if (golden.weights_digest().empty()) {
    auto checkpoint = checkpoint::Checkpoint::Open(written.options.checkpoint_dir);
    EXPECT_THAT(checkpoint, IsOk());
    with_digests.set_weights_digest(checkpoint->Digest());
  }
  const std::string golden_file = *SerializeCheckpointGolden(with_digests);
  const std::string blobs = FreshFolder();
  written.options.files[Sha256Hex(program_file)] = WriteBlob(blobs, program_file);
  written.options.files[Sha256Hex(golden_file)] = WriteBlob(blobs, golden_file);
  const std::string text = absl::StrCat(
      "name: 'fine_tuned' set_up { device: CPU dtype: FLOAT32 } trained { id: 'someone/fine-tuned' }\n",
      "case { name: 'test_model_loading' weights: REAL program_digest: '", Sha256Hex(program_file),
      "' golden_digest: '", Sha256Hex(golden_file), "'\n", checks, "\n}");
  EXPECT_THAT(ParseTextProto("test", text, written.test), IsOk());
  return written;
}

}  // namespace assay::engine

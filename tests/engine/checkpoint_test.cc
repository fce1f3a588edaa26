// Checkpoint folders: what fits is bound where it lies, what lies about itself is refused by name.
#include "checkpoint/checkpoint.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/id.h"
#include "engine/plan.h"
#include "engine/weights.h"
#include "tests/engine/program_maker.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

namespace fs = std::filesystem;
using checkpoint::Fit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A safetensors file: little-endian length of the header, the header, the data.
std::string File(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(size >> (8 * i));
  return file + header + data;
}

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

const std::vector<float> kTwelve = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
// What SmallProgram wants.
const char kDense[] = R"("dense.weight":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]})";

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { fs::create_directories(folder_); }
  ~CheckpointTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& content) {
    ASSERT_THAT(WriteFileAtomically(folder_ / name, content), IsOk());
  }
  absl::StatusOr<Checkpoint> OpenSingle(const std::string& header, const std::string& data) {
    Write("model.safetensors", File(header, data));
    return Checkpoint::Open(folder_);
  }

  const fs::path folder_ = fs::temp_directory_path() / ("assay_checkpoint_" + NewUuid());
};

TEST_F(CheckpointTest, WeightsAreBoundAndRun) {
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint,
                       OpenSingle(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
  const v1::Program program = SmallProgram();
  const Fit fit = checkpoint.Match(program.manifest());
  EXPECT_TRUE(fit.fits());
  EXPECT_EQ(fit.Describe(), "every weight is there, and nothing else");
  EXPECT_FALSE(checkpoint.synthetic());
  ASSERT_OK_AND_ASSIGN(const Weights weights, CheckpointWeights(program.manifest(), checkpoint));
  ASSERT_EQ(weights.size(), 1u);
  EXPECT_TRUE(at::equal(weights[0], at::tensor(kTwelve).view({4, 3})));
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(program, Placement()));
  EXPECT_THAT(plan->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto inputs, GoldenInputs(program));
  EXPECT_THAT(plan->Run(inputs), IsOk());
}

TEST_F(CheckpointTest, WeightsOutliveTheCheckpoint) {
  Weights weights;
  {
    ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint,
                         OpenSingle(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
    ASSERT_OK_AND_ASSIGN(weights, CheckpointWeights(SmallProgram().manifest(), checkpoint));
  }
  fs::remove_all(folder_);
  EXPECT_EQ(weights[0][3][2].item().toDouble(), 12);
}

// A header whose length is not a multiple of four leaves the data where no float may lie.
TEST_F(CheckpointTest, MisalignedDataIsCopied) {
  for (int spaces = 0; spaces < 4; ++spaces) {
    ASSERT_OK_AND_ASSIGN(
        const Checkpoint checkpoint,
        OpenSingle(absl::StrCat("{", kDense, "}", std::string(spaces, ' ')), Floats(kTwelve)));
    ASSERT_OK_AND_ASSIGN(const Weights weights, CheckpointWeights(SmallProgram().manifest(), checkpoint));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weights[0].const_data_ptr()) % 4, 0u);
    EXPECT_TRUE(at::equal(weights[0], at::tensor(kTwelve).view({4, 3})));
  }
}

TEST_F(CheckpointTest, SyntheticWeightsSaySo) {
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint checkpoint,
      OpenSingle(absl::StrCat(R"({"__metadata__":{"format":"pt","assay.weights":"synthetic"},)", kDense, "}"),
                 Floats(kTwelve)));
  EXPECT_TRUE(checkpoint.synthetic());
  EXPECT_EQ(checkpoint.tensors().size(), 1u);
}

TEST_F(CheckpointTest, ListsMissingMismatchedAndUnexpectedByName) {
  v1::Manifest manifest = SmallProgram().manifest();
  v1::WeightSpec& bias = *manifest.add_weights();
  bias.set_name("dense.bias");
  bias.set_dtype(v1::FLOAT);
  bias.add_shape(4);
  v1::WeightSpec& norm = *manifest.add_weights();
  norm = bias;
  norm.set_name("norm.weight");
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint,
                       OpenSingle(R"({"dense.weight":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},
                                      "norm.weight":{"dtype":"F16","shape":[4],"data_offsets":[48,56]},
                                      "extra":{"dtype":"I64","shape":[],"data_offsets":[56,64]}})",
                                  std::string(64, '\0')));
  const Fit fit = checkpoint.Match(manifest);
  EXPECT_FALSE(fit.fits());
  EXPECT_THAT(fit.missing, ElementsAre("dense.bias"));
  EXPECT_THAT(fit.mismatched,
              ElementsAre("dense.weight: float32 [4, 3] in the program, F32 [3, 4] in the checkpoint",
                          "norm.weight: float32 [4] in the program, F16 [4] in the checkpoint"));
  EXPECT_THAT(fit.unexpected, ElementsAre("extra"));
  EXPECT_THAT(CheckpointWeights(manifest, checkpoint),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("1 missing: dense.bias; 2 mismatched: dense.weight")));
}

TEST_F(CheckpointTest, ExtraKeysAreNoHindrance) {
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint checkpoint,
      OpenSingle(absl::StrCat("{", kDense, R"(,"extra":{"dtype":"U16","shape":[1],"data_offsets":[48,50]}})"),
                 Floats(kTwelve) + "ab"));
  const Fit fit = checkpoint.Match(SmallProgram().manifest());
  EXPECT_TRUE(fit.fits());
  EXPECT_EQ(fit.Describe(), "1 unexpected: extra");
}

TEST_F(CheckpointTest, AliasesOfTiedWeightsAreAccepted) {
  v1::Manifest manifest = SmallProgram().manifest();
  v1::TiedWeight& tied = *manifest.add_tied();
  tied.set_alias("head.weight");
  tied.set_weight("dense.weight");
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint checkpoint,
      OpenSingle(R"({"head.weight":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}})", Floats(kTwelve)));
  EXPECT_FALSE(checkpoint.Match(SmallProgram().manifest()).fits());
  EXPECT_TRUE(checkpoint.Match(manifest).fits());
  EXPECT_THAT(checkpoint.Match(manifest).unexpected, IsEmpty());
  ASSERT_OK_AND_ASSIGN(const Weights weights, CheckpointWeights(manifest, checkpoint));
  EXPECT_EQ(weights[0][0][0].item().toDouble(), 1);
}

TEST_F(CheckpointTest, DigestIsOfTheContentNotOfTheFiles) {
  const std::string two =
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})";
  ASSERT_OK_AND_ASSIGN(const Checkpoint first, OpenSingle(two, "xyz"));
  const std::string digest = first.Digest();
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint same,
      OpenSingle(
          R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          "zxy"));
  EXPECT_EQ(same.Digest(), digest);
  ASSERT_OK_AND_ASSIGN(const Checkpoint other, OpenSingle(two, "xyy"));
  EXPECT_NE(other.Digest(), digest);
}

TEST_F(CheckpointTest, ShardsAreReadTogether) {
  Write(
      "model.safetensors.index.json",
      R"({"metadata":{"total_size":56},"weight_map":{"dense.weight":"model-00001-of-00002.safetensors","other":"model-00002-of-00002.safetensors"}})");
  Write("model-00001-of-00002.safetensors", File(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
  Write("model-00002-of-00002.safetensors",
        File(R"({"other":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})", std::string(8, '\0')));
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder_));
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_TRUE(checkpoint.Match(SmallProgram().manifest()).fits());
}

TEST_F(CheckpointTest, ShardsMustKeepWhatTheIndexPromises) {
  const std::string shard = File(absl::StrCat("{", kDense, "}"), Floats(kTwelve));
  const auto refuses = [&](const std::string& index, const char* place) {
    Write("model.safetensors.index.json", index);
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(place)))
        << index;
  };
  Write("a.safetensors", shard);
  Write("b.safetensors", shard);
  refuses(R"({"weight_map":{"x":"c.safetensors"}})", "shard c.safetensors is missing");
  refuses(R"({"weight_map":{"x":"a.safetensors"}})", "tensor x is not in a.safetensors");
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","dense.weight":"b.safetensors"}})",
          "dense.weight is there twice");
  refuses(R"({"weight_map":{"x":"../a.safetensors"}})", "no file name");
  refuses(R"({"weight_map":{"x":"/etc/passwd"}})", "no file name");
  refuses(R"({"weight_map":{"x":".."}})", "no file name");
  refuses(R"({"weight_map":{"x":7}})", "x has no file name");
  refuses(R"({"weight_map":[]})", "no weight_map");
  refuses(R"([])", "no weight_map");
  refuses(R"({"weight_map":)", "model.safetensors.index.json");
  Write(
      "b.safetensors",
      File(
          R"({"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"dense.weight":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
          "1"));
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","y":"b.safetensors"}})",
          "tensor dense.weight is in another shard");
}

TEST_F(CheckpointTest, NoWeightsAreNotFound) {
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither model.safetensors")));
  EXPECT_THAT(Checkpoint::Open(folder_ / "none"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CheckpointTest, LiesAreRefusedByName) {
  const auto refuses = [&](const std::string& file, const char* place) {
    Write("model.safetensors", file);
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(place)))
        << file;
  };
  const auto tensor = [](const std::string& body, const std::string& data) {
    return File(absl::StrCat(R"({"w":{)", body, "}}"), data);
  };
  refuses("", "too short");
  refuses("1234567", "too short");
  refuses(std::string(8, '\xff') + "{}", "a header of 18446744073709551615 bytes");
  refuses(File("{}", "").substr(0, 9), "a header of 2 bytes in a file of 9");
  refuses(File("{", ""), "header: ");
  refuses(File("[]", ""), "no JSON object");
  refuses(File(R"({"__metadata__":1})", ""), "__metadata__");
  refuses(File(R"({"w":1})", ""), "tensor w: it is no object");
  refuses(tensor(R"("shape":[1],"data_offsets":[0,1])", "1"), "tensor w: it has no dtype");
  refuses(tensor(R"("dtype":"U8","data_offsets":[0,1])", "1"), "tensor w: it has no shape");
  refuses(tensor(R"("dtype":"U8","shape":[1])", "1"), "tensor w: it has no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,-1])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1.5])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", "1234"), "unknown dtype F31");
  refuses(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "1234"), "a bad size");
  refuses(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])", "1234"),
          "2^40 elements");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])", "1234"),
          "data_offsets [0, 8] in 4 bytes");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[3,2])", "1234"), "data_offsets [3, 2]");
  refuses(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "1234"), "need 8");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[1,5])", "12345"),
          "a hole between tensors at byte 1");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", "12345"),
          "1 bytes of data belong to no tensor");
  refuses(
      File(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          "123"),
      "tensors overlap at byte 1");
  refuses(
      File(
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          ""),
      "the name a is there twice");
}

TEST_F(CheckpointTest, TruncatedFilesAreErrors) {
  const std::string file = File(absl::StrCat("{", kDense, "}"), Floats(kTwelve));
  for (size_t length = 0; length < file.size(); ++length) {
    Write("model.safetensors", file.substr(0, length));
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kInvalidArgument)) << length;
  }
}

TEST_F(CheckpointTest, BoolsAreZeroOrOne) {
  v1::Manifest manifest;
  v1::WeightSpec& mask = *manifest.add_weights();
  mask.set_name("mask");
  mask.set_dtype(v1::BOOL);
  mask.add_shape(2);
  const std::string header = R"({"mask":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})";
  ASSERT_OK_AND_ASSIGN(const Checkpoint good, OpenSingle(header, std::string("\0\1", 2)));
  EXPECT_THAT(CheckpointWeights(manifest, good), IsOk());
  ASSERT_OK_AND_ASSIGN(const Checkpoint bad, OpenSingle(header, std::string("\0\2", 2)));
  EXPECT_THAT(CheckpointWeights(manifest, bad),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("mask: a bool")));
}

}  // namespace
}  // namespace assay::engine

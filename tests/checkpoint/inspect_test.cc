#include "checkpoint/inspect.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/checkpoint.h"
#include "common/digest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/folder.h"
#include "tests/matchers.h"

namespace assay::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// A safetensors file of tensors, and a program that wants some of them.
class Sample {
 public:
  Sample& Add(const std::string& name, const std::vector<int64_t>& shape, const std::string& dtype,
              const std::string& data) {
    absl::StrAppend(&header_, header_.empty() ? "{" : ",", "\"", name, "\":{\"dtype\":\"", dtype,
                    "\",\"shape\":[", absl::StrJoin(shape, ","), "],\"data_offsets\":[", data_.size(), ",",
                    data_.size() + data.size(), "]}");
    data_ += data;
    return *this;
  }
  Sample& Want(const std::string& name, const std::vector<int64_t>& shape, const std::string& dtype,
               const std::string& data, v1::ScalarType wanted = v1::FLOAT) {
    v1::WeightSpec& spec = *manifest_.add_weights();
    spec.set_name(name);
    spec.set_dtype(wanted);
    spec.mutable_shape()->Assign(shape.begin(), shape.end());
    return Add(name, shape, dtype, data);
  }
  Sample& Want(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    return Want(name, shape, "F32", Floats(values));
  }
  std::string File(const std::string& metadata = "") const {
    return Safetensors(absl::StrCat(header_, metadata, "}"), data_);
  }
  const v1::Manifest& manifest() const { return manifest_; }

 private:
  std::string header_;
  std::string data_;
  v1::Manifest manifest_;
};

class InspectTest : public FolderTest {
 protected:
  std::vector<std::string> Defects(const Sample& sample, const std::string& metadata = "") {
    Write("model.safetensors", sample.File(metadata));
    const auto checkpoint = Checkpoint::Open(folder_);
    EXPECT_THAT(checkpoint, IsOk());
    if (!checkpoint.ok()) return {};
    const Fit fit = checkpoint->Match(sample.manifest());
    EXPECT_TRUE(fit.fits()) << fit.Describe();
    const Inspection one = checkpoint->Inspect(fit, 1), two = checkpoint->Inspect(fit, 2);
    EXPECT_EQ(one.digest, checkpoint->Digest());
    EXPECT_EQ(two.digest, one.digest);
    EXPECT_EQ(two.defects, one.defects);
    return two.defects;
  }
};

TEST_F(InspectTest, NanAndInfAreCountedAndPlaced) {
  EXPECT_THAT(Defects(Sample()
                          .Want("a.weight", {2, 3}, {1, 2, 3, 4, kNan, -kNan})
                          .Want("b.weight", {3}, {kInf, 1, -kInf})
                          .Want("c.weight", {2}, {kNan, kInf})
                          .Want("fine.weight", {2}, {std::numeric_limits<float>::max(), 1e-45f})
                          .Want("scalar", {}, {kInf})),
              ElementsAre("a.weight: 2 NaN of 6, first at [1, 1]", "b.weight: 2 Inf of 3, first at [0]",
                          "c.weight: 1 NaN of 2, first at [0]", "c.weight: 1 Inf of 2, first at [1]",
                          "scalar: 1 Inf of 1, first at []"));
}

TEST_F(InspectTest, EveryFloatingTypeIsLookedAt) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(Defects(Sample()
                          .Want("half", {2}, "F16", Bytes<uint16_t>({0x7bff, 0x7c01}))
                          .Want("half_inf", {2}, "F16", Bytes<uint16_t>({0xfc00, 0}))
                          .Want("brain", {2}, "BF16", Bytes<uint16_t>({0x7f7f, 0xffc0}))
                          .Want("double", {2}, "F64", Bytes<double>({1, nan}), v1::DOUBLE)
                          .Want("int", {2}, "I64", Bytes<int64_t>({-1, 0x7ff8000000000000}), v1::LONG)),
              ElementsAre("brain: 1 NaN of 2, first at [1]", "double: 1 NaN of 2, first at [1]",
                          "half: 1 NaN of 2, first at [1]", "half_inf: 1 Inf of 2, first at [0]"));
}

TEST_F(InspectTest, MatricesOfZerosAreDefectsAndWhatMayBeZeroIsNot) {
  const std::vector<float> zeros(4, 0.0f);
  const std::vector<float> signs = {0.0f, -0.0f, -0.0f, 0.0f};
  const Sample sample = Sample()
                            .Want("embed.weight", {2, 2}, zeros)
                            .Want("dense.weight", {2, 2}, signs)
                            .Want("half.weight", {2, 2}, "F16", std::string(8, '\0'))
                            .Want("dense.bias", {4}, zeros)
                            .Want("relative_position_bias_table", {2, 2}, zeros)
                            .Want("LayerNorm.beta", {2, 2}, zeros)
                            .Want("running_mean", {4}, zeros)
                            .Want("mask_token", {1, 1, 4}, zeros)
                            .Want("num_batches_tracked", {}, "I64", std::string(8, '\0'), v1::LONG)
                            .Want("position_ids", {2, 2}, "I64", std::string(32, '\0'), v1::LONG)
                            .Want("padded.weight", {2, 2}, {0, 0, 0, 1e-45f});
  EXPECT_THAT(Defects(sample),
              ElementsAre("dense.weight: all zero", "embed.weight: all zero", "half.weight: all zero"));
  // Random weights are nobody's fault.
  EXPECT_THAT(Defects(sample, R"(,"__metadata__":{"assay.weights":"synthetic"})"), IsEmpty());
}

TEST_F(InspectTest, OnlyWhatIsBoundIsJudged) {
  EXPECT_THAT(Defects(Sample().Want("a", {1}, {1}).Add("other", {1}, "F32", Floats({kNan}))), IsEmpty());
}

// Pieces and blocks of the scan end in the middle of large tensors.
TEST_F(InspectTest, LargeTensorsAreSeenToTheLastElement) {
  constexpr size_t kCount = (1 << 19) + 12345;
  for (const size_t place : {size_t{0}, size_t{4095}, size_t{4096}, size_t{1 << 18}, kCount - 1}) {
    std::vector<float> values(kCount, 0.0f);
    values[place] = kNan;
    EXPECT_THAT(Defects(Sample().Want("w", {1, kCount}, values)),
                ElementsAre(absl::StrCat("w: 1 NaN of ", kCount, ", first at [0, ", place, "]")));
    values[place] = 1;
    EXPECT_THAT(Defects(Sample().Want("w", {1, kCount}, values)), IsEmpty());
  }
}

// The header's length decides where data lies: no float need be aligned.
TEST_F(InspectTest, MisalignedTensorsAreSeen) {
  EXPECT_THAT(Defects(Sample().Add("a", {1}, "U8", "x").Want("w", {2}, {1, kNan})),
              ElementsAre("w: 1 NaN of 2, first at [1]"));
}

TEST_F(InspectTest, QuantisedTensorsAreJudgedByWhatTheyStandFor) {
  Tensors tensors;
  Fit fit;
  const auto add = [&](const std::string& name, const std::vector<uint16_t>& scales) {
    std::string data;
    for (const uint16_t scale : scales) data += Bytes<uint16_t>({scale}) + std::string(32, '\1');
    auto owned = std::make_shared<std::string>(data);
    CheckpointTensor tensor;
    tensor.encoding = Encoding::kQ8_0;
    tensor.dtype_name = "Q8_0";
    tensor.shape = {static_cast<int64_t>(scales.size()), 32};
    tensor.data = {reinterpret_cast<const uint8_t*>(owned->data()), owned->size()};
    tensor.owner = owned;
    tensors[name] = tensor;
    BoundWeight weight;
    weight.name = weight.key = name;
    weight.bound = true;
    weight.tensor = tensor;
    fit.weights.push_back(weight);
  };
  add("good.weight", {0x3c00, 0});
  add("nan.weight", {0x3c00, 0x7e00});
  add("zero.weight", {0, 0x8000});
  std::vector<std::string> defects;
  DigestAndInspect(tensors, fit, true, 2, &defects);
  EXPECT_THAT(defects, ElementsAre("nan.weight: 32 NaN of 64, first at [1, 0]", "zero.weight: all zero"));
}

// The definition in docs/checkpoints.md, which other programs compute, too.
TEST_F(InspectTest, TheDigestIsWhatItIsDocumentedToBe) {
  Write("model.safetensors", Sample().Want("b", {2}, {1, 2}).Add("a", {}, "I8", "x").File());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder_));
  EXPECT_EQ(checkpoint.Digest(), Sha256Hex(absl::StrCat("1:aI8[]1:x1:bF32[2]8:", Floats({1, 2}))));
}

TEST_F(InspectTest, TheDigestIsOfTheContentNotOfTheFiles) {
  const auto digest = [&] {
    const auto checkpoint = Checkpoint::Open(folder_);
    EXPECT_THAT(checkpoint, IsOk());
    return checkpoint.ok() ? checkpoint->Digest() : "";
  };
  Write("model.safetensors", Sample().Add("a", {2}, "U8", "xy").Add("b", {1}, "U8", "z").File());
  const std::string first = digest();
  Write("model.safetensors", Sample().Add("b", {1}, "U8", "z").Add("a", {2}, "U8", "xy").File());
  EXPECT_EQ(digest(), first);
  Write("model.safetensors", Sample().Add("a", {2}, "U8", "xy").Add("b", {1}, "U8", "y").File());
  EXPECT_NE(digest(), first);
  Write("model.safetensors", Sample().Add("a", {1, 2}, "U8", "xy").Add("b", {1}, "U8", "z").File());
  EXPECT_NE(digest(), first);
  Write("model.safetensors", Sample().Add("a", {2}, "I8", "xy").Add("b", {1}, "U8", "z").File());
  EXPECT_NE(digest(), first);
  std::filesystem::remove(folder_ / "model.safetensors");
  Write("1.safetensors", Sample().Add("b", {1}, "U8", "z").File());
  Write("2.safetensors", Sample().Add("a", {2}, "U8", "xy").File());
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors"}})");
  EXPECT_EQ(digest(), first);
}

}  // namespace
}  // namespace assay::checkpoint

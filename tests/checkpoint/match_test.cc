#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/fit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/matchers.h"

namespace assay::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Tensors by name, without files.
class Stored {
 public:
  Stored& Add(const std::string& name, const std::vector<int64_t>& shape, v1::ScalarType dtype = v1::FLOAT,
              const std::string& dtype_name = "F32", std::string data = "") {
    CheckpointTensor& tensor = tensors_[name];
    tensor.dtype = dtype;
    tensor.dtype_name = dtype_name;
    tensor.shape = shape;
    if (data.empty()) {
      size_t bytes = dtype == v1::HALF || dtype == v1::BFLOAT16 ? 2 : dtype == v1::FLOAT ? 4 : 8;
      for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
      data.assign(bytes, static_cast<char>(tensors_.size()));
    }
    // Room for a pointer that is aligned, or off by one.
    auto owned = std::make_shared<std::vector<uint64_t>>(data.size() / 8 + 2);
    std::memcpy(owned->data(), data.data(), data.size());
    tensor.data = {reinterpret_cast<const uint8_t*>(owned->data()), data.size()};
    tensor.owner = owned;
    return *this;
  }
  Fit Match(const v1::Manifest& manifest) const { return MatchTensors(tensors_, "safetensors", manifest); }
  Tensors& tensors() { return tensors_; }

 private:
  Tensors tensors_;
};

void AddWeight(v1::Manifest& manifest, const std::string& name, const std::vector<int64_t>& shape,
               v1::ScalarType dtype = v1::FLOAT) {
  v1::WeightSpec& spec = *manifest.add_weights();
  spec.set_name(name);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Assign(shape.begin(), shape.end());
}

v1::Manifest Of(const std::vector<std::string>& names) {
  v1::Manifest manifest;
  for (const std::string& name : names) AddWeight(manifest, name, {2});
  return manifest;
}

std::vector<std::string> Keys(const Fit& fit) {
  std::vector<std::string> keys;
  for (const BoundWeight& weight : fit.weights) keys.push_back(weight.bound ? weight.key : "-");
  return keys;
}

void AddTied(v1::Manifest& manifest, const std::string& alias, const std::string& weight) {
  v1::TiedWeight& tied = *manifest.add_tied();
  tied.set_alias(alias);
  tied.set_weight(weight);
}

void AddRename(v1::Manifest& manifest, const std::string& pattern, const std::string& replacement) {
  v1::KeyRename& rule = *manifest.add_key_rename();
  rule.set_pattern(pattern);
  rule.set_replacement(replacement);
}

TEST(MatchTest, EveryKeyIsAccountedForByName) {
  v1::Manifest manifest;
  AddWeight(manifest, "dense.weight", {4, 3});
  AddWeight(manifest, "dense.bias", {4});
  AddWeight(manifest, "norm.weight", {4}, v1::LONG);
  AddWeight(manifest, "good", {2});
  const Fit fit = Stored()
                      .Add("dense.weight", {3, 4})
                      .Add("norm.weight", {4})
                      .Add("good", {2})
                      .Add("extra", {1}, v1::LONG, "I64")
                      .Match(manifest);
  EXPECT_FALSE(fit.fits());
  EXPECT_THAT(fit.missing, ElementsAre("dense.bias"));
  EXPECT_THAT(fit.mismatched,
              ElementsAre("dense.weight: float32 [4, 3] in the program, F32 [3, 4] in the checkpoint",
                          "norm.weight: int64 [4] in the program, F32 [4] in the checkpoint"));
  EXPECT_THAT(fit.unexpected, ElementsAre("extra"));
  EXPECT_THAT(Keys(fit), ElementsAre("-", "-", "-", "good"));
  EXPECT_THAT(fit.Describe(), HasSubstr("1 missing: dense.bias; 2 mismatched: dense.weight"));
  EXPECT_THAT(fit.Read(0, nullptr), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dense.weight")));
  const v1::LoadReport report = fit.Report({"good: all zero"});
  EXPECT_EQ(report.format(), "safetensors");
  EXPECT_EQ(report.bound(), 1u);
  EXPECT_EQ(report.missing_count(), 1u);
  EXPECT_EQ(report.mismatched_count(), 2u);
  EXPECT_EQ(report.unexpected_count(), 1u);
  EXPECT_EQ(report.converted_count(), 0u);
  EXPECT_EQ(report.bytes(), 8u);
  EXPECT_THAT(report.defect(), ElementsAre("good: all zero"));
  EXPECT_EQ(report.defect_count(), 1u);
}

TEST(MatchTest, ExtraKeysAreNoHindrance) {
  const Fit fit = Stored().Add("a", {2}).Add("extra", {1}).Match(Of({"a"}));
  EXPECT_TRUE(fit.fits());
  EXPECT_EQ(fit.Describe(), "1 unexpected: extra");
  EXPECT_EQ(Stored().Add("a", {2}).Match(Of({"a"})).Describe(), "every weight is there, and nothing else");
}

TEST(MatchTest, TiedWeightsAreBoundUnderEitherName) {
  v1::Manifest manifest = Of({"model.embed.weight"});
  AddTied(manifest, "lm_head.weight", "model.embed.weight");
  const Fit other = Stored().Add("lm_head.weight", {2}).Match(manifest);
  EXPECT_TRUE(other.fits());
  EXPECT_THAT(Keys(other), ElementsAre("lm_head.weight"));
  EXPECT_THAT(other.tied, ElementsAre("model.embed.weight = lm_head.weight"));
  EXPECT_EQ(other.Report().tied_count(), 1u);
  // Stored twice, the same: one tensor.
  const std::string data = "12345678";
  const Fit both = Stored()
                       .Add("lm_head.weight", {2}, v1::FLOAT, "F32", data)
                       .Add("model.embed.weight", {2}, v1::FLOAT, "F32", data)
                       .Match(manifest);
  EXPECT_TRUE(both.fits());
  EXPECT_THAT(Keys(both), ElementsAre("model.embed.weight"));
  EXPECT_THAT(both.tied, ElementsAre("lm_head.weight = model.embed.weight"));
  EXPECT_THAT(both.unexpected, IsEmpty());
  // Stored twice, and different: which one is meant?
  const Fit different = Stored()
                            .Add("lm_head.weight", {2}, v1::FLOAT, "F32", "12345679")
                            .Add("model.embed.weight", {2}, v1::FLOAT, "F32", data)
                            .Match(manifest);
  EXPECT_THAT(
      different.mismatched,
      ElementsAre("model.embed.weight: both model.embed.weight and lm_head.weight are for it, tied in "
                  "the program, and they differ"));
  EXPECT_THAT(Keys(different), ElementsAre("-"));
}

TEST(MatchTest, TheBaseModelsPrefixIsAddedOrTakenAway) {
  v1::Manifest task = Of({"bert.dense", "classifier"});
  task.set_base_model_prefix("bert");
  EXPECT_THAT(Keys(Stored().Add("dense", {2}).Add("classifier", {2}).Match(task)),
              ElementsAre("dense", "classifier"));
  v1::Manifest base = Of({"dense"});
  base.set_base_model_prefix("bert");
  const Fit stripped = Stored().Add("bert.dense", {2}).Add("cls.bias", {2}).Match(base);
  EXPECT_THAT(Keys(stripped), ElementsAre("bert.dense"));
  EXPECT_THAT(stripped.unexpected, ElementsAre("cls.bias"));
  // Both have it: a key without it is not the weight that has it.
  EXPECT_THAT(Stored().Add("dense", {2}).Add("bert.other", {2}).Match(task).missing,
              ElementsAre("bert.dense", "classifier"));
  EXPECT_FALSE(Stored().Add("dense", {2}).Match(Of({"bert.dense"})).fits());
  // An alias under the prefix.
  v1::Manifest tied = Of({"model.embed"});
  tied.set_base_model_prefix("model");
  AddTied(tied, "model.head", "model.embed");
  EXPECT_THAT(Keys(Stored().Add("head", {2}).Match(tied)), ElementsAre("head"));
}

TEST(MatchTest, KeysAreRenamedByTheFirstRuleThatIsFound) {
  v1::Manifest manifest = Of({"model.layers.0.up", "model.layers.1.up", "head"});
  AddRename(manifest, "^transformer\\.h\\.(\\d+)\\.", "model.layers.$1.");
  AddRename(manifest, "^transformer", "nothing");
  AddRename(manifest, "^lm_(?=head)", "");
  const Fit fit = Stored()
                      .Add("transformer.h.0.up", {2})
                      .Add("transformer.h.1.up", {2})
                      .Add("lm_head", {2})
                      .Match(manifest);
  EXPECT_TRUE(fit.fits()) << fit.Describe();
  EXPECT_THAT(Keys(fit), ElementsAre("transformer.h.0.up", "transformer.h.1.up", "lm_head"));
}

TEST(MatchTest, RulesThatCannotBeUsedAreFaults) {
  v1::Manifest manifest = Of({"a"});
  AddRename(manifest, "(", "");
  const Fit fit = Stored().Add("a", {2}).Match(manifest);
  EXPECT_FALSE(fit.fits());
  EXPECT_THAT(fit.mismatched, ElementsAre(HasSubstr("key_rename: '('")));
  v1::Manifest back = Of({"a"});
  AddRename(back, R"((a)\1)", "");  // would be exponential
  EXPECT_FALSE(Stored().Add("a", {2}).Match(back).fits());
  v1::Manifest many = Of({"a"});
  for (int i = 0; i < 65; ++i) AddRename(many, "b", "c");
  EXPECT_THAT(Stored().Add("a", {2}).Match(many).mismatched, ElementsAre(HasSubstr("more than 64 rules")));
}

// A pattern that takes a backtracking matcher longer than there is time.
TEST(MatchTest, HostilePatternsTakePolynomialTime) {
  v1::Manifest manifest = Of({"a"});
  AddRename(manifest, "^(x+x+)+y$", "a");
  EXPECT_THAT(Stored().Add(std::string(500, 'x'), {2}).Match(manifest).unexpected, SizeIs(1));
}

TEST(MatchTest, OldNamesOfNormsAreKnown) {
  const Fit fit =
      Stored()
          .Add("bert.LayerNorm.gamma", {2})
          .Add("bert.LayerNorm.beta", {2})
          .Add("conv.weight_g", {2})
          .Add("conv.weight_v", {2})
          .Match(Of({"bert.LayerNorm.weight", "bert.LayerNorm.bias", "conv.parametrizations.weight.original0",
                     "conv.parametrizations.weight.original1"}));
  EXPECT_TRUE(fit.fits()) << fit.Describe();
  EXPECT_THAT(Keys(fit),
              ElementsAre("bert.LayerNorm.gamma", "bert.LayerNorm.beta", "conv.weight_g", "conv.weight_v"));
  // Only where the new name is not meant: a layer scale that is called gamma is itself.
  EXPECT_THAT(Keys(Stored().Add("layer.gamma", {2}).Match(Of({"layer.gamma"}))), ElementsAre("layer.gamma"));
}

TEST(MatchTest, TwoKeysForOneWeightAreAMismatch) {
  const Fit fit =
      Stored().Add("LayerNorm.gamma", {2}).Add("LayerNorm.weight", {2}).Match(Of({"LayerNorm.weight"}));
  EXPECT_THAT(fit.mismatched,
              ElementsAre("LayerNorm.weight: both LayerNorm.gamma and LayerNorm.weight are for it"));
}

TEST(MatchTest, NearestNamesAreGivenWhereTheyAreClose) {
  const Fit fit = Stored()
                      .Add("encoder.layers.0.attn.q_proj.weight", {2})
                      .Add("encoder.layers.1.self_attn.q_proj.weight", {2})
                      .Add("something.else.entirely", {2})
                      .Match(Of({"encoder.layers.0.self_attn.q_proj.weight", "pooler.dense.bias"}));
  EXPECT_THAT(fit.missing, ElementsAre("encoder.layers.0.self_attn.q_proj.weight; nearest: "
                                       "encoder.layers.0.attn.q_proj.weight",
                                       "pooler.dense.bias"));
  EXPECT_THAT(fit.unexpected, ElementsAre(HasSubstr("nearest: encoder.layers.0.self_attn.q_proj.weight"),
                                          HasSubstr("nearest"), "something.else.entirely"));
}

TEST(MatchTest, ReportsHoldTheFirstHundredNamesAndCountAll) {
  v1::Manifest manifest;
  Stored stored;
  // As many names as the largest checkpoints have, all of them close to each other.
  for (int i = 0; i < 6000; ++i) {
    AddWeight(manifest, absl::StrCat("model.layers.", i, ".mlp.experts.up.weight"), {2});
    stored.Add(absl::StrCat("model.blocks.", i, ".mlp.experts.up.weight"), {2});
  }
  const Fit fit = stored.Match(manifest);
  const v1::LoadReport report = fit.Report();
  EXPECT_EQ(report.missing_count(), 6000u);
  EXPECT_EQ(report.unexpected_count(), 6000u);
  EXPECT_THAT(report.missing(), SizeIs(100));
  EXPECT_THAT(report.unexpected(), SizeIs(100));
  EXPECT_EQ(report.missing(7),
            "model.layers.7.mlp.experts.up.weight; nearest: model.blocks.7.mlp.experts.up.weight");
}

TEST(MatchTest, NarrowNumbersWidenExactly) {
  v1::Manifest manifest;
  AddWeight(manifest, "half", {65536});
  AddWeight(manifest, "brain", {65536});
  std::string every(131072, '\0');
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t stored = static_cast<uint16_t>(bits);
    std::memcpy(every.data() + 2 * bits, &stored, 2);
  }
  const Fit fit = Stored()
                      .Add("half", {65536}, v1::HALF, "F16", every)
                      .Add("brain", {65536}, v1::BFLOAT16, "BF16", every)
                      .Match(manifest);
  ASSERT_TRUE(fit.fits());
  EXPECT_EQ(fit.Report().converted_count(), 2u);
  EXPECT_TRUE(fit.Data(0).empty());
  std::vector<float> half(65536), brain(65536);
  ASSERT_THAT(fit.Read(0, half.data()), IsOk());
  ASSERT_THAT(fit.Read(1, brain.data()), IsOk());
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 31  ? std::numeric_limits<double>::infinity()
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(half[bits])) << bits;
    } else {
      ASSERT_EQ(half[bits], bits & 0x8000 ? -magnitude : magnitude) << bits;
      ASSERT_EQ(std::signbit(half[bits]), (bits & 0x8000) != 0) << bits;
    }
    uint32_t widened;
    std::memcpy(&widened, &brain[bits], 4);
    ASSERT_EQ(widened, bits << 16);
  }
}

TEST(MatchTest, OnlyExactConversionsAreMade) {
  const auto refuses = [](v1::ScalarType program, v1::ScalarType stored, const char* name) {
    v1::Manifest manifest;
    AddWeight(manifest, "w", {1}, program);
    const Fit fit = Stored().Add("w", {1}, stored, name).Match(manifest);
    EXPECT_THAT(fit.mismatched, ElementsAre(AllOf(HasSubstr("w: "), HasSubstr(name)))) << name;
  };
  refuses(v1::FLOAT, v1::DOUBLE, "F64");
  refuses(v1::FLOAT, v1::LONG, "I64");
  refuses(v1::LONG, v1::FLOAT, "F32");
  refuses(v1::LONG, v1::INT, "I32");
  refuses(v1::HALF, v1::FLOAT, "F32");
  refuses(v1::HALF, v1::BFLOAT16, "BF16");
  refuses(v1::FLOAT, v1::SCALAR_TYPE_UNSPECIFIED, "F8_E4M3");
  refuses(v1::SCALAR_TYPE_UNSPECIFIED, v1::SCALAR_TYPE_UNSPECIFIED, "U16");
}

TEST(MatchTest, DataIsUsedInPlaceOnlyWhereItIsAligned) {
  Stored stored;
  stored.Add("w", {2}, v1::FLOAT, "F32", "abcdefgh");
  EXPECT_EQ(stored.Match(Of({"w"})).Data(0).size(), 8u);
  CheckpointTensor& tensor = stored.tensors()["w"];
  tensor.data = {tensor.data.data() + 1, 8};
  const Fit fit = stored.Match(Of({"w"}));
  EXPECT_TRUE(fit.Data(0).empty());
  std::string copy(8, '\0');
  ASSERT_THAT(fit.Read(0, copy.data()), IsOk());
  EXPECT_EQ(copy, std::string("bcdefgh\0", 8));
}

TEST(MatchTest, EmptyTensorsFit) {
  v1::Manifest manifest;
  AddWeight(manifest, "w", {0, 3});
  Stored stored;
  stored.Add("w", {0, 3});
  const Fit fit = stored.Match(manifest);
  EXPECT_TRUE(fit.fits());
  EXPECT_TRUE(fit.Data(0).empty());
  EXPECT_THAT(fit.Read(0, nullptr), IsOk());
}

}  // namespace
}  // namespace assay::checkpoint

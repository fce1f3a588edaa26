// Mock values are the same bits as the exporter's.
#include "engine/mock.h"

#include <c10/util/BFloat16.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "common/file.h"
#include "engine/validate.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

v1::MockRule Rule(const std::string& text) {
  v1::MockRule rule;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &rule)) << text;
  return rule;
}

size_t Count(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  return count;
}

// Values that exporter/assay_exporter/mock.py gives, as bytes in hex.
struct Known {
  std::string name;
  uint64_t seed;
  std::string rule;
  v1::ScalarType dtype = v1::SCALAR_TYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  std::string bytes;
};

const Known kKnown[] = {
    {"encoder.layer.0.weight",
     42u,
     "normal { std: 0.02 }",
     v1::FLOAT,
     {5},
     "185a4d3a6795b4bb3a6351bceba2613d4daeab3a"},
    {"encoder.layer.0.weight",
     42u,
     "normal { std: 0.05 mean: 1 }",
     v1::FLOAT,
     {5},
     "2c40803f15797c3f20d2773fbaa0913f4d6b803f"},
    {"norm.bias", 0u, "normal { std: 1 }", v1::BFLOAT16, {3}, "fc3c3c3e08be"},
    {"norm.bias", 0u, "normal { std: 1 }", v1::HALF, {3}, "e427dd3143b0"},
    {"pixel_values",
     7u,
     "uniform { low: -1.5 high: 2.25 }",
     v1::FLOAT,
     {5},
     "b808363fc3cd87bf6e2574bfe8398fbe742e323f"},
    {"x",
     9223372036854775819u,
     "uniform { low: 0.5 high: 0.75 }",
     v1::FLOAT,
     {4},
     "f12a103f862b323f68391c3f0e043a3f"},
    {"input_ids",
     3u,
     "int_range { low: -5 high: 32000 }",
     v1::LONG,
     {5},
     "8f7a000000000000a8080000000000001d710000000000005f300000000000004222000000000000"},
    {"input_ids", 3u, "int_range { high: 2 }", v1::INT, {5}, "0100000000000000010000000000000001000000"},
    {"position",
     1u,
     "ramp { start: 0.5 step: 0.1 }",
     v1::FLOAT,
     {2, 3},
     "0000003f9a99193f3333333f0000003f9a99193f3333333f"},
    {"position",
     1u,
     "ramp { start: 2 step: 1 }",
     v1::LONG,
     {2, 3},
     "020000000000000003000000000000000400000000000000020000000000000003000000000000000400000000000000"},
    {"c", 1u, "constant: 0.1", v1::FLOAT, {2}, "cdcccc3dcdcccc3d"},
    {"c", 1u, "constant: 1", v1::BOOL, {2}, "0101"},
};

TEST(MockTest, GivesTheExportersBits) {
  for (const Known& known : kKnown) {
    std::string bytes(Count(known.shape) * ItemSize(known.dtype), '\xee');
    ASSERT_THAT(FillMock(known.name, known.seed, Rule(known.rule), known.dtype, known.shape, bytes.data()),
                IsOk());
    EXPECT_EQ(absl::BytesToHexString(bytes), known.bytes) << known.name << ", " << known.rule;
  }
}

// The vectors that exporter/ tests itself against. Floats are given by their bits.
TEST(MockTest, ReproducesTheSharedVectors) {
  ASSERT_OK_AND_ASSIGN(const std::string text, ReadFile("tests/data/mock_vectors.json"));
  const nlohmann::json vectors = nlohmann::json::parse(text);
  ASSERT_GE(vectors.size(), 10u);
  for (const nlohmann::json& vector : vectors) {
    const std::string name = vector["name"];
    v1::MockRule rule;
    ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(vector["rule"].dump(), &rule).ok())
        << vector["rule"];
    v1::ScalarType dtype = v1::SCALAR_TYPE_UNSPECIFIED;
    ASSERT_TRUE(v1::ScalarType_Parse(vector["dtype"].get<std::string>(), &dtype)) << vector["dtype"];
    const std::vector<int64_t> shape = vector["shape"];
    std::string bytes(Count(shape) * ItemSize(dtype), '\xee');
    ASSERT_THAT(FillMock(name, vector["seed"].get<uint64_t>(), rule, dtype, shape, bytes.data()), IsOk());
    const char* key = vector.contains("bits") ? "bits" : vector.contains("bits16") ? "bits16" : "integers";
    ASSERT_EQ(vector[key].size(), Count(shape)) << name;
    for (size_t i = 0; i < Count(shape); ++i) {
      uint64_t bits = 0;
      std::memcpy(&bits, bytes.data() + i * ItemSize(dtype), ItemSize(dtype));
      if (vector[key][i].is_string()) {
        EXPECT_EQ(bits, std::stoull(vector[key][i].get<std::string>(), nullptr, 16))
            << name << " element " << i;
      } else {
        EXPECT_EQ(static_cast<int64_t>(bits), vector[key][i].get<int64_t>()) << name << " element " << i;
      }
    }
  }
}

// An odd count, so that the last lane stands alone, and long enough for every vectorised path.
TEST(MockTest, AnElementDoesNotDependOnHowManyThereAre) {
  for (const char* rule :
       {"normal { std: 0.5 }", "normal { std: 0.5 mean: 1 }", "uniform { low: -1 high: 1 }"}) {
    std::vector<float> all(1001), some(1001);
    ASSERT_THAT(FillMock("w", 1, Rule(rule), v1::FLOAT, {1001}, all.data()), IsOk());
    for (size_t n = 0; n < 40; ++n) {
      ASSERT_THAT(FillMock("w", 1, Rule(rule), v1::FLOAT, {static_cast<int64_t>(n)}, some.data()), IsOk());
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(some[i], all[i]) << rule << " " << n << " " << i;
    }
  }
}

// Narrow dtypes are made piece by piece: the same values, rounded.
TEST(MockTest, OtherDtypesAreTheSameValues) {
  for (const char* rule : {"normal { std: 0.5 mean: 1 }", "uniform { low: -1 high: 1 }"}) {
    std::vector<float> floats(3001);
    std::vector<double> doubles(3001);
    std::vector<c10::BFloat16> halves(3001);
    ASSERT_THAT(FillMock("w", 1, Rule(rule), v1::FLOAT, {3001}, floats.data()), IsOk());
    ASSERT_THAT(FillMock("w", 1, Rule(rule), v1::DOUBLE, {3001}, doubles.data()), IsOk());
    ASSERT_THAT(FillMock("w", 1, Rule(rule), v1::BFLOAT16, {3001}, halves.data()), IsOk());
    for (size_t i = 0; i < floats.size(); ++i) {
      ASSERT_EQ(doubles[i], floats[i]) << rule << " " << i;
      ASSERT_EQ(halves[i], static_cast<c10::BFloat16>(floats[i])) << rule << " " << i;
    }
  }
}

TEST(MockTest, NormalIsNormalAndUniformStaysInRange) {
  std::vector<float> values(100000);
  ASSERT_THAT(FillMock("w", 1, Rule("normal { std: 2 mean: 3 }"), v1::FLOAT, {100000}, values.data()),
              IsOk());
  double sum = 0, squares = 0;
  for (const float v : values) {
    sum += v;
    squares += (v - 3.0) * (v - 3.0);
  }
  EXPECT_NEAR(sum / 100000, 3, 0.03);
  EXPECT_NEAR(squares / 100000, 4, 0.06);
  ASSERT_THAT(FillMock("w", 1, Rule("uniform { low: -0.25 high: 0.5 }"), v1::FLOAT, {100000}, values.data()),
              IsOk());
  for (const float v : values) {
    ASSERT_GE(v, -0.25f);
    ASSERT_LE(v, 0.5f);
  }
}

TEST(MockTest, NamesAndSeedsGiveDifferentStreams) {
  EXPECT_NE(MockKey("a", 1), MockKey("a", 2));
  EXPECT_NE(MockKey("a", 1), MockKey("b", 1));
  EXPECT_NE(MockWord(MockKey("a", 1), 0), MockWord(MockKey("a", 1), 1));
}

TEST(MockTest, RefusesRulesThatDoNotFitTheDtype) {
  std::vector<int64_t> out(4);
  EXPECT_THAT(FillMock("ids", 1, Rule("normal { std: 1 }"), v1::LONG, {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ids: a normal")));
  EXPECT_THAT(FillMock("ids", 1, Rule("uniform { high: 1 }"), v1::LONG, {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ids: a uniform")));
  EXPECT_THAT(FillMock("ids", 1, Rule("int_range {}"), v1::LONG, {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(FillMock("ids", 1, Rule("literal: 'abc'"), v1::LONG, {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wrong size")));
  EXPECT_THAT(FillMock("ids", 1, v1::MockRule(), v1::LONG, {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no mock rule")));
  EXPECT_THAT(FillMock("ids", 1, Rule("constant: 1"), static_cast<v1::ScalarType>(99), {4}, out.data()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dtype number 99")));
}

}  // namespace
}  // namespace assay::engine

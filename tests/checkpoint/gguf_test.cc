// Against what the gguf package and transformers give: see make_gguf_vectors.py.
#include "checkpoint/gguf.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/decode.h"
#include "common/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/folder.h"
#include "tests/matchers.h"

namespace assay::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kData[] = "tests/checkpoint/data";

// GGUF's little-endian numbers and strings, written in turn.
class GgufWriter {
 public:
  template <typename Number>
  GgufWriter& Put(Number number) {
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof number);
    return *this;
  }
  GgufWriter& Text(const std::string& text) {
    Put<uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  GgufWriter& TextField(const std::string& key, const std::string& value) {
    return Text(key).Put<uint32_t>(8).Text(value);
  }
  GgufWriter& NumberField(const std::string& key, uint32_t value) {
    return Text(key).Put<uint32_t>(4).Put<uint32_t>(value);
  }
  GgufWriter& Info(const std::string& name, const std::vector<uint64_t>& sizes, uint32_t type,
                   uint64_t offset) {
    Text(name).Put<uint32_t>(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) Put<uint64_t>(size);
    return Put<uint32_t>(type).Put<uint64_t>(offset);
  }
  GgufWriter& Data(const std::string& data, size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment, '\0');
    bytes_ += data;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

GgufWriter Head(uint64_t tensors, uint64_t metadata, uint32_t version = 3) {
  GgufWriter writer;
  writer.Put('G').Put('G').Put('U').Put('F').Put<uint32_t>(version).Put<uint64_t>(tensors);
  writer.Put<uint64_t>(metadata);
  return writer;
}

GgufWriter Llama(uint64_t tensors, uint64_t more_metadata = 0) {
  return Head(tensors, 1 + more_metadata).TextField("general.architecture", "llama");
}

absl::Span<const uint8_t> Span(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

absl::Status Refusal(const std::string& bytes) { return ReadGgufTensors(Span(bytes), nullptr).status(); }

const std::string k32(32, '\1');

TEST(GgufTest, BlocksAreDequantisedAsTheGgufPackageDoes) {
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(fs::path(kData) / "blocks.gguf"));
  ASSERT_OK_AND_ASSIGN(const GgufFile file, ReadGguf(Span(bytes), nullptr));
  const fs::path folder = fs::temp_directory_path() / ("assay_gguf_" + NewUuid());
  fs::create_directories(folder);
  fs::copy_file(fs::path(kData) / "blocks.safetensors", folder / "model.safetensors");
  ASSERT_OK_AND_ASSIGN(const Checkpoint expected, Checkpoint::Open(folder));
  fs::remove_all(folder);
  std::vector<std::string> types;
  for (const auto& [name, tensor] : file.tensors) types.push_back(tensor.dtype_name);
  EXPECT_THAT(types, ElementsAre("BF16", "F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"));
  for (const auto& [name, tensor] : file.tensors) {
    const CheckpointTensor& want = expected.tensors().at(name);
    EXPECT_EQ(tensor.shape, want.shape) << name;
    EXPECT_EQ(tensor.dtype_name, name);
    std::vector<float> got(768);
    Decode(tensor, 0, got.size(), got.data());
    EXPECT_EQ(std::memcmp(got.data(), want.data.data(), want.data.size()), 0) << name;
    // From the middle on: pieces are what the scan of a checkpoint and rows that change places are read in.
    std::vector<float> row(256);
    Decode(tensor, 256, row.size(), row.data());
    EXPECT_EQ(std::memcmp(row.data(), want.data.data() + 1024, 1024), 0) << name;
  }
}

class ArchitectureTest : public FolderTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(ArchitectureTest, BindsAsTransformersLoadsIt) {
  fs::copy_file(fs::path(kData) / (GetParam() + ".gguf"), folder_ / "any.gguf");
  fs::create_directories(root_ / "expected");
  fs::copy_file(fs::path(kData) / (GetParam() + ".safetensors"), root_ / "expected" / "model.safetensors");
  ASSERT_OK_AND_ASSIGN(const Checkpoint expected, Checkpoint::Open(root_ / "expected"));
  v1::Manifest manifest;
  for (const auto& [name, tensor] : expected.tensors()) {
    v1::WeightSpec& spec = *manifest.add_weights();
    spec.set_name(name);
    spec.set_dtype(v1::FLOAT);
    spec.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
  }
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder_));
  EXPECT_THAT(checkpoint.format(), StartsWith("GGUF (F32"));
  const Fit fit = checkpoint.Match(manifest);
  EXPECT_EQ(fit.Describe(), "every weight is there, and nothing else");
  ASSERT_TRUE(fit.fits());
  for (size_t i = 0; i < fit.weights.size(); ++i) {
    const CheckpointTensor& want = expected.tensors().at(fit.weights[i].name);
    std::string got(want.data.size(), '\0');
    ASSERT_THAT(fit.Read(i, got.data()), IsOk());
    EXPECT_EQ(std::memcmp(got.data(), want.data.data(), got.size()), 0) << fit.weights[i].name;
    // What lies in the file as the program wants it is used there.
    if (const auto data = fit.Data(i); !data.empty()) {
      EXPECT_EQ(std::memcmp(data.data(), want.data.data(), data.size()), 0) << fit.weights[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ArchitectureTest,
                         ::testing::Values("llama", "qwen2", "qwen3", "phi3", "gemma2", "gpt2"),
                         [](const auto& tested) { return tested.param; });

TEST(GgufTest, MetadataIsReadAndArraysArePassedOver) {
  GgufWriter writer = Head(1, 8);
  writer.TextField("general.architecture", "llama").NumberField("general.alignment", 64);
  writer.Text("half").Put<uint32_t>(6).Put<float>(0.5f);
  writer.Text("minus").Put<uint32_t>(1).Put<int8_t>(-3);
  writer.Text("true").Put<uint32_t>(7).Put<uint8_t>(1);
  writer.Text("tokens").Put<uint32_t>(9).Put<uint32_t>(8).Put<uint64_t>(2).Text("a").Text("b");
  writer.Text("nested").Put<uint32_t>(9).Put<uint32_t>(9).Put<uint64_t>(1);
  writer.Put<uint32_t>(5).Put<uint64_t>(2).Put<int32_t>(1).Put<int32_t>(2);
  writer.TextField("long", std::string(5000, 'x'));
  writer.Info("token_embd.weight", {2, 4}, 0, 0).Data(k32, 64);
  ASSERT_OK_AND_ASSIGN(const GgufFile file, ReadGguf(Span(writer.bytes()), nullptr));
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.metadata.size(), 5u);
  EXPECT_EQ(file.metadata.at("half"), GgufValue(0.5));
  EXPECT_EQ(file.metadata.at("minus"), GgufValue(int64_t{-3}));
  EXPECT_EQ(file.metadata.at("true"), GgufValue(true));
  EXPECT_EQ(file.metadata.at("general.alignment"), GgufValue(uint64_t{64}));
  EXPECT_THAT(file.tensors.at("token_embd.weight").shape, ElementsAre(4, 2));
}

TEST(GgufTest, LiesAreRefusedByName) {
  const auto refuses = [](const GgufWriter& writer, const char* place) {
    EXPECT_THAT(Refusal(writer.bytes()), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(place)));
  };
  refuses(GgufWriter(), "the file ends in its magic number");
  refuses(GgufWriter().Text("GGUFGGUF"), "does not begin with GGUF");
  refuses(Head(0, 1).TextField("general.architecture", "llama"), "no tensors");
  refuses(Head(uint64_t{1} << 60, 0), "the file ends in a tensor's name");
  refuses(Head(0, uint64_t{1} << 60), "the file ends in a metadata key");
  refuses(Head(1, 1).Put<uint64_t>(uint64_t{1} << 63), "the file ends in a metadata key");
  refuses(Head(1, 2).NumberField("a", 1).NumberField("a", 2), "the metadata key a is there twice");
  refuses(Head(1, 1).Text("a\n").Put<uint32_t>(4), "not ASCII");
  refuses(Head(1, 1).Text("a").Put<uint32_t>(13), "a: no value type 13");
  refuses(Head(1, 1).Text("a").Put<uint32_t>(7).Put<uint8_t>(2), "neither 0 nor 1");
  refuses(Head(1, 1).Text("a").Put<uint32_t>(9).Put<uint32_t>(4).Put<uint64_t>(uint64_t{1} << 62),
          "the file ends in a");
  GgufWriter deep = Head(1, 1).Text("a").Put<uint32_t>(9);
  for (int i = 0; i < 1000; ++i) deep.Put<uint32_t>(9).Put<uint64_t>(1);
  refuses(deep, "nested too deep");
  refuses(Head(1, 1).NumberField("general.alignment", 12), "general.alignment");
  refuses(Head(1, 1).NumberField("general.alignment", 0), "general.alignment");
  refuses(Llama(1).Info("w", {}, 0, 0), "tensor w: 0 dimensions");
  refuses(Llama(1).Info("w", {1, 1, 1, 1, 1}, 0, 0), "tensor w: 5 dimensions");
  refuses(Llama(1).Info("w", {8, 0}, 0, 0), "tensor w: a bad size");
  refuses(Llama(1).Info("w", {uint64_t{1} << 40, 2}, 0, 0), "tensor w");
  refuses(Llama(1).Info("w", {8}, 99, 0), "tensor w: no tensor type 99");
  refuses(Llama(1).Info("w", {8}, 2, 0), "rows of 8 are no whole blocks of Q4_0");
  refuses(Llama(1).Info("w", {8}, 0, 4).Data(k32), "its offset 4 is no multiple of 32");
  refuses(Llama(1).Info("w", {9}, 0, 0).Data(k32), "tensor w: bytes 0 to 36 of 32 bytes of data");
  refuses(Llama(1).Info("w", {8}, 0, 32).Data(k32 + k32), "tensor w: a hole before it");
  refuses(Llama(2).Info("v", {8}, 0, 0).Info("w", {8}, 0, 0).Data(k32), "it overlaps another one");
  refuses(Llama(2).Info("w", {8}, 0, 0).Info("w", {8}, 0, 32).Data(k32 + k32), "the tensor w is there twice");
  refuses(Llama(1).Info("w", {8}, 0, 0).Data(k32 + k32), "32 bytes of data belong to no tensor");
  refuses(Llama(1).Info("", {8}, 0, 0), "without a name");
  refuses(Llama(1).Info(std::string(600, 'w'), {8}, 0, 0), "name of 600 bytes");
  refuses(Head(1, 0).Info("w", {8}, 0, 0).Data(k32), "general.architecture is missing");
  // Heads that the rows of a rotary weight cannot be divided among.
  refuses(Llama(1).Info("blk.0.attn_q.weight", {2, 4}, 0, 0).Data(k32), "llama.attention.head_count");
  refuses(Llama(1, 1)
              .NumberField("llama.attention.head_count", 3)
              .Info("blk.0.attn_q.weight", {2, 4}, 0, 0)
              .Data(k32),
          "blk.0.attn_q.weight: 4 rows for 3 heads");
}

TEST(GgufTest, WhatIsNotReadSaysSo) {
  const auto unread = [](const GgufWriter& writer, const char* place) {
    EXPECT_THAT(Refusal(writer.bytes()), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(place)));
  };
  unread(Head(1, 0, 1), "GGUF version 1");
  unread(Head(1, 0, 0x03000000), "big-endian");
  unread(Llama(1, 1).Text("split.count").Put<uint32_t>(2).Put<uint16_t>(3), "one of several");
  unread(Llama(1).Info("blk.0.ffn_up.weight", {256}, 13, 0), "tensor blk.0.ffn_up.weight: Q5_K is not read");
  unread(Head(1, 1).TextField("general.architecture", "rwkv6").Info("w", {8}, 0, 0).Data(k32),
         "architecture 'rwkv6' are not known; known: llama, qwen2");
}

TEST(GgufTest, TruncatedFilesAreErrors) {
  const GgufWriter writer =
      Llama(2).Info("token_embd.weight", {8}, 0, 0).Info("output_norm.weight", {8}, 0, 32).Data(k32 + k32);
  EXPECT_THAT(Refusal(writer.bytes()), IsOk());
  for (size_t length = 0; length < writer.bytes().size(); ++length) {
    EXPECT_THAT(Refusal(writer.bytes().substr(0, length)), StatusIs(absl::StatusCode::kInvalidArgument))
        << length;
  }
}

TEST(GgufTest, NumbersOfBlocksAreTakenAsTheyAreWritten) {
  const GgufWriter writer = Llama(3)
                                .Info("blk.0.attn_norm.weight", {8}, 0, 0)
                                .Info("blk.00.attn_norm.weight", {8}, 0, 32)
                                .Info("blk.-0.attn_norm.weight", {8}, 0, 64)
                                .Data(k32 + k32 + k32);
  ASSERT_OK_AND_ASSIGN(const Tensors tensors, ReadGgufTensors(Span(writer.bytes()), nullptr));
  EXPECT_EQ(tensors.at("blk.0.attn_norm.weight").library_name, "model.layers.0.input_layernorm.weight");
  EXPECT_THAT(tensors.at("blk.00.attn_norm.weight").library_name, IsEmpty());
  EXPECT_THAT(tensors.at("blk.-0.attn_norm.weight").library_name, IsEmpty());
}

class GgufFolderTest : public FolderTest {};

TEST_F(GgufFolderTest, OneGgufFileIsACheckpointTwoAreNone) {
  Write("a.gguf", Llama(1).Info("token_embd.weight", {8}, 0, 0).Data(k32).bytes());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder_));
  EXPECT_EQ(checkpoint.format(), "GGUF (F32)");
  EXPECT_EQ(checkpoint.bytes(), 32u);
  Write("b.gguf", "GGUF");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 GGUF files, and no way to tell "
                                                                     "which: a.gguf, b.gguf")));
  // Safetensors come first.
  Write("model.safetensors", Safetensors("{}", ""));
  ASSERT_OK_AND_ASSIGN(const Checkpoint first, Checkpoint::Open(folder_));
  EXPECT_EQ(first.format(), "safetensors");
}

TEST_F(GgufFolderTest, ErrorsNameTheFile) {
  Write("a.gguf", "GGUF");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/a.gguf: ")));
}

}  // namespace
}  // namespace assay::checkpoint

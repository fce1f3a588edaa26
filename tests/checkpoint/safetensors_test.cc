#include "checkpoint/safetensors.h"

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/folder.h"
#include "tests/matchers.h"

namespace assay::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<float> kTwelve = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
const char kDense[] = R"("dense.weight":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]})";

class SafetensorsTest : public FolderTest {
 protected:
  absl::StatusOr<Checkpoint> OpenSingle(const std::string& header, const std::string& data) {
    Write("model.safetensors", Safetensors(header, data));
    return Checkpoint::Open(folder_);
  }
  // The folder, with this model.safetensors or index, is refused in words that have `place` and the file's
  // name.
  void Refuses(const std::string& name, const std::string& content, const char* place) {
    Write(name, content);
    EXPECT_THAT(Checkpoint::Open(folder_),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(place), HasSubstr(folder_.string()), HasSubstr("safetensors"))))
        << content.substr(0, 200);
  }
};

TEST_F(SafetensorsTest, TensorsLieInTheMapping) {
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint checkpoint,
      OpenSingle(absl::StrCat(R"({"__metadata__":{"format":"pt"},)", kDense,
                              R"(,"none":{"dtype":"I64","shape":[0,7],"data_offsets":[48,48]},)"
                              R"("scalar":{"dtype":"F8_E4M3","shape":[],"data_offsets":[48,49]}})"),
                 Floats(kTwelve) + "x"));
  EXPECT_EQ(checkpoint.format(), "safetensors");
  EXPECT_FALSE(checkpoint.synthetic());
  EXPECT_EQ(checkpoint.bytes(), 49u);
  ASSERT_EQ(checkpoint.tensors().size(), 3u);
  const CheckpointTensor& dense = checkpoint.tensors().at("dense.weight");
  EXPECT_EQ(dense.dtype, v1::FLOAT);
  EXPECT_THAT(dense.shape, ElementsAre(4, 3));
  EXPECT_EQ(std::string(dense.data.begin(), dense.data.end()), Floats(kTwelve));
  EXPECT_TRUE(checkpoint.tensors().at("none").data.empty());
  EXPECT_THAT(checkpoint.tensors().at("none").shape, ElementsAre(0, 7));
  EXPECT_EQ(checkpoint.tensors().at("scalar").dtype, v1::SCALAR_TYPE_UNSPECIFIED);
}

TEST_F(SafetensorsTest, TensorsOutliveTheCheckpointAndTheFile) {
  Tensors tensors;
  {
    ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint,
                         OpenSingle(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
    tensors = checkpoint.tensors();
  }
  fs::remove_all(folder_);
  const CheckpointTensor& dense = tensors.at("dense.weight");
  EXPECT_EQ(std::string(dense.data.begin(), dense.data.end()), Floats(kTwelve));
}

TEST_F(SafetensorsTest, SyntheticWeightsSaySo) {
  ASSERT_OK_AND_ASSIGN(
      const Checkpoint checkpoint,
      OpenSingle(absl::StrCat(R"({"__metadata__":{"format":"pt","assay.weights":"synthetic"},)", kDense, "}"),
                 Floats(kTwelve)));
  EXPECT_TRUE(checkpoint.synthetic());
  EXPECT_EQ(checkpoint.tensors().size(), 1u);
}

TEST_F(SafetensorsTest, LiesAreRefusedByName) {
  const auto refuses = [&](const std::string& file, const char* place) {
    Refuses("model.safetensors", file, place);
  };
  const auto tensor = [](const std::string& body, const std::string& data) {
    return Safetensors(absl::StrCat(R"({"w":{)", body, "}}"), data);
  };
  refuses("", "too short");
  refuses("1234567", "too short");
  refuses(std::string(8, '\xff') + "{}", "a header of 18446744073709551615 bytes, more than the format's");
  // 2 GB, in a file that does not have them.
  refuses(std::string("\0\0\0\x80\0\0\0\0{}", 10), "a header of 2147483648 bytes");
  refuses(Safetensors("{}", "").substr(0, 9), "a header of 2 bytes in a file of 9");
  refuses(Safetensors("{", ""), "header: ");
  refuses(Safetensors("[]", ""), "no JSON object");
  refuses(Safetensors(R"({"__metadata__":1})", ""), "__metadata__");
  refuses(Safetensors(R"({"w":1})", ""), "tensor w: it is no object");
  refuses(tensor(R"("shape":[1],"data_offsets":[0,1])", "1"), "tensor w: it has no dtype");
  refuses(tensor(R"("dtype":"U8","data_offsets":[0,1])", "1"), "tensor w: it has no shape");
  refuses(tensor(R"("dtype":"U8","shape":[1])", "1"), "tensor w: it has no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,-1])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1.5])", "1"), "no two data_offsets");
  refuses(tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", "1234"), "tensor w: unknown dtype F31");
  refuses(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "1234"), "tensor w: a bad size");
  refuses(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])", "1234"),
          "tensor w: it has 17 dimensions");
  refuses(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])", "1234"),
          "2^40 elements");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])", "1234"),
          "tensor w: data_offsets [0, 8] in 4 bytes");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[3,2])", "1234"), "data_offsets [3, 2]");
  refuses(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "1234"), "tensor w: its data_offsets");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[1,5])", "12345"),
          "tensor w: a hole before it, from byte 0 of the data to 1");
  refuses(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", "12345"),
          "1 bytes of data belong to no tensor");
  refuses(Safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                      R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                      "123"),
          "tensor b: it overlaps a at byte 1");
  refuses(Safetensors(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                      R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                      ""),
          "the name a is there twice");
  refuses(Safetensors(R"({"w":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})", ""),
          "the name dtype is there twice");
  refuses(Safetensors(R"({"a\nb":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", ""),
          "control characters");
  refuses(Safetensors(absl::StrCat(R"({")", std::string(600, 'w'), R"(":{}})"), ""), "name of 600 bytes");
  refuses(Safetensors(std::string(100'000, '['), ""), "header: ");
  refuses(Safetensors(absl::StrCat(R"({"w":)", std::string(20, '['), std::string(20, ']'), "}"), ""),
          "nested too deep");
}

TEST_F(SafetensorsTest, TruncatedFilesAreErrors) {
  const std::string file = Safetensors(absl::StrCat("{", kDense, "}"), Floats(kTwelve));
  for (size_t length = 0; length < file.size(); ++length) {
    Write("model.safetensors", file.substr(0, length));
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kInvalidArgument)) << length;
  }
}

TEST_F(SafetensorsTest, ShardsAreReadTogether) {
  Write("model.safetensors.index.json",
        R"({"metadata":{"total_size":56},"weight_map":{"dense.weight":"model-00001-of-00002.safetensors",)"
        R"("other":"model-00002-of-00002.safetensors"}})");
  Write("model-00001-of-00002.safetensors", Safetensors(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
  Write("model-00002-of-00002.safetensors",
        Safetensors(R"({"__metadata__":{"assay.weights":"synthetic"},)"
                    R"("other":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})",
                    std::string(8, '\0')));
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder_));
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.format(), "safetensors, 2 shards");
  EXPECT_TRUE(checkpoint.synthetic());  // one shard is enough
}

TEST_F(SafetensorsTest, ShardsAndIndexMustAgree) {
  const auto refuses = [&](const std::string& index, const char* place) {
    Refuses("model.safetensors.index.json", index, place);
  };
  Write("a.safetensors", Safetensors(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
  Write("b.safetensors", Safetensors(R"({"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"));
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","x":"c.safetensors"}})",
          "shard c.safetensors is missing, with tensor x");
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","x":"b.safetensors","y":"b.safetensors"}})",
          "tensor x is not in b.safetensors");
  refuses(R"({"weight_map":{"dense.weight":"b.safetensors","y":"b.safetensors"}})",
          "tensor dense.weight is not in b.safetensors");
  refuses(R"({"weight_map":{"x":"a.safetensors"}})",
          "a.safetensors: tensor dense.weight is not in the index");
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","y":"a.safetensors","z":"b.safetensors"}})",
          "tensor y is not in a.safetensors");
  refuses(R"({"weight_map":{"dense.weight":"a.safetensors","dense.weight":"b.safetensors"}})",
          "dense.weight is there twice");
  refuses(R"({"weight_map":{"x":"../a.safetensors"}})", "no file name");
  refuses(R"({"weight_map":{"x":"/etc/passwd"}})", "no file name");
  refuses(R"({"weight_map":{"x":".."}})", "no file name");
  refuses(R"({"weight_map":{"x":"a\u0000b"}})", "no file name");
  refuses(R"({"weight_map":{"x":7}})", "tensor x has no file name");
  refuses(R"({"weight_map":[]})", "no weight_map");
  refuses(R"([])", "no weight_map");
  refuses(R"({"weight_map":)", "model.safetensors.index.json");
  std::string many = R"({"weight_map":{)";
  for (int i = 0; i <= 10'000; ++i) absl::StrAppend(&many, i ? "," : "", "\"t", i, "\":\"f", i, "\"");
  refuses(many + "}}", "10001 shards");
}

TEST_F(SafetensorsTest, ATensorInTwoShardsIsRefused) {
  Write("a.safetensors", Safetensors(absl::StrCat("{", kDense, "}"), Floats(kTwelve)));
  Write("b.safetensors", Safetensors(R"({"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                     R"("dense.weight":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
                                     "1"));
  Refuses("model.safetensors.index.json",
          R"({"weight_map":{"dense.weight":"a.safetensors","y":"b.safetensors"}})",
          "b.safetensors: tensor dense.weight is in a.safetensors by the index");
}

TEST_F(SafetensorsTest, ATruncatedShardIsNamed) {
  const std::string shard = Safetensors(absl::StrCat("{", kDense, "}"), Floats(kTwelve));
  Write("a.safetensors", shard.substr(0, shard.size() - 1));
  Refuses("model.safetensors.index.json", R"({"weight_map":{"dense.weight":"a.safetensors"}})",
          "a.safetensors: tensor dense.weight: data_offsets [0, 48] in 47 bytes");
}

TEST_F(SafetensorsTest, NoWeightsAreNotFound) {
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither model.safetensors")));
  EXPECT_THAT(Checkpoint::Open(folder_ / "none"), StatusIs(absl::StatusCode::kNotFound));
  Write("training_args.bin", "");
  EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(SafetensorsTest, PicklesAreRefusedWithTheReason) {
  for (const char* name :
       {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"}) {
    Write(name, "pickle");
    EXPECT_THAT(Checkpoint::Open(folder_), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                    AllOf(HasSubstr(name), HasSubstr("a program that runs"),
                                                          HasSubstr("have the operator allow"))));
    fs::remove(folder_ / name);
  }
  Write("pytorch_model.bin", "pickle");
  Write("model.safetensors", Safetensors("{}", ""));
  EXPECT_THAT(Checkpoint::Open(folder_), IsOk());
}

TEST_F(SafetensorsTest, LinksOutOfTheFolderAreRefused) {
  const std::string file = Safetensors("{}", "");
  ASSERT_THAT(WriteFileAtomically(root_ / "elsewhere", file), IsOk());
  const auto link = [&](const fs::path& target) {
    fs::remove(folder_ / "model.safetensors");
    fs::create_symlink(target, folder_ / "model.safetensors");
    return Checkpoint::Open(folder_).status();
  };
  EXPECT_THAT(link("../elsewhere"), StatusIs(absl::StatusCode::kInvalidArgument,
                                             AllOf(HasSubstr("a link out of its folder"),
                                                   HasSubstr("elsewhere"), HasSubstr("model.safetensors"))));
  EXPECT_THAT(link(root_ / "elsewhere"), StatusIs(absl::StatusCode::kInvalidArgument));
  // A folder whose name merely begins with this one's.
  ASSERT_THAT(WriteFileAtomically(root_ / "folder2" / "f", file), IsOk());
  EXPECT_THAT(link("../folder2/f"), StatusIs(absl::StatusCode::kInvalidArgument));
  // A blob that is gone is damage, and not a checkpoint that is not there.
  EXPECT_THAT(link("nowhere"), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("model.safetensors: a link that leads nowhere")));
  EXPECT_THAT(link("/dev/zero"), StatusIs(absl::StatusCode::kInvalidArgument));
  Write("inside", file);
  EXPECT_THAT(link("inside"), IsOk());
  fs::remove(folder_ / "model.safetensors");
  fs::create_directory(folder_ / "model.safetensors");
  EXPECT_THAT(Checkpoint::Open(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
}

TEST_F(SafetensorsTest, LinksOfAHuggingFaceCacheAreFollowedToItsBlobsOnly) {
  const fs::path repository = root_ / "models--owner--name";
  const fs::path snapshot = repository / "snapshots" / "0123";
  const std::string file = Safetensors("{}", "");
  fs::create_directories(snapshot);
  ASSERT_THAT(WriteFileAtomically(repository / "blobs" / "abc", file), IsOk());
  ASSERT_THAT(WriteFileAtomically(repository / "refs" / "abc", file), IsOk());
  ASSERT_THAT(WriteFileAtomically(root_ / "models--owner--other" / "blobs" / "abc", file), IsOk());
  const auto link = [&](const fs::path& target) {
    fs::remove(snapshot / "model.safetensors");
    fs::create_symlink(target, snapshot / "model.safetensors");
    return Checkpoint::Open(snapshot).status();
  };
  EXPECT_THAT(link("../../blobs/abc"), IsOk());
  EXPECT_THAT(link("../../refs/abc"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(link("../../../models--owner--other/blobs/abc"), StatusIs(absl::StatusCode::kInvalidArgument));
  // A blob that is itself a link leads where it leads.
  fs::create_symlink(root_ / "models--owner--other" / "blobs" / "abc", repository / "blobs" / "link");
  EXPECT_THAT(link("../../blobs/link"), StatusIs(absl::StatusCode::kInvalidArgument));
  // The folder may be reached by a link of the operator's.
  EXPECT_THAT(link("../../blobs/abc"), IsOk());
  fs::create_directory_symlink(snapshot, root_ / "linked");
  EXPECT_THAT(Checkpoint::Open(root_ / "linked"), IsOk());
}

// What the header promises about a mapped file: the process that reads dies, by a signal that its parent
// sees.
TEST_F(SafetensorsTest, AFileCutShortWhileItIsMappedKillsItsReader) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const std::string zeros(1 << 16, '\0');
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint,
                       OpenSingle(R"({"w":{"dtype":"U8","shape":[65536],"data_offsets":[0,65536]}})", zeros));
  fs::resize_file(folder_ / "model.safetensors", 100);
  // Sanitizers would take the signal for themselves.
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);
        (void)checkpoint.Digest();
        _exit(0);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace assay::checkpoint

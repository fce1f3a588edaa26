#include <filesystem>
#include <set>

#include "assay/v1/test.pb.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/textproto.h"
#include "common/utf8.h"
#include "common/zstd_frame.h"
#include "tests/matchers.h"

namespace assay {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// The vectors of FIPS 180-4's examples.
TEST(Digest, IsSha256InLowerCaseHex) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 hash;
  hash.Update("a");
  hash.Update("bc");
  EXPECT_EQ(hash.FinishHex(), Sha256Hex("abc"));
}

TEST(Digest, WhatIsNoDigestIsRefused) {
  EXPECT_TRUE(IsDigest(Sha256Hex("x")));
  EXPECT_FALSE(IsDigest(""));
  EXPECT_FALSE(IsDigest("../../etc/passwd"));
  EXPECT_FALSE(IsDigest(std::string(64, 'A')));
  EXPECT_FALSE(IsDigest(std::string(65, 'a')));
}

TEST(Digest, ACommitIsFortyLowerCaseHexDigits) {
  EXPECT_TRUE(IsGitSha1(std::string(40, 'a')));
  for (const std::string& bad : {std::string(), std::string(39, 'a'), std::string(40, 'A'), Sha256Hex("x")}) {
    EXPECT_FALSE(IsGitSha1(bad)) << bad;
  }
}

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("assay_file_" + NewUuid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(FileTest, WhatIsWrittenIsReadBackAndNothingElseIsLeft) {
  EXPECT_THAT(WriteFileAtomically(folder_ / "a" / "b.txt", "one"), IsOk());
  EXPECT_THAT(WriteFileAtomically(folder_ / "a" / "b.txt", "two", /*durable=*/true), IsOk());
  EXPECT_THAT(ReadFile(folder_ / "a" / "b.txt"), IsOkAndHolds(std::string("two")));
  const auto entries = std::distance(std::filesystem::directory_iterator(folder_ / "a"), {});
  EXPECT_EQ(entries, 1);
}

TEST_F(FileTest, ErrorsNameThePath) {
  EXPECT_THAT(ReadFile(folder_ / "none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_THAT(ReadFile(folder_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("regular file")));
  EXPECT_THAT(WriteFileAtomically(folder_ / "big", "12345"), IsOk());
  EXPECT_THAT(ReadFile(folder_ / "big", 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 4")));
  EXPECT_THAT(WriteFileAtomically(folder_ / "big" / "below", "x"), ::testing::Not(IsOk()));
}

TEST(Uuid, IsVersionFourAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewUuid();
    ASSERT_THAT(
        id, ::testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
    EXPECT_TRUE(seen.insert(id).second);
  }
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(3));
}

TEST(ExitCode, TellsTheUsersFaultFromTheMachinerys) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), kExitOk);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), kExitUsage);
  EXPECT_EQ(ExitCodeOf(absl::CancelledError("")), kExitInterrupted);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), kExitInfrastructure);
}

TEST(Logging, RefusesAnUnknownLevel) {
  EXPECT_THAT(StartLogging("test", "loud"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("loud")));
}

TEST(TextProto, RoundTripsInOneForm) {
  v1::ModelTest test;
  test.set_name("gpt2");
  test.set_deviation("größer \"x\"\n");
  test.add_case_()->set_name("c");
  const std::string text = FormatTextProto(test);
  v1::ModelTest back;
  EXPECT_THAT(ParseTextProto(text, back), IsEmpty());
  EXPECT_EQ(back.SerializeAsString(), test.SerializeAsString());
  EXPECT_EQ(FormatTextProto(back), text);
}

TEST(LiesBelow, ByWholePartsOfThePath) {
  EXPECT_TRUE(LiesBelow("/a/b", "/a"));
  EXPECT_TRUE(LiesBelow("/a", "/a"));
  EXPECT_FALSE(LiesBelow("/ab", "/a"));
  EXPECT_FALSE(LiesBelow("/a", "/a/b"));
}

TEST(FirstCharacter, TakesTheShortestFormAlone) {
  for (const auto& [text, code] :
       std::initializer_list<std::pair<absl::string_view, uint32_t>>{{"a", 'a'},
                                                                     {"\u00e9x", 0xe9},
                                                                     {"\u20ac", 0x20ac},
                                                                     {"\U0001f600", 0x1f600},
                                                                     {"\U0010ffff", 0x10ffff}}) {
    EXPECT_EQ(FirstCharacter(text).code, code) << text;
    EXPECT_GT(FirstCharacter(text).bytes, 0u) << text;
  }
  // Overlong, a surrogate, beyond the last, cut, a continuation byte alone.
  for (const absl::string_view bad : {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xe2\x82", "\x80", "\xff", "\xc3("}) {
    EXPECT_EQ(FirstCharacter(bad).bytes, 0u) << bad;
  }
}

TEST(ZstdFrame, OneWholeFrameWithChecksumAndNothingElse) {
  const auto file = CompressFrame("content");
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(DecompressFrame("golden", *file), IsOkAndHolds(std::string("content")));
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a golden file"));
  EXPECT_THAT(DecompressFrame("golden", "content"), refused);
  EXPECT_THAT(DecompressFrame("golden", *file + "x"), refused);
  EXPECT_THAT(DecompressFrame("golden", file->substr(0, file->size() - 1)), refused);
  std::string flipped = *file;
  flipped[flipped.size() - 6] ^= 1;
  EXPECT_THAT(DecompressFrame("golden", flipped), refused);
}

TEST(TextProto, ErrorsNameFileLineAndColumn) {
  v1::ModelTest test;
  EXPECT_THAT(ParseTextProto("t.textproto", "name: \"a\"\nnmae: \"b\"\n", test),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t.textproto:2:5: ")));
  EXPECT_THAT(ParseTextProto("name: \"a\" name: \"b\"", test), SizeIs(1));
  EXPECT_THAT(ParseTextProto("set_up { device: TPU }", test), SizeIs(1));
  EXPECT_THAT(ParseTextProto("name: \"a", test), SizeIs(::testing::Ge(1u)));
}

}  // namespace
}  // namespace assay

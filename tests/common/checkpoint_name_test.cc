#include "common/checkpoint_name.h"

#include <string>

#include "tests/matchers.h"

namespace assay {
namespace {

TEST(CheckpointNameTest, NamesOfTheHubAreTaken) {
  for (const char* good : {"google-bert/bert-base_uncased.v1", "a/b", "gpt2", "_a/0"}) {
    EXPECT_THAT(CheckCheckpointId(good), IsOk()) << good;
  }
  for (const char* good : {"main", "v1.0+cpu", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"}) {
    EXPECT_THAT(CheckRevision(good), IsOk()) << good;
  }
}

TEST(CheckpointNameTest, WhatCouldLeaveItsFolderIsNoName) {
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument);
  for (const char* bad :
       {"",     "a/b/c", "/b",   "a/",     "../b",  "a/..",  "a/b..c",   "a--x/b",   "a/b c", "a/b\n",
        "a/.b", "a/b.",  "-a/b", "a\\b/c", "a/b?x", "a/b#x", "a/%2e%2e", "a/b@main", ".",     ".."}) {
    EXPECT_THAT(CheckCheckpointId(bad), refused) << bad;
  }
  EXPECT_THAT(CheckCheckpointId(absl::string_view("a/b\0c", 5)), refused);
  EXPECT_THAT(CheckCheckpointId("a/" + std::string(97, 'x')), refused);
  for (const char* bad : {"", "../x", "/x", "x/", "x//y", "-x", "x y", ".git", "x\n", "x@y", "a..b"}) {
    EXPECT_THAT(CheckRevision(bad), refused) << bad;
  }
  EXPECT_THAT(CheckRevision(std::string(201, 'x')), refused);
}

TEST(CheckpointNameTest, WhatIsShownOfABadNameIsPrintable) {
  EXPECT_THAT(CheckCheckpointId("a/b\x1b[2J"),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("'a/b\\x1b[2J' is no name")));
}

}  // namespace
}  // namespace assay

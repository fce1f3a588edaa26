// Against a folder of plain files in the shape of the kernel's: whether the kernel itself lets us is asked
// last.
#include "host/memory_group.h"

#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "tests/matchers.h"

namespace assay::host {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class MemoryGroupTest : public ::testing::Test {
 protected:
  MemoryGroupTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("cgroup_", getpid())) {
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void Write(const fs::path& file, const std::string& text) {
    ASSERT_THAT(WriteFileAtomically(root_ / file, text), IsOk());
  }
  fs::path root_;
};

TEST_F(MemoryGroupTest, AFolderThatIsNoGroupIsRefused) {
  EXPECT_THAT(PrepareDelegated(root_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no cgroup v2 folder")));
}

TEST_F(MemoryGroupTest, AGroupWithoutTheControllerIsRefused) {
  Write("cgroup.controllers", "cpu io pids\n");
  EXPECT_THAT(PrepareDelegated(root_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no memory controller")));
}

TEST_F(MemoryGroupTest, TheControllerIsSwitchedOnForChildren) {
  Write("cgroup.controllers", "cpu memory\n");
  Write("cgroup.subtree_control", "");
  ASSERT_THAT(PrepareDelegated(root_), IsOk());
  EXPECT_THAT(ReadFile(root_ / "cgroup.subtree_control"), IsOkAndHolds("+memory"));
}

TEST_F(MemoryGroupTest, AGroupWithoutALimitIsNotUsed) {
  // A plain folder has no memory.max: exactly what a kernel without the controller gives.
  EXPECT_THAT(MemoryGroup::Make(root_, "test", 1 << 20),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("memory.max")));
  EXPECT_FALSE(fs::exists(root_ / "test")) << "it is removed again";
}

TEST(MemoryEvents, OnlyAKillCounts) {
  EXPECT_FALSE(CountsKill("low 0\nhigh 3\nmax 12\noom 1\noom_kill 0\noom_group_kill 0\n"));
  EXPECT_TRUE(CountsKill("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"));
  EXPECT_FALSE(CountsKill(""));
}

}  // namespace
}  // namespace assay::host

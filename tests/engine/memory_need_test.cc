// How much memory a program takes and how much there is.
#include "engine/memory_need.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "tests/engine/program_maker.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

// x [1, 1000] -> a chain of `steps` values of 1000 elements, each used by the next alone; the first one again
// at the end, if it is kept.
v1::Program Chain(int steps, bool kept) {
  ProgramMaker maker;
  uint32_t value = maker.Input("x", v1::FLOAT, {1, 1000});
  maker.Weight("w", v1::FLOAT, {500});
  const uint32_t first = value = maker.Node("step_0", "aten::relu", {{"self", V(value)}});
  for (int i = 1; i < steps; ++i) {
    value = maker.Node(absl::StrCat("step_", i), "aten::relu", {{"self", V(value)}});
  }
  value = maker.Node("last", "aten::add.Tensor", {{"self", V(value)}, {"other", V(kept ? first : value)}});
  maker.Output("y", value, {1, 1000});
  for (int i = 0; i <= steps; ++i) {
    v1::NodeTrace& trace = *maker.program().mutable_golden()->add_trace();
    trace.set_node(static_cast<uint32_t>(i));
    trace.set_numel(1000);
  }
  return maker.Finish();
}

uint64_t Activations(const v1::Program& program) {
  return EstimateNeed(program, program.golden(), nullptr, 4).activations;
}

TEST(EstimateNeed, FollowsLifetimes) {
  // Inputs 4000, the first run's outputs 4000, and what is live at once: two links of the chain.
  const uint64_t chain = Activations(Chain(20, /*kept=*/false));
  EXPECT_EQ(chain, Activations(Chain(40, false))) << "a longer chain needs no more";
  // One link more where the first one is kept; the comparison of outputs outweighs neither.
  EXPECT_GT(Activations(Chain(20, true)), 0u);
  const v1::Program bare = [] {
    v1::Program program = Chain(20, true);
    program.mutable_golden()->clear_trace();
    return program;
  }();
  // Without a trace: inputs 4000 and three outputs, one pair of them in float64.
  EXPECT_EQ(Activations(bare), 4000u + 3 * 4000u + 16'000u);
}

TEST(EstimateNeed, AViewKeepsItsBaseAlive) {
  // big (1 MiB) -> a view of it -> a small sum -> big_2 (1 MiB), with which the view may be used once more.
  const auto peak = [](bool view_used_late) {
    ProgramMaker maker;
    const uint32_t x = maker.Input("x", v1::FLOAT, {1, 8});
    const uint32_t big = maker.Node("big", "aten::expand", {{"self", V(x)}});
    const uint32_t view = maker.Node("view", "aten::view", {{"self", V(big)}});
    uint32_t value = maker.Node("sum", "aten::sum", {{"self", V(view)}});
    uint32_t second = 0;
    second = maker.Node("big_2", "aten::expand", {{"self", V(value)}});
    value = maker.Node("end", "aten::add.Tensor",
                       {{"self", V(second)}, {"other", V(view_used_late ? view : value)}});
    maker.Output("y", value, {1, 8});
    for (const uint32_t node : {0u, 2u, 3u}) {
      v1::NodeTrace& trace = *maker.program().mutable_golden()->add_trace();
      trace.set_node(node);
      trace.set_numel(node == 2 ? 1 : kMiB / 4);
    }
    const v1::Program program = maker.Finish();
    return EstimateNeed(program, program.golden(), nullptr, 4).activations;
  };
  EXPECT_LT(peak(false), kMiB + 1000);
  EXPECT_GT(peak(true), 2 * kMiB);
}

TEST(EstimateNeed, CountsWeightsInTheDtypeOfTheRun) {
  const v1::Program program = Chain(2, false);
  EXPECT_EQ(EstimateNeed(program, program.golden(), nullptr, 4).weights, 2000u);
  EXPECT_EQ(EstimateNeed(program, program.golden(), nullptr, 2).weights, 1000u);
  EXPECT_EQ(EstimateNeed(program, program.golden(), nullptr, 4).copied, 2000u);
}

TEST(RefuseTooLarge, SaysTheFigures) {
  MemoryNeed need;
  need.weights = 30 * 1024 * kMiB;
  need.activations = 4300 * kMiB;
  EXPECT_THAT(
      RefuseTooLarge(need, 23 * 1024 * kMiB, 0),
      StatusIs(
          absl::StatusCode::kResourceExhausted,
          HasSubstr("needs 34.2 GiB (weights 30.0, activations 4.2); this node has 23.0 GiB available")));
  EXPECT_THAT(RefuseTooLarge(need, 40 * 1024 * kMiB, 0), IsOk());
  // Weights that lie in a file are not the process's own; copies are.
  EXPECT_THAT(RefuseTooLarge(need, 40 * 1024 * kMiB, 5000 * kMiB), IsOk());
  need.copied = 1000 * kMiB;
  EXPECT_THAT(RefuseTooLarge(need, 40 * 1024 * kMiB, 5000 * kMiB),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("(weights copied 1000, activations 4300); the test's limit is 5000 MiB")));
}

// A machine's files, as the kernel shows them.
class AvailableMemoryTest : public ::testing::Test {
 protected:
  AvailableMemoryTest() {
    Write("proc/meminfo", "MemTotal:  100000 kB\nMemAvailable:   20480 kB\nSwapFree: 5 kB\n");
  }
  void Write(const std::string& path, const std::string& text) {
    ASSERT_THAT(WriteFileAtomically(root_ / path, text), IsOk());
  }
  const std::filesystem::path root_ =
      std::filesystem::path(::testing::TempDir()) /
      absl::StrCat("machine_", getpid(), "_",
                   ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(AvailableMemoryTest, IsTheKernelsWhereThereIsNoGroup) {
  EXPECT_THAT(AvailableMemory(root_), IsOkAndHolds(20 * kMiB));
}

TEST_F(AvailableMemoryTest, AGroupAboveMayLeaveLess) {
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/memory.max", "max\n");
  Write("sys/fs/cgroup/a/b/memory.current", "1\n");
  EXPECT_THAT(AvailableMemory(root_), IsOkAndHolds(20 * kMiB));
  Write("sys/fs/cgroup/a/memory.max", absl::StrCat(10 * kMiB, "\n"));
  Write("sys/fs/cgroup/a/memory.current", absl::StrCat(9 * kMiB, "\n"));
  EXPECT_THAT(AvailableMemory(root_), IsOkAndHolds(kMiB));
  // Pages of files that can be dropped are as good as free.
  Write("sys/fs/cgroup/a/memory.stat", absl::StrCat("anon 5\nfile 6\ninactive_file ", 2 * kMiB, "\n"));
  EXPECT_THAT(AvailableMemory(root_), IsOkAndHolds(3 * kMiB));
}

TEST_F(AvailableMemoryTest, AContainerOfTheOldKindHasItsLimitAtTheMount) {
  Write("proc/self/cgroup", "5:cpu:/docker/x\n4:memory:/docker/x\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", absl::StrCat(6 * kMiB, "\n"));
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", absl::StrCat(4 * kMiB, "\n"));
  EXPECT_THAT(AvailableMemory(root_), IsOkAndHolds(2 * kMiB));
}

TEST_F(AvailableMemoryTest, TheLimitOfAGroupHoldsHoweverMuchIsFree) {
  EXPECT_THAT(MemoryLimit(root_), IsOkAndHolds(uint64_t{100000} * 1024));
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_THAT(MemoryLimit(root_), IsOkAndHolds(uint64_t{100000} * 1024));
  Write("sys/fs/cgroup/a/memory.max", absl::StrCat(10 * kMiB, "\n"));
  EXPECT_THAT(MemoryLimit(root_), IsOkAndHolds(10 * kMiB));
}

TEST_F(AvailableMemoryTest, AKernelThatDoesNotSayIsAnError) {
  Write("proc/meminfo", "nothing\n");
  EXPECT_THAT(AvailableMemory(root_), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("MemAvailable")));
}

TEST(AvailableMemory, OfThisMachineIsSomething) {
  ASSERT_OK_AND_ASSIGN(const uint64_t available, AvailableMemory());
  EXPECT_GT(available, kMiB);
}

}  // namespace
}  // namespace assay::engine

// Who watches a run sees every tensor with its place, and may end it.
#include "engine/observer.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

#include "engine/plan.h"
#include "tests/engine/program_maker.h"
#include "tests/engine/run_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Recorder : public Observer {
 public:
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool is_view) override {
    seen.push_back(std::string(node.name) + "/" + std::string(node.op) + "/" + std::string(node.module) +
                   "/" + std::to_string(output) + "/" + std::to_string(value.numel()) +
                   (is_view ? "/view" : ""));
    return seen.size() < stop_after;
  }
  std::vector<std::string> seen;
  size_t stop_after = 1000;
};

TEST(ObserverTest, SeesEveryTensorWithItsPlace) {
  Recorder recorder;
  ASSERT_THAT(RunProgram(SmallProgram(), {at::ones({2, 3})}, &recorder), IsOk());
  EXPECT_THAT(recorder.seen, ElementsAre("linear/aten::linear/dense/0/8", "add/aten::add.Tensor//0/8",
                                         "gelu/aten::gelu/act/0/8"));
}

TEST(ObserverTest, MayEndTheRun) {
  Recorder recorder;
  recorder.stop_after = 2;
  EXPECT_THAT(RunProgram(SmallProgram(), {at::ones({2, 3})}, &recorder),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("node add")));
  EXPECT_EQ(recorder.seen.size(), 2u);
}

TEST(ObserverTest, KnowsViewsAndListOutputs) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 4});
  const uint32_t t = maker.Node("t", "aten::transpose.int",
                                {{"self", V(x)}, {"dim0", "integer: 0"}, {"dim1", "integer: 1"}});
  const uint32_t s =
      maker.Node("s", "aten::split.Tensor", {{"self", V(t)}, {"split_size", "integer: 2"}}, 2, true);
  maker.Output("y", s + 1, {2, 2});
  Recorder recorder;
  ASSERT_THAT(RunProgram(maker.Finish(), {at::ones({2, 4})}, &recorder), IsOk());
  EXPECT_THAT(recorder.seen, ElementsAre("t/aten::transpose.int//0/8/view", "s/aten::split.Tensor//0/4/view",
                                         "s/aten::split.Tensor//1/4/view"));
}

TEST(ObserverTest, CountsTimePerOperator) {
  OperatorTimes times;
  ASSERT_THAT(RunProgram(SmallProgram(), {at::ones({2, 3})}, &times), IsOk());
  ASSERT_EQ(times.Sorted().size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(times.Sorted()[i].second.calls, 1u);
    EXPECT_GT(times.Sorted()[i].second.nanoseconds, 0);
    if (i > 0) {
      EXPECT_LE(times.Sorted()[i].second.nanoseconds, times.Sorted()[i - 1].second.nanoseconds);
    }
  }
}

TEST(ObserverTest, FindsTheFirstNonFiniteNumber) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2});
  const uint32_t log = maker.Node("log_1", "aten::log", {{"self", V(x)}}, 1, false, "scale");
  const uint32_t diff = maker.Node("sub_1", "aten::sub.Tensor", {{"self", V(log)}, {"other", V(log)}});
  maker.Output("y", diff, {2});
  const v1::Program program = maker.Finish();

  FirstNonFinite nothing(true);
  ASSERT_THAT(RunProgram(program, {at::ones({2})}, &nothing), IsOk());
  EXPECT_FALSE(nothing.hit().has_value());

  FirstNonFinite nan, infinity(true);  // log(0) = -inf, and -inf - -inf = NaN
  ASSERT_THAT(RunProgram(program, {at::zeros({2})}, &nan), IsOk());
  ASSERT_TRUE(nan.hit().has_value());
  EXPECT_EQ(nan.hit()->name, "sub_1");
  ASSERT_THAT(RunProgram(program, {at::zeros({2})}, &infinity), IsOk());
  ASSERT_TRUE(infinity.hit().has_value());
  EXPECT_EQ(infinity.hit()->name, "log_1");
  EXPECT_EQ(infinity.hit()->module, "scale");
}

TEST(ObserverTest, NonFiniteInEveryFloatDtype) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const at::Tensor zero = at::zeros({2, 3}, dtype);
    EXPECT_FALSE(HasNonFinite(zero, true));
    EXPECT_TRUE(HasNonFinite(zero.div(zero), false));
    EXPECT_TRUE(HasNonFinite(zero.add(1).div(zero), true));
    EXPECT_FALSE(HasNonFinite(zero.add(1).div(zero), false));
  }
  EXPECT_FALSE(HasNonFinite(at::zeros({2}, at::kLong), true));
  EXPECT_FALSE(HasNonFinite(at::Tensor(), true));
}

}  // namespace
}  // namespace assay::engine

// What a run is said to take, counted by hand beside it.
#include "engine/cost.h"

#include "engine/plan.h"
#include "engine/run_test.h"
#include "engine/weights.h"
#include "tests/engine/altered_program.h"
#include "tests/engine/program_maker.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

v1::ProgramCost CostOf(const v1::Program& program, bool profile) {
  SetThreads(1);
  const Weights weights = *MockWeights(program.manifest(), program.manifest().mock_seed());
  const auto plan = *Plan::Build(program, Placement{});
  EXPECT_THAT(plan->Bind(weights), IsOk());
  const std::vector<at::Tensor> inputs = *GoldenInputs(program);
  RunCost cost(program, weights, inputs, profile);
  EXPECT_THAT(plan->Run(inputs, &cost), IsOk());
  return cost.Result(Placement{});
}

TEST(Cost, CountsTheOperationsOfProductsConvolutionsAndAttention) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 3, 8, 8});
  const uint32_t q = maker.Input("q", v1::FLOAT, {1, 2, 5, 4});
  const uint32_t w = maker.Weight("w", v1::FLOAT, {6, 3, 3, 3});
  const uint32_t d = maker.Weight("d", v1::FLOAT, {7, 6});
  const uint32_t conv =
      maker.Node("conv", "aten::conv2d", {{"input", V(x)}, {"weight", V(w)}});  // [2, 6, 6, 6]
  const uint32_t linear = maker.Node("linear", "aten::linear", {{"input", V(conv)}, {"weight", V(d)}});
  const uint32_t attention = maker.Node("sdpa", "aten::scaled_dot_product_attention",
                                        {{"query", V(q)}, {"key", V(q)}, {"value", V(q)}});
  const uint32_t relu = maker.Node("relu", "aten::relu", {{"self", V(linear)}});
  maker.Output("out", relu, {2, 6, 6, 7});
  maker.Output("attended", attention, {1, 2, 5, 4});
  const v1::ProgramCost cost = CostOf(maker.Finish(), false);
  const uint64_t of_conv = 2 * (2 * 6 * 6 * 6) * (3 * 3 * 3), of_linear = 2 * (2 * 6 * 6 * 7) * 6;
  const uint64_t of_attention = 2 * (2 * 5 * 5) * (4 + 4);
  EXPECT_EQ(cost.flops(), of_conv + of_linear + of_attention);
  EXPECT_EQ(cost.parameters(), 6u * 27 + 42);
  EXPECT_EQ(cost.weight_bytes(), 4 * (6u * 27 + 42));
  EXPECT_EQ(cost.operators(), 4u);
  EXPECT_EQ(cost.operator__size(), 0) << "a profile that nobody asked for";
}

TEST(Cost, AProfileHasTheTenThatTookLongest) {
  const v1::ProgramCost cost = CostOf(RealProgram("bert"), true);
  ASSERT_EQ(cost.operator__size(), 10);
  double sum = 0;
  for (int i = 0; i < cost.operator__size(); ++i) {
    sum += cost.operator_(i).seconds();
    if (i > 0) {
      EXPECT_LE(cost.operator_(i).seconds(), cost.operator_(i - 1).seconds());
    }
  }
  EXPECT_LE(sum, cost.profiled_seconds() * (1 + 1e-9));
  uint64_t flops = 0;
  for (const v1::OperatorCost& one : cost.operator_()) flops += one.flops();
  EXPECT_LE(flops, cost.flops());
  EXPECT_GT(flops, 0u);
}

TEST(Cost, EveryCaseThatRanHasIt) {
  const v1::TestResult result = RunAltered(RealProgram("bert"), "check { name: 'golden' golden {} }");
  ASSERT_EQ(result.case__size(), 1);
  EXPECT_GT(result.case_(0).cost().flops(), 0u);
  EXPECT_GT(result.case_(0).cost().parameters(), 0u);
  EXPECT_GT(result.case_(0).bind_seconds(), 0);
  EXPECT_LE(result.case_(0).bind_seconds(), result.case_(0).load_seconds());
}

}  // namespace
}  // namespace assay::engine

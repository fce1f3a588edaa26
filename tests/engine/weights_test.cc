// From a checkpoint's tensors to a plan's weights: where they lie, if they can stay there.
#include "engine/weights.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "engine/plan.h"
#include "tests/engine/program_maker.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

const std::vector<float> kTwelve = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

std::string Bytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

absl::StatusOr<checkpoint::Fit> FitOf(const std::vector<StoredTensor>& tensors, const v1::Program& program) {
  auto opened = checkpoint::Checkpoint::Open(WriteFolder(tensors));
  if (!opened.ok()) return opened.status();
  return opened->Match(program.manifest());
}

TEST(CheckpointWeights, AreBoundWhereTheyLieAndOutliveTheCheckpoint) {
  const v1::Program program = SmallProgram();
  Weights weights;
  {
    ASSERT_OK_AND_ASSIGN(const checkpoint::Fit fit,
                         FitOf({{"dense.weight", "F32", {4, 3}, Bytes(kTwelve)}}, program));
    ASSERT_OK_AND_ASSIGN(weights, CheckpointWeights(fit));
    ASSERT_FALSE(fit.Data(0).empty());
    EXPECT_EQ(weights[0].const_data_ptr(), fit.Data(0).data()) << "not a copy";
  }
  ASSERT_EQ(weights.size(), 1u);
  EXPECT_TRUE(at::equal(weights[0], at::tensor(kTwelve).view({4, 3})));
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(program, Placement()));
  EXPECT_THAT(plan->Bind(weights), IsOk());
  weights.clear();
  ASSERT_OK_AND_ASSIGN(const auto inputs, GoldenInputs(program));
  EXPECT_THAT(plan->Run(inputs), IsOk());
}

TEST(CheckpointWeights, AreWidenedWhereTheProgramIsWider) {
  std::string halves;
  for (const float value : kTwelve) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    halves += static_cast<char>(bits >> 16);
    halves += static_cast<char>(bits >> 24);
  }
  ASSERT_OK_AND_ASSIGN(const checkpoint::Fit fit,
                       FitOf({{"dense.weight", "BF16", {4, 3}, halves}}, SmallProgram()));
  ASSERT_OK_AND_ASSIGN(const Weights weights, CheckpointWeights(fit));
  EXPECT_TRUE(at::equal(weights[0], at::tensor(kTwelve).view({4, 3})));
}

TEST(CheckpointWeights, WhatDoesNotFitIsRefusedByName) {
  ASSERT_OK_AND_ASSIGN(const checkpoint::Fit fit,
                       FitOf({{"another.weight", "F32", {4, 3}, Bytes(kTwelve)}}, SmallProgram()));
  EXPECT_THAT(CheckpointWeights(fit),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dense.weight")));
}

TEST(CheckpointWeights, ABoolIsZeroOrOne) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2});
  maker.Weight("mask", v1::BOOL, {2}, "constant: 1");
  maker.Output("y", x, {2});
  const v1::Program program = maker.Finish();
  ASSERT_OK_AND_ASSIGN(checkpoint::Fit fit, FitOf({{"mask", "BOOL", {2}, std::string("\1\0", 2)}}, program));
  EXPECT_THAT(CheckpointWeights(fit), IsOk());
  ASSERT_OK_AND_ASSIGN(fit, FitOf({{"mask", "BOOL", {2}, std::string("\1\2", 2)}}, program));
  EXPECT_THAT(CheckpointWeights(fit), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("mask: a bool that is neither 0 nor 1")));
}

}  // namespace
}  // namespace assay::engine

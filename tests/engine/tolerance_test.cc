// The tolerance that follows from a golden's legitimate errors, and what a golden may call legitimate.
#include "engine/tolerance.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "engine/exact_math.h"
#include "engine/output_summary.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr char kGolden[] = "check { name: 'golden' golden {} }";
const Placement kBFloat16{at::kCPU, at::kBFloat16};

v1::LegitimateError Error(v1::ScalarType dtype, double max, double rms) {
  v1::LegitimateError error;
  error.set_dtype(dtype);
  error.set_max(max);
  error.set_rms(rms);
  return error;
}

v1::GoldenOutput TwoErrors() {
  v1::GoldenOutput golden;
  *golden.add_legitimate() = Error(v1::FLOAT, 0.001, 0.0005);
  *golden.add_legitimate() = Error(v1::BFLOAT16, 0.5, 0.125);
  return golden;
}

TEST(BoundFor, IsAMultipleOfWhatTheGoldenCallsLegitimate) {
  const at::Tensor b = at::ones({4});
  ASSERT_OK_AND_ASSIGN(const Bound bound, BoundFor({}, kBFloat16, nullptr, b));
  EXPECT_FALSE(bound.derived);
  const v1::GoldenOutput golden = TwoErrors();
  ASSERT_OK_AND_ASSIGN(const Bound derived, BoundFor({}, kBFloat16, &golden, b));
  EXPECT_TRUE(derived.derived);
  EXPECT_DOUBLE_EQ(derived.max, 2.5 * 0.501);
  EXPECT_DOUBLE_EQ(derived.rms, 2 * 0.1255);
  ASSERT_OK_AND_ASSIGN(const Bound cuda, BoundFor({}, {at::kCUDA, at::kBFloat16}, &golden, b));
  EXPECT_DOUBLE_EQ(cuda.max, 5 * 0.501);
}

// Of how many numbers the legitimate error was found decides how far it can be trusted.
TEST(BoundFor, LeavesMoreRoomWhereFewNumbersWereSeen) {
  const at::Tensor b = at::ones({4});
  const auto room = [&](int64_t numbers) {
    v1::GoldenOutput golden = TwoErrors();
    golden.mutable_tensor()->add_shape(numbers);
    const auto bound = BoundFor({}, kBFloat16, &golden, b);
    EXPECT_TRUE(bound.ok());
    return std::pair(bound->max / 0.501, bound->rms / 0.1255);
  };
  // By tables of the normal and the chi-squared distribution, once in a thousand either way.
  EXPECT_NEAR(room(4).first, 4.8, 0.05);
  EXPECT_NEAR(room(4).second, 4.7, 0.1);
  EXPECT_NEAR(room(20).first, 3.4, 0.05);
  EXPECT_NEAR(room(20).second, 2.95, 0.05);
  EXPECT_NEAR(room(576).first, 2.57, 0.02);
  EXPECT_DOUBLE_EQ(room(1024).first, 2.5);
  EXPECT_DOUBLE_EQ(room(1 << 20).second, 2);
}

TEST(BoundFor, LeavesRoomForOneRoundingWhereNoneWasSeen) {
  v1::GoldenOutput golden;
  *golden.add_legitimate() = Error(v1::FLOAT, 0, 0);
  *golden.add_legitimate() = Error(v1::BFLOAT16, 0, 0);
  ASSERT_OK_AND_ASSIGN(const Bound bound, BoundFor({}, kBFloat16, &golden, at::full({2}, 2.0)));
  EXPECT_DOUBLE_EQ(bound.max, 2.5 * 2.0 / 256);
}

TEST(BoundFor, ATestsOwnFactorsAndAGoldenWithoutErrorsGoByFactors) {
  v1::GoldenOutput golden = TwoErrors();
  v1::Tolerance asked;
  asked.set_scale(0.05);
  ASSERT_OK_AND_ASSIGN(const Bound own, BoundFor(asked, kBFloat16, &golden, at::ones({4})));
  EXPECT_FALSE(own.derived);
  EXPECT_DOUBLE_EQ(own.max, 0.05);
  EXPECT_EQ(own.rms, std::numeric_limits<double>::infinity());
  golden.mutable_legitimate()->RemoveLast();
  ASSERT_OK_AND_ASSIGN(const Bound old, BoundFor({}, kBFloat16, &golden, at::ones({4})));
  EXPECT_FALSE(old.derived);
}

TEST(BoundFor, IntegersAreEqualOrWrong) {
  const v1::GoldenOutput golden = TwoErrors();
  ASSERT_OK_AND_ASSIGN(const Bound bound, BoundFor({}, kBFloat16, &golden, at::ones({4}, at::kLong)));
  EXPECT_EQ(bound.max, 0);
  EXPECT_EQ(bound.rms, 0);
}

// --- From the program's file to the verdict ---

v1::LegitimateError& Legitimate(v1::Program& program, v1::ScalarType dtype) {
  for (v1::LegitimateError& error : *program.mutable_golden()->mutable_outputs(0)->mutable_legitimate()) {
    if (error.dtype() == dtype) return error;
  }
  ADD_FAILURE() << "the program's golden names no such error";
  static v1::LegitimateError none;
  return none;
}

v1::TestResult RunIn(v1::Dtype dtype, const v1::Program& program) {
  WrittenTest written = WriteTest(program, kGolden);
  written.test.mutable_set_up()->set_dtype(dtype);
  return RunAltered(written);
}

TEST(Derived, RealProgramsPassInEveryDtypeAndSayHowCloseTheyCame) {
  for (const char* name : {"bert", "gpt2", "vit", "conditional_detr"}) {
    for (const v1::Dtype dtype : {v1::FLOAT32, v1::DTYPE_BFLOAT16, v1::FLOAT16}) {
      const v1::TestResult result = RunIn(dtype, RealProgram(name));
      EXPECT_EQ(result.outcome(), v1::PASSED) << name << ": " << result.message();
      const v1::CheckResult& check = result.case_(0).check(0);
      EXPECT_GT(check.rms_tolerance(), 0);
      EXPECT_LE(check.rms_error(), check.rms_tolerance());
      EXPECT_EQ(check.note(), "");
    }
  }
}

// The first query weight a quarter too large. The constant of half precision let it pass: no number is off by
// 8e-2 of the largest.
TEST(Derived, AFaultThatTheConstantLetPassIsCaughtInBFloat16) {
  v1::Program bert = RealProgram("bert");
  bert.mutable_manifest()->mutable_weights(5)->mutable_mock()->mutable_normal()->set_std(
      bert.manifest().weights(5).mock().normal().std() * 1.25f);
  const v1::TestResult derived = RunIn(v1::DTYPE_BFLOAT16, bert);
  EXPECT_EQ(derived.outcome(), v1::FAILED) << bert.manifest().weights(5).name();
  bert.mutable_golden()->mutable_outputs(0)->clear_legitimate();
  EXPECT_EQ(RunIn(v1::DTYPE_BFLOAT16, bert).outcome(), v1::PASSED);
}

TEST(Derived, AProgramOfTheFirstReleaseIsJudgedByConstantsAndSaysSo) {
  v1::Program bert = RealProgram("bert");
  bert.mutable_golden()->mutable_outputs(0)->clear_legitimate();
  const v1::TestResult result = RunIn(v1::FLOAT16, bert);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_THAT(result.case_(0).check(0).note(), HasSubstr("judged by a constant of the dtype"));
}

TEST(Derived, TheMeanSquareIsBoundedToo) {
  v1::Program bert = RealProgram("bert");
  Legitimate(bert, v1::BFLOAT16).set_rms(Legitimate(bert, v1::BFLOAT16).rms() / 100);
  const v1::TestResult result = RunIn(v1::DTYPE_BFLOAT16, bert);
  const v1::CheckResult& check = result.case_(0).check(0);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(check.message(), HasSubstr("in the mean square"));
  EXPECT_LT(check.error(), check.tolerance());
}

TEST(Derived, WhatRoundingAloneCouldHaveDoneIsNeitherPassNorFailure) {
  v1::Program bert = RealProgram("bert");
  v1::LegitimateError& error = Legitimate(bert, v1::HALF);
  // As a fault would do it: the number that comes out is not the golden's.
  bert.mutable_manifest()->mutable_weights(5)->mutable_mock()->mutable_normal()->set_std(1.0f);
  EXPECT_EQ(RunIn(v1::FLOAT16, bert).outcome(), v1::FAILED);
  error.set_not_comparable("rounding to float16 turns aten::topk in a.router");
  const v1::TestResult result = RunIn(v1::FLOAT16, bert);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_EQ(result.case_(0).reason(), "NOT_COMPARABLE");
  EXPECT_THAT(result.message(),
              HasSubstr("not comparable at this dtype: rounding to float16 turns aten::topk"));
  // Another dtype's golden is not touched by it.
  EXPECT_EQ(RunIn(v1::DTYPE_BFLOAT16, bert).outcome(), v1::FAILED);
}

TEST(Derived, AComparableRunOfAModelThatMayTurnPasses) {
  v1::Program bert = RealProgram("bert");
  Legitimate(bert, v1::HALF).set_not_comparable("rounding to float16 turns aten::topk in a.router");
  EXPECT_EQ(RunIn(v1::FLOAT16, bert).outcome(), v1::PASSED);
}

// --- What a golden may call legitimate ---

double LargestOf(const v1::Program& program) {
  const std::string& data = program.golden().outputs(0).tensor().data();
  float largest = 0;
  for (size_t i = 0; i + 4 <= data.size(); i += 4) {
    float number;
    std::memcpy(&number, data.data() + i, sizeof number);
    largest = std::max(largest, std::abs(number));
  }
  return largest;
}

TEST(Evidence, AGoldenThatCallsEverythingLegitimateIsRefused) {
  const struct {
    v1::ScalarType scalar;
    v1::Dtype dtype;
    double most;
  } kBounds[] = {{v1::BFLOAT16, v1::DTYPE_BFLOAT16, 32.0 / 256},
                 {v1::HALF, v1::FLOAT16, 32.0 / 2048},
                 {v1::FLOAT, v1::FLOAT32, 2e-5}};
  for (const auto& bound : kBounds) {
    v1::Program bert = RealProgram("bert");
    const double most = bound.most * LargestOf(bert);
    Legitimate(bert, bound.scalar).set_max(0.99 * most);
    EXPECT_EQ(RunIn(bound.dtype, bert).outcome(), v1::PASSED);
    Legitimate(bert, bound.scalar).set_max(1.01 * most);
    const v1::TestResult refused = RunIn(bound.dtype, bert);
    EXPECT_EQ(refused.outcome(), v1::FAILED);
    EXPECT_THAT(refused.message(), HasSubstr("faults would pass for rounding"));
  }
}

TEST(Evidence, AnErrorThatIsNoneIsRefused) {
  const auto message = [](auto change) {
    v1::Program bert = RealProgram("bert");
    change(*bert.mutable_golden()->mutable_outputs(0));
    return RunIn(v1::FLOAT32, bert).message();
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(message([&](auto& o) { o.mutable_legitimate(1)->set_max(nan); }), HasSubstr("of nan at most"));
  EXPECT_THAT(message([&](auto& o) { o.mutable_legitimate(1)->set_rms(-1); }),
              HasSubstr("-1 in the mean square"));
  EXPECT_THAT(message([&](auto& o) { o.mutable_legitimate(1)->set_rms(1 + o.legitimate(1).max()); }),
              HasSubstr("in the mean square"));
  EXPECT_THAT(message([&](auto& o) { *o.add_legitimate() = o.legitimate(0); }),
              HasSubstr("two legitimate errors in float32"));
  EXPECT_THAT(message([&](auto& o) { o.mutable_legitimate(0)->set_dtype(v1::LONG); }),
              HasSubstr("a legitimate error in int64"));
}

// --- Summaries ---

TEST(Summary, SaysWhatCameOutAndWhatIsAllowed) {
  const v1::TestResult result = RunIn(v1::FLOAT32, RealProgram("bert"));
  ASSERT_EQ(result.case_(0).output_size(), 1);
  const v1::OutputSummary& output = result.case_(0).output(0);
  EXPECT_EQ(output.name(), "logits");
  EXPECT_EQ(output.samples_size(), 16);
  EXPECT_NEAR(output.abs_max(), LargestOf(RealProgram("bert")), output.allowed());
  EXPECT_DOUBLE_EQ(output.allowed(), result.case_(0).check(0).tolerance());
  EXPECT_DOUBLE_EQ(output.allowed_rms(), result.case_(0).check(0).rms_tolerance());
  EXPECT_FALSE(output.discrete());
}

// --- Exact math ---

TEST(ExactMath, WhateverWasTurnedOnIsOffAgain) {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(true);
  context.setAllowTF32CuDNN(true);
  context.setAllowFP16ReductionCuBLAS(true);
  context.setAllowBF16ReductionCuBLAS(true);
  context.setAllowFP16AccumulationCuBLAS(true);
  ASSERT_TRUE(context.allowTF32CuBLAS());
  EXPECT_THAT(DemandExactMath(), IsOk());
  EXPECT_FALSE(context.allowTF32CuBLAS());
  EXPECT_FALSE(context.allowTF32CuDNN(at::Float32Op::CONV));
  EXPECT_FALSE(context.allowTF32CuDNN(at::Float32Op::RNN));
  EXPECT_EQ(context.float32MatmulPrecision(), at::Float32MatmulPrecision::HIGHEST);
  EXPECT_EQ(context.allowFP16ReductionCuBLAS(),
            at::CuBLASReductionOption::DisallowReducedPrecisionAllowSplitK);
  EXPECT_FALSE(context.allowFP16AccumulationCuBLAS());
}

TEST(ExactMath, AnOverrideBeneathLibTorchStopsEveryTest) {
  setenv("NVIDIA_TF32_OVERRIDE", "1", 1);
  const v1::TestResult result = RunIn(v1::FLOAT32, RealProgram("bert"));
  setenv("NVIDIA_TF32_OVERRIDE", "0", 1);
  EXPECT_THAT(DemandExactMath(), IsOk());
  unsetenv("NVIDIA_TF32_OVERRIDE");
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("NVIDIA_TF32_OVERRIDE=1"));
}

}  // namespace
}  // namespace assay::engine

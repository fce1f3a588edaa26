// Each check holds for real models, and fails for one whose program was changed so that it must.
#include "engine/checks.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/tolerance.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr char kGolden[] = "check { name: 'golden' golden {} }";
constexpr char kCausality[] =
    "check { name: 'causality' causality { input: 'input_ids' output: 'logits' position: -3 } }";
constexpr char kPadding[] =
    "check { name: 'padding_invariance' padding_invariance { input: 'input_ids' mask: 'attention_mask' "
    "output: 'logits' masked: 3 output_has_sequence: true } }";
constexpr char kBatch[] = "check { name: 'batch_invariance' batch_invariance { row: 1 } }";
constexpr char kBoxes[] = "check { name: 'box_range' box_range { output: 'pred_boxes' } }";
constexpr char kSymmetry[] =
    "check { name: 'similarity_symmetry' similarity_symmetry { first: 'logits_per_image' second: "
    "'logits_per_text' } }";
constexpr char kEncoder[] =
    "check { name: 'encoder_influence' encoder_influence { input: 'input_ids' output: 'logits' } }";
constexpr char kImage[] =
    "check { name: 'input_influence' input_influence { input: 'pixel_values' output: 'logits' } }";
constexpr char kShapes[] = "check { name: 'shapes' shapes {} }";
constexpr char kFinite[] = "check { name: 'finite' finite {} }";
constexpr char kNotConstant[] = "check { name: 'not_constant' not_constant {} }";
constexpr char kDeterministic[] = "check { name: 'deterministic' deterministic {} }";

// Outcome and message of the only check.
struct Verdict {
  v1::Outcome outcome;
  std::string message;
};
Verdict Judge(const v1::Program& program, const std::string& check) {
  v1::TestResult result = RunAltered(program, check);
  if (result.case__size() != 1 || result.case_(0).check_size() != 1)
    return {result.outcome(), result.message()};
  EXPECT_EQ(result.outcome(), result.case_(0).check(0).outcome());
  return {result.case_(0).check(0).outcome(), result.case_(0).check(0).message()};
}
void ExpectHolds(const v1::Program& program, const std::string& check) {
  Verdict verdict = Judge(program, check);
  EXPECT_EQ(verdict.outcome, v1::PASSED) << program.manifest().model() << ": " << verdict.message;
}
void ExpectFails(const v1::Program& program, const std::string& check, const std::string& message) {
  Verdict verdict = Judge(program, check);
  EXPECT_EQ(verdict.outcome, v1::FAILED) << program.manifest().model();
  EXPECT_THAT(verdict.message, HasSubstr(message));
}

TEST(Causality, FailsWhereAModelSeesLaterTokens) {
  v1::Program gpt2 = RealProgram("gpt2");
  ExpectHolds(gpt2, kCausality);
  // Without its masks: the table of each attention, and the mask of the whole model.
  for (v1::Tensor& constant : *gpt2.mutable_constants()) {
    if (absl::StrContains(constant.name(), ".attn.bias")) {
      constant.set_data(std::string(constant.data().size(), '\x01'));
    }
  }
  SetOperator(gpt2, NodeRunning(gpt2, "aten::le"), "aten::ge", "Tensor");
  SetOperator(gpt2, NodeRunning(gpt2, "aten::bitwise_and"), "aten::bitwise_or", "Tensor");
  ExpectFails(gpt2, kCausality, "before the changed token at 5");
}

TEST(Causality, FailsWhereTheChangedTokenMovesNothing) {
  v1::Program gpt2 = RealProgram("gpt2");
  AppendToOutput(gpt2, 0, "aten::zeros_like");
  ExpectFails(gpt2, kCausality, "does not move from the changed token");
}

TEST(Causality, FailsWhereItCannotBeApplied) {
  auto at = [](int position) {
    return absl::StrCat(
        "check { name: 'c' causality { input: 'input_ids' output: 'logits' position: ", position, " } }");
  };
  v1::Program gpt2 = RealProgram("gpt2");
  ExpectFails(gpt2, at(0), "no row before it");
  ExpectFails(gpt2, at(8), "position 8");
  ExpectFails(gpt2, at(-9), "position -9");
  ExpectHolds(gpt2, at(3));
  gpt2.mutable_manifest()->mutable_inputs(0)->clear_id_low();
  gpt2.mutable_manifest()->mutable_inputs(0)->clear_id_high();
  ExpectFails(gpt2, at(3), "no range of ids");
}

TEST(PaddingInvariance, FailsWhereTheMaskIsIgnored) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kPadding);
  int mask = NodeRunning(bert, "aten::rsub") + 1;  // (1 - mask) * lowest number
  ArgumentOf(bert, mask, "other").set_real(0.0);
  ExpectFails(bert, kPadding, "after a change of what is masked");
}

// A trajectory's beginning is padded, and the golden's inputs have no padding: nothing else sees this mask.
TEST(PaddingInvariance, OnTheLeftFailsWhereATrajectorysMaskIsIgnored) {
  constexpr char kLeft[] =
      "check { name: 'left_padding' padding_invariance { input: 'states' mask: 'attention_mask' output: "
      "'action_preds' masked: 2 output_has_sequence: true left: true } }";
  v1::Program program = RealProgram("decision_transformer");
  ExpectHolds(program, kLeft);
  const int mask = NodeRunning(program, "aten::mul", NodeRunning(program, "aten::rsub"));
  ArgumentOf(program, mask, "other").set_real(1.0);
  ExpectFails(program, kLeft, "after a change of what is masked");
  ExpectHolds(program, kGolden);
}

// Positions that start elsewhere where there is padding: what is masked does not matter, that it is there
// does.
TEST(PaddingInvariance, FailsWhereAPaddedRowIsNotTheRowAlone) {
  v1::Program bert = RealProgram("bert");
  const int positions = NodeRunning(bert, "aten::slice", NodeRunning(bert, "aten::slice") + 1);
  ArgumentOf(bert, positions, "start").set_integer(2);
  ArgumentOf(bert, positions, "end").set_integer(10);
  ExpectFails(bert, kPadding, "padded, beside the same without padding");
  // The weaker half alone does not see it: there is no program of other lengths.
  bert.clear_variant();
  ExpectHolds(bert, kPadding);
}

TEST(PaddingInvariance, SaysWhereThereIsNoRowAlone) {
  const auto note = [](const v1::Program& program, v1::Dtype dtype = v1::FLOAT32) {
    return engine::Judge(program, kPadding, dtype).note();
  };
  v1::Program bert = RealProgram("bert");
  EXPECT_EQ(note(bert), "");
  EXPECT_THAT(note(bert, v1::DTYPE_BFLOAT16), HasSubstr("rounding decides"));
  v1::Program one_length = bert;
  for (v1::Variant& variant : *one_length.mutable_variant()) {
    if (variant.name() == "dynamic_shapes") variant.mutable_golden()->DeleteSubrange(1, 1);
  }
  EXPECT_THAT(note(one_length), HasSubstr("one length"));
  bert.clear_variant();
  EXPECT_THAT(note(bert), HasSubstr("no variant of other lengths"));
}

TEST(PaddingInvariance, FailsWhereItCannotBeApplied) {
  auto masked = [](int count) {
    return absl::StrCat(
        "check { name: 'p' padding_invariance { input: 'input_ids' mask: 'attention_mask' output: ",
        "'logits' masked: ", count, " output_has_sequence: true } }");
  };
  v1::Program bert = RealProgram("bert");
  ExpectFails(bert, masked(0), "masked is 0");
  ExpectFails(bert, masked(8), "masked is 8");
}

TEST(BatchInvariance, FailsWhereRowsMix) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kBatch);
  int softmax = NodeRunning(bert, "aten::softmax");
  ArgumentOf(bert, softmax, "dim").set_integer(0);
  ExpectFails(bert, kBatch, "of row 1 alone");
}

TEST(BatchInvariance, FailsWhereItCannotBeApplied) {
  v1::Program bert = RealProgram("bert");
  ExpectFails(bert, "check { name: 'b' batch_invariance { row: 2 } }", "2 rows");
  for (v1::InputSpec& input : *bert.mutable_manifest()->mutable_inputs()) input.clear_batch_dim();
  ExpectFails(bert, kBatch, "batch dimension is fixed");
}

TEST(EncoderInfluence, FailsWhereTheDecoderDoesNotListen) {
  v1::Program t5 = RealProgram("t5");
  ExpectHolds(t5, kEncoder);
  // The first embedding is the encoder's.
  SetOperator(t5, NodeRunning(t5, "aten::clone"), "aten::zeros_like");
  ExpectFails(t5, kEncoder, "does not move with 'input_ids'");
}

TEST(InputInfluence, FailsWhereTheImageIsIgnored) {
  v1::Program blip = RealProgram("blip");
  ExpectHolds(blip, kImage);
  for (v1::WeightSpec& weight : *blip.mutable_manifest()->mutable_weights()) {
    if (absl::StrContains(weight.name(), "patch_embedding")) weight.mutable_mock()->set_constant(0);
  }
  ExpectFails(blip, kImage, "does not move with 'pixel_values'");
}

TEST(BoxRange, FailsForABoxOutsideTheImage) {
  v1::Program detr = RealProgram("detr");
  ExpectHolds(detr, kBoxes);
  int boxes = 1;
  ASSERT_EQ(detr.manifest().outputs(boxes).name(), "pred_boxes");
  v1::Program larger = detr;
  ArgumentOf(larger, AppendToOutput(larger, boxes, "aten::add", "Scalar"), "other").set_real(0.75);
  ExpectFails(larger, kBoxes, "outside [0, 1]");
  v1::Program nan = detr;
  AppendToOutput(nan, boxes, "aten::neg");
  AppendToOutput(nan, boxes, "aten::log");
  ExpectFails(nan, kBoxes, "outside [0, 1]");
}

TEST(BoxRange, FailsWhereThereAreNoBoxes) {
  ExpectFails(RealProgram("bert"), "check { name: 'b' box_range { output: 'logits' } }", "no boxes");
}

TEST(SimilaritySymmetry, FailsWhereTheTwoDisagree) {
  v1::Program clip = RealProgram("clip");
  ExpectHolds(clip, kSymmetry);
  AppendToOutput(clip, 1, "aten::neg");
  ExpectFails(clip, kSymmetry, "as the transpose of");
}

TEST(Shapes, FailsForAnotherShapeAndAnotherDtype) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kShapes);
  v1::Program shape = bert;
  ArgumentOf(shape, AppendToOutput(shape, 0, "aten::unsqueeze"), "dim").set_integer(0);
  ExpectFails(shape, kShapes, "has shape [1, 2, 8, 99] instead of [2, 8, 99]");
  v1::Program dtype = bert;
  ArgumentOf(dtype, AppendToOutput(dtype, 0, "aten::_to_copy"), "dtype").set_scalar_type(v1::DOUBLE);
  ExpectFails(dtype, kShapes, "is Double instead of Float");
}

TEST(Finite, FailsForNanAndInf) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kFinite);
  AppendToOutput(bert, 0, "aten::log");  // logits below zero
  ExpectFails(bert, kFinite, "NaN or Inf");
  ExpectFails(bert, kGolden, "nan instead of");
}

TEST(NotConstant, FailsForAConstantAndForZeros) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kNotConstant);
  v1::Program zeros = bert, ones = bert;
  AppendToOutput(zeros, 0, "aten::zeros_like");
  AppendToOutput(ones, 0, "aten::ones_like");
  ExpectFails(zeros, kNotConstant, "is 0 everywhere");
  ExpectFails(ones, kNotConstant, "is 1 everywhere");
}

TEST(Deterministic, FailsForRandomNumbers) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kDeterministic);
  AppendToOutput(bert, 0, "aten::rand_like");
  ExpectFails(bert, kDeterministic, "of a second run");
}

TEST(Golden, FailsWithAnotherSeedInsteadOfComparing) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.mutable_set_up()->set_seed(77);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("this test has seed 77"));
}

TEST(Golden, TheTestsToleranceDecides) {
  v1::Program bert = RealProgram("bert");
  ArgumentOf(bert, NodeRunning(bert, "aten::gelu"), "approximate").set_text("tanh");
  ExpectFails(bert, kGolden, "allowed");
  ExpectHolds(bert, "check { name: 'golden' golden { tolerance { scale: 0.001 } } }");
  ExpectFails(bert, "check { name: 'golden' golden { tolerance { scale: -1 } } }", "tolerance.scale is -1");
}

TEST(WeightsBound, FailsWithMockWeights) {
  ExpectFails(RealProgram("bert"), "check { name: 'w' weights_bound {} }", "no checkpoint");
}

TEST(Names, AnUnknownInputOrOutputIsNamedWithCheckAndField) {
  v1::Program bert = RealProgram("bert");
  struct {
    const char* check;
    const char* message;
  } cases[] = {
      {"check { name: 'a' causality { input: 'ids' output: 'logits' position: 3 } }",
       "check 'a': input: the program has no 'ids'"},
      {"check { name: 'a' causality { input: 'input_ids' output: 'x' position: 3 } }",
       "check 'a': output: the program has no 'x'"},
      {"check { name: 'a' padding_invariance { input: 'input_ids' mask: 'm' output: 'logits' masked: 2 } }",
       "mask: the program has no 'm'"},
      {"check { name: 'a' encoder_influence { input: 'e' output: 'logits' } }",
       "no 'e', only input_ids, attention_mask"},
      {"check { name: 'a' input_influence { input: 'input_ids' output: '' } }",
       "output: the program has no ''"},
      {"check { name: 'a' box_range { output: 'pred_boxes' } }", "no 'pred_boxes', only logits"},
      {"check { name: 'a' similarity_symmetry { first: 'logits' second: 'b' } }",
       "second: the program has no 'b'"},
      {"check { name: 'a' }", "check 'a': no kind"},
  };
  for (const auto& c : cases) {
    v1::TestResult result = RunAltered(bert, c.check);
    EXPECT_EQ(result.outcome(), v1::FAILED) << c.check;
    EXPECT_THAT(result.message(), HasSubstr(c.message));
    EXPECT_EQ(result.case__size(), 0) << "a wrong test runs nothing";
  }
}

v1::Tensor Floats(const std::vector<float>& values) {
  v1::Tensor tensor;
  tensor.set_name("values");
  tensor.set_dtype(v1::FLOAT);
  tensor.add_shape(static_cast<int64_t>(values.size()));
  tensor.set_data(values.data(), values.size() * sizeof(float));
  return tensor;
}

TEST(Compare, FindsTheLargestDifferenceAndItsPlace) {
  ASSERT_OK_AND_ASSIGN(at::Tensor a, MakeTensor(Floats({1, 2, 3, 4})));
  ASSERT_OK_AND_ASSIGN(at::Tensor b, MakeTensor(Floats({1, 2.5, 2, 4})));
  ASSERT_OK_AND_ASSIGN(Difference difference, Compare(a, b));
  EXPECT_EQ(difference.error, 1);
  EXPECT_EQ(Describe(difference, {2, 2}), "3 instead of 2 at [1, 0]");
}

TEST(Compare, NanAndUnequalInfinitiesAreInfinitelyFarAndEqualInfinitiesAreNot) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  auto error = [](float a, float b) {
    return Compare(*MakeTensor(Floats({a})), *MakeTensor(Floats({b})))->error;
  };
  EXPECT_EQ(error(inf, inf), 0);
  EXPECT_EQ(error(inf, -inf), inf);
  EXPECT_EQ(error(1, inf), inf);
  EXPECT_EQ(error(nan, 1), inf);
  EXPECT_EQ(error(nan, nan), inf);
}

TEST(Compare, ShapesMustAgree) {
  EXPECT_THAT(Compare(*MakeTensor(Floats({1, 2})), *MakeTensor(Floats({1}))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("shape [2] instead of [1]")));
}

TEST(Tolerance, IsAShareOfTheReferencePlusItsRounding) {
  at::Tensor b = *MakeTensor(Floats({-4, 2, 1}));
  EXPECT_DOUBLE_EQ(Allowed({1e-3, 2}, b, 0.25), 4e-3 + 0.5);
  // An infinity is compared exactly and must not swallow every other difference.
  b = *MakeTensor(Floats({-4, 2, std::numeric_limits<float>::infinity()}));
  EXPECT_DOUBLE_EQ(Allowed({1e-3, 0}, b, 0), 4e-3);
}

TEST(Tolerance, LeftOpenIsTheEnginesDefaultAndNonsenseIsRefused) {
  ASSERT_OK_AND_ASSIGN(Factors defaults, FactorsFor({}, Placement{}));
  EXPECT_GT(defaults.scale, 0);
  EXPECT_LE(defaults.scale, 1e-5);
  v1::Tolerance asked;
  asked.set_rounding(-0.5);
  EXPECT_THAT(FactorsFor(asked, Placement{}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tolerance.rounding is -0.5")));
}

TEST(Tolerance, IsBoundedSoThatNoFaultPassesForRounding) {
  v1::Tolerance asked;
  asked.set_scale(0.05);
  EXPECT_THAT(
      FactorsFor(asked, Placement{}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tolerance.scale is 0.05, must be 0 to 0.001")));
  EXPECT_THAT(FactorsFor(asked, Placement{at::kCPU, at::kBFloat16}), IsOk());
  asked.set_scale(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(FactorsFor(asked, Placement{}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("scale")));
  asked.clear_scale();
  asked.set_rounding(65);
  EXPECT_THAT(FactorsFor(asked, Placement{}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tolerance.rounding is 65")));
  // From the test's file to its verdict, in the dtype that it runs in.
  ExpectFails(RealProgram("bert"), "check { name: 'golden' golden { tolerance { scale: 0.05 } } }",
              "tolerance.scale is 0.05");
}

}  // namespace
}  // namespace assay::engine

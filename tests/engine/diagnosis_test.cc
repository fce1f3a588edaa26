// What a failed check says of where and why, and the smallest part that still fails.
#include "engine/diagnosis.h"

#include <google/protobuf/text_format.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/program.h"
#include "engine/reduce.h"
#include "engine/run_test.h"
#include "engine/standalone.h"
#include "engine/weights.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

void Scale(at::Tensor& weight, float factor) {
  auto* data = static_cast<float*>(weight.mutable_data_ptr());
  for (int64_t i = 0; i < weight.numel(); ++i) data[i] *= factor;
}

// A program bound to mock weights, some of them changed, and a run of it.
struct Running {
  // `plan_of` is what runs; `program` is what it is said to be.
  Running(const v1::Program& program, const v1::Program& plan_of, const Placement& placement = {},
          const std::function<void(Weights&)>& change = nullptr)
      : program(program) {
    SetThreads(1);
    auto made = Plan::Build(plan_of, placement);
    EXPECT_THAT(made, IsOk());
    plan = *std::move(made);
    auto weights = MockWeights(program.manifest(), program.manifest().mock_seed());
    EXPECT_THAT(weights, IsOk());
    if (change) change(*weights);
    EXPECT_THAT(plan->Bind(*weights), IsOk());
    inputs = *GoldenInputs(program);
    for (at::Tensor& input : inputs) input = Place(input, placement);
    auto ran = plan->Run(inputs);
    EXPECT_THAT(ran, IsOk());
    outputs = *std::move(ran);
    bound = std::make_unique<BoundCase>(BoundCase{this->program, this->program.golden(), *plan, v1::MOCK,
                                                  program.manifest().mock_seed(), inputs, outputs});
  }
  v1::Divergence Diagnosis(const std::string& check_text) const {
    v1::Check check;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(check_text, &check));
    EXPECT_EQ(RunCheck(check, *bound).outcome(), v1::FAILED);
    auto found = Diagnose(check, *bound);
    EXPECT_THAT(found, IsOk());
    return found.ok() && *found ? **found : v1::Divergence();
  }

  const v1::Program program;
  std::unique_ptr<Plan> plan;
  std::vector<at::Tensor> inputs, outputs;
  std::unique_ptr<BoundCase> bound;
};

constexpr char kGolden[] = "name: 'golden' golden {}";

v1::Program WithTanhGelu(int* node = nullptr) {
  v1::Program program = RealProgram("bert");
  const int at = NodeRunning(program, "aten::gelu");
  ArgumentOf(program, at, "approximate").set_text("tanh");
  if (node != nullptr) *node = at;
  return program;
}

TEST(Diagnosis, HasWhatTheOperatorReadAndGaveAndHowTheErrorGrew) {
  int node = 0;
  const v1::Program program = WithTanhGelu(&node);
  const Running running(program, program);
  const v1::Divergence found = running.Diagnosis(kGolden);
  EXPECT_EQ(found.node(), program.graph().nodes(node).name());
  EXPECT_EQ(found.from(), v1::GOLDEN_TRACE);
  EXPECT_EQ(found.check(), "golden");
  ASSERT_EQ(found.input_size(), 1);
  EXPECT_TRUE(found.input(0).expected());
  EXPECT_TRUE(found.input(0).agrees()) << "what went in is right";
  EXPECT_EQ(found.input(0).source(), "operator");
  ASSERT_EQ(found.output_size(), 1);
  EXPECT_FALSE(found.output(0).agrees()) << "what came out is not";
  ASSERT_EQ(found.output(0).samples_size(), found.output(0).expected_samples_size());
  EXPECT_GT(found.output(0).std(), 0);
  EXPECT_LT(found.output(0).min(), found.output(0).max());
  // Nothing before it, something from it on.
  ASSERT_GT(found.growth_size(), 10);
  EXPECT_LE(found.growth_size(), 200);
  bool reached = false;
  for (const v1::GrowthPoint& point : found.growth()) {
    reached |= point.name() == found.node();
    if (point.name() == found.node()) {
      EXPECT_GT(point.error(), point.allowed());
    } else if (!reached) {
      EXPECT_LE(point.error(), point.allowed()) << point.name();
    }
  }
  EXPECT_TRUE(reached);
  EXPECT_GT(found.seconds(), 0);
}

TEST(Diagnosis, BlamesTheWeightsWhereTheyAreNotTheirRules) {
  const v1::Program program = RealProgram("bert");
  int weight = 0;
  while (program.manifest().weights(weight).name() != "bert.encoder.layer.1.output.dense.weight") ++weight;
  const Running running(program, program, {}, [&](Weights& weights) { Scale(weights[weight], 1.5f); });
  const v1::Divergence found = running.Diagnosis(kGolden);
  EXPECT_EQ(found.fault(), v1::FAULT_WEIGHTS) << found.fault_reason();
  EXPECT_THAT(found.fault_reason(), HasSubstr("bert.encoder.layer.1.output.dense.weight"));
  EXPECT_THAT(found.weight(), Contains("bert.encoder.layer.1.output.dense.weight"));
}

// Of a checkpoint there is no rule to hold weights against: its graph is run with mock weights instead.
TEST(Diagnosis, BlamesTheWeightsOfACheckpointWhereMockWeightsAgree) {
  const v1::Program program = RealProgram("bert");
  int weight = 0;
  while (program.manifest().weights(weight).name() != "bert.encoder.layer.1.output.dense.weight") ++weight;
  const Running running(program, program, {}, [&](Weights& weights) { Scale(weights[weight], 1.5f); });
  v1::CheckpointGolden checkpoint;
  *checkpoint.mutable_golden() = program.golden();
  const BoundCase bound{running.program, checkpoint.golden(), *running.plan, v1::REAL, 0,
                        running.inputs,  running.outputs,     &checkpoint};
  v1::Check check;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(kGolden, &check));
  ASSERT_OK_AND_ASSIGN(const auto found, Diagnose(check, bound));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->fault(), v1::FAULT_WEIGHTS) << found->fault_reason();
  EXPECT_THAT(found->fault_reason(), HasSubstr("the same graph with mock weights agrees with its golden"));

  // Nothing to run with mock weights: it says what it could not try.
  v1::Program exported = program;
  exported.clear_golden();
  const BoundCase alone{exported, checkpoint.golden(), *running.plan,   v1::REAL,
                        0,        running.inputs,      running.outputs, &checkpoint};
  ASSERT_OK_AND_ASSIGN(const auto less, Diagnose(check, alone));
  ASSERT_TRUE(less.has_value());
  EXPECT_EQ(less->fault(), v1::FAULT_WEIGHTS);
  EXPECT_THAT(less->fault_reason(), HasSubstr("it has no golden of mock weights"));
}

TEST(Diagnosis, BlamesTheProgramWhereTheOperatorIsAnother) {
  const v1::Program program = WithTanhGelu();
  const v1::Divergence found = Running(program, program).Diagnosis(kGolden);
  EXPECT_EQ(found.fault(), v1::FAULT_COMPUTATION);
  EXPECT_THAT(found.fault_reason(), HasSubstr("gives what this run gave"));
}

// What a broken kernel looks like: the program asks for one thing and another is computed.
TEST(Diagnosis, BlamesTheKernelWhereItsResultIsNotTheOperators) {
  const v1::Divergence found = Running(RealProgram("bert"), WithTanhGelu()).Diagnosis(kGolden);
  EXPECT_EQ(found.fault(), v1::FAULT_COMPUTATION);
  EXPECT_THAT(found.fault_reason(), HasSubstr("the kernel computed it wrong"));
}

TEST(Diagnosis, NamesTheFirstToGiveNaNWithoutAGolden) {
  v1::Program program = RealProgram("bert");
  program.mutable_golden()->clear_trace();
  int weight = 0;
  while (program.manifest().weights(weight).name() != "bert.encoder.layer.0.output.dense.bias") ++weight;
  const Running running(program, program, {}, [&](Weights& weights) {
    static_cast<float*>(weights[weight].mutable_data_ptr())[0] = std::nanf("");
  });
  const v1::Divergence found = running.Diagnosis("name: 'finite' finite {}");
  EXPECT_EQ(found.from(), v1::NON_FINITE);
  EXPECT_EQ(found.op(), "aten::linear");
  EXPECT_EQ(found.module(), "bert.encoder.layer.0.output.dense");
  EXPECT_EQ(found.fault(), v1::FAULT_WEIGHTS);
  EXPECT_THAT(found.fault_reason(), HasSubstr("holds NaN or Inf"));
  ASSERT_EQ(found.output_size(), 1);
  EXPECT_GT(found.output(0).nan(), 0u);
}

TEST(Diagnosis, SaysWhichOperatorLetsALaterTokenThrough) {
  v1::Program program = RealProgram("gpt2");
  program.mutable_golden()->clear_trace();
  // Softmax over the wrong dimension sees later tokens.
  const int node = NodeRunning(program, "aten::softmax");
  ArgumentOf(program, node, "dim").set_integer(-2);
  const Running running(program, program);
  const v1::Divergence found =
      running.Diagnosis("name: 'causality' causality { input: 'input_ids' output: 'logits' position: -2 }");
  EXPECT_EQ(found.from(), v1::ALTERED_RUN);
  EXPECT_EQ(found.node(), program.graph().nodes(node).name());
}

// On the left, too: places at the end are held against each other there, not those before the padding.
TEST(Diagnosis, SaysWhichOperatorLetsPaddingThrough) {
  v1::Program program = RealProgram("bert");
  program.mutable_golden()->clear_trace();
  // The mask of attention is all zeros.
  ArgumentOf(program, NodeRunning(program, "aten::rsub") + 1, "other").set_real(0.0);
  const Running running(program, program);
  for (const char* left : {"false", "true"}) {
    const v1::Divergence found = running.Diagnosis(absl::StrCat(
        "name: 'p' padding_invariance { input: 'input_ids' mask: 'attention_mask' output: 'logits' masked: 3 "
        "output_has_sequence: true left: ",
        left, " }"));
    EXPECT_EQ(found.from(), v1::ALTERED_RUN) << left;
    EXPECT_THAT(found.module(), HasSubstr("layer.0.attention.self")) << left;
  }
}

// In half precision, without a trace: the same program in float32 is what it is held against.
TEST(Diagnosis, ComparesWithTheCpuInFloat32WhereThereIsNothingElse) {
  v1::Program program = RealProgram("bert");
  program.mutable_golden()->clear_trace();
  v1::Program broken = program;
  const int node = NodeRunning(broken, "aten::gelu");
  SetOperator(broken, node, "aten::neg");
  broken.mutable_graph()->mutable_nodes(node)->mutable_arguments()->DeleteSubrange(
      1, broken.graph().nodes(node).arguments_size() - 1);
  const Running running(program, broken, Placement{at::kCPU, at::ScalarType::BFloat16});
  const v1::Divergence found = running.Diagnosis(kGolden);
  EXPECT_EQ(found.from(), v1::CPU_RUN);
  EXPECT_EQ(found.node(), program.graph().nodes(node).name());
  EXPECT_GT(found.growth_size(), 10);
}

TEST(Diagnosis, IsSilentWhereEverythingAgrees) {
  const v1::Program program = RealProgram("bert");
  const Running running(program, program);
  v1::Check check;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(kGolden, &check));
  ASSERT_OK_AND_ASSIGN(const auto found, Diagnose(check, *running.bound));
  EXPECT_FALSE(found.has_value());
  EXPECT_THAT(Reduce(*running.bound), StatusIs(absl::StatusCode::kFailedPrecondition));
}

// The part fails alone; with the operator mended it does not, so that its golden is right.
TEST(Reduction, KeepsTheFaultAndNothingElse) {
  int node = 0;
  const v1::Program program = WithTanhGelu(&node);
  const Running running(program, program);
  ASSERT_OK_AND_ASSIGN(const Reduced reduced, Reduce(*running.bound));
  EXPECT_EQ(reduced.nodes, 1u);
  EXPECT_THAT(reduced.story, HasSubstr(program.graph().nodes(node).name()));
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeProgram(reduced.program));
  ASSERT_OK_AND_ASSIGN(v1::Program read, ParseProgram(bytes));
  ASSERT_OK_AND_ASSIGN(const v1::CaseResult failed, RunStandalone(read, Placement{}));
  EXPECT_EQ(failed.outcome(), v1::FAILED);
  ArgumentOf(read, NodeRunning(read, "aten::gelu"), "approximate").set_text("none");
  ASSERT_OK_AND_ASSIGN(const v1::CaseResult mended, RunStandalone(read, Placement{}));
  EXPECT_EQ(mended.outcome(), v1::PASSED) << mended.message();
}

TEST(Reduction, TakesAlongWeightsThatAreNotTheirRules) {
  const v1::Program program = RealProgram("llama");
  int weight = 0;
  while (program.manifest().weights(weight).name() != "model.layers.1.mlp.down_proj.weight") ++weight;
  const Running running(program, program, {}, [&](Weights& weights) { Scale(weights[weight], 1.01f); });
  ASSERT_OK_AND_ASSIGN(const Reduced reduced, Reduce(*running.bound));
  EXPECT_EQ(reduced.program.manifest().weights_size(), 0);
  ASSERT_OK_AND_ASSIGN(const v1::CaseResult failed, RunStandalone(reduced.program, Placement{}));
  EXPECT_EQ(failed.outcome(), v1::FAILED);
}

}  // namespace
}  // namespace assay::engine

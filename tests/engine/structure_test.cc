// Checks that compare a program with itself or with what it says of itself: each holds for real programs and
// fails for one that was changed so that it must.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checks.h"
#include "engine/numbered_names.h"
#include "engine/tensors.h"
#include "engine/weights.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr char kLayers[] = "check { name: 'c' repeated_layers {} }";
constexpr char kConfiguration[] = "check { name: 'c' configuration {} }";
constexpr char kInfluence[] = "check { name: 'c' weight_influence { every_parameter: true } }";
constexpr char kAlike[] = "check { name: 'c' weights_alike {} }";
constexpr char kIntact[] = "check { name: 'c' weights_intact {} }";
constexpr char kInputs[] = "check { name: 'c' every_input {} }";
constexpr char kPosition[] =
    "check { name: 'c' position_sensitivity { input: 'input_ids' output: 'logits' } }";
constexpr char kOrder[] = "check { name: 'c' batch_order {} }";

void ExpectHolds(const v1::Program& program, const std::string& check) {
  const v1::CheckResult found = Judge(program, check);
  EXPECT_EQ(found.outcome(), v1::PASSED) << program.manifest().model() << ": " << found.message();
}

void ExpectFails(const v1::Program& program, const std::string& check, const std::string& message) {
  const v1::CheckResult found = Judge(program, check);
  EXPECT_EQ(found.outcome(), v1::FAILED) << program.manifest().model();
  EXPECT_THAT(found.message(), HasSubstr(message));
}

int WeightCalled(const v1::Program& program, const std::string& name) {
  for (int i = 0; i < program.manifest().weights_size(); ++i) {
    if (program.manifest().weights(i).name() == name) return i;
  }
  ADD_FAILURE() << name;
  return 0;
}

void DropArgument(v1::Program& program, int node, const std::string& name) {
  auto& arguments = *program.mutable_graph()->mutable_nodes(node)->mutable_arguments();
  for (int i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == name) return arguments.DeleteSubrange(i, 1);
  }
  ADD_FAILURE() << name;
}

// The node's module path lies below `module`.
int NodeIn(const v1::Program& program, const std::string& module, const std::string& op) {
  for (int node = NodeRunning(program, op);; node = NodeRunning(program, op, node + 1)) {
    const std::string& path = program.graph().modules(static_cast<int>(program.graph().nodes(node).module()));
    if (path.rfind(module, 0) == 0) return node;
  }
}

TEST(NumberedNames, DifferInNumbersAlone) {
  EXPECT_EQ(WithoutNumbers("encoder.layer.12.output"), "encoder.layer.#.output");
  EXPECT_EQ(WithoutNumbers("conv1.w2"), "conv1.w2");
  EXPECT_EQ(WithoutNumbers("0"), "#");
  EXPECT_EQ(FirstOf({"a", "b"}), "a, b");
  EXPECT_EQ(FirstOf(std::vector<std::string>(10, "a")), "a, a, a, a, a, a, a, a and 2 more");
}

TEST(RepeatedLayers, FailsWhereALayerHasAnotherLiteralOperatorOrWiring) {
  const v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kLayers);
  v1::Program altered = bert;
  ArgumentOf(altered, NodeIn(bert, "bert.encoder.layer.1.output", "aten::layer_norm"), "eps").set_real(1e-5);
  ExpectFails(altered, kLayers, "bert.encoder.layer.1.output");
  altered = bert;
  SetOperator(altered, NodeIn(bert, "bert.encoder.layer.0.intermediate", "aten::gelu"), "aten::silu");
  ExpectFails(altered, kLayers, "bert.encoder.layer.0.intermediate");
  altered = bert;
  const int matmul = NodeIn(bert, "bert.encoder.layer.1.attention", "aten::matmul");
  std::swap(ArgumentOf(altered, matmul, "self"), ArgumentOf(altered, matmul, "other"));
  ExpectFails(altered, kLayers, "bert.encoder.layer.1.attention");
  altered = bert;
  DropArgument(altered, NodeIn(bert, "bert.encoder.layer.0.output.dense", "aten::linear"), "bias");
  ExpectFails(altered, kLayers, "bert.encoder.layer.0.output.dense");
}

TEST(RepeatedLayers, LeavesOutWhatIsExemptAndHasNothingToSayOfOneLayer) {
  v1::Program bert = RealProgram("bert");
  ArgumentOf(bert, NodeIn(bert, "bert.encoder.layer.1.output", "aten::layer_norm"), "eps").set_real(1e-5);
  ExpectHolds(bert,
              "check { name: 'c' repeated_layers { except { name: 'bert.encoder.layer.#.output.LayerNorm' "
              "reason: 'r' } } }");
  // Layers with other weights are of another kind.
  v1::Program pyramid = RealProgram("bert");
  pyramid.mutable_manifest()
      ->mutable_weights(WeightCalled(pyramid, "bert.encoder.layer.1.output.dense.weight"))
      ->set_name("bert.encoder.layer.1.output.other.weight");
  for (v1::GraphInput& input : *pyramid.mutable_graph()->mutable_inputs()) {
    if (input.name() == "bert.encoder.layer.1.output.dense.weight")
      input.set_name("bert.encoder.layer.1.output.other.weight");
  }
  const v1::CheckResult found = Judge(pyramid, kLayers);
  EXPECT_EQ(found.outcome(), v1::SKIPPED);
  EXPECT_THAT(found.message(), HasSubstr("no two layers alike"));
}

TEST(Configuration, FailsForALiteralThatItDoesNotName) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kConfiguration);
  const int norm = NodeRunning(bert, "aten::layer_norm");
  ArgumentOf(bert, norm, "eps").set_real(1e-3);
  ExpectFails(bert, kConfiguration, "epsilon 0.001");
  ExpectHolds(bert, "check { name: 'c' configuration { except { name: '0.001' reason: 'r' } } }");
  bert = RealProgram("bert");
  ArgumentOf(bert, NodeRunning(bert, "aten::gelu"), "approximate").set_text("tanh");
  ExpectFails(bert, kConfiguration, "gelu's tanh form");
  bert = RealProgram("bert");
  for (v1::Tensor& constant : *bert.mutable_constants()) {
    if (constant.name() == "bert.embeddings.position_ids") constant.mutable_data()->at(8) = 3;
  }
  ExpectFails(bert, kConfiguration, "does not count on after 0");
  v1::Program llama = RealProgram("llama");
  ExpectHolds(llama, kConfiguration);
  for (v1::Tensor& constant : *llama.mutable_constants()) {
    if (constant.name() != "model.rotary_emb.inv_freq") continue;
    std::vector<float> numbers(constant.data().size() / sizeof(float));
    std::memcpy(numbers.data(), constant.data().data(), constant.data().size());
    numbers.back() *= 1.01F;
    std::memcpy(constant.mutable_data()->data(), numbers.data(), constant.data().size());
  }
  ExpectFails(llama, kConfiguration, "model.rotary_emb.inv_freq");
  llama.mutable_manifest()->set_config_json("[");
  ExpectFails(llama, kConfiguration, "no JSON object");
}

TEST(WeightInfluence, FailsWhereABiasOrALayersWeightIsNotUsed) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kInfluence);
  DropArgument(bert, NodeIn(bert, "cls.predictions.transform.dense", "aten::linear"), "bias");
  ExpectFails(bert, kInfluence, "cls.predictions.transform.dense.bias");
  ExpectHolds(bert,
              "check { name: 'c' weight_influence { every_parameter: true except { name: "
              "'cls.predictions.transform.dense.bias' reason: 'r' } } }");
  // Nor may a whole module lose its use, unless it is one that nobody asks for.
  bert = RealProgram("bert");
  const int norm = NodeIn(bert, "cls.predictions.transform.LayerNorm", "aten::layer_norm");
  DropArgument(bert, norm, "bias");
  DropArgument(bert, norm, "weight");
  ExpectFails(bert, kInfluence, "cls.predictions.transform.LayerNorm");
  ExpectHolds(RealProgram("layoutlm"), kInfluence);  // has a pooler
  bert = RealProgram("bert");
  DropArgument(bert, NodeIn(bert, "bert.encoder.layer.1.attention.self.key", "aten::linear"), "bias");
  ExpectFails(bert, kInfluence, "bert.encoder.layer.1.attention.self.key.bias");
}

// Templates of the first release ask for no more: what passed under them must not fail on a newer worker.
TEST(WeightInfluence, AsksForLessWhereTheTemplateDoesNotAskForEveryParameter) {
  const std::string lesser = "check { name: 'c' weight_influence {} }";
  for (const char* name : {"beit3", "esm"}) {
    ExpectHolds(RealProgram(name), lesser);
    EXPECT_EQ(Judge(RealProgram(name), kInfluence).outcome(), v1::FAILED) << name;
  }
  v1::Program bert = RealProgram("bert");
  const int norm = NodeIn(bert, "cls.predictions.transform.LayerNorm", "aten::layer_norm");
  DropArgument(bert, norm, "bias");
  ExpectFails(bert, lesser, "cls.predictions.transform.LayerNorm.bias");
  DropArgument(bert, norm, "weight");
  ExpectHolds(bert, lesser);
  bert = RealProgram("bert");
  DropArgument(bert, NodeIn(bert, "bert.encoder.layer.1.attention.self.key", "aten::linear"), "bias");
  ExpectFails(bert, lesser, "bert.encoder.layer.1.attention.self.key.bias");
}

TEST(WeightsAlike, FailsForALostBiasAndForEightBits) {
  const v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kAlike);
  v1::Program altered = bert;
  std::string& bias = LiteralWeight(altered, WeightCalled(bert, "bert.encoder.layer.1.output.dense.bias"));
  std::fill(bias.begin(), bias.end(), '\0');
  ExpectFails(altered, kAlike, "all zero");
  altered = bert;
  std::string& bytes = LiteralWeight(altered, WeightCalled(bert, "bert.encoder.layer.0.output.dense.weight"));
  std::vector<float> numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  float largest = 0;
  for (float x : numbers) largest = std::max(largest, std::abs(x));
  for (float& x : numbers) x = std::nearbyint(x / largest * 127) * (largest / 127);
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  ExpectFails(altered, kAlike, "8 bits");
  ExpectHolds(
      altered,
      "check { name: 'c' weights_alike { except { name: 'bert.encoder.layer.#.output.dense.weight' reason: "
      "'r' } } }");
}

TEST(WeightsIntact, FailsWhereThePlanRunsWithOtherNumbers) {
  const v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kIntact);
  const v1::Manifest& manifest = bert.manifest();
  ASSERT_OK_AND_ASSIGN(Weights weights, MockWeights(manifest, manifest.mock_seed()));
  const int changed = WeightCalled(bert, "bert.encoder.layer.0.attention.self.query.weight");
  weights[static_cast<size_t>(changed)] = weights[static_cast<size_t>(changed)].t().contiguous();
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(bert, Placement{}));
  ASSERT_THAT(plan->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(bert));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> outputs, plan->Run(inputs));
  BoundCase bound{bert, bert.golden(), *plan, v1::MOCK, manifest.mock_seed(), inputs, outputs};
  v1::Check check;
  check.set_name("c");
  check.mutable_weights_intact();
  EXPECT_THAT(RunCheck(check, bound).message(), HasSubstr("does not know where"));
  bound.reload = [&] { return MockWeights(manifest, manifest.mock_seed()); };
  const v1::CheckResult found = RunCheck(check, bound);
  EXPECT_EQ(found.outcome(), v1::FAILED);
  EXPECT_THAT(found.message(), HasSubstr("bert.encoder.layer.0.attention.self.query.weight"));
}

TEST(EveryInput, FailsWhereOneIsIgnored) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kInputs);
  ArgumentOf(bert, NodeRunning(bert, "aten::rsub") + 1, "other").set_real(0.0);
  ExpectFails(bert, kInputs, "'attention_mask'");
  ExpectHolds(bert, "check { name: 'c' every_input { except { name: 'attention_mask' reason: 'r' } } }");
}

TEST(PositionSensitivity, FailsWhereTheOrderOfTokensIsLost) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kPosition);
  ExpectHolds(RealProgram("llama"), kPosition);
  for (v1::Tensor& constant : *bert.mutable_constants()) {
    if (constant.name() == "bert.embeddings.position_ids") {
      std::fill(constant.mutable_data()->begin(), constant.mutable_data()->end(), '\0');
    }
  }
  ExpectFails(bert, kPosition, "does not tell the order");
}

TEST(BatchOrder, FailsWhereRowsMix) {
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kOrder);
  for (v1::InputSpec& input : *bert.mutable_manifest()->mutable_inputs()) input.clear_batch_dim();
  EXPECT_EQ(Judge(bert, kOrder).outcome(), v1::SKIPPED);
  bert = RealProgram("bert");
  // A running sum over the batch: each row holds those before it.
  const int output = AppendToOutput(bert, 0, "aten::cumsum");
  ArgumentOf(bert, output, "dim").set_integer(0);
  ExpectFails(bert, kOrder, "with the batch in reverse");
}

TEST(Causality, AsksAtFurtherPositionsAndOfEachRow) {
  v1::Program llama = RealProgram("llama");
  ExpectHolds(
      llama,
      "check { name: 'c' causality { input: 'input_ids' output: 'logits' position: -2 further_position: 1 "
      "further_position: 4 each_row_moves: true } }");
  ExpectFails(
      llama,
      "check { name: 'c' causality { input: 'input_ids' output: 'logits' position: -2 further_position: 100 "
      "} }",
      "position 100");
}

TEST(PaddingInvariance, HidesABeginningToo) {
  constexpr char kLeft[] =
      "check { name: 'c' padding_invariance { input: 'input_ids' mask: 'attention_mask' output: 'logits' "
      "masked: 2 "
      "output_has_sequence: true left: true } }";
  v1::Program bert = RealProgram("bert");
  ExpectHolds(bert, kLeft);
  ArgumentOf(bert, NodeRunning(bert, "aten::rsub") + 1, "other").set_real(0.0);
  ExpectFails(bert, kLeft, "after a change of what is masked");
  // A decoder's mask of what is not yet written does not hide what comes before.
  v1::Program llama = RealProgram("llama");
  ExpectHolds(llama, kLeft);
  const int both = NodeCalled(llama, "and_2");
  ArgumentOf(llama, both, "other") = ArgumentOf(llama, both, "self");
  ExpectFails(llama, kLeft, "after a change of what is masked");
}

TEST(PaddingInvariance, HoldsForTheTextTowerOfADualEncoderWhoseGoldenHasNoPadding) {
  constexpr char kTower[] =
      "check { name: 'c' padding_invariance { input: 'input_ids' mask: 'attention_mask' "
      "output: 'logits_per_text' masked: 2 } }";
  v1::Program clip = RealProgram("clip");
  ExpectHolds(clip, kTower);
  // What the mask fills in where it hides: all tokens are seen, which the golden's inputs ask for anyway.
  ArgumentOf(clip, NodeCalled(clip, "masked_fill_1"), "value").set_real(0.0);
  ExpectFails(clip, kTower, "after a change of what is masked");
  ExpectHolds(clip, "check { name: 'c' golden {} }");
}

}  // namespace
}  // namespace assay::engine

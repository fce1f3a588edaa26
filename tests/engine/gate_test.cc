// Two runs of a model held against each other: the verdict, the place, and what must not pass for the same.
#include "engine/gate.h"

#include <limits>
#include <string>
#include <vector>

#include "common/status_macros.h"
#include "engine/recording.h"
#include "engine/run_test.h"
#include "engine/weight_map.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// `program` run with the weights and inputs of `source`.
v1::Recording RecordingOf(v1::Program program, const v1::Program& source, uint32_t samples = kLiveSamples) {
  SetThreads(1);
  auto own = OwnMockWeights(source.manifest());
  EXPECT_THAT(own, IsOk());
  auto weights = MapWeights(source, *own, program);
  EXPECT_THAT(weights, IsOk());
  auto inputs = GoldenInputs(source);
  EXPECT_THAT(inputs, IsOk());
  auto recording = Record(program, "digest", *weights, *inputs, Placement(), samples);
  EXPECT_THAT(recording, IsOk());
  return *std::move(recording);
}

v1::GateResult Compare(const v1::Program& from, const v1::Program& to) {
  return CompareRecordings(RecordingOf(from, from), RecordingOf(to, from), true);
}

TEST(Gate, TheSameProgramIsTheSameToTheBit) {
  const v1::Program bert = RealProgram("bert");
  const v1::GateResult result = Compare(bert, bert);
  EXPECT_EQ(result.verdict(), v1::SAME) << result.ShortDebugString();
  EXPECT_EQ(result.tolerances(), 0);
  EXPECT_FALSE(result.has_divergence());
}

TEST(Gate, AnotherOperatorIsNamedWithItsCounterpart) {
  const v1::Program before = RealProgram("bert");
  v1::Program after = before;
  const int node = NodeRunning(after, "aten::gelu");
  SetOperator(after, node, "aten::relu");
  const v1::GateResult result = Compare(before, after);
  EXPECT_EQ(result.verdict(), v1::CHANGED);
  EXPECT_GT(result.tolerances(), 100);
  EXPECT_EQ(result.divergence().node(), after.graph().nodes(node).name()) << result.ShortDebugString();
  EXPECT_EQ(result.divergence().op(), "aten::relu");
  EXPECT_THAT(result.divergence().module(), HasSubstr("encoder.layer.0"));
  EXPECT_THAT(result.counterpart(), HasSubstr("aten::gelu"));
  ASSERT_EQ(result.divergence().output_size(), 1);
  EXPECT_NE(result.divergence().output(0).mean(), result.divergence().output(0).expected_mean());
  EXPECT_GT(result.divergence().growth_size(), 10);
}

TEST(Gate, AnotherLiteralIsNamed) {
  const v1::Program before = RealProgram("bert");
  v1::Program after = before;
  const int node = NodeRunning(after, "aten::layer_norm");
  ArgumentOf(after, node, "eps").set_real(0.5);
  const v1::GateResult result = Compare(before, after);
  EXPECT_EQ(result.verdict(), v1::CHANGED);
  EXPECT_EQ(result.divergence().node(), after.graph().nodes(node).name());
  EXPECT_THAT(result.counterpart(), HasSubstr("eps 1e-12, then 0.5"));
}

TEST(Gate, AnOperatorThatOnlyOneSideHasIsNamed) {
  const v1::Program before = RealProgram("bert");
  v1::Program after = before;
  AppendToOutput(after, 0, "aten::tanh");
  const v1::GateResult result = Compare(before, after);
  EXPECT_EQ(result.verdict(), v1::CHANGED);
  EXPECT_EQ(result.divergence().op(), "aten::tanh") << result.ShortDebugString();
  EXPECT_THAT(result.only_to(), Contains(HasSubstr("aten::tanh")));
}

TEST(Gate, ConfigurationsThatDifferAreToldUnderOtherNamesToo) {
  const v1::Program before = RealProgram("bert");
  v1::Program after = before;
  SetOperator(after, NodeRunning(after, "aten::gelu"), "aten::relu");
  v1::Program named = before;
  named.mutable_manifest()->set_config_json(R"({"act": "gelu", "theta": 1, "zero": 0})");
  after.mutable_manifest()->set_config_json(R"({"act": "relu", "rope": {"theta": 2}, "zero": 0.0})");
  EXPECT_THAT(Compare(named, after).configuration(),
              ElementsAre("act: \"gelu\", then \"relu\"", "theta: 1, then 2 (rope.theta)"));
}

// Two builds that describe themselves as others: what a change may come from is told, also where nothing
// changed.
TEST(Gate, VersionsAndDriversThatDifferAreTold) {
  const v1::Program bert = RealProgram("bert");
  v1::Recording from = RecordingOf(bert, bert, 4);
  EXPECT_THAT(CompareRecordings(from, from, true).note(), ::testing::IsEmpty());
  const auto on_gpu = [](v1::Recording& recording, const char* torch, const char* driver) {
    recording.mutable_provenance()->set_torch_version(torch);
    v1::DeviceInfo& device = *recording.mutable_provenance()->mutable_device();
    device.set_kind("cuda");
    device.set_name("NVIDIA H100 80GB HBM3");
    device.set_capability("9.0");
    device.set_driver(driver);
  };
  v1::Recording to = from;
  on_gpu(from, "2.13.0", "550.54.14 (CUDA 12.4)");
  on_gpu(to, "2.11.0", "570.86.10 (CUDA 12.4)");
  const v1::GateResult result = CompareRecordings(from, to, true);
  EXPECT_EQ(result.verdict(), v1::SAME);
  EXPECT_THAT(result.note(), ElementsAre("torch 2.13.0, then 2.11.0",
                                         "driver 550.54.14 (CUDA 12.4), then 570.86.10 (CUDA 12.4)"));
  EXPECT_THAT(result.from(), HasSubstr("driver 550.54.14"));
  EXPECT_THAT(result.to(), HasSubstr("driver 570.86.10"));
  on_gpu(to, "2.13.0", "");
  EXPECT_THAT(CompareRecordings(from, to, true).note(),
              ElementsAre("driver 550.54.14 (CUDA 12.4), then unknown"));
}

// What a recording's first output holds, changed by hand.
v1::GateResult WithOutput(double change) {
  const v1::Program bert = RealProgram("bert");
  const v1::Recording from = RecordingOf(bert, bert);
  v1::Recording to = from;
  v1::RecordedValue& output = *to.mutable_output(0);
  output.set_samples(0, output.samples(0) + change);
  output.set_digest(std::string(64, '0'));
  return CompareRecordings(from, to, true);
}

TEST(Gate, ToleranceIsTheGoldens) {
  const v1::GateResult near = WithOutput(1e-8);
  EXPECT_EQ(near.verdict(), v1::WITHIN_TOLERANCE);
  EXPECT_GT(near.tolerances(), 0);
  EXPECT_LT(near.tolerances(), 0.1);
  // Ten times what is allowed, and no more.
  const v1::GateResult far = WithOutput(10 * near.output(0).allowed());
  EXPECT_EQ(far.verdict(), v1::CHANGED);
  EXPECT_NEAR(far.tolerances(), 10, 0.1);
  EXPECT_THAT(far.not_placed(), HasSubstr("every recorded value agrees"));
  EXPECT_EQ(WithOutput(std::numeric_limits<double>::quiet_NaN()).verdict(), v1::CHANGED);
}

TEST(Gate, WhatCannotBeComparedIsNoPass) {
  const v1::Program bert = RealProgram("bert");
  const v1::Recording from = RecordingOf(bert, bert, 4);
  const auto refused = [&](auto change, const std::string& why) {
    v1::Recording to = from;
    change(to);
    const v1::GateResult result = CompareRecordings(from, to, true);
    EXPECT_EQ(result.verdict(), v1::NOT_COMPARABLE);
    EXPECT_THAT(result.reason(), HasSubstr(why));
  };
  refused([](v1::Recording& to) { to.set_inputs_digest("other"); }, "different inputs");
  refused([](v1::Recording& to) { to.set_weights_identity("other"); }, "different weights");
  refused([](v1::Recording& to) { to.set_weights(v1::REAL); }, "those of a checkpoint");
  refused([](v1::Recording& to) { to.mutable_output(0)->set_name("other"); }, "only the from side gives");
  refused([](v1::Recording& to) { to.set_model("other"); }, "bert and other");
  v1::Recording shorter = from;
  shorter.mutable_output(0)->mutable_shape()->Set(0, 1);
  shorter.mutable_output(0)->set_digest("other");
  EXPECT_EQ(CompareRecordings(from, shorter, true).verdict(), v1::CHANGED);
}

TEST(Recording, IsReadBackAndRefusedWhereItIsNone) {
  const v1::Program bert = RealProgram("bert");
  const v1::Recording made = RecordingOf(bert, bert, kFileSamples);
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeRecording(made));
  ASSERT_OK_AND_ASSIGN(const v1::Recording read, ParseRecording(bytes));
  EXPECT_EQ(read.SerializeAsString(), made.SerializeAsString());
  EXPECT_THAT(ParseRecording(bytes.substr(0, bytes.size() / 2)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
  const auto refused = [&](auto change, absl::StatusCode code, const std::string& why) {
    v1::Recording bad = made;
    change(bad);
    ASSERT_OK_AND_ASSIGN(const std::string file, SerializeRecording(bad));
    EXPECT_THAT(ParseRecording(file), StatusIs(code, HasSubstr(why)));
  };
  using absl::StatusCode;
  refused([](v1::Recording& bad) { bad.set_format(2); }, StatusCode::kUnimplemented, "format 2");
  refused([](v1::Recording& bad) { bad.mutable_value(3)->set_node(99999); }, StatusCode::kInvalidArgument,
          "no operator");
  refused([](v1::Recording& bad) { bad.mutable_value(3)->clear_samples(); }, StatusCode::kInvalidArgument,
          "numbers");
  refused([](v1::Recording& bad) { bad.mutable_output(0)->mutable_samples()->RemoveLast(); },
          StatusCode::kInvalidArgument, "numbers");
  refused([](v1::Recording& bad) { bad.clear_inputs_digest(); }, StatusCode::kInvalidArgument,
          "what went into");
  refused([](v1::Recording& bad) { bad.clear_value(); }, StatusCode::kInvalidArgument, "no values");
}

// Manifests by hand: names and shapes of weights.
using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;
v1::Program Holding(const Shapes& weights) {
  v1::Program program;
  for (const auto& [name, shape] : weights) {
    v1::WeightSpec& spec = *program.mutable_manifest()->add_weights();
    spec.set_name(name);
    spec.set_dtype(v1::FLOAT);
    spec.mutable_shape()->Assign(shape.begin(), shape.end());
    spec.mutable_mock()->mutable_normal()->set_std(1);
  }
  return program;
}

absl::StatusOr<GivenWeights> Mapped(const v1::Program& from, v1::Program to) {
  ASSAY_ASSIGN_OR_RETURN(const GivenWeights own, OwnMockWeights(from.manifest()));
  return MapWeights(from, own, to);
}

TEST(WeightMap, RenamedWeightsAreFoundWhereThereIsOneAnswer) {
  const v1::Program from =
      Holding({{"text.layers.0.fc.weight", {2, 3}}, {"text.layers.1.fc.weight", {2, 3}}});
  const v1::Program to =
      Holding({{"model.text.layers.1.fc.weight", {2, 3}}, {"model.text.layers.0.fc.weight", {2, 3}}});
  ASSERT_OK_AND_ASSIGN(const GivenWeights mapped, Mapped(from, to));
  ASSERT_OK_AND_ASSIGN(const GivenWeights own, OwnMockWeights(from.manifest()));
  EXPECT_TRUE(mapped.values[0].equal(own.values[1]));
  EXPECT_TRUE(mapped.values[1].equal(own.values[0]));
  EXPECT_EQ(mapped.identity, own.identity);
  EXPECT_THAT(mapped.notes, ElementsAre(HasSubstr("2 weights are renamed")));
}

TEST(WeightMap, NothingIsGuessedAt) {
  // Either could be either.
  EXPECT_THAT(Mapped(Holding({{"a.query.weight", {2, 2}}, {"a.key.weight", {2, 2}}}),
                     Holding({{"a.q.weight", {2, 2}}, {"a.k.weight", {2, 2}}})),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("could be several")));
  // Another layer's, another shape's, another kind's.
  for (const auto& [name, shape] :
       Shapes{{"a.1.weight", {2, 2}}, {"b.0.weight", {2, 3}}, {"b.0.bias", {2, 2}}}) {
    EXPECT_THAT(Mapped(Holding({{"a.0.weight", {2, 2}}}), Holding({{name, shape}})),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(name)));
  }
  EXPECT_THAT(
      Mapped(Holding({{"a.weight", {2, 2}}}), Holding({{"a.weight", {2, 3}}})),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("which is [2, 2] on the other side")));
}

TEST(WeightMap, NamesInCheckpointsCount) {
  v1::Program to = Holding({{"a.q.weight", {2, 2}}, {"a.k.weight", {2, 2}}});
  for (const auto& [alias, weight] :
       {std::pair("a.query.weight", "a.q.weight"), std::pair("a.key.weight", "a.k.weight")}) {
    v1::TiedWeight& tie = *to.mutable_manifest()->add_tied();
    tie.set_alias(alias);
    tie.set_weight(weight);
  }
  const v1::Program from = Holding({{"a.key.weight", {2, 2}}, {"a.query.weight", {2, 2}}});
  ASSERT_OK_AND_ASSIGN(const GivenWeights mapped, Mapped(from, to));
  ASSERT_OK_AND_ASSIGN(const GivenWeights own, OwnMockWeights(from.manifest()));
  EXPECT_TRUE(mapped.values[0].equal(own.values[1]));
}

TEST(WeightMap, ExpertsAreStacked) {
  Shapes one_by_one;
  for (const char* expert : {"0", "1"}) {
    const std::string folder = std::string("l.3.moe.experts.") + expert;
    one_by_one.push_back({folder + ".gate_proj.weight", {4, 3}});
    one_by_one.push_back({folder + ".up_proj.weight", {4, 3}});
    one_by_one.push_back({folder + ".down_proj.weight", {3, 4}});
  }
  const v1::Program from = Holding(one_by_one);
  ASSERT_OK_AND_ASSIGN(const GivenWeights mapped,
                       Mapped(from, Holding({{"l.3.mlp.experts.gate_up_proj", {2, 8, 3}},
                                             {"l.3.mlp.experts.down_proj", {2, 3, 4}}})));
  ASSERT_OK_AND_ASSIGN(const GivenWeights own, OwnMockWeights(from.manifest()));
  EXPECT_TRUE(mapped.values[0][1].slice(0, 0, 4).equal(own.values[3]));
  EXPECT_TRUE(mapped.values[0][1].slice(0, 4, 8).equal(own.values[4]));
  EXPECT_TRUE(mapped.values[1][0].equal(own.values[2]));
  EXPECT_THAT(mapped.notes, Contains(HasSubstr("gate_proj.weight and up_proj.weight stacked")));
  // Fewer experts than there are: not these.
  EXPECT_THAT(Mapped(from, Holding({{"l.3.mlp.experts.down_proj", {1, 3, 4}}})),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no rule")));
}

TEST(WeightMap, WhatOnlyTheOtherSideHasIsSaid) {
  ASSERT_OK_AND_ASSIGN(const GivenWeights mapped,
                       Mapped(Holding({{"a.weight", {2}}, {"b.weight", {3}}}), Holding({{"a.weight", {2}}})));
  EXPECT_THAT(mapped.notes, ElementsAre(HasSubstr("b.weight")));
}

TEST(WeightMap, OtherInputsAreRefused) {
  const v1::Program bert = RealProgram("bert");
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(bert));
  v1::Program other = bert;
  other.mutable_manifest()->mutable_inputs(0)->set_name("pixels");
  EXPECT_THAT(InputsFor(other.manifest(), bert.manifest(), inputs),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("pixels")));
  v1::Program longer = bert;
  longer.mutable_manifest()->mutable_inputs(0)->set_shape(1, 99);
  EXPECT_THAT(InputsFor(longer.manifest(), bert.manifest(), inputs),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("99")));
  v1::Program fewer = bert;
  fewer.mutable_manifest()->mutable_inputs()->RemoveLast();
  EXPECT_THAT(InputsFor(fewer.manifest(), bert.manifest(), inputs),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("only one side takes")));
}

}  // namespace
}  // namespace assay::engine

// What a plan makes of a program: coerced arguments, errors at build time that name the place, lifetimes,
// batches, placements and observers.
#include "engine/plan.h"

#include <ATen/ops/add.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/build.h"
#include "tests/engine/program_maker.h"
#include "tests/engine/run_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PlanTest, RunsWhatTheProgramSays) {
  const v1::Program program = SmallProgram();
  ASSERT_OK_AND_ASSIGN(const Weights weights, MockWeights(program.manifest(), 1));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> outputs, RunProgram(program, inputs));
  ASSERT_EQ(outputs.size(), 1u);
  const at::Tensor offset = at::tensor({0.5f, -0.5f, 1.0f, 0.0f});
  EXPECT_TRUE(at::equal(outputs[0], at::gelu(at::add(at::linear(inputs[0], weights[0]), offset), "tanh")));
}

TEST(PlanTest, TakesAnyBatchAndNothingElse) {
  const v1::Program program = SmallProgram();
  for (const int64_t batch : {1, 2, 5}) {
    ASSERT_OK_AND_ASSIGN(const auto outputs, RunProgram(program, {at::ones({batch, 3})}));
    EXPECT_THAT(outputs[0].sizes().vec(), ElementsAre(batch, 4));
  }
  const auto invalid = [&](const std::vector<at::Tensor>& inputs, const char* place) {
    EXPECT_THAT(RunProgram(program, inputs), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(place)));
  };
  invalid({at::ones({2, 4})},
          "input x: the program takes float32 [2, 3] with any batch in dimension 0, given is "
          "Float [2, 4]");
  invalid({at::ones({0, 3})}, "input x");
  invalid({at::ones({2, 3}, at::kLong)}, "given is Long [2, 3]");
  invalid({at::ones({6})}, "input x");
  invalid({at::Tensor()}, "given is nothing");
  invalid({}, "0 inputs for a program with 1");
}

TEST(PlanTest, InputsShareOneBatch) {
  ProgramMaker maker;
  const uint32_t a = maker.Input("a", v1::FLOAT, {2, 3}, true), b = maker.Input("b", v1::FLOAT, {2, 3}, true);
  maker.Output("sum", maker.Node("add", "aten::add.Tensor", {{"self", V(a)}, {"other", V(b)}}), {2, 3});
  EXPECT_THAT(RunProgram(maker.Finish(), {at::ones({4, 3}), at::ones({5, 3})}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("input b has a batch of 5, an earlier input one of 4")));
}

TEST(BuildTest, SaysWhatIsLoaded) {
  EXPECT_THAT(TorchVersion(), ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+.*"));
  EXPECT_THAT(EngineBuild(), HasSubstr("torch " + TorchVersion()));
  EXPECT_THAT(EngineBuild(), ::testing::StartsWith("assay "));
}

TEST(PlanTest, MustBeBound) {
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(SmallProgram(), Placement()));
  EXPECT_THAT(plan->Run({at::ones({2, 3})}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not bound")));
  EXPECT_THAT(plan->Bind({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 weights")));
  EXPECT_THAT(
      plan->Bind({at::ones({4, 4})}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("weight dense.weight: the program takes float32 [4, 3], given is Float [4, 4]")));
  EXPECT_THAT(plan->Bind({at::ones({4, 3}, at::kDouble)}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("given is Double")));
  EXPECT_THAT(plan->Bind({at::Tensor()}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nothing")));
}

TEST(PlanTest, BindsTensorsOfInferenceModeWithoutACopy) {
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(SmallProgram(), Placement()));
  at::Tensor weight;
  {
    const c10::InferenceMode inference;
    weight = at::zeros({4, 3});
    ASSERT_THAT(plan->Bind({weight}), IsOk());
  }
  EXPECT_FALSE(weight.requires_grad());  // the caller's tensor keeps its flag
  ASSERT_OK_AND_ASSIGN(const auto before, plan->Run({at::ones({1, 3})}));
  static_cast<float*>(weight.data_ptr())[0] = 10;
  ASSERT_OK_AND_ASSIGN(const auto after, plan->Run({at::ones({1, 3})}));
  EXPECT_FALSE(at::equal(before[0], after[0]));
}

// One program with every way that an argument is coerced, against the operators called directly.
TEST(PlanTest, CoercesArgumentsByTheSchema) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {4, 6}, true);
  const uint32_t y = maker.Node("mul", "aten::mul.Tensor",
                                {{"self", V(x)}, {"other", "integer: 3"}});  // int to wrapped tensor
  const uint32_t z = maker.Node("sub", "aten::sub.Tensor",
                                {{"self", V(y)}, {"other", "real: 0.5"}, {"alpha", "integer: 2"}});
  // Tensor[] out, unpacked; the middle one unused.
  const uint32_t split =
      maker.Node("split", "aten::split.Tensor",
                 {{"self", V(z)}, {"split_size", "integer: 2"}, {"dim", "integer: 1"}}, 3, true);
  const uint32_t cat = maker.Node("cat", "aten::cat",
                                  {{"tensors", "values { values: " + std::to_string(split + 2) +
                                                   " values: " + std::to_string(split) + " }"},
                                   {"dim", "integer: -1"}});
  const uint32_t rows = maker.Node("rows", "aten::sym_size.int", {{"self", V(x)}, {"dim", "integer: 0"}});
  const uint32_t twice = maker.Node("twice", "sym::mul", {{"a", V(rows)}, {"b", "integer: 2"}});
  const uint32_t view = maker.Node(
      "view", "aten::view",
      {{"self", V(cat)},
       {"size", "sym_ints { values { value: " + std::to_string(twice) + " } values { literal: 2 } }"}});
  const uint32_t half = maker.Node("half", "sym::truediv", {{"a", V(rows)}, {"b", "integer: 2"}});
  const uint32_t scaled = maker.Node("scaled", "aten::mul.Scalar", {{"self", V(view)}, {"other", V(half)}});
  const uint32_t added =
      maker.Node("added", "aten::add.Tensor", {{"self", V(scaled)}, {"other", V(rows)}});  // scalar to tensor
  const uint32_t mean = maker.Node(
      "mean", "aten::mean.dim",
      {{"self", V(added)}, {"dim", "integer: 1"}, {"keepdim", "boolean: true"}, {"dtype", "none: true"}});
  const uint32_t index = maker.Node(
      "arange", "aten::arange",
      {{"end", "integer: 2"}, {"dtype", "scalar_type: LONG"}, {"device", "device { type: 'cuda' }"}});
  const uint32_t picked =
      maker.Node("index", "aten::index.Tensor",
                 {{"self", V(mean)},
                  {"indices", "optional_values { values_plus_one: " + std::to_string(index + 1) + " }"}});
  const uint32_t clone = maker.Node(
      "clone", "aten::clone", {{"self", V(picked)}, {"memory_format", "memory_format: CONTIGUOUS_FORMAT"}});
  maker.Output("out", clone, {2, 1});
  const at::Tensor input = at::arange(24, at::kFloat).view({4, 6});
  ASSERT_OK_AND_ASSIGN(const auto outputs, RunProgram(maker.Finish(), {input}));
  const at::Tensor all = input.mul(3).sub(1.0);
  const at::Tensor joined =
      at::cat({all.narrow(1, 4, 2), all.narrow(1, 0, 2)}, -1).view({8, 2}).mul(2.0).add(4);
  EXPECT_TRUE(at::equal(outputs[0], joined.mean(1, true).narrow(0, 0, 2)));
}

// The last use of a value may move it away; an earlier one, another argument of the same node, and an output
// may not.
TEST(PlanTest, KeepsValuesAsLongAsTheyAreNeeded) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 2});
  const uint32_t a = maker.Node("a", "aten::add.Tensor", {{"self", V(x)}, {"other", V(x)}});
  const uint32_t b = maker.Node("b", "aten::mul.Tensor", {{"self", V(a)}, {"other", V(a)}});
  const uint32_t c = maker.Node("c", "aten::cat", {{"tensors", "values { values: 2 values: 1 values: 2 }"}});
  maker.Node("dead", "aten::neg", {{"self", V(c)}});
  maker.Output("a", a, {2, 2});
  maker.Output("c", c, {6, 2});
  maker.Output("c_again", c, {6, 2});
  maker.Output("x", x, {2, 2});
  ASSERT_EQ(b, 2u);
  const at::Tensor input = at::arange(4, at::kFloat).view({2, 2});
  ASSERT_OK_AND_ASSIGN(const auto outputs, RunProgram(maker.Finish(), {input}));
  const at::Tensor twice = input.add(input), product = twice.mul(twice);
  EXPECT_TRUE(at::equal(outputs[0], twice));
  EXPECT_TRUE(at::equal(outputs[1], at::cat({product, twice, product})));
  EXPECT_TRUE(at::equal(outputs[1], outputs[2]));
  EXPECT_TRUE(at::equal(outputs[3], input));
}

TEST(PlanTest, AnOutputMayBeANumber) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 2}, true);
  const uint32_t rows = maker.Node("rows", "aten::sym_size.int", {{"self", V(x)}, {"dim", "integer: 0"}});
  maker.Output("rows", rows, {}, v1::LONG);
  maker.Output("seven", 0, {}, v1::LONG);
  v1::Program program = maker.Finish();
  program.mutable_graph()->mutable_outputs(1)->set_integer(7);
  ASSERT_OK_AND_ASSIGN(const auto outputs, RunProgram(program, {at::ones({3, 2})}));
  EXPECT_EQ(outputs[0].item().toLong(), 3);
  EXPECT_EQ(outputs[1].item().toLong(), 7);
}

struct Fault {
  const char* name;
  std::function<void(v1::Program&)> plant;
  absl::StatusCode code;
  const char* message;
};

v1::Node& NodeOf(v1::Program& program, int index) { return *program.mutable_graph()->mutable_nodes(index); }
v1::Operator& OperatorOf(v1::Program& program, int index) {
  return *program.mutable_graph()->mutable_operators(index);
}
v1::Argument& ArgumentOf(v1::Program& program, int node, int index) {
  return *NodeOf(program, node).mutable_arguments(index)->mutable_value();
}

class PlanFaultTest : public ::testing::TestWithParam<Fault> {};

TEST_P(PlanFaultTest, IsFoundWhenThePlanIsBuilt) {
  v1::Program program = SmallProgram();
  GetParam().plant(program);
  EXPECT_THAT(Plan::Build(program, Placement()), StatusIs(GetParam().code, HasSubstr(GetParam().message)));
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnknown = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Faults, PlanFaultTest,
    ::testing::Values(
        Fault{"UnknownOperator", [](auto& p) { OperatorOf(p, 1).set_name("aten::no_such_thing"); }, kUnknown,
              "node add: operator aten::no_such_thing.Tensor is unknown"},
        Fault{"UnknownOverload", [](auto& p) { OperatorOf(p, 1).set_overload("Tensoor"); }, kUnknown,
              "operator aten::add.Tensoor is unknown"},
        Fault{"OtherNamespace", [](auto& p) { OperatorOf(p, 1).set_name("prim::Print"); }, kUnknown,
              "not in namespace aten"},
        Fault{"QuantizedNamespace", [](auto& p) { OperatorOf(p, 1).set_name("quantized::add"); }, kUnknown,
              "not in namespace aten"},
        Fault{"UnknownSymbolic", [](auto& p) { OperatorOf(p, 1).set_name("sym::system"); }, kUnknown,
              "node add (sym::system): unknown symbolic function"},
        Fault{"OpensFiles",
              [](auto& p) {
                OperatorOf(p, 2).set_name("aten::from_file");
                NodeOf(p, 2).clear_arguments();
              },
              kUnknown, "node gelu: operator aten::from_file may not be used by programs: it opens files"},
        Fault{"InPlace", [](auto& p) { OperatorOf(p, 1).set_name("aten::add_"); }, kUnknown,
              "writes to an argument"},
        Fault{"OutVariant", [](auto& p) { OperatorOf(p, 1).set_overload("out"); }, kUnknown,
              "writes to an argument"},
        Fault{"Internal",
              [](auto& p) {
                OperatorOf(p, 1).set_name("aten::_reshape_alias");
                OperatorOf(p, 1).clear_overload();
              },
              kUnknown, "internal to LibTorch"},
        Fault{"Backward",
              [](auto& p) {
                OperatorOf(p, 1).set_name("aten::max_pool2d_with_indices_backward");
                OperatorOf(p, 1).clear_overload();
              },
              kUnknown, "belongs to training"},
        Fault{"Storage",
              [](auto& p) {
                OperatorOf(p, 1).set_name("aten::set");
                OperatorOf(p, 1).set_overload("source_Storage");
              },
              kUnknown, "may not be used by programs"},
        Fault{"MissingArgument", [](auto& p) { NodeOf(p, 0).mutable_arguments()->RemoveLast(); }, kInvalid,
              "node linear (aten::linear): argument weight is missing"},
        Fault{"UnknownArgument", [](auto& p) { NodeOf(p, 2).mutable_arguments(1)->set_name("approx"); },
              kInvalid, "node gelu (aten::gelu): argument approx is unknown to the operator"},
        Fault{"TextForTensor", [](auto& p) { ArgumentOf(p, 1, 1).set_text("x"); }, kInvalid,
              "node add (aten::add.Tensor): argument other is a text, but the operator takes Tensor"},
        Fault{"NoneForTensor", [](auto& p) { ArgumentOf(p, 1, 1).set_none(true); }, kInvalid,
              "argument other is none"},
        Fault{"TensorForText", [](auto& p) { ArgumentOf(p, 2, 1).set_value(0); }, kInvalid,
              "argument approximate is a tensor, but the operator takes str"},
        Fault{"NumberForText", [](auto& p) { ArgumentOf(p, 2, 1).set_real(1); }, kInvalid, "a real number"},
        Fault{"DtypeForText", [](auto& p) { ArgumentOf(p, 2, 1).set_scalar_type(v1::FLOAT); }, kInvalid,
              "a dtype"},
        Fault{"LayoutForText", [](auto& p) { ArgumentOf(p, 2, 1).set_layout(v1::STRIDED); }, kInvalid,
              "a layout"},
        Fault{"FormatForText", [](auto& p) { ArgumentOf(p, 2, 1).set_memory_format(v1::CHANNELS_LAST); },
              kInvalid, "a memory format"},
        Fault{"DeviceForText", [](auto& p) { ArgumentOf(p, 2, 1).mutable_device()->set_type("cpu"); },
              kInvalid, "a device"},
        Fault{"TensorsForTensor", [](auto& p) { ArgumentOf(p, 1, 1).mutable_values()->add_values(0); },
              kInvalid, "a list of tensors"},
        Fault{"IntsForTensor", [](auto& p) { ArgumentOf(p, 1, 1).mutable_ints()->add_values(0); }, kInvalid,
              "a list of integers"},
        Fault{"FloatsForTensor", [](auto& p) { ArgumentOf(p, 1, 1).mutable_floats()->add_values(0); },
              kInvalid, "a list of real numbers"},
        Fault{"BoolsForTensor", [](auto& p) { ArgumentOf(p, 1, 1).mutable_bools()->add_values(true); },
              kInvalid, "a list of booleans"},
        Fault{"SizesForTensor",
              [](auto& p) { ArgumentOf(p, 1, 1).mutable_sym_ints()->add_values()->set_literal(1); }, kInvalid,
              "a list of sizes"},
        Fault{"RealForInteger",
              [](auto& p) {
                OperatorOf(p, 2).set_name("aten::softmax");
                OperatorOf(p, 2).set_overload("int");
                NodeOf(p, 2).mutable_arguments(1)->set_name("dim");
                ArgumentOf(p, 2, 1).set_real(1);
              },
              kInvalid, "argument dim is a real number, but the operator takes int"},
        Fault{"ListNotUnpacked",
              [](auto& p) {
                OperatorOf(p, 2).set_name("aten::split");
                OperatorOf(p, 2).set_overload("Tensor");
                NodeOf(p, 2).mutable_arguments(1)->set_name("split_size");
                ArgumentOf(p, 2, 1).set_integer(1);
              },
              kInvalid, "gives a list of tensors, which the node does not unpack"},
        Fault{"NoListToUnpack", [](auto& p) { NodeOf(p, 2).set_list_output(true); }, kInvalid,
              "the node unpacks a list, which it does not give"},
        Fault{"TooManyOutputs",
              [](auto& p) {
                NodeOf(p, 2).add_outputs(6);
                p.mutable_graph()->set_value_count(7);
              },
              kInvalid, "it gives 1 results, the node has 2 outputs"},
        Fault{"NotValidated", [](auto& p) { ArgumentOf(p, 0, 0).set_value(77); }, kInvalid, "uses value 77"}),
    [](const auto& info) { return info.param.name; });

TEST(PlanTest, SymbolicFunctionsTakeNumbersOnly) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 2});
  const uint32_t y = maker.Node("add", "sym::add", {{"a", V(x)}, {"b", "integer: 1"}});
  maker.Output("y", y, {}, v1::LONG);
  EXPECT_THAT(Plan::Build(maker.Finish(), Placement()),
              StatusIs(kInvalid, HasSubstr("node add (sym::add): argument a is no number")));
}

TEST(PlanTest, ErrorsOfARunNameNodeOperatorAndModule) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 3});
  const uint32_t y =
      maker.Node("matmul_7", "aten::matmul", {{"self", V(x)}, {"other", V(x)}}, 1, false, "layers.3.attn");
  maker.Output("y", y, {2, 2});
  const auto result = RunProgram(maker.Finish(), {at::ones({2, 3})});
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kInternal,
                               HasSubstr("node matmul_7 (aten::matmul) in layers.3.attn: ")));
  EXPECT_EQ(result.status().message().find("frame #"), absl::string_view::npos);  // no backtrace
}

TEST(PlanTest, ListsMustHaveTheLengthThatTheProgramUnpacks) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 3});
  const uint32_t y = maker.Node("unbind", "aten::unbind.int", {{"self", V(x)}}, 3, true);
  maker.Output("y", y, {3});
  EXPECT_THAT(RunProgram(maker.Finish(), {at::ones({2, 3})}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("it gave 2 tensors, the program unpacks 3")));
}

TEST(PlanTest, OutOfMemoryIsResourceExhausted) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {1});
  const uint32_t y = maker.Node("full", "aten::full",
                                {{"size", "ints { values: 1125899906842624 }"}, {"fill_value", "real: 1"}});
  maker.Output("x", x, {1});
  maker.Output("y", y, {1});
  EXPECT_THAT(RunProgram(maker.Finish(), {at::ones({1})}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("node full (aten::full)")));
}

TEST(PlanTest, ASymbolicErrorNamesItsNode) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2, 2}, true);
  const uint32_t rows = maker.Node("rows", "aten::sym_size.int", {{"self", V(x)}, {"dim", "integer: 0"}});
  const uint32_t less = maker.Node("less", "sym::sub", {{"a", V(rows)}, {"b", "integer: 1"}});
  const uint32_t half = maker.Node("half", "sym::floordiv", {{"a", V(rows)}, {"b", V(less)}});
  maker.Output("half", half, {}, v1::LONG);
  const v1::Program program = maker.Finish();
  EXPECT_THAT(RunProgram(program, {at::ones({2, 2})}), IsOk());
  EXPECT_THAT(
      RunProgram(program, {at::ones({1, 2})}),
      StatusIs(absl::StatusCode::kInternal, HasSubstr("node half (sym::floordiv): division by zero")));
}

TEST(PlacementTest, BfloatRunsTheWholeGraphInBfloat) {
  const v1::Program program = SmallProgram();
  ASSERT_OK_AND_ASSIGN(const auto reference, RunProgram(program, {at::ones({2, 3})}));
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    ASSERT_OK_AND_ASSIGN(const auto outputs,
                         RunProgram(program, {at::ones({2, 3})}, nullptr, {at::Device(at::kCPU), dtype}));
    EXPECT_EQ(outputs[0].scalar_type(), dtype);
    EXPECT_TRUE(at::allclose(outputs[0].to(at::kFloat), reference[0], 0.02, 0.02));
    EXPECT_FALSE(at::equal(outputs[0].to(at::kFloat), reference[0]));
  }
}

// Masks hold float32's lowest number. As an infinity, a row of them would be NaN to softmax.
TEST(PlacementTest, FiniteNumbersStayFiniteInANarrowerDtype) {
  ProgramMaker maker;
  const uint32_t x = maker.Input("x", v1::FLOAT, {2});
  const uint32_t lowest = maker.Constant("mask", {2}, {-3.4028234663852886e38f, -INFINITY});
  const uint32_t full = maker.Node(
      "full", "aten::full", {{"size", "ints { values: 2 }"}, {"fill_value", "real: -3.4028234663852886e38"}});
  const uint32_t sum = maker.Node("max", "aten::maximum", {{"self", V(full)}, {"other", V(lowest)}});
  const uint32_t y = maker.Node("softmax", "aten::softmax.int", {{"self", V(sum)}, {"dim", "integer: 0"}});
  maker.Output("x", x, {2});
  maker.Output("mask", lowest, {2});
  maker.Output("y", y, {2});
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    ASSERT_OK_AND_ASSIGN(const auto outputs,
                         RunProgram(maker.Finish(), {at::ones({2})}, nullptr, {at::Device(at::kCPU), dtype}));
    EXPECT_TRUE(std::isfinite(outputs[1][0].item().toDouble()));
    EXPECT_TRUE(std::isinf(outputs[1][1].item().toDouble()));  // an infinity that was one stays one
    EXPECT_EQ(outputs[2].scalar_type(), dtype);                // full follows the placement
    EXPECT_NEAR(outputs[2][0].item().toDouble(), 0.5, 0.01);
  }
}

}  // namespace
}  // namespace assay::engine

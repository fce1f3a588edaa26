// Faults planted by hand in real programs: one operator, one constant or one weight's value is changed. The
// golden check fails, and the diagnosis names the changed operator, or the first after it that shows.
#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/diagnosis.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::Contains;

// Calls `use` with the number of every value that an argument reads.
template <typename Use>
void ForValues(const v1::Argument& argument, Use use) {
  if (argument.kind_case() == v1::Argument::kValue) use(argument.value());
  for (uint32_t value : argument.values().values()) use(value);
  for (uint32_t value : argument.optional_values().values_plus_one()) {
    if (value > 0) use(value - 1);
  }
}

// The first traced nodes through which a change of `values` becomes visible: every way from there to an
// output passes one. In the order of the graph.
std::vector<std::string> FirstTraced(const v1::Program& program, std::set<uint32_t> values,
                                     int changed_node) {
  std::set<uint32_t> traced;
  for (const v1::NodeTrace& trace : program.golden().trace()) traced.insert(trace.node());
  std::vector<std::string> found;
  for (int i = 0; i < program.graph().nodes_size(); ++i) {
    const v1::Node& node = program.graph().nodes(i);
    bool touched = i == changed_node;
    for (const v1::NamedArgument& argument : node.arguments()) {
      ForValues(argument.value(), [&](uint32_t value) { touched |= values.count(value) > 0; });
    }
    if (!touched) continue;
    if (traced.count(static_cast<uint32_t>(i)) > 0) {
      found.push_back(node.name());
      continue;
    }
    for (uint32_t value : node.outputs()) values.insert(value);  // a view: look behind it
  }
  return found;
}

void ExpectFound(const v1::Program& program, const std::vector<std::string>& expected) {
  v1::TestResult result = RunAltered(program, "check { name: 'golden' golden {} }");
  ASSERT_EQ(result.case__size(), 1) << result.message();
  const v1::CaseResult& found = result.case_(0);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_EQ(found.evidence(), v1::STRUCTURAL) << "a golden that differs is no evidence";
  ASSERT_TRUE(found.has_divergence()) << found.message();
  EXPECT_THAT(expected, Contains(found.divergence().node())) << found.divergence().ShortDebugString();
  // What is named first must be the first, not any of a long list.
  EXPECT_EQ(found.divergence().node(), expected.front()) << found.divergence().ShortDebugString();
  EXPECT_FALSE(found.divergence().op().empty());
  EXPECT_FALSE(found.divergence().detail().empty());
}

struct OperatorFault {
  const char* program;
  const char* op;  // the first node that runs it is changed
  const char* what;
  void (*change)(v1::Program& program, int node);
};

void PrintTo(const OperatorFault& fault, std::ostream* out) {
  *out << fault.program << ": " << fault.op << ", " << fault.what;
}

class OperatorFaults : public ::testing::TestWithParam<OperatorFault> {};

TEST_P(OperatorFaults, AreFoundByName) {
  const OperatorFault& fault = GetParam();
  v1::Program program = RealProgram(fault.program);
  int node = NodeRunning(program, fault.op);
  fault.change(program, node);
  ExpectFound(program, FirstTraced(program, {}, node));
}

INSTANTIATE_TEST_SUITE_P(
    Programs, OperatorFaults,
    ::testing::Values(
        OperatorFault{"bert", "aten::gelu", "its tanh form",
                      [](v1::Program& p, int n) { ArgumentOf(p, n, "approximate").set_text("tanh"); }},
        OperatorFault{"vit", "aten::gelu", "its tanh form",
                      [](v1::Program& p, int n) { ArgumentOf(p, n, "approximate").set_text("tanh"); }},
        OperatorFault{"gpt2", "aten::tanh", "sigmoid instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::sigmoid"); }},
        OperatorFault{"llama", "aten::silu", "gelu instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::gelu"); }},
        OperatorFault{"llama_3", "aten::cos", "sin instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::sin"); }},
        OperatorFault{"t5", "aten::relu", "silu instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::silu"); }},
        OperatorFault{"mamba", "aten::softplus", "relu instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::relu"); }},
        OperatorFault{"detr", "aten::rsqrt", "sqrt instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::sqrt"); }},
        OperatorFault{"clip", "aten::softmax", "over another dimension",
                      [](v1::Program& p, int n) { ArgumentOf(p, n, "dim").set_integer(-2); }},
        OperatorFault{"convnext", "aten::layer_norm", "another epsilon",
                      [](v1::Program& p, int n) { ArgumentOf(p, n, "eps").set_real(1e-2); }},
        OperatorFault{"gemma2", "aten::rsqrt", "reciprocal instead",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::reciprocal"); }},
        OperatorFault{"dino", "aten::add", "a difference instead of a sum",
                      [](v1::Program& p, int n) { SetOperator(p, n, "aten::sub", "Tensor"); }},
        OperatorFault{"mobilenet_v1", "aten::hardtanh", "relu instead of relu6",
                      [](v1::Program& p, int n) {
                        SetOperator(p, n, "aten::tanh");
                        p.mutable_graph()->mutable_nodes(n)->mutable_arguments()->DeleteSubrange(
                            1, p.graph().nodes(n).arguments_size() - 1);
                      }}),
    [](const auto& info) { return absl::StrCat(info.param.program, "_", info.index); });

// Changes one element by half the tensor's largest magnitude (float32).
void ChangeOneElement(std::string& data) {
  std::vector<float> values(data.size() / sizeof(float));
  std::memcpy(values.data(), data.data(), data.size());
  float largest = 0;
  for (float value : values) largest = std::max(largest, std::abs(value));
  values[values.size() / 2] += 0.5f * (largest > 0 ? largest : 1);
  std::memcpy(data.data(), values.data(), data.size());
}

uint32_t ValueOf(const v1::Program& program, const std::string& name) {
  for (const v1::GraphInput& input : program.graph().inputs()) {
    if (input.name() == name) return input.value();
  }
  ADD_FAILURE() << name << " is no input of the graph";
  return 0;
}

struct ValueFault {
  const char* program;
  const char* name;
};

void PrintTo(const ValueFault& fault, std::ostream* out) { *out << fault.program << ": " << fault.name; }

class WeightFaults : public ::testing::TestWithParam<ValueFault> {};

TEST_P(WeightFaults, OneValueIsFoundWhereItIsFirstUsed) {
  v1::Program program = RealProgram(GetParam().program);
  int weight = 0;
  while (weight < program.manifest().weights_size() &&
         program.manifest().weights(weight).name() != GetParam().name) {
    ++weight;
  }
  ASSERT_LT(weight, program.manifest().weights_size());
  ChangeOneElement(LiteralWeight(program, weight));
  ExpectFound(program, FirstTraced(program, {ValueOf(program, GetParam().name)}, -1));
}

INSTANTIATE_TEST_SUITE_P(Programs, WeightFaults,
                         ::testing::Values(ValueFault{"bert", "bert.encoder.layer.1.output.dense.weight"},
                                           ValueFault{"gpt2", "transformer.h.0.attn.c_attn.weight"},
                                           ValueFault{"llama_3", "model.layers.1.mlp.down_proj.weight"},
                                           ValueFault{"t5",
                                                      "decoder.block.1.layer.2.DenseReluDense.wo.weight"},
                                           ValueFault{"vit", "vit.encoder.layer.0.layernorm_before.weight"},
                                           ValueFault{"mamba", "backbone.layers.0.mixer.A_log"}),
                         [](const auto& info) { return absl::StrCat(info.param.program, "_", info.index); });

class ConstantFaults : public ::testing::TestWithParam<ValueFault> {};

TEST_P(ConstantFaults, OneValueIsFoundWhereItIsFirstUsed) {
  v1::Program program = RealProgram(GetParam().program);
  v1::Tensor* constant = nullptr;
  for (v1::Tensor& candidate : *program.mutable_constants()) {
    if (candidate.name() == GetParam().name) constant = &candidate;
  }
  ASSERT_NE(constant, nullptr);
  ASSERT_EQ(constant->dtype(), v1::FLOAT);
  ChangeOneElement(*constant->mutable_data());
  ExpectFound(program, FirstTraced(program, {ValueOf(program, GetParam().name)}, -1));
}

INSTANTIATE_TEST_SUITE_P(Programs, ConstantFaults,
                         ::testing::Values(ValueFault{"llama", "model.rotary_emb.inv_freq"},
                                           ValueFault{"mistral", "model.rotary_emb.inv_freq"},
                                           ValueFault{"phi3", "model.rotary_emb.inv_freq"}),
                         [](const auto& info) { return absl::StrCat(info.param.program, "_", info.index); });

TEST(Diagnosis, SaysNothingOfAProgramThatAgrees) {
  v1::TestResult result = RunAltered(RealProgram("bert"), "check { name: 'golden' golden {} }");
  EXPECT_EQ(result.outcome(), v1::PASSED);
  EXPECT_FALSE(result.case_(0).has_divergence());
  EXPECT_EQ(result.case_(0).evidence(), v1::GOLDEN);
}

}  // namespace
}  // namespace assay::engine

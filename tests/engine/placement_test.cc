// Faults planted at random in real programs: of those that the golden check catches, the diagnosis places
// nearly all at the changed operator or its first consumer, and tells weights from computation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/diagnosis.h"
#include "engine/graph_values.h"
#include "engine/program.h"
#include "engine/run_test.h"
#include "engine/weights.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using Random = std::mt19937_64;

size_t Pick(Random& random, size_t count) { return static_cast<size_t>(random() % count); }

// Where a fault was planted: in a node, or in the values of a weight.
struct Planted {
  std::string what;
  int node = -1;
  int weight = -1;  // index into Manifest.weights
  std::vector<float> values;
};

std::string OpOf(const v1::Program& program, int node) {
  return program.graph().operators(static_cast<int>(program.graph().nodes(node).op())).name();
}

// One random fault in a random node, or none where the node has nothing to change.
std::optional<Planted> PlantInNode(v1::Program& program, Random& random) {
  v1::Graph& graph = *program.mutable_graph();
  const int index = static_cast<int>(Pick(random, static_cast<size_t>(graph.nodes_size())));
  v1::Node& node = *graph.mutable_nodes(index);
  const std::string op = OpOf(program, index);
  const auto planted = [&](absl::string_view what) {
    return Planted{absl::StrCat(what, " at ", node.name(), " (", op, ")"), index, -1, {}};
  };
  if (op == "aten::sub" || op == "aten::div" || op == "aten::matmul" || op == "aten::bmm") {
    if (node.arguments_size() < 2 || !node.arguments(1).value().has_value()) return std::nullopt;
    node.mutable_arguments(0)->mutable_value()->Swap(node.mutable_arguments(1)->mutable_value());
    return planted("swapped operands");
  }
  if (op == "aten::add" && graph.operators(static_cast<int>(node.op())).overload() == "Tensor") {
    if (!node.arguments(1).value().has_value()) return std::nullopt;
    if (Pick(random, 2) == 0) {
      *node.mutable_arguments(1)->mutable_value() = node.arguments(0).value();
      return planted("dropped residual");
    }
    SetOperator(program, index, "aten::sub", "Tensor");
    return planted("a difference instead of a sum");
  }
  if (op == "aten::linear") {
    for (int i = 0; i < node.arguments_size(); ++i) {
      if (node.arguments(i).name() != "bias") continue;
      node.mutable_arguments()->DeleteSubrange(i, 1);
      return planted("dropped bias");
    }
    return std::nullopt;
  }
  if (op == "aten::layer_norm") {
    ArgumentOf(program, index, "eps").set_real(1e-3);
    return planted("another epsilon");
  }
  if (op == "aten::gelu") {
    ArgumentOf(program, index, "approximate").set_text("tanh");
    return planted("tanh form");
  }
  for (const auto& [from, to] :
       {std::pair{"aten::silu", "aten::gelu"}, std::pair{"aten::relu", "aten::silu"},
        std::pair{"aten::cos", "aten::sin"}, std::pair{"aten::sigmoid", "aten::tanh"}}) {
    if (op != from) continue;
    SetOperator(program, index, to);
    return planted("another function");
  }
  for (v1::NamedArgument& argument : *node.mutable_arguments()) {
    v1::Argument& value = *argument.mutable_value();
    if (value.has_real() && value.real() != 0 && std::isfinite(value.real()) &&
        std::abs(value.real()) < 1e6) {
      value.set_real(value.real() * 1.05);
      return planted("another factor");
    }
    if (op == "aten::softmax" && argument.name() == "dim") {
      value.set_integer(value.integer() == -2 ? -1 : -2);
      return planted("another dimension");
    }
    if ((op == "aten::select" && argument.name() == "index") ||
        (op == "aten::roll" && argument.name() == "shifts" && value.has_integer())) {
      value.set_integer(value.integer() + 1);
      return planted("another index");
    }
  }
  return std::nullopt;
}

std::optional<Planted> PlantInWeight(const v1::Program& program, Random& random) {
  const int index = static_cast<int>(Pick(random, static_cast<size_t>(program.manifest().weights_size())));
  const v1::WeightSpec& spec = program.manifest().weights(index);
  if (spec.dtype() != v1::FLOAT) return std::nullopt;
  v1::Program copy = program;
  const std::string data = LiteralWeight(copy, index);
  Planted planted{"", -1, index, std::vector<float>(data.size() / sizeof(float))};
  if (planted.values.empty()) return std::nullopt;
  std::memcpy(planted.values.data(), data.data(), data.size());
  float largest = 0;
  for (const float value : planted.values) largest = std::max(largest, std::abs(value));
  if (largest == 0) return std::nullopt;
  switch (Pick(random, 3)) {
    case 0:
      for (float& value : planted.values) value = std::round(value / largest * 127) * largest / 127;
      planted.what = "8 bits";
      break;
    case 1:
      planted.values[Pick(random, planted.values.size())] += largest;
      planted.what = "one element";
      break;
    default:
      if (spec.shape_size() != 2 || spec.shape(0) != spec.shape(1)) return std::nullopt;
      for (int64_t i = 0; i < spec.shape(0); ++i) {
        for (int64_t j = 0; j < i; ++j) {
          std::swap(planted.values[static_cast<size_t>(i * spec.shape(0) + j)],
                    planted.values[static_cast<size_t>(j * spec.shape(0) + i)]);
        }
      }
      planted.what = "transposed";
  }
  absl::StrAppend(&planted.what, " in ", spec.name());
  return planted;
}

// The changed node, and every traced one that sees its values first.
std::set<std::string> RightPlaces(const v1::Program& program, const Planted& planted) {
  std::set<uint32_t> values;
  std::set<std::string> right;
  if (planted.node >= 0) {
    const v1::Node& node = program.graph().nodes(planted.node);
    right.insert(node.name());
    values.insert(node.outputs().begin(), node.outputs().end());
  } else {
    for (const v1::GraphInput& input : program.graph().inputs()) {
      if (input.kind() == v1::GraphInput::WEIGHT &&
          input.name() == program.manifest().weights(planted.weight).name()) {
        values.insert(input.value());
      }
    }
  }
  std::set<uint32_t> traced;
  for (const v1::NodeTrace& trace : program.golden().trace()) traced.insert(trace.node());
  for (int i = 0; i < program.graph().nodes_size(); ++i) {
    const v1::Node& node = program.graph().nodes(i);
    bool reads = false;
    ForValues(node, [&](uint32_t value) { reads |= values.count(value) > 0; });
    if (!reads) continue;
    right.insert(node.name());
    if (traced.count(static_cast<uint32_t>(i)) == 0)
      values.insert(node.outputs().begin(), node.outputs().end());
  }
  return right;
}

struct Score {
  int programs = 0, planted = 0, caught = 0, placed = 0, judged = 0, wrong_verdict = 0;
  std::vector<std::string> misses;
};

// Runs `program` with mock weights, one of them changed where the fault is in a weight, and asks for a
// diagnosis.
void TryOne(const v1::Program& program, const Planted& planted, Score& score) {
  auto plan = Plan::Build(program, Placement{});
  if (!plan.ok()) return;
  ASSERT_OK_AND_ASSIGN(Weights weights, MockWeights(program.manifest(), program.manifest().mock_seed()));
  if (planted.weight >= 0) {
    std::memcpy(weights[static_cast<size_t>(planted.weight)].mutable_data_ptr(), planted.values.data(),
                planted.values.size() * sizeof(float));
  }
  ASSERT_THAT((*plan)->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
  const auto outputs = (*plan)->Run(inputs);
  if (!outputs.ok()) return;
  const BoundCase bound{program, program.golden(), **plan, v1::MOCK, program.manifest().mock_seed(),
                        inputs,  *outputs};
  v1::Check check;
  check.set_name("golden");
  check.mutable_golden();
  if (RunCheck(check, bound).outcome() != v1::FAILED) return;
  ++score.caught;
  ASSERT_OK_AND_ASSIGN(const auto found, Diagnose(check, bound));
  const std::string where = absl::StrCat(program.manifest().model(), ": ", planted.what, " -> ");
  if (!found) {
    score.misses.push_back(absl::StrCat(where, "nothing"));
    return;
  }
  if (RightPlaces(program, planted).count(found->node()) > 0) {
    ++score.placed;
  } else {
    score.misses.push_back(absl::StrCat(where, found->node(), " (", found->op(), "): ", found->detail()));
    return;
  }
  if (found->fault() == v1::FAULT_UNKNOWN) return;
  ++score.judged;
  const v1::FaultVerdict right = planted.weight >= 0 ? v1::FAULT_WEIGHTS : v1::FAULT_COMPUTATION;
  if (found->fault() != right) {
    ++score.wrong_verdict;
    score.misses.push_back(
        absl::StrCat(where, "verdict ", v1::FaultVerdict_Name(found->fault()), ": ", found->fault_reason()));
  }
}

TEST(Placement, OfRandomFaultsIsRight) {
  SetThreads(1);
  Score score;
  Random random(6);
  // Of each program; more for a measurement by hand.
  const char* many = std::getenv("ASSAY_PLACEMENT_FAULTS");
  const int each = many == nullptr ? 12 : std::atoi(many);
  for (const char* name : {"bert", "gpt2", "llama", "t5", "vit", "clip", "convnext", "mamba", "detr", "swin",
                           "gemma2", "whisper", "mixtral", "deberta_v2", "resnet", "roformer", "blip"}) {
    absl::StatusOr<v1::Program> read = ReadProgram(absl::StrCat("models/programs/", name, ".assay"));
    if (!read.ok()) continue;
    ++score.programs;
    int planted = 0;
    for (int tries = 0; planted < each && tries < 40 * each; ++tries) {
      v1::Program program = *read;
      const std::optional<Planted> fault =
          planted % 3 == 0 ? PlantInWeight(program, random) : PlantInNode(program, random);
      if (!fault) continue;
      ++planted;
      ++score.planted;
      TryOne(program, *fault, score);
    }
  }
  std::printf("programs %d, planted %d, caught %d, placed %d, judged %d, wrong verdict %d\n%s\n",
              score.programs, score.planted, score.caught, score.placed, score.judged, score.wrong_verdict,
              absl::StrJoin(score.misses, "\n").c_str());
  EXPECT_GE(score.caught, 60);
  EXPECT_GE(score.placed, 0.95 * score.caught) << absl::StrJoin(score.misses, "\n");
  EXPECT_GE(score.judged, 0.8 * score.placed);
  EXPECT_EQ(score.wrong_verdict, 0);
}

}  // namespace
}  // namespace assay::engine

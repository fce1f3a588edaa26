#include "tests/engine/altered_program.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/textproto.h"
#include "engine/mock.h"
#include "engine/program.h"
#include "engine/validate.h"
#include "gtest/gtest.h"

namespace assay::engine {
namespace {

[[noreturn]] void Die(const std::string& why) {
  fprintf(stderr, "test data: %s\n", why.c_str());
  abort();
}

uint32_t OperatorIndex(v1::Program& program, const std::string& op, const std::string& overload) {
  v1::Graph& graph = *program.mutable_graph();
  for (int i = 0; i < graph.operators_size(); ++i) {
    if (graph.operators(i).name() == op && graph.operators(i).overload() == overload) {
      return static_cast<uint32_t>(i);
    }
  }
  v1::Operator& added = *graph.add_operators();
  added.set_name(op);
  added.set_overload(overload);
  return static_cast<uint32_t>(graph.operators_size() - 1);
}

}  // namespace

v1::Program RealProgram(const std::string& name) {
  auto program = ReadProgram("models/programs/" + name + ".assay");
  if (!program.ok()) Die(program.status().ToString());
  return *std::move(program);
}

int NodeRunning(const v1::Program& program, absl::string_view op, int from) {
  for (int i = from; i < program.graph().nodes_size(); ++i) {
    if (program.graph().operators(static_cast<int>(program.graph().nodes(i).op())).name() == op) return i;
  }
  Die(absl::StrCat(program.manifest().model(), " has no ", op));
}

int NodeCalled(const v1::Program& program, absl::string_view name) {
  for (int i = 0; i < program.graph().nodes_size(); ++i) {
    if (program.graph().nodes(i).name() == name) return i;
  }
  Die(absl::StrCat(program.manifest().model(), " has no node ", name));
}

void SetOperator(v1::Program& program, int node, const std::string& op, const std::string& overload) {
  program.mutable_graph()->mutable_nodes(node)->set_op(OperatorIndex(program, op, overload));
}

v1::Argument& ArgumentOf(v1::Program& program, int node, const std::string& name) {
  v1::Node& at = *program.mutable_graph()->mutable_nodes(node);
  for (v1::NamedArgument& argument : *at.mutable_arguments()) {
    if (argument.name() == name) return *argument.mutable_value();
  }
  v1::NamedArgument& added = *at.add_arguments();
  added.set_name(name);
  return *added.mutable_value();
}

int AppendToOutput(v1::Program& program, int output, const std::string& op, const std::string& overload) {
  uint32_t number = OperatorIndex(program, op, overload);
  v1::Graph& graph = *program.mutable_graph();
  v1::Node& node = *graph.add_nodes();
  node.set_name(absl::StrCat("appended_", graph.nodes_size()));
  node.set_op(number);
  v1::NamedArgument& self = *node.add_arguments();
  self.set_name("self");
  *self.mutable_value() = graph.outputs(output);
  uint32_t value = graph.value_count();
  graph.set_value_count(value + 1);
  node.add_outputs(value);
  graph.mutable_outputs(output)->set_value(value);
  return graph.nodes_size() - 1;
}

std::string& LiteralWeight(v1::Program& program, int weight) {
  v1::Manifest& manifest = *program.mutable_manifest();
  v1::WeightSpec& spec = *manifest.mutable_weights(weight);
  size_t numel = 1;
  for (int64_t size : spec.shape()) numel *= static_cast<size_t>(size);
  std::string values(numel * ItemSize(spec.dtype()), '\0');
  absl::Status filled = FillMock(
      spec.name(), manifest.mock_seed(), spec.mock(), spec.dtype(),
      absl::MakeConstSpan(spec.shape().data(), static_cast<size_t>(spec.shape_size())), values.data());
  if (!filled.ok()) Die(filled.ToString());
  spec.mutable_mock()->set_literal(values);
  return *spec.mutable_mock()->mutable_literal();
}

WrittenTest WriteTest(const v1::Program& program, const std::string& checks) {
  static std::atomic<int> count{0};
  auto bytes = SerializeProgram(program);
  if (!bytes.ok()) Die(bytes.status().ToString());
  std::filesystem::path path = std::filesystem::path(::testing::TempDir()) /
                               absl::StrCat("altered_", getpid(), "_", count++) /
                               absl::StrCat(program.manifest().model(), ".assay");
  if (absl::Status written = WriteFileAtomically(path, *bytes); !written.ok()) Die(written.ToString());
  WrittenTest result;
  std::string text = absl::StrCat("name: '", program.manifest().model(), "' program_digest: '",
                                  Sha256Hex(*bytes), "' set_up { device: CPU dtype: FLOAT32 }\n",
                                  "case { name: 'test_model_with_mock' weights: MOCK\n", checks, "\n}");
  if (absl::Status parsed = ParseTextProto("test", text, result.test); !parsed.ok()) Die(parsed.ToString());
  result.options.program_path = path.string();
  return result;
}

v1::TestResult RunAltered(const WrittenTest& written) {
  RecordingSink sink;
  return RunTest(written.test, written.options, sink);
}

v1::TestResult RunAltered(const v1::Program& program, const std::string& checks) {
  return RunAltered(WriteTest(program, checks));
}

v1::CheckResult Judge(const v1::Program& program, const std::string& check, v1::Dtype dtype) {
  WrittenTest written = WriteTest(program, absl::StrCat(check, "check { name: 'shapes' shapes {} }"));
  written.test.mutable_set_up()->set_dtype(dtype);
  const v1::TestResult result = RunAltered(written);
  if (result.case__size() == 1 && result.case_(0).check_size() == 2) return result.case_(0).check(0);
  v1::CheckResult none;
  none.set_message(absl::StrCat(result.message(), result.case__size() > 0 ? result.case_(0).message() : ""));
  return none;
}

}  // namespace assay::engine

// Real programs with one thing changed by hand, and their run: what a fault in a model or an engine looks
// like.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/run_test.h"

namespace assay::engine {

// models/programs/<name>.assay. Ends the test process with a message where it cannot be read.
v1::Program RealProgram(const std::string& name);

// Index of the first node that runs `op` ("aten::gelu"), at or after `from`; dies where there is none.
int NodeRunning(const v1::Program& program, absl::string_view op, int from = 0);
// Index of the node called `name`; dies where there is none.
int NodeCalled(const v1::Program& program, absl::string_view name);

// Lets a node run another operator, with the arguments it has.
void SetOperator(v1::Program& program, int node, const std::string& op, const std::string& overload = "");

// The argument `name` of a node, added where the node leaves it at its default.
v1::Argument& ArgumentOf(v1::Program& program, int node, const std::string& name);

// Puts a node behind output `output` of the program: its argument "self" is the old output, its result the
// new one. Gives the node's index.
int AppendToOutput(v1::Program& program, int output, const std::string& op, const std::string& overload = "");

// The mock values of a weight by value instead of by rule, to be changed one by one; float32 only.
std::string& LiteralWeight(v1::Program& program, int weight);

// A test of `program` with one case of mock weights and the given checks (in text format, field `check` of a
// Case), and the program's file in a fresh temporary folder.
struct WrittenTest {
  v1::ModelTest test;
  RunOptions options;
};
WrittenTest WriteTest(const v1::Program& program, const std::string& checks);

// Runs it in this process.
v1::TestResult RunAltered(const WrittenTest& written);
// Runs `program` with these checks.
v1::TestResult RunAltered(const v1::Program& program, const std::string& checks);
// What `check` says of `program`, or why it says nothing. Beside it a check that holds: one that alone has
// nothing to say would fail its case.
v1::CheckResult Judge(const v1::Program& program, const std::string& check, v1::Dtype dtype = v1::FLOAT32);

// Counts what a sink hears.
class RecordingSink final : public TestSink {
 public:
  void CaseStarted(absl::string_view name) override { heard += "start " + std::string(name) + "\n"; }
  void CaseFinished(const v1::CaseResult& result) override {
    heard += "end " + result.name() + " " + v1::Outcome_Name(result.outcome()) + "\n";
  }
  void Log(absl::string_view text) override { heard += "log " + std::string(text); }
  std::string heard;
};

}  // namespace assay::engine

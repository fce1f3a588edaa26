// Every program in models/programs agrees with its golden in float32 on this CPU, in its outputs and node by
// node, and no program of the catalogue is missing.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan.h"
#include "engine/program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

namespace fs = std::filesystem;

// Three times the largest difference of any node that was measured between instruction sets and thread
// counts, relative to the largest magnitude of the tensor (docs/tolerances.md has those of outputs).
constexpr double kTolerance = 1e-5;

std::vector<std::string> NamesIn(const char* folder, const std::string& extension) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == extension) names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<double> Values(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kDouble).contiguous();
  const double* data = static_cast<const double*>(dense.const_data_ptr());
  return std::vector<double>(data, data + dense.numel());
}

// Largest difference over the largest finite magnitude of `want`; infinities must be the same.
double RelativeError(const std::vector<double>& got, const std::vector<double>& want, double scale = 0) {
  double error = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isfinite(want[i])) scale = std::max(scale, std::abs(want[i]));
    if (got[i] == want[i]) continue;
    const double difference = std::abs(got[i] - want[i]);
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
  }
  return scale > 0 ? error / scale : error;
}

class TraceComparison : public Observer {
 public:
  explicit TraceComparison(const v1::Golden& golden) {
    for (const v1::NodeTrace& trace : golden.trace()) traces_[{trace.node(), trace.output()}] = &trace;
  }
  bool ValueMade(const NodePlace& node, uint32_t output, const at::Tensor& value, bool) override {
    const auto found = traces_.find({node.index, output});
    if (found == traces_.end()) return true;
    const v1::NodeTrace& trace = *found->second;
    ++compared_;
    const std::vector<double> all = Values(value);
    EXPECT_EQ(all.size(), trace.numel()) << node.name;
    if (all.size() != trace.numel()) return false;
    const size_t n = static_cast<size_t>(trace.samples_size());
    std::vector<double> got, want(trace.samples().begin(), trace.samples().end());
    for (size_t k = 0; k < n; ++k) got.push_back(all[(2 * k + 1) * all.size() / (2 * n)]);
    const double scale = std::isfinite(trace.abs_max()) ? trace.abs_max() : 0;
    EXPECT_LE(RelativeError(got, want, scale), kTolerance)
        << node.name << " (" << node.op << ") in " << node.module;
    return true;
  }
  size_t compared() const { return compared_; }

 private:
  std::map<std::pair<uint32_t, uint32_t>, const v1::NodeTrace*> traces_;
  size_t compared_ = 0;
};

class ProgramsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
};

TEST_P(ProgramsTest, AgreesWithItsGolden) {
  ASSERT_OK_AND_ASSIGN(const v1::Program program, ReadProgram("models/programs/" + GetParam() + ".assay"));
  EXPECT_EQ(program.manifest().model(), GetParam());
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(program, Placement()));
  ASSERT_OK_AND_ASSIGN(const Weights weights,
                       MockWeights(program.manifest(), program.manifest().mock_seed()));
  ASSERT_THAT(plan->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> golden, GoldenOutputs(program));
  TraceComparison comparison(program.golden());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> outputs, plan->Run(inputs, &comparison));
  // Nearly every node that is no view is in the trace: a program without one could not be diagnosed.
  EXPECT_EQ(comparison.compared(), static_cast<size_t>(program.golden().trace_size()));
  EXPECT_GT(comparison.compared(), static_cast<size_t>(program.graph().nodes_size()) / 4);
  ASSERT_EQ(outputs.size(), golden.size());
  for (size_t i = 0; i < golden.size(); ++i) {
    const std::string& name = program.manifest().outputs(static_cast<int>(i)).name();
    ASSERT_EQ(outputs[i].sizes(), golden[i].sizes()) << name;
    EXPECT_EQ(outputs[i].scalar_type(), golden[i].scalar_type()) << name;
    EXPECT_LE(RelativeError(Values(outputs[i]), Values(golden[i])), kTolerance) << name;
  }
}

// The same plan again, without an observer: the same bits, and weights and constants untouched.
TEST_P(ProgramsTest, GivesTheSameBitsAgain) {
  ASSERT_OK_AND_ASSIGN(const v1::Program program, ReadProgram("models/programs/" + GetParam() + ".assay"));
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(program, Placement()));
  ASSERT_OK_AND_ASSIGN(const Weights weights,
                       MockWeights(program.manifest(), program.manifest().mock_seed()));
  ASSERT_THAT(plan->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> first, plan->Run(inputs));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> second, plan->Run(inputs));
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(first[i].equal(second[i]));
}

INSTANTIATE_TEST_SUITE_P(All, ProgramsTest, ::testing::ValuesIn(NamesIn("models/programs", ".assay")),
                         [](const auto& info) { return info.param; });

// FNet's Fourier transform has no such kernel on a CPU: nothing that a fault of the model would look like.
TEST(HalfPrecision, AnOperatorWithoutAKernelForItIsUnimplemented) {
  ASSERT_OK_AND_ASSIGN(const v1::Program program, ReadProgram("models/programs/fnet.assay"));
  ASSERT_OK_AND_ASSIGN(const auto plan, Plan::Build(program, Placement{at::kCPU, at::kBFloat16}));
  ASSERT_OK_AND_ASSIGN(const Weights weights,
                       MockWeights(program.manifest(), program.manifest().mock_seed()));
  ASSERT_THAT(plan->Bind(weights), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(program));
  EXPECT_THAT(plan->Run(inputs), StatusIs(absl::StatusCode::kUnimplemented, ::testing::HasSubstr("fft")));
}

TEST(CatalogueTest, EveryEntryHasAProgram) {
  EXPECT_EQ(NamesIn("models/programs", ".assay"), NamesIn("models/catalogue", ".textproto"));
  EXPECT_FALSE(NamesIn("models/programs", ".assay").empty());
}

}  // namespace
}  // namespace assay::engine

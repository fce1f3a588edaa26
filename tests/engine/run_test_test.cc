// A test from its file to its verdict: what is refused, what is skipped, and how cases make an outcome.
#include "engine/run_test.h"

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/textproto.h"
#include "engine/mock.h"
#include "engine/validate.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr char kGolden[] = "check { name: 'golden' golden {} }";

// A checkpoint folder with the mock values of every weight, after `change` had its way with names and data.
struct Entry {
  std::string name;
  std::vector<int64_t> shape;
  std::string data;
};
template <typename Change>
std::string WriteCheckpoint(const std::string& folder, const v1::Program& program, Change change,
                            const std::string& metadata = "") {
  std::vector<Entry> entries;
  for (const v1::WeightSpec& spec : program.manifest().weights()) {
    if (spec.dtype() != v1::FLOAT) continue;
    Entry entry{spec.name(), {spec.shape().begin(), spec.shape().end()}, ""};
    size_t numel = 1;
    for (int64_t size : entry.shape) numel *= static_cast<size_t>(size);
    entry.data.resize(numel * sizeof(float));
    EXPECT_THAT(FillMock(spec.name(), /*seed=*/5, spec.mock(), spec.dtype(), entry.shape, entry.data.data()),
                IsOk());
    entries.push_back(std::move(entry));
  }
  change(entries);
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"]["assay.weights"] = metadata;
  std::string data;
  for (const Entry& entry : entries) {
    header[entry.name] = {{"dtype", "F32"},
                          {"shape", entry.shape},
                          {"data_offsets", {data.size(), data.size() + entry.data.size()}}};
    data += entry.data;
  }
  std::string text = header.dump();
  while (text.size() % 8 != 0) text += ' ';
  uint64_t size = text.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof size);
  std::string path = ::testing::TempDir() + folder;
  EXPECT_THAT(WriteFileAtomically(path + "/model.safetensors", file + text + data), IsOk());
  return path;
}
void AsItIs(std::vector<Entry>&) {}

// bert with its loading case and its mock case.
WrittenTest BertWithLoading() {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  v1::Case mock = written.test.case_(0);
  written.test.clear_case_();
  v1::Case& loading = *written.test.add_case_();
  EXPECT_THAT(ParseTextProto(
                  "case",
                  "name: 'test_model_loading' weights: REAL check { name: 'weights_bound' weights_bound {} } "
                  "check { name: 'finite' finite {} } check { name: 'not_constant' not_constant {} }",
                  loading),
              IsOk());
  *written.test.add_case_() = mock;
  return written;
}

TEST(Loading, WithoutACheckpointIsSkippedAndMockAloneIsPassed) {
  v1::TestResult result = RunAltered(BertWithLoading());
  EXPECT_EQ(result.outcome(), v1::PASSED);
  ASSERT_EQ(result.case__size(), 2);
  EXPECT_EQ(result.case_(0).outcome(), v1::SKIPPED);
  EXPECT_EQ(result.case_(0).reason(), "NO_WEIGHTS");
  EXPECT_EQ(result.case_(0).evidence(), v1::EVIDENCE_UNSPECIFIED);
  EXPECT_EQ(result.case_(1).weights(), v1::MOCK);
  EXPECT_EQ(result.case_(1).evidence(), v1::GOLDEN);
  EXPECT_EQ(result.provenance().weights_digest(), "");
}

TEST(Loading, OnlySkippedIsNotPassed) {
  WrittenTest written = BertWithLoading();
  written.test.mutable_case_()->RemoveLast();
  EXPECT_EQ(RunAltered(written).outcome(), v1::SKIPPED);
}

TEST(Loading, AFittingCheckpointIsBoundAndRun) {
  WrittenTest written = BertWithLoading();
  written.options.checkpoint_dir = WriteCheckpoint("fits", RealProgram("bert"), AsItIs);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).outcome(), v1::PASSED) << result.case_(0).message();
  EXPECT_EQ(result.case_(0).weights(), v1::REAL);
  EXPECT_EQ(result.case_(0).evidence(), v1::STRUCTURAL);
  EXPECT_EQ(result.provenance().weights_digest().size(), 64u);
}

TEST(Loading, ASyntheticCheckpointNeverCountsAsReal) {
  WrittenTest written = BertWithLoading();
  written.options.checkpoint_dir = WriteCheckpoint("synthetic", RealProgram("bert"), AsItIs, "synthetic");
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.case_(0).outcome(), v1::PASSED) << result.case_(0).message();
  EXPECT_EQ(result.case_(0).weights(), v1::SYNTHETIC);
}

TEST(Loading, ACheckpointOfAnotherConfigurationIsSkippedAndSaysWhichKey) {
  WrittenTest written = BertWithLoading();
  const std::string missing = "bert.encoder.layer.1.output.dense.weight";
  written.options.checkpoint_dir =
      WriteCheckpoint("misfit", RealProgram("bert"), [&](std::vector<Entry>& entries) {
        std::erase_if(entries, [&](const Entry& entry) { return entry.name == missing; });
      });
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.case_(0).outcome(), v1::SKIPPED);
  EXPECT_EQ(result.case_(0).reason(), "NO_WEIGHTS");
  EXPECT_THAT(result.case_(0).message(), HasSubstr(missing));
}

TEST(Loading, ACorruptCheckpointFails) {
  WrittenTest written = BertWithLoading();
  std::string folder = WriteCheckpoint("corrupt", RealProgram("bert"), AsItIs);
  std::filesystem::resize_file(folder + "/model.safetensors", 5000);
  written.options.checkpoint_dir = folder;
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_EQ(result.case_(0).outcome(), v1::FAILED);
  EXPECT_EQ(result.case_(0).reason(), "");
  EXPECT_THAT(result.case_(0).message(), HasSubstr("model.safetensors"));
  EXPECT_EQ(result.case_(1).outcome(), v1::PASSED) << "the mock case does not need it";
}

TEST(Loading, WeightsThatGiveNanFail) {
  WrittenTest written = BertWithLoading();
  written.options.checkpoint_dir = WriteCheckpoint(
      "nan", RealProgram("bert"),
      [](std::vector<Entry>& entries) { std::memset(entries[0].data.data(), 0xff, entries[0].data.size()); });
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("test_model_loading: finite"));
}

TEST(Loading, AGoldenCheckCannotPassWithACheckpoint) {
  WrittenTest written = BertWithLoading();
  *written.test.mutable_case_(0)->add_check() = written.test.case_(1).check(0);
  written.options.checkpoint_dir = WriteCheckpoint("golden", RealProgram("bert"), AsItIs);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.case_(0).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).message(), HasSubstr("recorded with mock weights"));
}

TEST(RunTest, TellsItsSinkInOrder) {
  WrittenTest written = BertWithLoading();
  RecordingSink sink;
  RunTest(written.test, written.options, sink);
  EXPECT_EQ(sink.heard,
            "start test_model_loading\nend test_model_loading SKIPPED\n"
            "start test_model_with_mock\nend test_model_with_mock PASSED\n");
}

TEST(RunTest, WithoutAProgramIsUnsupported) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.clear_program_digest();
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(result.message(), HasSubstr("no program for 'bert'"));
}

TEST(RunTest, AnotherProgramThanTheTestsIsNotRun) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.options.program_path = WriteTest(RealProgram("vit"), kGolden).options.program_path;
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("the test was made for"));
}

TEST(RunTest, AMissingProgramFileIsTheMachinesFault) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  std::filesystem::remove(written.options.program_path);
  EXPECT_EQ(RunAltered(written).outcome(), v1::INFRASTRUCTURE_ERROR);
}

TEST(RunTest, AnUnknownOperatorIsUnsupportedAndNamed) {
  v1::Program bert = RealProgram("bert");
  SetOperator(bert, NodeRunning(bert, "aten::gelu"), "aten::hyper_gelu");
  v1::TestResult result = RunAltered(bert, kGolden);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(result.message(), HasSubstr("aten::hyper_gelu"));
}

TEST(RunTest, CudaWhereThereIsNoneIsUnsupported) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.mutable_set_up()->set_device(v1::CUDA);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(result.message(), HasSubstr("demands CUDA"));
}

TEST(RunTest, AutoIsTheCpuInAProcessThatMayNotTouchCuda) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.mutable_set_up()->set_device(v1::AUTO);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.provenance().device().kind(), "cpu");
  EXPECT_FALSE(result.provenance().device().capability().empty());
  EXPECT_FALSE(result.provenance().engine_build().empty());
}

TEST(RunTest, AnAllocationBeyondTheMachineIsOutOfMemory) {
  v1::Program bert = RealProgram("bert");
  int node = AppendToOutput(bert, 0, "aten::new_zeros");
  ArgumentOf(bert, node, "size").mutable_ints()->add_values(int64_t{1} << 45);
  v1::TestResult result = RunAltered(bert, kGolden);
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY) << result.message();
}

TEST(RunTest, TheOutcomeIsTheWorstOfTheCases) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  v1::Case second = written.test.case_(0);
  second.set_name("another");
  second.mutable_check(0)->mutable_golden();
  *second.add_check() = second.check(0);
  second.mutable_check(1)->set_name("boxes");
  second.mutable_check(1)->mutable_box_range()->set_output("logits");
  *written.test.add_case_() = second;
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("another: boxes"));
  EXPECT_EQ(result.case_(0).outcome(), v1::PASSED);
  EXPECT_EQ(result.last_case(), "another");
}

// Tests that could prove nothing, or whose meaning this engine does not know, run nothing.
struct WrongTest {
  const char* name;
  void (*change)(v1::ModelTest& test);
  const char* message;
};
class WrongTests : public ::testing::TestWithParam<WrongTest> {};

TEST_P(WrongTests, AreRefusedWithTheReason) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  GetParam().change(written.test);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr(GetParam().message));
  EXPECT_EQ(result.case__size(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongTests,
    ::testing::Values(
        WrongTest{"NoCase", [](v1::ModelTest& t) { t.clear_case_(); }, "no case"},
        WrongTest{"NoCheck", [](v1::ModelTest& t) { t.mutable_case_(0)->clear_check(); }, "no check"},
        WrongTest{"CaseTwice", [](v1::ModelTest& t) { *t.add_case_() = v1::Case(t.case_(0)); },
                  "stands there twice"},
        WrongTest{"CheckTwice",
                  [](v1::ModelTest& t) { *t.mutable_case_(0)->add_check() = v1::Check(t.case_(0).check(0)); },
                  "check 'golden' stands there twice"},
        WrongTest{"NoDtype", [](v1::ModelTest& t) { t.mutable_set_up()->clear_dtype(); }, "set_up.dtype"},
        WrongTest{"UnknownDevice",
                  [](v1::ModelTest& t) { t.mutable_set_up()->set_device(v1::DeviceChoice(99)); },
                  "set_up.device is 99"},
        WrongTest{"NoWeightsKind", [](v1::ModelTest& t) { t.mutable_case_(0)->clear_weights(); },
                  "REAL or MOCK"},
        WrongTest{"FieldOfTheFuture",
                  [](v1::ModelTest& t) {
                    v1::Check& check = *t.mutable_case_(0)->mutable_check(0);
                    check.GetReflection()->MutableUnknownFields(&check)->AddVarint(999, 1);
                  },
                  "does not know"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace assay::engine

// A test from its file to its verdict: what is refused, what is skipped, and how cases make an outcome.
#include "engine/run_test.h"

#include <cstring>
#include <filesystem>
#include <limits>
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

TEST(Loading, AMisspelledMarkerDoesNotMakeASyntheticCheckpointReal) {
  WrittenTest written = BertWithLoading();
  written.options.checkpoint_dir = WriteCheckpoint("misspelled", RealProgram("bert"), AsItIs, "Synthetic ");
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

// Programs with which everything could agree, or that are not the test's: nothing of them runs.
struct WorthlessProgram {
  const char* name;
  void (*change)(v1::Program& program);
  const char* message;
};
class WorthlessPrograms : public ::testing::TestWithParam<WorthlessProgram> {};

TEST_P(WorthlessPrograms, AreNoEvidence) {
  v1::Program program = RealProgram("bert");
  GetParam().change(program);
  v1::TestResult result = RunAltered(program, kGolden);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr(GetParam().message));
  EXPECT_EQ(result.case__size(), 0);
}

// Lets every number of the golden's first output be `value`.
void FillGolden(v1::Program& program, float value) {
  std::string& data = *program.mutable_golden()->mutable_outputs(0)->mutable_tensor()->mutable_data();
  for (size_t at = 0; at < data.size(); at += sizeof value)
    std::memcpy(data.data() + at, &value, sizeof value);
}

// The first output as a node of its own makes it, out of nothing but graph input `from`.
void ComputeOutputFrom(v1::Program& program, v1::GraphInput::Kind from) {
  for (const v1::GraphInput& input : program.graph().inputs()) {
    if (input.kind() == from) return program.mutable_graph()->mutable_outputs(0)->set_value(input.value());
  }
  FAIL() << "no such input";
}

INSTANTIATE_TEST_SUITE_P(
    All, WorthlessPrograms,
    ::testing::Values(
        WorthlessProgram{
            "EverythingIsRounding",
            [](v1::Program& p) { p.mutable_golden()->mutable_outputs(0)->set_float64_error(1e9); },
            "golden output logits: float64_error 1e+09"},
        WorthlessProgram{"ConstantGolden", [](v1::Program& p) { FillGolden(p, 0); },
                         "golden output logits is constant"},
        WorthlessProgram{"NanGolden",
                         [](v1::Program& p) { FillGolden(p, std::numeric_limits<float>::quiet_NaN()); },
                         "golden output logits has NaN"},
        WorthlessProgram{"EmptyGolden",
                         [](v1::Program& p) {
                           v1::Tensor& tensor = *p.mutable_golden()->mutable_outputs(0)->mutable_tensor();
                           p.mutable_manifest()->mutable_outputs(0)->set_shape(0, 0);
                           tensor.set_shape(0, 0);
                           tensor.clear_data();
                         },
                         "golden output logits is empty"},
        WorthlessProgram{"WholeNumbersOnly",
                         [](v1::Program& p) {
                           p.mutable_manifest()->mutable_outputs(0)->set_dtype(v1::INT);
                           p.mutable_golden()->mutable_outputs(0)->mutable_tensor()->set_dtype(v1::INT);
                           p.mutable_golden()->mutable_outputs(0)->clear_float64_error();
                         },
                         "no floating point output"},
        WorthlessProgram{"NoWeightMatters",
                         [](v1::Program& p) { ComputeOutputFrom(p, v1::GraphInput::USER_INPUT); },
                         "output logits is computed from no weight"},
        WorthlessProgram{"NoInputMatters",
                         [](v1::Program& p) { ComputeOutputFrom(p, v1::GraphInput::WEIGHT); },
                         "output logits is computed from no input"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(RunTest, TheProgramOfAnotherModelIsNoEvidence) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.set_model_class(RealProgram("bert").manifest().architecture());
  EXPECT_EQ(RunAltered(written).outcome(), v1::PASSED);
  written.test.set_model_class("transformers.XmodForMaskedLM");
  EXPECT_THAT(RunAltered(written).message(), HasSubstr("the test of 'transformers.XmodForMaskedLM'"));
  written.test.set_name("xmod");
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("the program is of model 'bert', the test of 'xmod'"));
}

TEST(RunTest, TellsTheDtypeThatItRanIn) {
  WrittenTest written = WriteTest(RealProgram("bert"), kGolden);
  written.test.mutable_set_up()->set_dtype(v1::DTYPE_BFLOAT16);
  EXPECT_EQ(RunAltered(written).provenance().dtype(), v1::DTYPE_BFLOAT16);
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

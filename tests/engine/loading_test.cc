// A checkpoint on its way to a verdict: what agrees passes with its golden, and every fault that is planted
// is found and named.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/dtype.h"
#include "common/file.h"
#include "engine/run_test.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kWeight[] = "bert.encoder.layer.1.output.dense.weight";
const std::string kOther(64, 'a');  // a digest of something else

// Every fault ends the case, and with it the test, as FAILED, with this in its message.
void ExpectFails(const v1::TestResult& result, const std::string& message) {
  EXPECT_EQ(result.outcome(), v1::FAILED) << result.message();
  ASSERT_EQ(result.case__size(), 1) << result.message();
  EXPECT_EQ(result.case_(0).outcome(), v1::FAILED);
  EXPECT_EQ(result.case_(0).reason(), "") << "a fault is no absence";
  EXPECT_NE(result.case_(0).evidence(), v1::GOLDEN);
  EXPECT_THAT(result.case_(0).message(), HasSubstr(message));
}

float& FloatAt(std::string& data, size_t index) {
  return *reinterpret_cast<float*>(data.data() + index * sizeof(float));
}

TEST(Real, ACheckpointThatAgreesWithItsGoldenPasses) {
  RealCheckpoint real("bert");
  WrittenTest written = real.Write();
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  ASSERT_EQ(result.case__size(), 1);
  const v1::CaseResult& done = result.case_(0);
  EXPECT_EQ(done.weights(), v1::REAL);
  EXPECT_EQ(done.evidence(), v1::GOLDEN);
  EXPECT_EQ(done.no_golden(), "");
  EXPECT_EQ(done.load().bound(), static_cast<uint32_t>(real.program.manifest().weights_size()));
  EXPECT_EQ(done.load().missing_count() + done.load().mismatched_count() + done.load().defect_count(), 0u);
  EXPECT_GT(done.load().bytes(), 0u);
  EXPECT_GT(done.load().seconds(), 0);
  const v1::Provenance& provenance = result.provenance();
  EXPECT_EQ(provenance.checkpoint().id(), "someone/fine-tuned");
  EXPECT_EQ(provenance.checkpoint_program_digest(), written.test.case_(0).program_digest());
  EXPECT_EQ(provenance.golden_digest(), written.test.case_(0).golden_digest());
  EXPECT_EQ(provenance.weights_digest().size(), 64u);
  EXPECT_EQ(provenance.weights_trust(), v1::UNVERIFIED);
}

TEST(Real, EveryFamilyRunsFromAShardedCheckpoint) {
  for (const char* model : {"llama", "whisper", "vit", "t5", "clip"}) {
    RealCheckpoint real(model);
    real.shards = 3;
    v1::TestResult result = real.Run();
    EXPECT_EQ(result.outcome(), v1::PASSED) << model << ": " << result.message();
    EXPECT_EQ(result.case_(0).evidence(), v1::GOLDEN) << model;
    EXPECT_THAT(result.case_(0).load().format(), HasSubstr("3 shards")) << model;
  }
}

TEST(Real, WhatVouchesForTheWeightsIsSaid) {
  WrittenTest written = RealCheckpoint("bert").Write();
  written.options.hub_verified = true;
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.provenance().weights_trust(), v1::HUB_SHA256);
  written.options.hub_verified = false;
  written.test.mutable_trained()->set_weights_digest(result.provenance().weights_digest());
  // Who pins the weights alone leaves open what is made of them.
  EXPECT_EQ(RunAltered(written).provenance().weights_trust(), v1::UNVERIFIED);
  written.test.mutable_trained()->set_config_digest(kOther);
  result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.provenance().weights_trust(), v1::PINNED);
  written.options.hub_verified = true;
  EXPECT_EQ(RunAltered(written).provenance().weights_trust(), v1::HUB_SHA256);
}

TEST(Real, OtherWeightsThanThePinnedFail) {
  WrittenTest written = RealCheckpoint("bert").Write();
  written.options.hub_verified = true;
  written.test.mutable_trained()->set_weights_digest(kOther);
  v1::TestResult result = RunAltered(written);
  ExpectFails(result, "pinned is " + kOther);
  EXPECT_EQ(result.provenance().weights_trust(), v1::WEIGHTS_TRUST_UNSPECIFIED);
}

TEST(Real, AGoldenOfOtherWeightsFails) {
  RealCheckpoint real("bert");
  real.golden.set_weights_digest(kOther);
  ExpectFails(real.Run(), absl::StrCat("the golden is of the weights ", kOther, ", the checkpoint holds "));
}

TEST(Real, AGoldenOfAnotherProgramFails) {
  RealCheckpoint real("bert");
  real.golden.set_program_digest(kOther);
  ExpectFails(real.Run(),
              absl::StrCat("the golden is of the program ", kOther, ", this case runs the program "));
}

TEST(Real, AWrongGoldenFails) {
  RealCheckpoint real("bert");
  FloatAt(*real.golden.mutable_golden()->mutable_outputs(0)->mutable_tensor()->mutable_data(), 3) += 0.01f;
  ExpectFails(real.Run(), "golden: output 'logits'");
}

TEST(Real, OneWeightsValueInAShardIsFoundByOperator) {
  RealCheckpoint real("bert");
  real.shards = 3;
  FloatAt(real.Named(kWeight).data, 100) += 0.5f;
  v1::TestResult result = real.Run();
  ExpectFails(result, "golden: output 'logits'");
  EXPECT_EQ(result.case_(0).divergence().op(), "aten::linear");
  EXPECT_EQ(result.case_(0).divergence().module(), "bert.encoder.layer.1.output.dense");
}

TEST(Real, NanAndZeroTensorsAreNamed) {
  RealCheckpoint real("bert");
  FloatAt(real.Named(kWeight).data, 7) = std::numeric_limits<float>::quiet_NaN();
  real.checks = "check { name: 'weights_sound' weights_sound {} }" +
                real.checks.substr(0, real.checks.find("check { name: 'weights_sound'"));
  v1::TestResult result = real.Run();
  ExpectFails(result, "");
  EXPECT_THAT(result.case_(0).check(0).message(), AllOf(HasSubstr(kWeight), HasSubstr("NaN")));
  EXPECT_EQ(result.case_(0).load().defect_count(), 1u);

  RealCheckpoint zero("bert");
  std::string& data = zero.Named(kWeight).data;
  data.assign(data.size(), '\0');
  zero.checks = "check { name: 'weights_sound' weights_sound {} } check { name: 'golden' golden {} }";
  result = zero.Run();
  ExpectFails(result, "");
  EXPECT_EQ(result.case_(0).check(0).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).check(0).message(), AllOf(HasSubstr(kWeight), HasSubstr("zero")));
}

TEST(Real, WhatIsMissingOrDoesNotAgreeFailsByName) {
  RealCheckpoint real("bert");
  real.golden.set_weights_digest(kOther);
  std::erase_if(real.tensors, [](const StoredTensor& tensor) { return tensor.name == kWeight; });
  StoredTensor& bias = real.Named("bert.encoder.layer.0.output.dense.bias");
  bias.shape = {bias.shape[0] / 2, 2};
  v1::TestResult result = real.Run();
  ExpectFails(result, kWeight);
  EXPECT_THAT(result.case_(0).message(), HasSubstr("bert.encoder.layer.0.output.dense.bias"));
  EXPECT_EQ(result.case_(0).load().missing_count(), 1u);
  EXPECT_EQ(result.case_(0).load().mismatched_count(), 1u);
}

TEST(Real, ATruncatedShardFailsByName) {
  RealCheckpoint real("bert");
  real.shards = 2;
  WrittenTest written = real.Write();
  const std::string shard = written.options.checkpoint_dir + "/model-00002-of-00002.safetensors";
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 100);
  ExpectFails(RunAltered(written), "model-00002-of-00002.safetensors");
}

TEST(Real, AFolderWithoutWeightsFails) {
  WrittenTest written = RealCheckpoint("bert").Write();
  std::filesystem::remove(written.options.checkpoint_dir + "/model.safetensors");
  ExpectFails(RunAltered(written), written.options.checkpoint_dir);
}

TEST(Real, WithoutItsFolderIsTheMachinesFault) {
  WrittenTest written = RealCheckpoint("bert").Write();
  written.options.checkpoint_dir.clear();
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("someone/fine-tuned"));
}

TEST(Real, WithoutItsFilesIsTheMachinesFault) {
  for (const bool program : {true, false}) {
    WrittenTest written = RealCheckpoint("bert").Write();
    const v1::Case& c = written.test.case_(0);
    const std::string digest = program ? c.program_digest() : c.golden_digest();
    const std::string path = written.options.files[digest];
    written.options.files.erase(digest);
    v1::TestResult result = RunAltered(written);
    EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
    EXPECT_THAT(result.message(), HasSubstr(digest + " was not given"));
    written.options.files[digest] = path;
    ASSERT_THAT(WriteFileAtomically(path, "another content"), IsOk());
    result = RunAltered(written);
    EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
    EXPECT_THAT(result.message(), HasSubstr("the test was made for " + digest));
  }
}

TEST(Real, RandomWeightsOfFullFormAreNotReal) {
  RealCheckpoint real("bert");
  real.marker = "synthetic";
  v1::TestResult result = real.Run();
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).weights(), v1::SYNTHETIC);
}

v1::TestResult RunIn(v1::Dtype dtype, RealCheckpoint& real) {
  WrittenTest written = real.Write();
  written.test.mutable_set_up()->set_dtype(dtype);
  return RunAltered(written);
}

TEST(Real, EveryDtypeIsATarget) {
  for (const v1::Dtype dtype : {v1::FLOAT32, v1::DTYPE_BFLOAT16, v1::FLOAT16}) {
    RealCheckpoint real("bert");
    const v1::TestResult result = RunIn(dtype, real);
    EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
    EXPECT_EQ(result.provenance().dtype(), dtype);
    EXPECT_GT(result.case_(0).check(0).rms_tolerance(), 0) << "the bound is the golden's own";
  }
}

// A weight that is stored in bfloat16 is the same number in a bfloat16 run as the float32 of its value.
TEST(Real, WeightsStoredInTheTargetsDtypeAreExact) {
  RealCheckpoint whole("bert");
  for (StoredTensor& tensor : whole.tensors) {
    if (tensor.dtype != "F32") continue;
    for (size_t at = 0; at < tensor.data.size(); at += 4) tensor.data[at] = tensor.data[at + 1] = '\0';
  }
  RealCheckpoint half = whole;
  for (StoredTensor& tensor : half.tensors) {
    if (tensor.dtype != "F32") continue;
    std::string halves;
    for (size_t at = 0; at < tensor.data.size(); at += 4) halves += tensor.data.substr(at + 2, 2);
    tensor.dtype = "BF16";
    tensor.data = halves;
  }
  const v1::TestResult a = RunIn(v1::DTYPE_BFLOAT16, whole), b = RunIn(v1::DTYPE_BFLOAT16, half);
  ASSERT_EQ(b.case__size(), 1) << b.message();
  ASSERT_EQ(a.case_(0).output_size(), 1) << a.message();
  EXPECT_GT(a.case_(0).output(0).abs_max(), 0);
  EXPECT_EQ(a.case_(0).output(0).SerializeAsString(), b.case_(0).output(0).SerializeAsString());
}

// Widened exactly: the same numbers give the same outputs, whichever way they are stored.
TEST(Real, HalfPrecisionIsWidenedAndCounted) {
  RealCheckpoint whole("bert");
  for (StoredTensor& tensor : whole.tensors) {
    if (tensor.dtype != "F32") continue;
    // The upper half of a float32 is a bfloat16.
    for (size_t at = 0; at < tensor.data.size(); at += 4) tensor.data[at] = tensor.data[at + 1] = '\0';
  }
  RealCheckpoint half = whole;
  uint32_t halved = 0;
  for (StoredTensor& tensor : half.tensors) {
    if (tensor.dtype != "F32") continue;
    std::string halves;
    for (size_t at = 0; at < tensor.data.size(); at += 4) halves += tensor.data.substr(at + 2, 2);
    tensor.dtype = "BF16";
    tensor.data = halves;
    ++halved;
  }
  const v1::TestResult expected = whole.Run(), result = half.Run();
  ASSERT_EQ(result.case__size(), 1) << result.message();
  EXPECT_EQ(result.case_(0).load().converted_count(), halved);
  ASSERT_EQ(result.case_(0).check_size(), 3);
  EXPECT_EQ(result.case_(0).check(0).outcome(), v1::FAILED) << "cut numbers are not the golden's";
  EXPECT_EQ(result.case_(0).check(0).error(), expected.case_(0).check(0).error());
  EXPECT_EQ(result.case_(0).check(1).outcome(), v1::PASSED);
}

TEST(Real, WhatDoesNotFitTheNodeIsRefusedWithTheFigures) {
  WrittenTest written = RealCheckpoint("bert").Write();
  written.options.available_memory = 1000;
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY);
  EXPECT_THAT(result.message(), AllOf(HasSubstr("needs "), HasSubstr("this node has 0.0 GiB available")));
  EXPECT_GT(result.case_(0).load().bound(), 0u) << "the report says what was found all the same";
  EXPECT_THAT(result.case_(0).check(), IsEmpty());
  written.options.available_memory = 0;
  written.test.mutable_limits()->set_memory_bytes(1000);
  result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY);
  EXPECT_THAT(result.message(), HasSubstr("the test's limit is 0 MiB"));
}

// --- Without a golden ---

RealCheckpoint WithInputsOnly() {
  RealCheckpoint real("bert");
  real.golden.mutable_golden()->clear_outputs();
  real.golden.mutable_golden()->clear_trace();
  real.checks =
      "check { name: 'finite' finite {} } check { name: 'shapes' shapes {} } "
      "check { name: 'batch_invariance' batch_invariance { row: 1 } } "
      "check { name: 'padding_invariance' padding_invariance { input: 'input_ids' mask: 'attention_mask' "
      "output: 'logits' masked: 3 output_has_sequence: true } }";
  return real;
}

void SayWhy(v1::ModelTest& test) {
  v1::AbsentCheck& absent = *test.add_absent();
  absent.set_case_name("test_model_loading");
  absent.set_check("golden");
  absent.set_reason("too large for the exporter");
}

TEST(Real, WithoutAGoldenOnlyTheStructureIsSeenAndSaidSo) {
  WrittenTest written = WithInputsOnly().Write();
  SayWhy(written.test);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).evidence(), v1::STRUCTURAL);
  EXPECT_EQ(result.case_(0).no_golden(), "too large for the exporter");
}

TEST(Real, ThatThereIsNoGoldenMustBeSaid) {
  v1::TestResult result = WithInputsOnly().Run();
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("no golden check, and the test does not say why"));
}

TEST(Real, AGoldenCheckCannotPassWithInputsOnly) {
  RealCheckpoint real = WithInputsOnly();
  real.checks += " check { name: 'golden' golden {} }";
  ExpectFails(real.Run(), "golden: there is no golden");
}

// --- What is only likely of a model's form ---

constexpr char kLikely[] =
    " check { name: 'layers' repeated_layers {} } check { name: 'configuration' configuration {} }"
    " check { name: 'influence' weight_influence {} } check { name: 'alike' weights_alike {} }";

// A layer normalisation of one layer with an epsilon of its own, as checkpoint and golden have it.
RealCheckpoint WithAnOddLayer() {
  RealCheckpoint real("bert");
  for (v1::Node& node : *real.program.mutable_graph()->mutable_nodes()) {
    if (real.program.graph().modules(static_cast<int>(node.module())) !=
        "bert.encoder.layer.1.output.LayerNorm") {
      continue;
    }
    for (v1::NamedArgument& argument : *node.mutable_arguments()) {
      if (argument.name() == "eps") argument.mutable_value()->set_real(2e-12);
    }
  }
  return real;
}

TEST(Real, WhatIsOnlyLikelyIsLeftToTheCheckpointsGolden) {
  RealCheckpoint real = WithAnOddLayer();
  real.checks = absl::StrCat("check { name: 'golden' golden {} }", kLikely);
  const v1::TestResult result = real.Run();
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  ASSERT_EQ(result.case_(0).check_size(), 5);
  for (int i = 1; i < 5; ++i) {
    EXPECT_EQ(result.case_(0).check(i).outcome(), v1::SKIPPED) << i;
    EXPECT_THAT(result.case_(0).check(i).message(), HasSubstr("left to this checkpoint's golden"));
  }
}

TEST(Real, WhatIsOnlyLikelyIsAskedForWithoutAGolden) {
  RealCheckpoint real = WithAnOddLayer();
  real.golden.mutable_golden()->clear_outputs();
  real.golden.mutable_golden()->clear_trace();
  real.checks = absl::StrCat("check { name: 'finite' finite {} }", kLikely);
  WrittenTest written = real.Write();
  SayWhy(written.test);
  const v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("bert.encoder.layer.1.output.LayerNorm"));
}

// --- A golden that proves nothing, and tests that contradict themselves ---

TEST(Real, AConstantGoldenIsNoEvidence) {
  RealCheckpoint real("bert");
  std::string& data = *real.golden.mutable_golden()->mutable_outputs(0)->mutable_tensor()->mutable_data();
  data.assign(data.size(), '\0');
  ExpectFails(real.Run(), "golden output logits is constant");
}

TEST(Real, AGoldenThatCallsEverythingRoundingIsNoEvidence) {
  RealCheckpoint real("bert");
  v1::GoldenOutput& output = *real.golden.mutable_golden()->mutable_outputs(0);
  float largest = 0;
  for (size_t i = 0; i < output.tensor().data().size() / sizeof(float); ++i) {
    largest = std::max(largest, std::abs(FloatAt(*output.mutable_tensor()->mutable_data(), i)));
  }
  output.set_float64_error(9e-5 * largest);
  EXPECT_EQ(real.Run().outcome(), v1::PASSED);
  output.set_float64_error(1.1e-4 * largest);
  ExpectFails(real.Run(), "golden output logits: float64_error");
}

TEST(Real, AGoldenThatIsDamagedIsRefused) {
  RealCheckpoint real("bert");
  real.golden.set_format(2);
  EXPECT_EQ(real.Run().outcome(), v1::UNSUPPORTED);
  real.golden.set_format(1);
  real.golden.mutable_golden()->mutable_inputs(0)->set_data("x");
  ExpectFails(real.Run(), "golden input");
  RealCheckpoint trace("bert");
  trace.golden.mutable_golden()->clear_outputs();
  ExpectFails(trace.Run(), "a trace, and no outputs");
}

// Weights that could not be read have no golden; the verdict is about them, not about the golden.
TEST(Real, WithoutAGoldenTheCheckpointHasItsVerdictBeforeInputsAreMissed) {
  RealCheckpoint real("bert");
  WrittenTest sound = real.Write();
  sound.test.mutable_case_(0)->clear_golden_digest();
  v1::TestResult result = RunAltered(sound);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("there is no golden, so there are no inputs"));
  EXPECT_EQ(result.case_(0).load().missing_count(), 0u);

  const std::string lost = real.tensors.back().name;
  real.tensors.pop_back();
  WrittenTest unfit = real.Write();
  unfit.test.mutable_case_(0)->clear_golden_digest();
  result = RunAltered(unfit);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr(lost));
}

TEST(Real, TestsThatContradictThemselvesAreRefused) {
  struct Wrong {
    void (*change)(v1::ModelTest& test);
    const char* message;
  };
  for (const Wrong& wrong : {
           Wrong{[](v1::ModelTest& t) { t.mutable_case_(0)->set_weights(v1::MOCK); },
                 "the golden of mock weights is the program's own"},
           Wrong{[](v1::ModelTest& t) { t.mutable_case_(0)->set_program_digest("../x"); }, "is no digest"},
           Wrong{[](v1::ModelTest& t) { t.mutable_trained()->set_weights_digest("x"); }, "is no digest"},
           Wrong{[](v1::ModelTest& t) {
                   t.mutable_case_(0)->set_weights(v1::MOCK);
                   t.mutable_case_(0)->clear_golden_digest();
                 },
                 "no case loads it"},
       }) {
    WrittenTest written = RealCheckpoint("bert").Write();
    wrong.change(written.test);
    v1::TestResult result = RunAltered(written);
    EXPECT_EQ(result.outcome(), v1::FAILED);
    EXPECT_THAT(result.message(), HasSubstr(wrong.message));
    EXPECT_EQ(result.case__size(), 0);
  }
}

TEST(Real, ABrokenCheckpointDoesNotKeepTheMockCaseFromRunning) {
  RealCheckpoint real("bert");
  real.golden.set_weights_digest(kOther);
  WrittenTest written = real.Write();
  WrittenTest mock = WriteTest(RealProgram("bert"), "check { name: 'golden' golden {} }");
  written.test.set_name("bert");
  written.test.set_program_digest(mock.test.program_digest());
  written.options.program_path = mock.options.program_path;
  *written.test.add_case_() = mock.test.case_(0);
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  ASSERT_EQ(result.case__size(), 2);
  EXPECT_EQ(result.case_(0).outcome(), v1::FAILED);
  EXPECT_EQ(result.case_(1).outcome(), v1::PASSED) << result.case_(1).message();
}

}  // namespace
}  // namespace assay::engine

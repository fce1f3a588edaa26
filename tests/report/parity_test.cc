// Two devices' results of one model, held against each other.
#include "coordinator/report/parity.h"

#include <cmath>
#include <string>
#include <vector>

#include "tests/matchers.h"
#include "tests/report/fixture.h"

namespace assay::report {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// As two hosts gave it, one of them held to AVX2: bert's logits.
v1::Job JobOn(const std::string& kind, const std::string& capability, const std::string& name) {
  v1::Job job = PassedJob("batch-a.bert." + kind + capability, "bert", 100);
  v1::DeviceInfo& device = *job.mutable_result()->mutable_provenance()->mutable_device();
  device.set_kind(kind);
  device.set_capability(capability);
  device.set_name(name);
  job.mutable_result()->mutable_provenance()->set_dtype(v1::DTYPE_BFLOAT16);
  v1::CaseResult& mock = *job.mutable_result()->mutable_case_(1);
  v1::OutputSummary& output = *mock.add_output();
  output.set_name("logits");
  for (const int size : {2, 8, 50}) output.add_shape(size);
  for (int i = 0; i < 16; ++i) output.add_samples(0.25 * i);
  output.set_mean(0.5);
  output.set_norm(40);
  output.set_abs_max(3.75);
  output.set_allowed(0.1);
  output.set_allowed_rms(0.02);
  return job;
}
v1::Job Cpu() { return JobOn("cpu", "AVX512", "Xeon"); }
v1::Job Other() { return JobOn("cpu", "AVX2", "Xeon"); }
v1::OutputSummary& OutputOf(v1::Job& job) {
  return *job.mutable_result()->mutable_case_(1)->mutable_output(0);
}

std::vector<ParityCheck> Compare(const v1::Job& a, const v1::Job& b) { return CompareDevices({&a, &b}); }

// The only check of the pair.
ParityCheck Only(const v1::Job& a, const v1::Job& b) {
  std::vector<ParityCheck> checks = Compare(a, b);
  EXPECT_THAT(checks, SizeIs(1));
  return checks.empty() ? ParityCheck{} : checks[0];
}

TEST(Parity, RunsWithinTheBoundAgreeAndShowTheNearestFigure) {
  const v1::Job a = Cpu();
  v1::Job b = Other();
  OutputOf(b).set_samples(3, 0.75 + 0.09);
  OutputOf(b).set_abs_max(3.76);
  const ParityCheck check = Only(a, b);
  EXPECT_EQ(check.parity, Parity::kAgree);
  EXPECT_NEAR(check.error, 0.09, 1e-12);
  EXPECT_THAT(check.message, HasSubstr("sample 3: 0.84 and 0.75"));  // AVX2 sorts first
  EXPECT_EQ(check.case_name, "test_model_with_mock");
}

TEST(Parity, EveryFigureIsHeldAgainstTheOther) {
  const v1::Job a = Cpu();
  const auto differs = [&](auto change, const std::string& figure) {
    v1::Job b = Other();
    change(OutputOf(b));
    const ParityCheck check = Only(a, b);
    EXPECT_EQ(check.parity, Parity::kDiffer) << figure;
    EXPECT_THAT(check.message, HasSubstr(figure));
  };
  differs([](auto& o) { o.set_samples(15, 3.9); }, "sample 15");
  differs([](auto& o) { o.set_mean(0.53); }, "the mean");
  differs([](auto& o) { o.set_norm(40.7); }, "the norm");  // 0.02 * sqrt(800) = 0.566
  differs([](auto& o) { o.set_abs_max(3.9); }, "the largest magnitude");
  differs([](auto& o) { o.set_abs_max(std::nan("")); }, "the largest magnitude");
  differs([](auto& o) { o.set_shape(0, 3); }, "another name, shape or dtype");
}

TEST(Parity, TheWiderBoundOfTheTwoHolds) {
  v1::Job a = Cpu();
  v1::Job b = JobOn("cuda", "9.0", "NVIDIA H100");
  OutputOf(b).set_samples(3, 0.9);
  EXPECT_EQ(Only(a, b).parity, Parity::kDiffer);
  OutputOf(b).set_allowed(0.2);
  EXPECT_EQ(Only(a, b).parity, Parity::kAgree);
  EXPECT_EQ(DeviceWord(b), "cuda NVIDIA H100");
}

TEST(Parity, WhereRoundingTurnsADecisionADifferenceProvesNothing) {
  v1::Job a = Cpu(), b = Other();
  OutputOf(b).set_samples(3, 1.5);
  OutputOf(a).set_not_comparable("rounding turns aten::topk");
  EXPECT_EQ(Only(a, b).parity, Parity::kNotComparable);
  // Their shape is no decision of rounding.
  OutputOf(b).set_shape(0, 1);
  EXPECT_EQ(Only(a, b).parity, Parity::kDiffer);
}

TEST(Parity, OnlyResultsOfTheSameInputsOnOtherDevicesAreCompared) {
  const v1::Job a = Cpu();
  EXPECT_THAT(Compare(a, Cpu()), IsEmpty());
  const auto compared = [&](auto change) {
    v1::Job b = Other();
    change(b);
    return !Compare(a, b).empty();
  };
  EXPECT_TRUE(compared([](v1::Job&) {}));
  EXPECT_FALSE(compared([](v1::Job& b) { b.mutable_model()->set_name("albert"); }));
  EXPECT_FALSE(compared([](v1::Job& b) { b.set_state(v1::RUNNING); }));
  EXPECT_FALSE(compared([](v1::Job& b) { b.mutable_result()->mutable_case_(1)->clear_output(); }));
  EXPECT_FALSE(
      compared([](v1::Job& b) { b.mutable_result()->mutable_provenance()->set_program_digest("x"); }));
  EXPECT_FALSE(
      compared([](v1::Job& b) { b.mutable_result()->mutable_provenance()->set_golden_digest("x"); }));
  EXPECT_FALSE(
      compared([](v1::Job& b) { b.mutable_result()->mutable_provenance()->set_weights_digest("x"); }));
  EXPECT_FALSE(compared([](v1::Job& b) { b.mutable_result()->mutable_provenance()->set_mock_seed(9); }));
  EXPECT_FALSE(
      compared([](v1::Job& b) { b.mutable_result()->mutable_provenance()->set_dtype(v1::FLOAT32); }));
}

TEST(Parity, IsInEveryReportOfABatchThatRanOnTwoDevices) {
  ReportInput input = MixedInput();
  input.jobs.clear();
  input.jobs.push_back(Cpu());
  input.jobs.push_back(JobOn("cuda", "9.0", "NVIDIA H100"));
  OutputOf(input.jobs[1]).set_samples(3, 1.5);
  input.jobs[1].mutable_target()->set_device(v1::CUDA);
  input.batch_id = "batch-a";
  for (const v1::ReportFormat format : {v1::TEXT, v1::JSON, v1::MARKDOWN, v1::HTML, v1::JUNIT}) {
    ASSERT_OK_AND_ASSIGN(const std::string report, RenderReport(input, format));
    EXPECT_THAT(report, HasSubstr("DIFFERS")) << v1::ReportFormat_Name(format);
    EXPECT_THAT(report, HasSubstr("sample 3"));
  }
  input.jobs.pop_back();
  ASSERT_OK_AND_ASSIGN(const std::string report, RenderReport(input, v1::MARKDOWN));
  EXPECT_THAT(report, Not(HasSubstr("Parity of devices")));
}

}  // namespace
}  // namespace assay::report

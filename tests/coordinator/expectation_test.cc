// What runs so far let one expect of the next one.
#include "coordinator/store/expectation.h"

#include "coordinator/needs.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/store.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20, kGiB = uint64_t{1} << 30;

v1::Job TestOn(v1::DeviceChoice device) {
  v1::Job job;
  job.mutable_model()->set_name("bert");
  job.mutable_target()->set_device(device);
  job.mutable_target()->set_dtype(v1::FLOAT32);
  return job;
}

v1::Job OfCheckpoint(v1::DeviceChoice device, uint64_t expected_bytes) {
  v1::Job job = TestOn(device);
  job.mutable_model()->mutable_checkpoint()->set_id("org/bert");
  job.set_stage(v1::STAGE_TEST);
  v1::StageRecord& ended = *job.add_ended_stage();
  ended.set_stage(v1::STAGE_EXPORT);
  ended.mutable_result()->set_outcome(v1::PASSED);
  ended.mutable_result()->mutable_export_()->set_memory_bytes(expected_bytes);
  return job;
}

v1::TestResult Ran(const char* kind, const char* name, double seconds, uint64_t peak) {
  v1::TestResult result;
  result.set_outcome(v1::PASSED);
  result.set_seconds(seconds);
  v1::DeviceInfo& device = *result.mutable_provenance()->mutable_device();
  device.set_kind(kind);
  device.set_name(name);
  if (std::string(kind) == "cuda") {
    result.set_device_peak_memory_bytes(peak);
  } else {
    result.set_peak_memory_bytes(peak);
  }
  return result;
}

void Learn(const v1::Job& job, const v1::TestResult& result, Figures& figures) {
  for (const auto& [key, value] : Learned(job, result, figures)) figures[key] = value;
}

TEST(ExpectationTest, OfAModelThatNeverRanNothingIsExpected) {
  const v1::Job job = TestOn(v1::AUTO);
  EXPECT_EQ(ExpectedSeconds(job, {}), kUnknownSeconds);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, kGiB), {}).ByteSizeLong(), 0);
  v1::Job predicted = job;
  PredictNeeds({}, predicted);
  EXPECT_FALSE(predicted.has_needs());
}

TEST(ExpectationTest, EachKindOfDeviceHasItsOwnTime) {
  const v1::Job job = TestOn(v1::CUDA);
  Figures figures;
  Learn(job, Ran("cuda", "L4", 9, kGiB), figures);
  Learn(job, Ran("cuda", "H100", 3, kGiB), figures);
  EXPECT_EQ(PredictionOf(job, Ran("cuda", "L4", 1, kGiB), figures).seconds(), 9);
  EXPECT_EQ(PredictionOf(job, Ran("cuda", "H100", 1, kGiB), figures).seconds(), 3);
  EXPECT_EQ(PredictionOf(job, Ran("cuda", "B200", 1, kGiB), figures).seconds(), 0);
  v1::TestResult slice = Ran("cuda", "H100", 1, kGiB);
  slice.mutable_provenance()->mutable_device()->set_mig_profile("1g.10gb");
  EXPECT_EQ(PredictionOf(job, slice, figures).seconds(), 0) << "a slice is another kind";
  // The queue does not know where it will run.
  EXPECT_EQ(ExpectedSeconds(job, figures), 7);
}

TEST(ExpectationTest, ATimeIsAMeanAndWhatMovesItLittleChangesNothing) {
  const v1::Job job = TestOn(v1::CPU);
  Figures figures;
  Learn(job, Ran("cpu", "Xeon", 3, 0), figures);
  EXPECT_TRUE(Learned(job, Ran("cpu", "Xeon", 3.2, 0), figures).empty());
  Learn(job, Ran("cpu", "Xeon", 6, 0), figures);
  EXPECT_EQ(ExpectedSeconds(job, figures), 4);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, 0), figures).seconds(), 4);
}

TEST(ExpectationTest, MemoryRisesAtOnceAndFallsSlowly) {
  v1::Job job = TestOn(v1::CPU);
  Figures figures;
  Learn(job, Ran("cpu", "Xeon", 1, 3 * kGiB), figures);
  Learn(job, Ran("cpu", "Xeon", 1, 6 * kGiB), figures);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, 0), figures).memory_bytes(), 6 * kGiB);
  Learn(job, Ran("cpu", "Xeon", 1, 3 * kGiB), figures);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, 0), figures).memory_bytes(), 5 * kGiB);
  PredictNeeds(figures, job);
  EXPECT_TRUE(job.needs().predicted());
  EXPECT_EQ(job.needs().memory_bytes(), PredictedBytes(5 * kGiB));
  EXPECT_EQ(job.needs().gpu_memory_bytes(), 0);
}

TEST(ExpectationTest, SmallTestsShareANodeUncountedAndARoute) {
  v1::Job job = TestOn(v1::CPU);
  Figures figures;
  Learn(job, Ran("cpu", "Xeon", 1, 40 * kMiB), figures);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, 0), figures).memory_bytes(), 40 * kMiB);
  PredictNeeds(figures, job);
  EXPECT_FALSE(job.has_needs());
}

TEST(ExpectationTest, ATestThatWasCutShortSaysNothingOfItsMemory) {
  const v1::Job job = TestOn(v1::CPU);
  v1::TestResult result = Ran("cpu", "Xeon", 1, 3 * kGiB);
  result.set_outcome(v1::OUT_OF_MEMORY);
  Figures figures;
  Learn(job, result, figures);
  EXPECT_EQ(PredictionOf(job, Ran("cpu", "Xeon", 1, 0), figures).memory_bytes(), 0);
}

TEST(ExpectationTest, ACheckpointThatNeverRanNeedsWhatItsExportExpects) {
  v1::Job job = OfCheckpoint(v1::CPU, 20 * kGiB);
  PredictNeeds({}, job);
  EXPECT_EQ(job.needs().memory_bytes(), PredictedBytes(20 * kGiB));
  Figures figures;
  Learn(job, Ran("cpu", "Xeon", 1, 10 * kGiB), figures);
  PredictNeeds(figures, job);
  EXPECT_EQ(job.needs().memory_bytes(), PredictedBytes(10 * kGiB)) << "what it took is better known";
  v1::Job mock = TestOn(v1::CPU);
  PredictNeeds(figures, mock);
  EXPECT_FALSE(mock.has_needs()) << "the checkpoint's figures are its own";
}

TEST(ExpectationTest, WhatTheSubmitterStatesStands) {
  v1::Job job = OfCheckpoint(v1::AUTO, 20 * kGiB);
  job.mutable_needs()->set_gpu_memory_bytes(kGiB);
  Figures figures;
  Learn(job, Ran("cuda", "L4", 1, 8 * kGiB), figures);
  PredictNeeds(figures, job);
  EXPECT_FALSE(job.needs().predicted());
  EXPECT_EQ(job.needs().gpu_memory_bytes(), kGiB);
}

TEST(ExpectationTest, AnExportIsTimedByItsCheckpoint) {
  v1::Job job = TestOn(v1::CPU);
  job.mutable_model()->mutable_checkpoint()->set_id("org/bert");
  job.set_stage(v1::STAGE_EXPORT);
  Figures figures;
  Learn(job, Ran("", "", 50, 0), figures);
  EXPECT_EQ(ExpectedSeconds(job, figures), 50);
  EXPECT_EQ(ExpectedSeconds(OfCheckpoint(v1::CPU, 0), figures), kUnknownSeconds);
  EXPECT_EQ(PredictionOf(job, Ran("", "", 1, 0), figures).ByteSizeLong(), 0);
}

}  // namespace
}  // namespace assay::coordinator

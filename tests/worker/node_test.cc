// What a node's surroundings may do: logs and results of any size, checkpoint names, environment, GPUs.
#include <filesystem>
#include <fstream>

#include "tests/matchers.h"
#include "worker/checkpoint.h"
#include "worker/gpus.h"
#include "worker/result_limits.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class NodeTest : public ::testing::Test {
 protected:
  NodeTest() : folder_(::testing::TempDir() + "/node_test." + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~NodeTest() override { std::filesystem::remove_all(folder_); }
  const std::filesystem::path folder_;
};

TEST(LogTail, KeepsAShortLogWhole) {
  LogTail log(10);
  log.Append("12345");
  log.Append("67890");
  EXPECT_EQ(log.Take(), "1234567890");
}

TEST(LogTail, KeepsTheEndAndSaysWhatWasCut) {
  LogTail log(10);
  for (int i = 0; i < 1000; ++i) log.Append("abc");
  log.Append("the end...");
  EXPECT_EQ(log.Take(), "[3000 bytes before this were cut]\nthe end...");
}

v1::TestResult LongResult(size_t checks, size_t message_bytes) {
  v1::TestResult result;
  result.set_outcome(v1::FAILED);
  v1::CaseResult& one = *result.add_case_();
  one.set_name("test_model_with_mock");
  one.set_outcome(v1::FAILED);
  for (size_t i = 0; i < checks; ++i) {
    v1::CheckResult& check = *one.add_check();
    check.set_name("check_" + std::to_string(i));
    check.set_outcome(i == 0 ? v1::FAILED : v1::PASSED);
    std::string message;
    while (message.size() < message_bytes) message += "\xE2\x86\x92";  // an arrow of three bytes
    check.set_message(message);
  }
  return result;
}

TEST(FitResult, LeavesAResultThatFitsAlone) {
  v1::TestResult result = LongResult(3, 100);
  const std::string before = result.SerializeAsString();
  EXPECT_FALSE(FitResult(result));
  EXPECT_EQ(result.SerializeAsString(), before);
}

TEST(FitResult, DropsThePlotOfADiagnosisBeforeItCutsATextOfIt) {
  v1::TestResult result;
  v1::Divergence& divergence = *result.add_case_()->mutable_divergence();
  divergence.set_node("linear_3");
  divergence.set_fault_reason(std::string(2000, 'r'));
  for (int i = 0; i < 200; ++i) divergence.add_growth()->set_name(std::string(100, 'n'));
  EXPECT_TRUE(FitResult(result, 4096));
  EXPECT_EQ(result.case_(0).divergence().growth_size(), 0);
  EXPECT_EQ(result.case_(0).divergence().fault_reason().size(), 2000u);
  EXPECT_EQ(result.case_(0).divergence().node(), "linear_3");
}

TEST(FitResult, CutsTextsBeforeItLeavesOutChecks) {
  v1::TestResult result = LongResult(10, 200'000);
  EXPECT_TRUE(FitResult(result));
  EXPECT_LE(result.ByteSizeLong(), kMaxResultBytes);
  ASSERT_EQ(result.case_(0).check_size(), 10);
  EXPECT_THAT(result.case_(0).check(0).message(), EndsWith("\xE2\x86\x92 [cut]"));
  v1::TestResult back;
  EXPECT_TRUE(back.ParseFromString(result.SerializeAsString()));
}

TEST(FitResult, LeavesOutPassedChecksBeforeFailedOnes) {
  v1::TestResult result = LongResult(20'000, 300);
  EXPECT_TRUE(FitResult(result));
  EXPECT_LE(result.ByteSizeLong(), kMaxResultBytes);
  ASSERT_EQ(result.case_(0).check_size(), 1);
  EXPECT_EQ(result.case_(0).check(0).name(), "check_0");
  EXPECT_EQ(result.outcome(), v1::FAILED);
}

TEST(FitResult, AlwaysFits) {
  v1::TestResult result = LongResult(20'000, 300);
  for (auto& check : *result.mutable_case_(0)->mutable_check()) check.set_outcome(v1::FAILED);
  EXPECT_TRUE(FitResult(result));
  EXPECT_LE(result.ByteSizeLong(), kMaxResultBytes);
  EXPECT_EQ(result.case_(0).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).message(), HasSubstr("left out"));
}

TEST_F(NodeTest, FindsACheckpointByItsName) {
  std::filesystem::create_directories(folder_ / "org/name-1.0_b");
  std::filesystem::create_directories(folder_ / "gpt2");
  EXPECT_EQ(FindCheckpoint(folder_, "org/name-1.0_b"), folder_ / "org/name-1.0_b");
  EXPECT_EQ(FindCheckpoint(folder_, "gpt2"), folder_ / "gpt2");
  EXPECT_EQ(FindCheckpoint(folder_, "org/other"), "");
}

TEST_F(NodeTest, ACheckpointNameNeverLeavesTheRoot) {
  std::filesystem::create_directories(folder_ / "root/org");
  std::filesystem::create_directories(folder_ / "secret");
  for (const char* id : {"../secret", "org/..", "..", ".", "", "/", "org/", "/org", "org//x", "a/b/c",
                         "org/.", "or\n", "\xff"}) {
    EXPECT_EQ(FindCheckpoint(folder_ / "root", id), "") << id;
  }
  EXPECT_EQ(FindCheckpoint("", "org"), "");
}

TEST_F(NodeTest, AFileIsNoCheckpoint) {
  std::ofstream(folder_ / "file") << "x";
  EXPECT_EQ(FindCheckpoint(folder_, "file"), "");
}

TEST(ScrubEnvironment, LetsNoSecretThrough) {
  EXPECT_THAT(ScrubEnvironment({"PATH=/bin", "HF_TOKEN=x", "AWS_SECRET_ACCESS_KEY=x", "LD_LIBRARY_PATH=/l",
                                "CUDA_VISIBLE_DEVICES=1", "PATHS=x", "LD_PRELOAD=x.so", "HOME=/root", "odd"}),
              ElementsAre("PATH=/bin", "LD_LIBRARY_PATH=/l", "CUDA_VISIBLE_DEVICES=1"));
}

TEST(WithVisibleGpus, ReplacesTheVariable) {
  EXPECT_THAT(WithVisibleGpus({"CUDA_VISIBLE_DEVICES=0,1", "PATH=x"}, "1"),
              ElementsAre("PATH=x", "CUDA_VISIBLE_DEVICES=1"));
}

TEST(Subprocess, SaysWhyABinaryCannotRun) {
  EXPECT_THAT(Subprocess::Start("/no/such/binary", {}, {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/binary")));
}

}  // namespace
}  // namespace assay::worker

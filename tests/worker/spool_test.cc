#include "worker/spool.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "tests/matchers.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SpoolTest : public ::testing::Test {
 protected:
  SpoolTest() : folder_(::testing::TempDir() + "/spool_test." + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
  }
  ~SpoolTest() override { std::filesystem::remove_all(folder_); }

  static SpooledResult Result(const std::string& job, uint64_t attempt, const std::string& log = "") {
    SpooledResult spooled;
    spooled.result.mutable_attempt()->set_job_id(job);
    spooled.result.mutable_attempt()->set_attempt(attempt);
    spooled.result.mutable_result()->set_outcome(v1::PASSED);
    spooled.log = log;
    return spooled;
  }
  std::filesystem::path OnlyFile() const {
    std::filesystem::path only;
    for (const auto& file : std::filesystem::directory_iterator(folder_)) {
      if (file.path().extension() == ".result") only = file.path();
    }
    return only;
  }
  bool IsMovedAside() const { return OnlyFile().empty() && !std::filesystem::is_empty(folder_ / "corrupt"); }

  const std::filesystem::path folder_;
};

TEST_F(SpoolTest, GivesResultsBackAfterARestart) {
  {
    ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
    ASSERT_THAT(spool->Put(Result("a/../b", 2, "line\n\0rest")), IsOk());
    ASSERT_THAT(spool->Put(Result("c", 1)), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  EXPECT_THAT(spool->Keys(), ElementsAre(AttemptKey("a/../b", 2), AttemptKey("c", 1)));
  ASSERT_OK_AND_ASSIGN(SpooledResult got, spool->Get({"a/../b", 2}));
  EXPECT_EQ(got.log, "line\n\0rest");
  EXPECT_EQ(got.result.SerializeAsString(), Result("a/../b", 2).result.SerializeAsString());
}

TEST_F(SpoolTest, ADroppedResultStaysGone) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1)), IsOk());
  spool->Drop({"a", 1});
  spool->Drop({"a", 1});
  EXPECT_THAT(spool->Get({"a", 1}), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_OK_AND_ASSIGN(auto again, Spool::Open(folder_));
  EXPECT_THAT(again->Keys(), IsEmpty());
}

TEST_F(SpoolTest, AnAttemptKeepsItsFirstResult) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1, "first")), IsOk());
  ASSERT_THAT(spool->Put(Result("a", 1, "second")), IsOk());
  ASSERT_OK_AND_ASSIGN(SpooledResult got, spool->Get({"a", 1}));
  EXPECT_EQ(got.log, "first");
}

// Fault: the disk, or a hand, changed one byte.
TEST_F(SpoolTest, EveryChangedByteIsFoundAndMovedAside) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1, "log")), IsOk());
  const std::filesystem::path file = OnlyFile();
  ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(file));
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] ^= 0x20;
    ASSERT_THAT(WriteFileAtomically(file, bad), IsOk());
    ASSERT_OK_AND_ASSIGN(auto reopened, Spool::Open(folder_));
    ASSERT_THAT(reopened->Keys(), IsEmpty()) << "byte " << at;
    ASSERT_TRUE(IsMovedAside()) << "byte " << at;
  }
}

// Fault: a power cut left the name and lost the content.
TEST_F(SpoolTest, EveryCutIsFoundAndMovedAside) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1, "log")), IsOk());
  const std::filesystem::path file = OnlyFile();
  ASSERT_OK_AND_ASSIGN(const std::string good, ReadFile(file));
  for (size_t size = 0; size < good.size(); ++size) {
    ASSERT_THAT(WriteFileAtomically(file, good.substr(0, size)), IsOk());
    ASSERT_OK_AND_ASSIGN(auto reopened, Spool::Open(folder_));
    ASSERT_THAT(reopened->Keys(), IsEmpty()) << "size " << size;
    ASSERT_TRUE(IsMovedAside());
  }
}

TEST_F(SpoolTest, AResultUnderAnotherAttemptsNameIsMovedAside) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1)), IsOk());
  std::filesystem::rename(OnlyFile(), folder_ / absl::StrCat(std::string(64, '0'), ".result"));
  ASSERT_OK_AND_ASSIGN(auto reopened, Spool::Open(folder_));
  EXPECT_THAT(reopened->Keys(), IsEmpty());
  EXPECT_TRUE(IsMovedAside());
}

TEST_F(SpoolTest, DamageFoundWhileRunningLosesThatResultAlone) {
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  ASSERT_THAT(spool->Put(Result("a", 1)), IsOk());
  std::ofstream(OnlyFile()) << "nonsense";
  ASSERT_THAT(spool->Put(Result("b", 1)), IsOk());
  EXPECT_THAT(spool->Get({"a", 1}), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(spool->Keys(), ElementsAre(AttemptKey("b", 1)));
  EXPECT_THAT(spool->Get({"b", 1}), IsOk());
}

TEST_F(SpoolTest, RemovesWhatAKilledWriterLeft) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / ".x.result.123.0") << "half";
  ASSERT_OK_AND_ASSIGN(auto spool, Spool::Open(folder_));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

}  // namespace
}  // namespace assay::worker

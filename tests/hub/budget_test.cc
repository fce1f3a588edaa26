// The cache's budget: what goes, in which order, and what never goes.
#include "hub/budget.h"

#include <fstream>

#include "hub/hub.h"
#include "tests/hub/hub_server.h"
#include "tests/matchers.h"

namespace assay::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kBytes = 1'000'000;

class BudgetTest : public ::testing::Test {
 protected:
  BudgetTest() : server_(Server()) {
    server_.Reset();
    for (const char* repo : {"acme/a", "acme/b", "acme/c"}) server_.PutModel(repo, kBytes, ++seed_);
    options_ = server_.Options();
    options_.clock = &clock_;
    options_.disk_budget_bytes = 2 * kBytes + 100'000;  // two models and their small files
  }
  static HubServer& Server() {
    static HubServer* server = new HubServer;
    return *server;
  }
  static void TearDownTestSuite() { delete &Server(); }

  absl::StatusOr<Found> Find(const std::string& id, const std::string& revision = "main") {
    clock_.Advance(absl::Minutes(1));
    auto hub = Hub::Open(options_);
    if (!hub.ok()) return hub.status();
    return (*hub)->Find(id, revision, Need::kEverything);
  }
  bool IsCached(const std::string& id) {
    // Through files, for Find would count as a use.
    const fs::path folder = server_.cache() / ("models--acme--" + id.substr(5));
    std::error_code error;
    for (fs::recursive_directory_iterator entry(folder / "snapshots", error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->path().filename() == "model.safetensors" && fs::exists(entry->path(), error)) return true;
    }
    return false;
  }
  uint64_t BlobBytes() {
    uint64_t bytes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(server_.cache())) {
      if (entry.path().parent_path().filename() == "blobs") bytes += entry.file_size();
    }
    return bytes;
  }

  HubServer& server_;
  unsigned seed_ = 0;
  FakeClock clock_;
  HubOptions options_;
};

TEST_F(BudgetTest, WhatWasNotUsedForLongestGoes) {
  ASSERT_THAT(Find("acme/a"), IsOk());
  ASSERT_THAT(Find("acme/b"), IsOk());
  ASSERT_THAT(Find("acme/a"), IsOk());  // used again, so b is next in line
  ASSERT_THAT(Find("acme/c"), IsOk());
  EXPECT_TRUE(IsCached("acme/a"));
  EXPECT_FALSE(IsCached("acme/b"));
  EXPECT_TRUE(IsCached("acme/c"));
  EXPECT_LE(BlobBytes(), options_.disk_budget_bytes);
  EXPECT_FALSE(fs::exists(server_.cache() / "models--acme--b/refs/main"));
  // And it comes back.
  ASSERT_OK_AND_ASSIGN(const Found again, Find("acme/b"));
  EXPECT_TRUE(again.verified);
  EXPECT_FALSE(IsCached("acme/a"));
}

TEST_F(BudgetTest, WhatIsInUseStays) {
  ASSERT_OK_AND_ASSIGN(const Found a, Find("acme/a"));
  {
    ASSERT_OK_AND_ASSIGN(const Found b, Find("acme/b"));
    EXPECT_THAT(Find("acme/c"), StatusIs(absl::StatusCode::kResourceExhausted,
                                         AllOf(HasSubstr("models--acme--c"), HasSubstr("budget"))));
    EXPECT_TRUE(IsCached("acme/a"));
    EXPECT_TRUE(IsCached("acme/b"));
  }
  ASSERT_THAT(Find("acme/c"), IsOk());
  EXPECT_TRUE(IsCached("acme/a"));  // older, but held
  EXPECT_FALSE(IsCached("acme/b"));
}

TEST_F(BudgetTest, WhatIsTooLargeForTheBudgetEvictsNothingInUse) {
  ASSERT_OK_AND_ASSIGN(const Found a, Find("acme/a"));
  server_.PutModel("acme/large", 3 * kBytes, 9);
  EXPECT_THAT(Find("acme/large"), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(IsCached("acme/a"));
  EXPECT_TRUE(fs::exists(a.folder / "config.json"));
}

TEST_F(BudgetTest, WhatOthersDownloadedIsNeitherCountedNorEvicted) {
  ASSERT_THAT(Find("acme/a"), IsOk());
  ASSERT_THAT(Find("acme/b"), IsOk());
  fs::remove_all(server_.cache() / ".locks/assay");  // as if another program had brought them
  ASSERT_THAT(Find("acme/c"), IsOk());
  EXPECT_TRUE(IsCached("acme/a"));
  EXPECT_TRUE(IsCached("acme/b"));

  options_.budget_covers_all = true;
  server_.PutModel("acme/d", kBytes, 7);
  ASSERT_THAT(Find("acme/d"), IsOk());
  EXPECT_TRUE(IsCached("acme/d"));
  EXPECT_LE(BlobBytes(), options_.disk_budget_bytes);
}

TEST_F(BudgetTest, ABlobThatAnotherSnapshotHasStays) {
  ASSERT_OK_AND_ASSIGN(Found old, Find("acme/a"));
  server_.Put("acme/a", "config.json", "{}");
  ASSERT_OK_AND_ASSIGN(const Found now, Find("acme/a"));
  ASSERT_NE(now.commit, old.commit);
  old.in_use.reset();
  ASSERT_THAT(Find("acme/b"), IsOk());
  EXPECT_THAT(Find("acme/c"), IsOk());  // b goes; the old commit's weights are the new one's
  EXPECT_TRUE(fs::exists(now.folder / "model.safetensors"));
  EXPECT_EQ(Find("acme/a", now.commit)->verified, true);
}

TEST_F(BudgetTest, AHalfDownloadCountsAndGoesFirst) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "acme/a"}, {"do", "cut"}, {"bytes", 500'000}, {"times", 99}});
  options_.retries = 0;
  EXPECT_THAT(Find("acme/a"), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(Find("acme/b"), IsOk());
  ASSERT_THAT(Find("acme/c"), IsOk());
  EXPECT_TRUE(IsCached("acme/b"));
  EXPECT_TRUE(IsCached("acme/c"));
  EXPECT_LE(BlobBytes(), options_.disk_budget_bytes);
}

TEST_F(BudgetTest, WhatTheDiskCannotHoldIsNotBegun) {
  options_.disk_budget_bytes = 0;
  fs::create_directories(options_.cache_dir);
  const RepoCache repo(options_.cache_dir, "models--acme--a");
  const RemoteFile file{.name = "model.safetensors", .size = uint64_t{1} << 60, .etag = std::string(64, 'a')};
  EXPECT_THAT(
      MakeRoom(options_, repo, std::string(40, 'c'), {file}, {}),
      StatusIs(absl::StatusCode::kResourceExhausted, AllOf(HasSubstr("models--acme--a"), HasSubstr("free"))));
  EXPECT_FALSE(fs::exists(repo.MineFile(file.etag)));
}

}  // namespace
}  // namespace assay::hub

#include "worker/blob_cache.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "tests/matchers.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// A server of blobs that may lie.
class FakeServer {
 public:
  std::string Add(const std::string& content) {
    absl::MutexLock lock(&mutex_);
    const std::string digest = Sha256Hex(content);
    blobs_[digest] = content;
    return digest;
  }
  void Serve(const std::string& digest, const std::string& content) {
    absl::MutexLock lock(&mutex_);
    blobs_[digest] = content;
  }
  void AnnounceOneByteMore() { lie_ = true; }
  std::vector<std::vector<std::string>> calls() const {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }
  FetchBlobs Fetch() {
    return [this](const std::vector<std::string>& digests, BlobReceiver& receiver) -> absl::Status {
      std::map<std::string, std::string> blobs;
      {
        absl::MutexLock lock(&mutex_);
        calls_.push_back(digests);
        blobs = blobs_;
      }
      for (const std::string& digest : digests) {
        auto at = blobs.find(digest);
        if (at == blobs.end()) return absl::NotFoundError(digest);
        absl::Status status = receiver.Begin(digest, at->second.size() + (lie_ ? 1 : 0));
        for (size_t i = 0; status.ok() && i < at->second.size(); i += 3) {
          status = receiver.Append(absl::string_view(at->second).substr(i, 3));
        }
        if (!status.ok()) return status;
      }
      return absl::OkStatus();
    };
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> blobs_;
  std::vector<std::vector<std::string>> calls_;
  std::atomic<bool> lie_{false};
};

class BlobCacheTest : public ::testing::Test {
 protected:
  BlobCacheTest() : folder_(::testing::TempDir() + "/blob_cache_test." + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
  }
  ~BlobCacheTest() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<BlobCache> Open(uint64_t budget = 1 << 20) {
    auto cache = BlobCache::Open(folder_, budget, server_.Fetch());
    EXPECT_THAT(cache, IsOk());
    return *std::move(cache);
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(folder_))
      names.push_back(file.path().filename());
    return names;
  }
  FakeServer server_;
  const std::filesystem::path folder_;
};

TEST_F(BlobCacheTest, FetchesWhatIsMissingInOneCallAndOnlyOnce) {
  const std::string a = server_.Add("content a"), b = server_.Add("content b"), c = server_.Add("");
  auto cache = Open();
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK_AND_ASSIGN(auto blobs, cache->Get({a, b, c, a}));
    EXPECT_THAT(blobs[0].Read(), IsOkAndHolds("content a"));
    EXPECT_THAT(blobs[1].Read(), IsOkAndHolds("content b"));
    EXPECT_THAT(blobs[2].Read(), IsOkAndHolds(""));
    EXPECT_THAT(blobs[3].Read(), IsOkAndHolds("content a"));
  }
  EXPECT_THAT(server_.calls(), ElementsAre(ElementsAre(a, b, c)));
}

TEST_F(BlobCacheTest, ThreadsThatWantTheSameBlobFetchItOnce) {
  std::vector<std::string> digests;
  for (int i = 0; i < 20; ++i) digests.push_back(server_.Add(absl::StrCat("content ", i)));
  auto cache = Open();
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::string> mine = digests;
      std::rotate(mine.begin(), mine.begin() + t, mine.end());
      auto blobs = cache->Get(mine);
      good += blobs.ok() && blobs->at(3).Read().ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 8);
  std::map<std::string, int> fetched;
  for (const auto& call : server_.calls()) {
    for (const std::string& digest : call) ++fetched[digest];
  }
  for (const auto& [digest, times] : fetched) EXPECT_EQ(times, 1) << digest;
}

TEST_F(BlobCacheTest, AnotherProcessFindsTheBlobsAgain) {
  const std::string a = server_.Add("content a");
  ASSERT_THAT(Open()->Get({a}), IsOk());
  auto cache = Open();
  ASSERT_OK_AND_ASSIGN(auto blobs, cache->Get({a}));
  EXPECT_THAT(blobs[0].Read(), IsOkAndHolds("content a"));
  EXPECT_EQ(server_.calls().size(), 1);
}

TEST_F(BlobCacheTest, ADamagedFileIsFetchedAgain) {
  const std::string a = server_.Add("content a");
  ASSERT_THAT(Open()->Get({a}), IsOk());
  ASSERT_THAT(WriteFileAtomically(folder_ / a, "content b"), IsOk());
  auto cache = Open();
  ASSERT_OK_AND_ASSIGN(auto blobs, cache->Get({a}));
  EXPECT_THAT(blobs[0].Read(), IsOkAndHolds("content a"));
  EXPECT_EQ(server_.calls().size(), 2);
}

TEST_F(BlobCacheTest, AFileThatWasTakenAwayIsFetchedAgain) {
  const std::string a = server_.Add("content a");
  auto cache = Open();
  ASSERT_THAT(cache->Get({a}), IsOk());
  std::filesystem::remove(folder_ / a);
  ASSERT_OK_AND_ASSIGN(auto blobs, cache->Get({a}));
  EXPECT_THAT(blobs[0].Read(), IsOkAndHolds("content a"));
  EXPECT_EQ(cache->bytes(), 9);
}

TEST_F(BlobCacheTest, RefusesContentThatIsNotWhatItsDigestNames) {
  const std::string a = Sha256Hex("content a");
  server_.Serve(a, "content b");
  auto cache = Open();
  EXPECT_THAT(cache->Get({a}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(a)));
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_EQ(cache->bytes(), 0);
  server_.Serve(a, "content a");
  EXPECT_THAT(cache->Get({a}), IsOk()) << "and takes it when it is right";
}

TEST_F(BlobCacheTest, RefusesABlobThatStopsShort) {
  const std::string a = server_.Add("content a");
  server_.AnnounceOneByteMore();
  auto cache = Open();
  EXPECT_THAT(cache->Get({a}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("did not arrive whole")));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(BlobCacheTest, KeepsTheBlobsThatCameBeforeAMissingOne) {
  const std::string a = server_.Add("content a"), missing = Sha256Hex("missing");
  auto cache = Open();
  EXPECT_THAT(cache->Get({a, missing}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(cache->Get({a}), IsOk());
  EXPECT_EQ(server_.calls().size(), 1);
}

TEST_F(BlobCacheTest, RefusesWhatIsNoDigest) {
  auto cache = Open();
  EXPECT_THAT(cache->Get({"../../etc/passwd"}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(server_.calls(), IsEmpty());
}

TEST_F(BlobCacheTest, RefusesABlobLargerThanTheWholeCache) {
  const std::string a = server_.Add(std::string(101, 'a'));
  EXPECT_THAT(Open(100)->Get({a}), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(BlobCacheTest, EvictsWhatWasUsedLongestAgo) {
  const std::string a = server_.Add(std::string(40, 'a')), b = server_.Add(std::string(40, 'b')),
                    c = server_.Add(std::string(40, 'c'));
  auto cache = Open(100);
  for (const std::string& digest : {a, b, a, c}) ASSERT_THAT(cache->Get({digest}), IsOk());
  EXPECT_THAT(Files(), UnorderedElementsAre(a, c));
  EXPECT_EQ(cache->bytes(), 80);
}

TEST_F(BlobCacheTest, NeverEvictsWhatIsInUse) {
  const std::string a = server_.Add(std::string(60, 'a')), b = server_.Add(std::string(60, 'b')),
                    c = server_.Add(std::string(60, 'c'));
  auto cache = Open(100);
  {
    ASSERT_OK_AND_ASSIGN(auto used, cache->Get({a, b}));
    ASSERT_THAT(cache->Get({c}), IsOk());
    EXPECT_THAT(used[0].Read(), IsOkAndHolds(std::string(60, 'a')));
    EXPECT_THAT(used[1].Read(), IsOkAndHolds(std::string(60, 'b')));
  }
  EXPECT_LE(cache->bytes(), 100);
  EXPECT_EQ(Files().size(), 1);
}

TEST_F(BlobCacheTest, ASmallerBudgetTakesEffectAtTheNextStart) {
  const std::string a = server_.Add(std::string(60, 'a')), b = server_.Add(std::string(60, 'b'));
  ASSERT_THAT(Open(200)->Get({a, b}), IsOk());
  EXPECT_EQ(Open(100)->bytes(), 60);
}

TEST_F(BlobCacheTest, IgnoresWhatIsNotABlobAndRemovesHalfOnes) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / absl::StrCat(".", std::string(64, 'a'), ".part")) << "half";
  std::ofstream(folder_ / "README") << "mine";
  EXPECT_EQ(Open()->bytes(), 0);
  EXPECT_THAT(Files(), ElementsAre("README"));
}

}  // namespace
}  // namespace assay::worker

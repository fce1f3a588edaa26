// Keys of blobs, over both stores, and what only a folder can do.
#include "coordinator/blob_store.h"

#include <filesystem>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "common/digest.h"
#include "common/file.h"
#include "common/id.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::Eq;
using ::testing::Optional;

struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<BlobStore>(const fs::path&)> open;
};

class BlobStoreTest : public ::testing::TestWithParam<StoreKind> {
 protected:
  void SetUp() override {
    dir_ = fs::path(::testing::TempDir()) / absl::StrCat("blobs-", NewUuid());
    store_ = GetParam().open(dir_);
    ASSERT_NE(store_, nullptr);
  }
  void TearDown() override { fs::remove_all(dir_); }

  // Its digest.
  std::string Put(const std::string& content) {
    const std::string digest = Sha256Hex(content);
    auto sink = store_->Create(digest, content.size());
    EXPECT_THAT(sink, IsOk());
    EXPECT_THAT((*sink)->Append(content), IsOk());
    EXPECT_THAT((*sink)->Finish(), IsOk());
    return digest;
  }

  fs::path dir_;
  std::unique_ptr<BlobStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Stores, BlobStoreTest,
                         ::testing::Values(StoreKind{"Memory",
                                                     [](const fs::path&) { return NewMemoryBlobStore(); }},
                                           StoreKind{"Folder",
                                                     [](const fs::path& dir) -> std::unique_ptr<BlobStore> {
                                                       auto store = OpenFolderBlobStore(dir);
                                                       return store.ok() ? *std::move(store) : nullptr;
                                                     }}),
                         [](const auto& info) { return info.param.name; });

TEST_P(BlobStoreTest, TheFirstBlobOfAKeyStaysItsBlob) {
  const std::string key = Sha256Hex("key"), first = Put("first"), second = Put("second");
  EXPECT_THAT(store_->Lookup(key), IsOkAndHolds(Eq(std::nullopt)));
  EXPECT_THAT(store_->Bind(key, first), IsOkAndHolds(first));
  EXPECT_THAT(store_->Bind(key, second), IsOkAndHolds(first));
  EXPECT_THAT(store_->Bind(key, first), IsOkAndHolds(first));
  EXPECT_THAT(store_->Lookup(key), IsOkAndHolds(Optional(first)));
  EXPECT_THAT(store_->Lookup(Sha256Hex("other key")), IsOkAndHolds(Eq(std::nullopt)));
}

TEST_P(BlobStoreTest, RefusesKeysThatAreNoDigestsAndBlobsThatAreNotThere) {
  const std::string blob = Put("blob");
  for (const std::string key : {"", "key", "../../../etc/passwd"}) {
    EXPECT_THAT(store_->Lookup(key), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(store_->Bind(key, blob), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(store_->Bind(Sha256Hex("key"), Sha256Hex("nothing")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Bind(Sha256Hex("key"), "../blob"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(store_->Lookup(Sha256Hex("key")), IsOkAndHolds(Eq(std::nullopt)));
}

TEST_P(BlobStoreTest, ManyWhoBindAKeyAtOnceAgreeOnItsBlob) {
  const std::string key = Sha256Hex("key");
  std::vector<std::string> digests(8), bound(8);
  for (size_t i = 0; i < digests.size(); ++i) digests[i] = Put(absl::StrCat("blob ", i));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < digests.size(); ++i) {
    threads.emplace_back([&, i] { bound[i] = store_->Bind(key, digests[i]).value_or("refused"); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<std::string>(bound.begin(), bound.end()).size(), 1);
  EXPECT_THAT(store_->Lookup(key), IsOkAndHolds(Optional(bound[0])));
}

TEST_P(BlobStoreTest, TakesWhatFitsAndSaysHowMuchThatIs) {
  EXPECT_THAT(store_->Create(Sha256Hex("huge"), kMaxBlobBytes + 1),
              StatusIs(absl::StatusCode::kResourceExhausted));
  const bool in_memory = GetParam().name == "Memory";
  EXPECT_EQ(store_->Create(Sha256Hex("large"), kMaxMemoryBlobBytes + 1).ok(), !in_memory);
}

class FolderBlobStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(::testing::TempDir()) / absl::StrCat("blobs-", NewUuid());
    Reopen();
  }
  void TearDown() override { fs::remove_all(dir_); }
  void Reopen() {
    store_.reset();
    auto store = OpenFolderBlobStore(dir_);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }
  void Put(const std::string& content) {
    auto sink = store_->Create(Sha256Hex(content), content.size());
    ASSERT_THAT(sink, IsOk());
    ASSERT_THAT((*sink)->Append(content), IsOk());
    ASSERT_THAT((*sink)->Finish(), IsOk());
  }

  fs::path dir_;
  std::unique_ptr<BlobStore> store_;
  const std::string key_ = Sha256Hex("key"), digest_ = Sha256Hex("blob");
};

TEST_F(FolderBlobStoreTest, AKeyOutlivesItsStore) {
  Put("blob");
  ASSERT_THAT(store_->Bind(key_, digest_), IsOk());
  Reopen();
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Optional(digest_)));
}

TEST_F(FolderBlobStoreTest, ABlobThatIsGoneTakesItsKeysWithIt) {
  Put("blob");
  Put("another");
  ASSERT_THAT(store_->Bind(key_, digest_), IsOk());
  fs::remove(dir_ / digest_.substr(0, 2) / digest_.substr(2, 2) / digest_);
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Eq(std::nullopt)));
  EXPECT_THAT(store_->Bind(key_, Sha256Hex("another")), IsOkAndHolds(Sha256Hex("another")));
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Optional(Sha256Hex("another"))));
}

TEST_F(FolderBlobStoreTest, AKeysFileThatIsBrokenIsNoKeyAndIsWrittenAgain) {
  Put("blob");
  ASSERT_THAT(WriteFileAtomically(dir_ / "keys" / key_.substr(0, 2) / key_, "../../secret"), IsOk());
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Eq(std::nullopt)));
  EXPECT_THAT(store_->Bind(key_, digest_), IsOkAndHolds(digest_));
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Optional(digest_)));
}

}  // namespace
}  // namespace assay::coordinator

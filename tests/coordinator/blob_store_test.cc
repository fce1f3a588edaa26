// Blobs in memory and in a folder, and what only a folder can do.
#include "coordinator/blob_store.h"

#include <filesystem>

#include "common/file.h"
#include "tests/coordinator/blob_conformance.h"

namespace assay::coordinator {
namespace {

INSTANTIATE_TEST_SUITE_P(Stores, BlobStoreTest,
                         ::testing::Values(StoreKind{"Memory",
                                                     [](const fs::path&) { return NewMemoryBlobStore(); }},
                                           StoreKind{"Folder",
                                                     [](const fs::path& dir) -> std::unique_ptr<BlobStore> {
                                                       auto store = OpenFolderBlobStore(dir);
                                                       return store.ok() ? *std::move(store) : nullptr;
                                                     }}),
                         [](const auto& info) { return info.param.name; });

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

// As if it had been stored two days ago.
void Age(const fs::path& path) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(48));
}

TEST_F(FolderBlobStoreTest, WhatNobodyNamesOrTouchedForLongIsSweptWithItsKeys) {
  for (const std::string content : {"blob", "named", "looked up", "stored again", "fresh"}) Put(content);
  const std::string looked_up = Sha256Hex("looked up"), other_key = Sha256Hex("other key");
  ASSERT_THAT(store_->Bind(key_, digest_), IsOk());
  ASSERT_THAT(store_->Bind(other_key, looked_up), IsOk());
  for (const std::string content : {"blob", "named", "looked up", "stored again"}) {
    const std::string digest = Sha256Hex(content);
    Age(dir_ / digest.substr(0, 2) / digest.substr(2, 2) / digest);
  }
  EXPECT_THAT(store_->Lookup(other_key), IsOkAndHolds(Optional(looked_up)));
  Put("stored again");
  ASSERT_OK_AND_ASSIGN(SweptBlobs swept, store_->Sweep(absl::Hours(24), [](const std::string& digest) {
    return digest == Sha256Hex("named");
  }));
  EXPECT_EQ(swept.blobs, 1);
  EXPECT_EQ(swept.bytes, 4);
  EXPECT_THAT(store_->Open(digest_), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Lookup(key_), IsOkAndHolds(Eq(std::nullopt)));
  for (const std::string content : {"named", "looked up", "stored again", "fresh"}) {
    EXPECT_THAT(store_->Open(Sha256Hex(content)), IsOk()) << content;
  }
  EXPECT_TRUE(fs::is_empty(dir_ / "incoming"));
}

TEST_F(FolderBlobStoreTest, AFolderThatIsSharedKeepsTheUploadsOfOthers) {
  ASSERT_OK_AND_ASSIGN(auto sink, store_->Create(digest_, 4));
  ASSERT_THAT(OpenFolderBlobStore(dir_, /*shared=*/true), IsOk());
  ASSERT_THAT(sink->Append("blob"), IsOk());
  ASSERT_THAT(sink->Finish(), IsOk());
  EXPECT_THAT(store_->Open(digest_), IsOk());
}

}  // namespace
}  // namespace assay::coordinator

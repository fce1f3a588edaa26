// What every store of blobs must do, run over each of them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/digest.h"
#include "common/id.h"
#include "coordinator/blob_store.h"
#include "tests/matchers.h"

namespace assay::coordinator {

namespace fs = std::filesystem;
using ::testing::Eq;
using ::testing::HasSubstr;
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

TEST_P(BlobStoreTest, GivesBackEveryByteFromWhereverItIsAsked) {
  // Three pieces of a megabyte and a bit, no two of which are alike.
  std::string content;
  for (uint32_t i = 0; content.size() < (size_t{3} << 20) + 12345; ++i) content += absl::StrCat(i, ",");
  const std::string digest = Sha256Hex(content);
  ASSERT_OK_AND_ASSIGN(auto sink, store_->Create(digest, content.size()));
  for (size_t at = 0; at < content.size(); at += 100'000) {
    ASSERT_THAT(sink->Append(absl::string_view(content).substr(at, 100'000)), IsOk());
  }
  EXPECT_THAT(store_->Open(digest), StatusIs(absl::StatusCode::kNotFound)) << "it is not whole yet";
  ASSERT_THAT(sink->Finish(), IsOk());
  ASSERT_OK_AND_ASSIGN(auto source, store_->Open(digest));
  EXPECT_EQ(source->size(), content.size());
  for (const uint64_t at : {uint64_t{0}, (uint64_t{1} << 20) - 7, (uint64_t{2} << 20), content.size() - 5}) {
    EXPECT_THAT(source->Read(at, 256 << 10), IsOkAndHolds(content.substr(at, 256 << 10)));
  }
  EXPECT_THAT(source->Read(content.size(), 10), IsOkAndHolds(""));
  EXPECT_THAT(source->Read(0, content.size() + 10), IsOkAndHolds(content));
}

TEST_P(BlobStoreTest, StoresNothingThatIsNotWhatWasAnnounced) {
  const std::string content(3000, 'x'), digest = Sha256Hex("something else");
  ASSERT_OK_AND_ASSIGN(auto wrong, store_->Create(digest, content.size()));
  ASSERT_THAT(wrong->Append(content), IsOk());
  EXPECT_THAT(wrong->Finish(), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK_AND_ASSIGN(auto longer, store_->Create(digest, 10));
  EXPECT_THAT(longer->Append(content), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK_AND_ASSIGN(auto shorter, store_->Create(digest, 5000));
  ASSERT_THAT(shorter->Append(content), IsOk());
  EXPECT_THAT(shorter->Finish(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(store_->Open(digest), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Create("../x", 1), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(BlobStoreTest, AnEmptyBlobIsABlob) {
  const std::string digest = Put("");
  ASSERT_OK_AND_ASSIGN(auto source, store_->Open(digest));
  EXPECT_EQ(source->size(), 0);
  EXPECT_THAT(source->Read(0, 10), IsOkAndHolds(""));
}

TEST_P(BlobStoreTest, ManyWhoStoreTheSameBlobAtOnceStoreItOnce) {
  const std::string content((size_t{1} << 20) + 1, 'y');
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back([&] { EXPECT_EQ(Put(content), Sha256Hex(content)); });
  for (std::thread& thread : threads) thread.join();
  ASSERT_OK_AND_ASSIGN(auto source, store_->Open(Sha256Hex(content)));
  EXPECT_THAT(source->Read(0, content.size()), IsOkAndHolds(content));
}

TEST_P(BlobStoreTest, WhatWasTouchedLatelyIsNotSwept) {
  const std::string blob = Put("blob");
  ASSERT_OK_AND_ASSIGN(SweptBlobs swept,
                       store_->Sweep(absl::ZeroDuration(), [](const std::string&) { return false; }));
  EXPECT_EQ(swept.blobs, 0);
  EXPECT_THAT(store_->Open(blob), IsOk());
}

}  // namespace assay::coordinator

// Blobs in PostgreSQL: the suite of every store of blobs, and what a database makes of uploads that end
// halfway.
#include "coordinator/postgres_blob_store.h"
#include "coordinator/store/postgres.h"
#include "tests/coordinator/blob_conformance.h"
#include "tests/coordinator/postgres_server.h"

namespace assay::coordinator {
namespace {

std::unique_ptr<BlobStore> OpenAt(const std::string& url) {
  auto store = OpenPostgresBlobStore(url);
  EXPECT_THAT(store, IsOk());
  return store.ok() ? *std::move(store) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(Stores, BlobStoreTest,
                         ::testing::Values(StoreKind{
                             "Postgres",
                             [](const fs::path&) { return OpenAt(PostgresServer::Get().NewStore()); }}),
                         [](const auto& info) { return info.param.name; });

class PostgresBlobTest : public ::testing::Test {
 protected:
  void Put(BlobStore& store, const std::string& content) {
    ASSERT_OK_AND_ASSIGN(auto sink, store.Create(Sha256Hex(content), content.size()));
    ASSERT_THAT(sink->Append(content), IsOk());
    ASSERT_THAT(sink->Finish(), IsOk());
  }
  int64_t Count(const char* sql) {
    auto connection = PostgresConnection::Connect(url_, "test");
    EXPECT_THAT(connection, IsOk());
    auto rows = (*connection)->Read(sql);
    EXPECT_THAT(rows, IsOk());
    return rows.ok() ? rows->Int(0, 0) : -1;
  }
  int64_t Pieces() { return Count("SELECT count(*) FROM assay.blob_pieces"); }

  PostgresServer& server_ = PostgresServer::Get();
  const std::string url_ = server_.NewStore();
  std::unique_ptr<BlobStore> store_ = OpenAt(url_);
  const std::string large_ = std::string((size_t{2} << 20) + 1, 'z');
};

TEST_F(PostgresBlobTest, AnotherCoordinatorSeesWhatOneStored) {
  Put(*store_, "blob");
  auto other = OpenAt(url_);
  EXPECT_THAT(other->Open(Sha256Hex("blob")), IsOk());
  ASSERT_THAT(other->Bind(Sha256Hex("key"), Sha256Hex("blob")), IsOk());
  EXPECT_THAT(store_->Lookup(Sha256Hex("key")), IsOkAndHolds(Optional(Sha256Hex("blob"))));
}

TEST_F(PostgresBlobTest, AnUploadThatIsGivenUpLeavesNothing) {
  {
    ASSERT_OK_AND_ASSIGN(auto sink, store_->Create(Sha256Hex(large_), large_.size()));
    ASSERT_THAT(sink->Append(absl::string_view(large_).substr(0, large_.size() - 1)), IsOk());
    EXPECT_EQ(Pieces(), 2);
  }
  EXPECT_EQ(Pieces(), 0);
  EXPECT_EQ(Count("SELECT count(*) FROM assay.blob_uploads"), 0);
}

TEST_F(PostgresBlobTest, TheSecondOfTwoUploadsLeavesNoPiecesOfItsOwn) {
  ASSERT_OK_AND_ASSIGN(auto one, store_->Create(Sha256Hex(large_), large_.size()));
  ASSERT_THAT(one->Append(large_), IsOk());
  Put(*store_, large_);
  ASSERT_THAT(one->Finish(), IsOk());
  EXPECT_EQ(Pieces(), 3);
  EXPECT_EQ(Count("SELECT count(*) FROM assay.blob_uploads"), 0);
}

// As a coordinator that is killed leaves it: no destructor runs, and nobody goes on.
TEST_F(PostgresBlobTest, WhatAKilledCoordinatorLeftIsNoBlobAndIsSweptInTheEnd) {
  ASSERT_OK_AND_ASSIGN(auto sink, store_->Create(Sha256Hex(large_), large_.size()));
  ASSERT_THAT(sink->Append(absl::string_view(large_).substr(0, large_.size() - 1)), IsOk());
  EXPECT_THAT(OpenAt(url_)->Open(Sha256Hex(large_)), StatusIs(absl::StatusCode::kNotFound));
  auto sweep = [&] { return store_->Sweep(absl::Hours(24), [](const std::string&) { return false; }); };
  ASSERT_THAT(sweep(), IsOk());
  EXPECT_EQ(Pieces(), 2) << "it may still go on";
  ASSERT_THAT(server_.Run(url_, "UPDATE assay.blob_uploads SET touched = now() - interval '2 days'"), IsOk());
  ASSERT_THAT(sweep(), IsOk());
  EXPECT_EQ(Pieces(), 0);
  // It does go on after all: it is told, and nothing is half there.
  ASSERT_THAT(sink->Append("z"), IsOk());
  EXPECT_THAT(sink->Finish(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("again")));
  EXPECT_THAT(store_->Open(Sha256Hex(large_)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(PostgresBlobTest, WhatNobodyNamesOrTouchedForLongIsSweptWithItsKeys) {
  for (const std::string content : {"blob", "named", "looked up", "stored again"}) Put(*store_, content);
  ASSERT_THAT(store_->Bind(Sha256Hex("key"), Sha256Hex("blob")), IsOk());
  ASSERT_THAT(store_->Bind(Sha256Hex("other"), Sha256Hex("looked up")), IsOk());
  ASSERT_THAT(server_.Run(url_, "UPDATE assay.blobs SET touched = now() - interval '2 days'"), IsOk());
  ASSERT_THAT(store_->Lookup(Sha256Hex("other")), IsOk());
  Put(*store_, "stored again");
  ASSERT_OK_AND_ASSIGN(SweptBlobs swept, store_->Sweep(absl::Hours(24), [](const std::string& digest) {
    return digest == Sha256Hex("named");
  }));
  EXPECT_EQ(swept.blobs, 1);
  EXPECT_EQ(swept.bytes, 4);
  EXPECT_EQ(Pieces(), 3);
  EXPECT_THAT(store_->Lookup(Sha256Hex("key")), IsOkAndHolds(Eq(std::nullopt)));
  EXPECT_THAT(store_->Open(Sha256Hex("looked up")), IsOk());
}

TEST_F(PostgresBlobTest, AConnectionThatEndedWhileNobodyUsedItIsMadeAgain) {
  Put(*store_, "blob");
  ASSERT_THAT(server_.Run(url_,
                          "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                          " WHERE datname = current_database() AND pid <> pg_backend_pid()"),
              IsOk());
  EXPECT_THAT(store_->Open(Sha256Hex("blob")), IsOk());
}

TEST_F(PostgresBlobTest, WhileTheServerIsAwayItSaysSo) {
  Put(*store_, "blob");
  server_.Kill();
  EXPECT_THAT(store_->Open(Sha256Hex("blob")), StatusIs(absl::StatusCode::kUnavailable));
  server_.Start();
  EXPECT_THAT(store_->Open(Sha256Hex("blob")), IsOk());
}

}  // namespace
}  // namespace assay::coordinator

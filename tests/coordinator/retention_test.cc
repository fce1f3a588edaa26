// What is forgotten, and what never is.
#include "coordinator/retention.h"

#include <filesystem>

#include "common/clock.h"
#include "coordinator/report/coverage.h"
#include "coordinator/store/memory_store.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Remembers what it was asked to keep; everything it has is old.
class OldBlobs final : public BlobStore {
 public:
  explicit OldBlobs(std::set<std::string> digests) : digests_(std::move(digests)) {}
  absl::StatusOr<SweptBlobs> Sweep(absl::Duration,
                                   const std::function<bool(const std::string&)>& keep) override {
    SweptBlobs swept;
    for (auto digest = digests_.begin(); digest != digests_.end();) {
      if (keep(*digest)) {
        ++digest;
      } else {
        digest = digests_.erase(digest);
        ++swept.blobs;
      }
    }
    return swept;
  }
  const std::set<std::string>& digests() const { return digests_; }

  absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view, uint64_t) override { return Never(); }
  absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view) const override { return Never(); }
  absl::StatusOr<std::string> Bind(absl::string_view, absl::string_view) override { return Never(); }
  absl::StatusOr<std::optional<std::string>> Lookup(absl::string_view) const override { return Never(); }

 private:
  static absl::Status Never() { return absl::UnimplementedError("not asked for"); }
  std::set<std::string> digests_;
};

class RetentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto content = Content::Load(std::filesystem::current_path());
    ASSERT_THAT(content, IsOk());
    content_ = *std::move(content);
  }

  absl::Status Run(const std::function<absl::Status(Store&)>& work) {
    EXPECT_THAT(store_->Begin(), IsOk());
    absl::Status done = work(*store_);
    if (done.ok()) return store_->Commit();
    store_->Rollback();
    return done;
  }
  // A batch of one model, a day after the one before; ended where there is an outcome.
  void Batch(const std::string& id, const std::string& model, v1::Outcome outcome,
             const std::string& log = "") {
    clock_.Advance(absl::Hours(24));
    const std::string job = absl::StrCat(id, ".", model);
    ASSERT_THAT(Run([&](Store& store) -> absl::Status {
                  auto batch = store.SubmitBatch(Submission(id, {model}), store.Now());
                  if (!batch.ok() || outcome == v1::OUTCOME_UNSPECIFIED) return batch.status();
                  if (outcome == v1::CANCELLED) return store.CancelBatch(id, store.Now()).status();
                  auto assign = [](const v1::Job& leased) {
                    v1::Assignment given = Given(leased);
                    given.set_program_digest(Sha256Hex("program"));
                    return given;
                  };
                  auto leased = store.Lease(job, "w", store.Now(), store.Now() + absl::Seconds(9), assign);
                  if (!leased.ok()) return leased.status();
                  v1::AttemptResult result = Result(job, 1, outcome, Sha256Hex("test"));
                  if (!log.empty()) result.set_log_digest(Sha256Hex(log));
                  v1::TestResult& test = *result.mutable_result();
                  test.mutable_provenance()->set_program_digest(Sha256Hex("program"));
                  test.mutable_provenance()->mutable_device()->set_kind("cpu");
                  v1::CaseResult& mock = *test.mutable_case_(0);
                  mock.set_evidence(v1::GOLDEN);
                  v1::CheckResult& golden = *mock.add_check();
                  golden.set_outcome(outcome);
                  golden.set_error(1e-6);
                  golden.set_tolerance(1e-4);
                  return store.CommitResult(result, store.Now()).status();
                }),
                IsOk());
  }
  absl::StatusOr<Pruned> PruneAll(const Retention& retention) {
    return Prune([this](const auto& work) { return Run(work); }, blobs_, *content_, retention);
  }
  static Retention Runs(uint32_t runs) {
    Retention retention;
    retention.keep_runs = runs;
    return retention;
  }
  std::set<std::string> Batches() {
    std::set<std::string> ids;
    auto page = store_->ListBatches(1000, 0);
    EXPECT_THAT(page, IsOk());
    for (const v1::Batch& batch : page->batches) ids.insert(batch.batch_id());
    return ids;
  }
  std::set<std::string> Covered() {
    report::ReportInput input;
    input.registry = content_->registry();
    input.catalogue = content_->catalogue();
    for (const std::string& batch : Batches()) {
      auto jobs = store_->ListJobs(batch);
      EXPECT_THAT(jobs, IsOk());
      for (const v1::Job& job : *jobs) input.jobs.push_back(job);
    }
    return report::ComputeCoverage(input).total.covered;
  }

  FakeClock clock_;
  std::unique_ptr<Store> store_ = NewMemoryStore(3, &clock_);
  std::shared_ptr<const Content> content_;
  OldBlobs blobs_{{Sha256Hex("log 1"), Sha256Hex("log 2"), Sha256Hex("log 3"), Sha256Hex("log 4"),
                   Sha256Hex("unnamed"), Sha256Hex("program")}};
};

TEST_F(RetentionTest, TheLastRunsStayAndWhatCoveredFirst) {
  for (const std::string number : {"1", "2", "3", "4"}) {
    Batch("b" + number, "bert", v1::PASSED, "log " + number);
  }
  ASSERT_THAT(Covered(), Contains("bert")) << "else there is nothing to lose";
  ASSERT_OK_AND_ASSIGN(Pruned pruned, PruneAll(Runs(2)));
  EXPECT_EQ(pruned.batches, 1);
  EXPECT_EQ(pruned.jobs, 1);
  // b1 says since when the model is covered.
  EXPECT_THAT(Batches(), ElementsAre("b1", "b3", "b4"));
  EXPECT_THAT(Covered(), Contains("bert"));
  EXPECT_THAT(store_->GetJob("b2.bert"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->EventsAfter("b2", 0, 10), IsOkAndHolds(IsEmpty()));
  EXPECT_EQ(pruned.blobs.blobs, 2);
  EXPECT_THAT(blobs_.digests(), Not(Contains(Sha256Hex("log 2"))));
  EXPECT_THAT(blobs_.digests(), Not(Contains(Sha256Hex("unnamed"))));
  EXPECT_THAT(blobs_.digests(), Contains(Sha256Hex("log 1")));
  EXPECT_THAT(blobs_.digests(), Contains(Sha256Hex("program")));
}

TEST_F(RetentionTest, WhatCoverageRestsOnStaysHoweverOldItIs) {
  Batch("b1", "bert", v1::PASSED);
  for (const std::string id : {"b2", "b3", "b4"}) Batch(id, "bert", v1::CANCELLED);
  ASSERT_THAT(Covered(), Contains("bert"));
  Retention retention;
  retention.keep_for = absl::ZeroDuration();
  clock_.Advance(absl::Hours(1));
  ASSERT_THAT(PruneAll(retention), IsOk());
  EXPECT_THAT(Batches(), ElementsAre("b1"));
  EXPECT_THAT(Covered(), Contains("bert"));
}

TEST_F(RetentionTest, BatchesThatEndedLatelyStay) {
  for (const std::string id : {"b1", "b2", "b3", "b4"}) Batch(id, "no_such_model", v1::FAILED);
  Retention retention;
  retention.keep_for = absl::Hours(36);
  ASSERT_THAT(PruneAll(retention), IsOk());
  EXPECT_THAT(Batches(), ElementsAre("b3", "b4"));
}

TEST_F(RetentionTest, WhatHasNotEndedStays) {
  Batch("b1", "bert", v1::OUTCOME_UNSPECIFIED);
  for (const std::string id : {"b2", "b3"}) Batch(id, "bert", v1::FAILED);
  ASSERT_THAT(PruneAll(Runs(1)), IsOk());
  EXPECT_THAT(Batches(), ElementsAre("b1", "b3"));
  EXPECT_THAT(Run([](Store& store) { return store.DropBatch("b1"); }),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Run([](Store& store) { return store.DropBatch("b9"); }), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(RetentionTest, WorkersLongGoneAndOldEntriesAreForgotten) {
  auto put = [&](const std::string& name) {
    ASSERT_THAT(Run([&](Store& store) {
                  WorkerRecord worker;
                  worker.summary.set_name(name);
                  *worker.summary.mutable_last_seen() = ToTimestamp(store.Now());
                  return store.PutWorker(worker);
                }),
                IsOk());
  };
  auto note = [&] {
    v1::AuditEntry entry;
    *entry.mutable_time() = ToTimestamp(store_->Now());
    ASSERT_THAT(Run([&](Store& store) { return store.AddAudit(entry); }), IsOk());
  };
  put("gone");
  put("cordoned");
  ASSERT_THAT(Run([](Store& store) { return store.PutCordon("cordoned", "burns"); }), IsOk());
  note();
  clock_.Advance(absl::Hours(24 * 400));
  put("here");
  note();
  ASSERT_THAT(PruneAll(Runs(1)), IsOk());
  ASSERT_OK_AND_ASSIGN(auto workers, store_->ListWorkers());
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[0].summary.name(), "cordoned");
  EXPECT_EQ(workers[1].summary.name(), "here");
  ASSERT_OK_AND_ASSIGN(AuditPage page, store_->ListAudit(10, 0));
  EXPECT_EQ(page.entries.size(), 1u);
}

TEST_F(RetentionTest, TokensThatEndedLongAgoAreForgottenAndOthersNot) {
  auto add = [&](const std::string& id, std::optional<absl::Duration> lasts) {
    TokenRecord token;
    token.info.set_id(id);
    token.hash = "hash of " + id;
    if (lasts) *token.info.mutable_expire_time() = ToTimestamp(store_->Now() + *lasts);
    ASSERT_THAT(Run([&](Store& store) { return store.AddToken(token); }), IsOk());
  };
  add("ended", absl::Hours(1));
  add("ends", absl::Hours(24 * 90));
  add("endless", std::nullopt);
  add("revoked", std::nullopt);
  ASSERT_THAT(Run([&](Store& store) { return store.RevokeToken("revoked", store.Now()).status(); }), IsOk());
  const auto left = [&] {
    std::vector<std::string> ids;
    auto tokens = store_->ListTokens();
    EXPECT_THAT(tokens, IsOk());
    for (const TokenRecord& token : *tokens) ids.push_back(token.info.id());
    return ids;
  };
  clock_.Advance(absl::Hours(24 * 30));  // it ended an hour less than 30 days ago: it is told why still
  ASSERT_THAT(PruneAll(Runs(1)), IsOk());
  EXPECT_THAT(left(), ElementsAre("ended", "endless", "ends", "revoked"));
  clock_.Advance(absl::Hours(2));
  ASSERT_THAT(PruneAll(Runs(1)), IsOk());
  EXPECT_THAT(left(), ElementsAre("endless", "ends", "revoked"));
}

TEST_F(RetentionTest, KeepingNothingIsRefused) {
  EXPECT_THAT(PruneAll({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wanted")));
  EXPECT_THAT(PruneAll(Runs(0)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 1")));
}

}  // namespace
}  // namespace assay::coordinator

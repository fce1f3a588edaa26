// Group commit. The fault modelled: a medium that fails in the middle of a group.
#include "coordinator/store/writer.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "coordinator/store/memory_store.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

std::function<absl::StatusOr<v1::Batch>(Store&)> Submitting(const std::string& batch_id) {
  return [batch_id](Store& store) { return store.SubmitBatch(Submission(batch_id, {"bert"}), kNow); };
}

std::function<absl::StatusOr<v1::Batch>(Store&)> Getting(const std::string& batch_id) {
  return [batch_id](Store& store) { return store.GetBatch(batch_id); };
}

// Holds the writer's thread, so that what is asked meanwhile becomes one group.
class Plug {
 public:
  explicit Plug(Writer& writer) {
    writer.Ask<bool>(
        [this](Store&) -> absl::StatusOr<bool> {
          if (!held_.HasBeenNotified()) held_.Notify();
          pull_.WaitForNotification();
          return true;
        },
        [](absl::StatusOr<bool>) {});
    held_.WaitForNotification();
  }
  void Pull() { pull_.Notify(); }

 private:
  absl::Notification held_, pull_;
};

TEST(WriterTest, AnswersWhatTheStoreSays) {
  Writer writer(NewMemoryStore(3));
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), IsOk());
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("b1")), IsOk());
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("b2")), StatusIs(absl::StatusCode::kNotFound));
}

TEST(WriterTest, PutsWhatIsAskedTogetherIntoOneTransaction) {
  Writer writer(NewMemoryStore(3));
  std::atomic<int> commits = 0;
  writer.AfterCommit([&](const std::set<std::string>&) { ++commits; });
  Plug plug(writer);
  std::atomic<int> answers = 0;
  for (int i = 0; i < 50; ++i) {
    writer.Ask<v1::Batch>(Submitting(absl::StrCat("b", i)), [&](absl::StatusOr<v1::Batch> batch) {
      if (batch.ok()) ++answers;
    });
  }
  plug.Pull();
  writer.Stop();
  EXPECT_EQ(answers, 50);
  EXPECT_EQ(commits, 2);  // the plug's and the group's
}

TEST(WriterTest, AnErrorOfTheDomainLeavesTheOthersAlone) {
  Writer writer(NewMemoryStore(3));
  Plug plug(writer);
  absl::Status good, bad;
  writer.Ask<v1::Batch>(Submitting("b1"), [&](absl::StatusOr<v1::Batch> batch) { good = batch.status(); });
  writer.Ask<v1::Batch>(Getting("b9"), [&](absl::StatusOr<v1::Batch> batch) { bad = batch.status(); });
  plug.Pull();
  writer.Stop();
  EXPECT_THAT(good, IsOk());
  EXPECT_THAT(bad, StatusIs(absl::StatusCode::kNotFound));
}

TEST(WriterTest, OneThatBreaksTheTransactionFailsAloneAndLeavesNothing) {
  Writer writer(NewMemoryStore(3));
  Plug plug(writer);
  std::vector<absl::Status> answers(3);
  auto keep = [&](int i) { return [&, i](absl::StatusOr<v1::Batch> batch) { answers[i] = batch.status(); }; };
  writer.Ask<v1::Batch>(Submitting("b1"), keep(0));
  writer.Ask<v1::Batch>(
      [](Store& store) -> absl::StatusOr<v1::Batch> {
        EXPECT_THAT(Submitting("half")(store), IsOk());
        return absl::InternalError("broken");
      },
      keep(1));
  writer.Ask<v1::Batch>(Submitting("b2"), keep(2));
  plug.Pull();
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("half")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("b1")), IsOk());
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("b2")), IsOk());
  EXPECT_THAT(answers[0], IsOk());
  EXPECT_THAT(answers[1], StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(answers[2], IsOk());
}

TEST(WriterTest, WhereNothingCanBeCommittedNothingIsPromised) {
  Writer writer(NewMemoryStore(3));
  std::atomic<bool> full = true;
  writer.BeforeCommit([&](Store&) { return full ? absl::UnavailableError("disk full") : absl::OkStatus(); });
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), StatusIs(absl::StatusCode::kUnavailable));
  full = false;
  EXPECT_THAT(writer.Call<v1::Batch>(Getting("b1")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), IsOk());
}

TEST(WriterTest, RefusesWhatComesAfterItStopped) {
  Writer writer(NewMemoryStore(3));
  writer.Stop();
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace assay::coordinator

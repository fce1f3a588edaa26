// Group commit. The fault modelled: a medium that fails in the middle of a group.
#include "coordinator/store/writer.h"

#include <atomic>
#include <sstream>

#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "coordinator/store/memory_store.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
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

// A medium that can be taken away.
class Medium {
 public:
  explicit Medium(Writer& writer) {
    writer.BeforeCommit([this](Store&) {
      ++tries_;
      return away ? absl::UnavailableError("disk full") : absl::OkStatus();
    });
  }
  int tries() const { return tries_; }
  std::atomic<bool> away = false;

 private:
  std::atomic<int> tries_ = 0;
};

TEST(WriterTest, AMediumThatIsAwayIsNotTriedWithoutPause) {
  Writer::Options options;
  options.first_pause = options.longest_pause = absl::Hours(1);
  Writer writer(NewMemoryStore(3), options);
  Medium medium(writer);
  medium.away = true;
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b0")), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(medium.tries(), 2);  // in its group, and alone
  std::atomic<int> refused = 0;
  for (int i = 1; i <= 50; ++i) {
    writer.Ask<v1::Batch>(Submitting(absl::StrCat("b", i)), [&](absl::StatusOr<v1::Batch> batch) {
      if (absl::IsUnavailable(batch.status())) ++refused;
    });
  }
  writer.Stop();
  EXPECT_EQ(refused, 50);
  EXPECT_EQ(medium.tries(), 3) << "all that was asked waited for one try";
}

TEST(WriterTest, ReadingGoesOnWhileNothingCanBeWritten) {
  Writer::Options options;
  options.first_pause = options.longest_pause = absl::Milliseconds(1);
  Writer writer(NewMemoryStore(3), options);
  Medium medium(writer);
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), IsOk());
  medium.away = true;
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b2")), StatusIs(absl::StatusCode::kUnavailable));
    absl::Notification answered;
    absl::Status status;
    writer.Read<v1::Batch>(Getting("b1"), [&](absl::StatusOr<v1::Batch> batch) {
      status = batch.status();
      answered.Notify();
    });
    answered.WaitForNotification();
    EXPECT_THAT(status, IsOk());
  }
}

TEST(WriterTest, ManyThatFailAloneAreNotAllTried) {
  Writer::Options options;
  options.first_pause = options.longest_pause = absl::Hours(1);
  Writer writer(NewMemoryStore(3), options);
  Medium medium(writer);
  Plug plug(writer);
  std::atomic<int> refused = 0;
  for (int i = 0; i < 50; ++i) {
    writer.Ask<v1::Batch>(
        [&, i](Store& store) {
          medium.away = true;
          return Submitting(absl::StrCat("b", i))(store);
        },
        [&](absl::StatusOr<v1::Batch> batch) {
          if (absl::IsUnavailable(batch.status())) ++refused;
        });
  }
  plug.Pull();
  writer.Stop();
  EXPECT_EQ(refused, 50);
  EXPECT_EQ(medium.tries(), 1 + 1 + 3);  // the plug's group, theirs, and some of it alone
}

TEST(WriterTest, SaysOnceThatTheMediumIsAwayAndOnceThatItIsBack) {
  std::ostringstream lines;
  auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(lines);
  spdlog::default_logger()->sinks().push_back(sink);
  {
    Writer::Options options;
    options.first_pause = options.longest_pause = absl::Milliseconds(1);
    Writer writer(NewMemoryStore(3), options);
    Medium medium(writer);
    medium.away = true;
    for (int i = 0; i < 5; ++i) {
      EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b")), StatusIs(absl::StatusCode::kUnavailable));
    }
    medium.away = false;
    EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b")), IsOk());
    EXPECT_THAT(writer.Call<v1::Batch>(Getting("b")), IsOk());
  }
  spdlog::default_logger()->sinks().pop_back();
  const std::vector<std::string> found = absl::StrSplit(lines.str(), '\n', absl::SkipEmpty());
  ASSERT_THAT(found, ::testing::SizeIs(3)) << lines.str();
  EXPECT_THAT(found[0], ::testing::HasSubstr("taken back"));
  EXPECT_THAT(found[1], ::testing::HasSubstr("the store is away"));
  EXPECT_THAT(found[2], ::testing::HasSubstr("5 requests were refused"));
}

TEST(WriterTest, AGroupAfterABusyOneWaitsUntilItIsDueOrFull) {
  Writer::Options options;
  options.pace = absl::Hours(1);
  Writer writer(NewMemoryStore(3), options);
  std::atomic<int> commits = 0;
  writer.AfterCommit([&](const std::set<std::string>&) { ++commits; });
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("lone")), IsOk());  // after little, nothing waits
  // The last of them tells of its answer.
  auto ask = [&](int count, absl::Notification& answered) {
    for (int i = 1; i <= count; ++i) {
      writer.Ask<v1::Batch>(Getting("lone"), [&answered, last = i == count](absl::StatusOr<v1::Batch>) {
        if (last) answered.Notify();
      });
    }
  };
  absl::Notification busy, full, late;
  Plug plug(writer);
  ask(40, busy);
  plug.Pull();
  busy.WaitForNotification();
  ask(512, full);
  full.WaitForNotification();
  ask(1, late);
  EXPECT_FALSE(late.HasBeenNotified());
  writer.Stop();
  EXPECT_TRUE(late.HasBeenNotified());
  EXPECT_EQ(commits, 5);  // the lone one's, the plug's, and those of the three groups
}

TEST(WriterTest, AGroupThatManyRequestsFollowFromIsABusyOne) {
  Writer::Options options;
  options.pace = absl::Hours(1);
  Writer writer(NewMemoryStore(3), options);
  writer.AfterCommit([&](const std::set<std::string>&) { writer.Expect(100); });
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("lone")), IsOk());
  absl::Notification late;
  writer.Ask<v1::Batch>(Getting("lone"), [&](absl::StatusOr<v1::Batch>) { late.Notify(); });
  EXPECT_FALSE(late.WaitForNotificationWithTimeout(absl::Milliseconds(100)));
  writer.Stop();
  EXPECT_TRUE(late.HasBeenNotified());
}

TEST(WriterTest, RefusesWhatComesAfterItStopped) {
  Writer writer(NewMemoryStore(3));
  writer.Stop();
  EXPECT_THAT(writer.Call<v1::Batch>(Submitting("b1")), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace assay::coordinator

// A store that stalls for longer than a lease: workers that could not renew because of it keep what they run.
#include "absl/synchronization/notification.h"
#include "coordinator/content.h"
#include "coordinator/dispatcher.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/writer.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

constexpr absl::Duration kLease = absl::Seconds(10);

// Of one worker; keeps what it is told.
class Link final : public WorkerLink {
 public:
  const std::string& worker() const override { return name_; }
  void Send(v1::CoordinatorMessage message) override {
    for (const v1::Assignment& start : message.desired().start()) started.push_back(start.attempt());
    for (const v1::AttemptRef& abandon : message.desired().abandon()) abandoned.push_back(abandon);
  }
  void Close(absl::Status) override {}

  // Of the writer's thread.
  std::vector<v1::AttemptRef> started, abandoned;

 private:
  const std::string name_ = "w";
};

class StallTest : public ::testing::Test {
 protected:
  StallTest() {
    auto content = Content::Load(".");
    EXPECT_THAT(content, IsOk());
    content_ = *content;
    Dispatcher::Options options;
    options.lease = kLease;
    options.name = "here";
    options.clock = &clock_;
    options.machine = &machine_;
    options.content = content_.get();
    dispatcher_.emplace(&writer_, options, [](const std::set<std::string>&) {});
    Tick();
    v1::Hello hello;
    hello.set_protocol(2);
    hello.set_worker("w");
    hello.set_instance("i");
    v1::DeviceSlots& device = *hello.add_device();
    device.mutable_device()->set_kind("cpu");
    device.set_slots(1);
    dispatcher_->Connected(link_, hello, [] {});
    EXPECT_THAT(writer_.Call<v1::Batch>([this](Store& store) {
      return store.SubmitBatch(Submission("b", {"bert"}), store.Now());
    }),
                IsOk());
    Tick();
    Settle();
    EXPECT_THAT(link_->started, ::testing::SizeIs(1));
  }
  ~StallTest() override { writer_.Stop(); }

  void Pass(absl::Duration time) {
    clock_.Advance(time);
    machine_.Advance(time);
  }
  void Tick() {
    dispatcher_->Tick();
    Settle();
  }
  void Heartbeat() {
    v1::WorkerMessage message;
    for (const v1::AttemptRef& attempt : link_->started)
      *message.mutable_heartbeat()->add_attempt() = attempt;
    dispatcher_->Received(link_, std::make_shared<v1::WorkerMessage>(message), [] {});
  }
  // Until all that was asked is answered.
  void Settle() {
    EXPECT_THAT(writer_.Call<bool>([](Store&) -> absl::StatusOr<bool> { return true; }), IsOk());
  }
  v1::Job Job() {
    auto job = writer_.Call<v1::Job>([](Store& store) { return store.GetJob("b.bert"); });
    EXPECT_THAT(job, IsOk());
    return *job;
  }

  FakeClock clock_, machine_;
  std::shared_ptr<const Content> content_;
  Writer writer_{NewMemoryStore(3, &clock_)};
  std::optional<Dispatcher> dispatcher_;
  std::shared_ptr<Link> link_ = std::make_shared<Link>();
};

TEST_F(StallTest, WhatCouldNotBeRenewedIsNotLost) {
  absl::Notification stalls, goes_on;
  writer_.Ask<bool>(
      [&](Store&) -> absl::StatusOr<bool> {
        stalls.Notify();
        goes_on.WaitForNotification();
        return true;
      },
      [](absl::StatusOr<bool>) {});
  stalls.WaitForNotification();
  dispatcher_->Tick();  // in front of the worker's word
  Pass(3 * kLease);
  Heartbeat();
  goes_on.Notify();
  Settle();
  EXPECT_EQ(Job().state(), v1::RUNNING);
  EXPECT_EQ(Job().attempt(), 1);
  EXPECT_THAT(link_->abandoned, ::testing::IsEmpty());
  // It was heard, and goes on being heard.
  for (int i = 0; i < 9; ++i) {
    Pass(kLease / 3);
    Heartbeat();
    Tick();
  }
  EXPECT_EQ(Job().attempt(), 1);
}

TEST_F(StallTest, AClockThatIsSetBackDoesNotProlongALease) {
  clock_.Advance(absl::Hours(-24));
  Tick();
  for (int i = 0; i < 3; ++i) {  // who is heard keeps what it has
    Pass(kLease / 3);
    Heartbeat();
    Tick();
  }
  EXPECT_EQ(Job().attempt(), 1);
  EXPECT_EQ(Job().state(), v1::RUNNING);
  clock_.Advance(absl::Hours(-24));
  Tick();
  for (int i = 0; i < 3; ++i) {
    Pass(kLease / 3 + absl::Milliseconds(1));
    Tick();
  }
  EXPECT_THAT(link_->abandoned, ::testing::SizeIs(1));
}

TEST_F(StallTest, AWorkerThatIsSilentAfterwardsLosesWhatItHad) {
  Pass(3 * kLease);
  Tick();  // a late one
  EXPECT_EQ(Job().state(), v1::RUNNING);
  for (int i = 0; i < 3; ++i) {
    Pass(kLease / 3 + absl::Milliseconds(1));
    Tick();
  }
  EXPECT_THAT(link_->abandoned, ::testing::SizeIs(1));
}

TEST_F(StallTest, WithoutAStallALeaseEndsInTime) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(link_->abandoned, ::testing::IsEmpty());
    Pass(kLease / 3 + absl::Milliseconds(1));
    Tick();
  }
  EXPECT_THAT(link_->abandoned, ::testing::SizeIs(1));
}

}  // namespace
}  // namespace assay::coordinator

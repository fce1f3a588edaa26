#include "coordinator/vitals.h"

#include <atomic>

#include "common/logging.h"
#include "coordinator/store/memory_store.h"
#include "grpcpp/generic/generic_stub.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "tests/coordinator/server_fixture.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

TEST(RouteClass, IsOneOfFour) {
  EXPECT_EQ(RouteClass(""), "any");
  EXPECT_EQ(RouteClass("gpu:4096 predicted"), "memory");
  EXPECT_EQ(RouteClass("+gpu=H100 +zone"), "selector");
  EXPECT_EQ(RouteClass("gpu:4096 +gpu=H100"), "memory+selector");
}

TEST(Vitals, TellWhenTheStoreIsGone) {
  FakeClock clock;
  Writer writer(NewMemoryStore(3, &clock));
  std::vector<bool> told;
  Vitals vitals(&writer, &clock, nullptr, [&told](bool up) { told.push_back(up); });
  vitals.Look();
  ASSERT_THAT(writer.Call<bool>([](Store&) -> absl::StatusOr<bool> { return true; }), IsOk());
  EXPECT_TRUE(told.empty());  // it was there, and it is
  writer.Stop();
  vitals.Look();
  EXPECT_EQ(told, std::vector<bool>{false});
  vitals.Look();
  EXPECT_EQ(told.size(), 1u);
}

TEST(Vitals, SeeAClockThatIsWrong) {
  FakeClock store_clock, machine_clock;
  machine_clock.Advance(absl::Seconds(10));
  Writer writer(NewMemoryStore(3, &store_clock));
  CoordinatorMetrics metrics;
  Vitals vitals(&writer, &machine_clock, &metrics, [](bool) {});
  ::testing::internal::CaptureStderr();
  ASSERT_THAT(StartLogging("test", "warn"), IsOk());
  for (int i = 0; i < 3; ++i) {
    vitals.Look();
    ASSERT_THAT(writer.Call<bool>([](Store&) -> absl::StatusOr<bool> { return true; }), IsOk());
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  const size_t said = log.find("the store's clock is 10s behind this machine's");
  EXPECT_NE(said, std::string::npos) << log;
  EXPECT_EQ(log.find("the store's clock", said + 1), std::string::npos) << "said again: " << log;
  double ahead = 0;
  for (const prometheus::MetricFamily& family : metrics.collected()->Collect()) {
    if (family.name == "assay_store_clock_offset_seconds") ahead = family.metric.at(0).gauge.value;
  }
  EXPECT_EQ(ahead, -10);
}

TEST(CoordinatorMetrics, LeaveOutWhatAStoreThatIsAwayWouldHaveTold) {
  CoordinatorMetrics metrics;
  const auto served = [&metrics](const std::string& name) {
    for (const prometheus::MetricFamily& family : metrics.collected()->Collect()) {
      if (family.name == name) return std::optional<double>(family.metric.at(0).gauge.value);
    }
    return std::optional<double>();
  };
  metrics.AskAtScrape([](auto done) { done(absl::UnavailableError("away")); });
  EXPECT_EQ(served("assay_store_up"), 0);
  EXPECT_EQ(served("assay_queue_jobs"), std::nullopt);
}

TEST(CoordinatorMetrics, CountJobsAndBoundThePools) {
  CoordinatorMetrics metrics;
  metrics.AskAtScrape([](auto done) {
    CoordinatorMetrics::Snapshot snapshot;
    snapshot.now = absl::FromUnixSeconds(1000);
    snapshot.jobs = {{v1::QUEUED, v1::CUDA, false, "gpu:4096 +a", 3, absl::FromUnixSeconds(900), v1::FLOAT16},
                     {v1::QUEUED, v1::CUDA, false, "gpu:8192 +b", 2, absl::FromUnixSeconds(950), v1::FLOAT16},
                     {v1::QUEUED, v1::CUDA, false, "", 4, absl::FromUnixSeconds(990), v1::DTYPE_BFLOAT16},
                     {v1::RUNNING, v1::CPU, true, "", 1, absl::FromUnixSeconds(999)}};
    for (int i = 0; i < 100; ++i) {
      v1::WorkerSummary& worker = snapshot.workers.emplace_back();
      worker.add_label(absl::StrCat("pool=p", i));
      worker.set_cordoned(i % 2 == 0);
    }
    done(std::move(snapshot));
  });
  std::map<std::string, double> values;
  size_t pools = 0;
  for (const prometheus::MetricFamily& family : metrics.collected()->Collect()) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string key = family.name;
      for (const auto& label : metric.label) absl::StrAppend(&key, " ", label.value);
      values[key] = metric.gauge.value;
      pools += family.name == "assay_workers_connected" ? 1 : 0;
    }
  }
  EXPECT_EQ(values["assay_queue_jobs cuda float16 test memory+selector"], 5);
  EXPECT_EQ(values["assay_queue_oldest_seconds cuda float16 test memory+selector"], 100);
  EXPECT_EQ(values["assay_queue_jobs cuda bfloat16 test any"], 4);
  EXPECT_EQ(values["assay_running_attempts cpu default export any"], 1);
  EXPECT_EQ(values["assay_queue_jobs cpu float32 test any"], 0);
  EXPECT_EQ(pools, kMaxPools + 1);
  EXPECT_EQ(values["assay_workers_connected other"], 100.0 - (kMaxPools - 1));
}

using HealthTest = ServerTest;

// grpc.health.v1.Health/Check by hand, as its messages are a string and an enumeration: 1 is SERVING, 2
// NOT_SERVING.
int CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request;
  if (!service.empty())
    request = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::ByteBuffer answer;
  grpc::ClientContext context;
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", sent, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return -static_cast<int>(status.error_code());
  std::vector<grpc::Slice> slices;
  (void)answer.Dump(&slices);
  std::string bytes;
  for (const grpc::Slice& part : slices)
    bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  return bytes.size() == 2 && bytes[0] == 8 ? bytes[1] : 0;
}

TEST_F(HealthTest, EachServiceSaysThatItServes) {
  for (const char* service : {"", "assay.v1.BatchService", "assay.v1.WorkerService", "assay.v1.BlobService",
                              "assay.v1.AdminService"}) {
    EXPECT_EQ(CheckHealth(channel_, service), 1) << service;
  }
  EXPECT_EQ(CheckHealth(channel_, "assay.v1.NoSuchService"), -grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace assay::coordinator

// What operators, KEDA and people who wait ask of a coordinator, over a real channel: targets, selectors,
// why, cordons, sweeps, pools.
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "assay/v1/admin.grpc.pb.h"
#include "keda/externalscaler.grpc.pb.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kGiB = uint64_t{1} << 30;

v1::Hello GpuHello(const std::string& worker, uint64_t gib, uint32_t slots,
                   const std::string& name = "NVIDIA L4") {
  v1::Hello hello = HelloOf(worker, "i", 1);
  hello.set_protocol(2);
  hello.mutable_device(0)->mutable_device()->set_id("cpu");
  v1::DeviceSlots& gpu = *hello.add_device();
  gpu.set_slots(slots);
  gpu.set_memory_bytes(gib * kGiB);
  gpu.mutable_device()->set_kind("cuda");
  gpu.mutable_device()->set_name(name);
  gpu.mutable_device()->set_id("GPU-1");
  gpu.mutable_device()->set_driver("550.54");
  return hello;
}

class FleetServiceTest : public ServerTest {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = ServerTest::Options();
    options.pools_file = data_dir_ / "pools.textproto";
    fs::create_directories(data_dir_);
    std::ofstream(options.pools_file) << R"(
        pool { name: "cpu" device: "cpu" slots: 2 max_workers: 3 }
        pool { name: "l4" device: "cuda" slots: 2 max_workers: 2 gpu_memory_gib: 24 }
        pool { name: "h100" device: "cuda" slots: 2 max_workers: 1 gpu_memory_gib: 80 label: "gpu=H100" })";
    return options;
  }
  void SetUp() override {
    ServerTest::SetUp();
    admin_ = v1::AdminService::NewStub(channel_);
    keda_ = externalscaler::ExternalScaler::NewStub(channel_);
  }

  v1::SubmitBatchRequest Request(const std::vector<std::string>& models) {
    v1::SubmitBatchRequest request;
    request.set_request_id(NewUuid());
    request.set_name("test.json");
    request.set_content(BatchContent(models));
    return request;
  }
  static v1::Target TargetOf(v1::DeviceChoice device, v1::Dtype dtype) {
    v1::Target target;
    target.set_device(device);
    target.set_dtype(dtype);
    return target;
  }
  std::string SubmitOnGpu(const std::vector<std::string>& models, uint64_t gib) {
    v1::SubmitBatchRequest request = Request(models);
    *request.add_targets() = TargetOf(v1::CUDA, v1::FLOAT32);
    request.set_gpu_memory_bytes(gib * kGiB);
    v1::Batch batch;
    EXPECT_TRUE(ServerTest::Submit(request, &batch).ok());
    return batch.batch_id();
  }
  v1::ExplainJobResponse Why(const std::string& job_id) {
    grpc::ClientContext context;
    v1::ExplainJobRequest request;
    request.set_job_id(job_id);
    v1::ExplainJobResponse response;
    const grpc::Status status = batches_->ExplainJob(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  v1::WorkerSummary Worker(const std::string& name) {
    grpc::ClientContext context;
    v1::ListWorkersResponse response;
    EXPECT_TRUE(batches_->ListWorkers(&context, {}, &response).ok());
    for (const v1::WorkerSummary& worker : response.worker()) {
      if (worker.name() == name) return worker;
    }
    return {};
  }
  grpc::Status Cordon(const std::string& worker, const std::string& reason) {
    grpc::ClientContext context;
    v1::CordonWorkerRequest request;
    request.set_worker(worker);
    request.set_reason(reason);
    v1::CordonWorkerResponse response;
    return admin_->CordonWorker(&context, request, &response);
  }
  grpc::Status Uncordon(const std::string& worker) {
    grpc::ClientContext context;
    v1::UncordonWorkerRequest request;
    request.set_worker(worker);
    v1::UncordonWorkerResponse response;
    return admin_->UncordonWorker(&context, request, &response);
  }
  grpc::Status Drain(const std::string& worker) {
    grpc::ClientContext context;
    v1::DrainWorkerRequest request;
    request.set_worker(worker);
    v1::DrainWorkerResponse response;
    return admin_->DrainWorker(&context, request, &response);
  }
  static externalscaler::ScaledObjectRef Pool(const std::string& name) {
    externalscaler::ScaledObjectRef ref;
    (*ref.mutable_scalermetadata())["pool"] = name;
    return ref;
  }
  double Wanted(const std::string& pool) {
    grpc::ClientContext context;
    externalscaler::GetMetricsRequest request;
    *request.mutable_scaledobjectref() = Pool(pool);
    request.set_metricname("assay-workers");
    externalscaler::GetMetricsResponse response;
    const grpc::Status status = keda_->GetMetrics(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.metricvalues_size(), 1);
    EXPECT_GE(response.metricvalues(0).metricvalue() + 1e-6, response.metricvalues(0).metricvaluefloat());
    return response.metricvalues(0).metricvaluefloat();
  }

  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<externalscaler::ExternalScaler::Stub> keda_;
};

TEST_F(FleetServiceTest, AModelRunsOnEachTarget) {
  v1::SubmitBatchRequest request = Request({"bert", "roberta"});
  *request.add_targets() = TargetOf(v1::CPU, v1::FLOAT32);
  *request.add_targets() = TargetOf(v1::CUDA, v1::DTYPE_BFLOAT16);
  v1::Batch batch;
  ASSERT_TRUE(ServerTest::Submit(request, &batch).ok());
  EXPECT_EQ(batch.total(), 4);
  EXPECT_EQ(batch.target_size(), 2);
  std::vector<std::string> ids;
  const v1::GetBatchResponse split = Get(batch.batch_id());
  for (const v1::Job& job : split.job()) ids.push_back(job.job_id());
  const std::string id = batch.batch_id();
  EXPECT_THAT(ids, ElementsAre(id + ".bert.cpu-float32", id + ".bert.cuda-bfloat16",
                               id + ".roberta.cpu-float32", id + ".roberta.cuda-bfloat16"));
  v1::Batch again;
  ASSERT_TRUE(ServerTest::Submit(request, &again).ok());
  EXPECT_EQ(again.batch_id(), id);
  request.mutable_targets(1)->set_dtype(v1::FLOAT16);
  EXPECT_EQ(ServerTest::Submit(request, &again).error_code(), grpc::StatusCode::ALREADY_EXISTS);

  FakeWorker worker(channel_, GpuHello("w", 24, 1));
  std::set<std::pair<v1::DeviceChoice, v1::Dtype>> given;
  for (int i = 0; i < 4; ++i) {
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    given.emplace(start->target().device(), start->target().dtype());
    EXPECT_EQ(start->device_id(), start->target().device() == v1::CPU ? "cpu" : "GPU-1");
    ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  }
  EXPECT_EQ(given.size(), 2);
  EXPECT_TRUE(Watch(id, 0).second.ok());
  EXPECT_EQ(Get(id).batch().done(), 4);
  // One target alone keeps the ids that it always had.
  const std::string single = SubmitOnGpu({"bert"}, 1);
  EXPECT_EQ(Get(single).job(0).job_id(), single + ".bert");
}

TEST_F(FleetServiceTest, WhatIsAskedForWronglyIsRefused) {
  auto refusal = [&](const std::function<void(v1::SubmitBatchRequest&)>& change) {
    v1::SubmitBatchRequest request = Request({"bert"});
    change(request);
    v1::Batch batch;
    const grpc::Status status = ServerTest::Submit(request, &batch);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  };
  EXPECT_THAT(refusal([](auto& r) {
                *r.mutable_target() = TargetOf(v1::CPU, v1::FLOAT32);
                *r.add_targets() = TargetOf(v1::CPU, v1::FLOAT32);
              }),
              HasSubstr("both set"));
  EXPECT_THAT(refusal([](auto& r) {
                *r.add_targets() = TargetOf(v1::CUDA, v1::FLOAT16);
                *r.add_targets() = TargetOf(v1::CUDA, v1::FLOAT16);
              }),
              HasSubstr("cuda-float16 is there twice"));
  EXPECT_THAT(refusal([](auto& r) { r.add_selector("gpu H100"); }), HasSubstr("selector 'gpu H100'"));
  EXPECT_THAT(refusal([](auto& r) {
                *r.add_targets() = TargetOf(v1::CPU, v1::FLOAT32);
                r.set_gpu_memory_bytes(kGiB);
              }),
              HasSubstr("no target may be on a GPU"));
}

TEST_F(FleetServiceTest, SaysWhyAJobWaits) {
  const std::string big = SubmitOnGpu({"bert"}, 100) + ".bert";
  EXPECT_THAT(Why(big).reason(0),
              "needs 100 GiB of GPU memory; the largest connected or configured pool has 80 GiB");
  const std::string forty = SubmitOnGpu({"bert"}, 40) + ".bert";
  EXPECT_THAT(Why(forty).reason(0), HasSubstr("pool 'h100' could"));

  FakeWorker worker(channel_, GpuHello("w", 24, 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  const v1::ExplainJobResponse why = Why(forty);
  EXPECT_THAT(why.reason(0), HasSubstr("no connected worker could take it; a worker of pool 'h100' could"));
  ASSERT_GT(why.worker_size(), 0);
  EXPECT_EQ(why.worker(0).why_not(), "needs 40 GiB of GPU memory; its largest GPU has 24 GiB");
  EXPECT_EQ(Get(forty.substr(0, forty.find('.'))).job(0).waiting(), why.reason(0));

  const std::string batch = SubmitOnGpu({"bert", "roberta"}, 20);
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->memory_bytes(), 20 * kGiB);
  EXPECT_THAT(Why(start->attempt().job_id()).reason(0), HasSubstr("runs on w since"));
  const std::string other =
      start->attempt().job_id() == batch + ".bert" ? batch + ".roberta" : batch + ".bert";
  EXPECT_THAT(Why(other).reason(0), HasSubstr("waits for a slot: 1 worker could take it"));
  EXPECT_EQ(Worker("w").device(1).used_memory_bytes(), 20 * kGiB);
  EXPECT_EQ(Worker("w").device(1).used_slots(), 1);
  ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
  ASSERT_TRUE(worker.AwaitStart().has_value());
  EXPECT_THAT(Why(start->attempt().job_id()).reason(0), HasSubstr("has ended: PASSED"));
  grpc::ClientContext context;
  v1::ExplainJobRequest request;
  request.set_job_id("nobody");
  v1::ExplainJobResponse response;
  EXPECT_EQ(batches_->ExplainJob(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(FleetServiceTest, WhatATestTookOfAGpuIsWhatTheNextIsPredictedToNeed) {
  v1::SubmitBatchRequest request = Request({"bert"});
  *request.add_targets() = TargetOf(v1::CUDA, v1::FLOAT32);
  v1::Batch batch;
  ASSERT_TRUE(ServerTest::Submit(request, &batch).ok());
  FakeWorker worker(channel_, GpuHello("w", 24, 4));
  auto start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->memory_bytes(), 24 * kGiB) << "nothing is known: it has the GPU alone";
  v1::TestResult result = TestResultOf(*start, v1::PASSED);
  result.set_device_peak_memory_bytes(2 * kGiB);
  result.mutable_provenance()->mutable_device()->set_kind("cuda");
  ASSERT_TRUE(worker.SendResult(start->attempt(), result));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  request.set_request_id(NewUuid());
  ASSERT_TRUE(ServerTest::Submit(request, &batch).ok());
  start = worker.AwaitStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_GT(start->memory_bytes(), 3 * kGiB);
  EXPECT_LT(start->memory_bytes(), 4 * kGiB);
  EXPECT_TRUE(Get(batch.batch_id()).job(0).needs().predicted());
}

TEST_F(FleetServiceTest, ACordonedWorkerTakesNothingUntilItIsUncordoned) {
  EXPECT_EQ(Cordon("nobody", "").error_code(), grpc::StatusCode::NOT_FOUND);
  FakeWorker worker(channel_, GpuHello("w", 24, 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(Cordon("w", "smells of burning").ok());
  EXPECT_TRUE(Worker("w").cordoned());
  const std::string job = Submit({"bert"}) + ".bert";
  EXPECT_THAT(Why(job).reason(0), HasSubstr("w is cordoned (smells of burning)"));
  Restart();
  admin_ = v1::AdminService::NewStub(channel_);
  FakeWorker back(channel_, GpuHello("w", 24, 1));
  ASSERT_TRUE(back.AwaitWelcome().has_value());
  EXPECT_THAT(Why(job).reason(0), HasSubstr("w is cordoned (smells of burning)"));
  EXPECT_THAT(back.starts(), IsEmpty());
  ASSERT_TRUE(Uncordon("w").ok());
  EXPECT_TRUE(back.AwaitStart().has_value());
}

TEST_F(FleetServiceTest, AWorkerIsToldToDrain) {
  EXPECT_EQ(Drain("nobody").error_code(), grpc::StatusCode::NOT_FOUND);
  FakeWorker old(channel_, HelloOf("old", "i", 1));
  ASSERT_TRUE(old.AwaitWelcome().has_value());
  EXPECT_THAT(Drain("old").error_message(), HasSubstr("speaks protocol 1"));
  FakeWorker worker(channel_, GpuHello("w", 24, 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(Drain("w").ok());
  while (!worker.drain()) ASSERT_TRUE(worker.Read());
}

TEST_F(FleetServiceTest, LabelsMayChangeWhileAWorkerIsConnected) {
  v1::SubmitBatchRequest request = Request({"bert"});
  *request.add_targets() = TargetOf(v1::CPU, v1::FLOAT32);
  request.add_selector("zone=b");
  v1::Batch batch;
  ASSERT_TRUE(ServerTest::Submit(request, &batch).ok());
  FakeWorker worker(channel_, GpuHello("w", 24, 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  EXPECT_THAT(Why(batch.batch_id() + ".bert").reason(0), HasSubstr("carries the label zone=b"));
  v1::WorkerMessage heartbeat;
  heartbeat.mutable_heartbeat()->mutable_labels()->add_label("zone=b");
  ASSERT_TRUE(worker.Send(heartbeat));
  EXPECT_TRUE(worker.AwaitStart().has_value());
  EXPECT_THAT(Worker("w").label(), ElementsAre("zone=b"));
}

TEST_F(FleetServiceTest, PoolsAreScaledFromNoneByWhatWaitsAndRuns) {
  grpc::ClientContext context;
  externalscaler::GetMetricSpecResponse spec;
  ASSERT_TRUE(keda_->GetMetricSpec(&context, Pool("l4"), &spec).ok());
  EXPECT_EQ(spec.metricspecs(0).metricname(), "assay-workers");
  EXPECT_EQ(spec.metricspecs(0).targetsizefloat(), 1);
  grpc::ClientContext unknown;
  EXPECT_EQ(keda_->GetMetricSpec(&unknown, Pool("tpus"), &spec).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext unnamed;
  EXPECT_EQ(keda_->GetMetricSpec(&unnamed, {}, &spec).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Wanted("l4"), 0);

  grpc::ClientContext watching;
  watching.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  auto stream = keda_->StreamIsActive(&watching, Pool("l4"));
  externalscaler::IsActiveResponse active;
  ASSERT_TRUE(stream->Read(&active));
  EXPECT_FALSE(active.result());
  const std::string batch = SubmitOnGpu({"bert", "roberta", "albert"}, 12);
  ASSERT_TRUE(stream->Read(&active));
  EXPECT_TRUE(active.result());
  EXPECT_EQ(Wanted("l4"), 1.5);
  EXPECT_EQ(Wanted("h100"), 0);
  EXPECT_EQ(Wanted("cpu"), 0);

  v1::Hello hello = GpuHello("w", 24, 2);
  hello.add_label("pool=l4");
  FakeWorker worker(channel_, hello);
  std::vector<v1::Assignment> running;
  for (int i = 0; i < 2; ++i) running.push_back(*worker.AwaitStart());
  EXPECT_EQ(Wanted("l4"), 1.5) << "what runs counts as it did when it waited";
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(worker.SendResult(running[i], v1::PASSED));
  running.push_back(*worker.AwaitStart());
  while (worker.acks().size() < 2) ASSERT_TRUE(worker.Read());
  EXPECT_EQ(Wanted("l4"), 0.5);
  ASSERT_TRUE(worker.SendResult(running[2], v1::PASSED));
  ASSERT_TRUE(stream->Read(&active));
  EXPECT_FALSE(active.result());
  EXPECT_EQ(Wanted("l4"), 0);
  watching.TryCancel();
  while (stream->Read(&active)) {
  }
}

class AcceptanceServiceTest : public FleetServiceTest {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = FleetServiceTest::Options();
    options.require_acceptance = true;
    return options;
  }
  // Reads until it is asked for a sweep.
  static v1::AcceptanceRequest AwaitSweep(FakeWorker& worker) {
    while (!worker.sweep()) {
      if (!worker.Read()) return {};
    }
    return *worker.sweep();
  }
  static bool Report(FakeWorker& worker, const v1::Hello& hello, const std::string& id,
                     v1::AcceptanceReport::State state) {
    v1::WorkerMessage message;
    message.mutable_acceptance()->set_id(id);
    message.mutable_acceptance()->set_state(state);
    for (const v1::DeviceSlots& device : hello.device())
      *message.mutable_acceptance()->add_device() = device.device();
    if (state == v1::AcceptanceReport::REJECTED) {
      v1::AcceptanceFinding& finding = *message.mutable_acceptance()->add_finding();
      finding.set_model("bert");
      finding.set_device_id("GPU-1");
      finding.set_message("repetition 3 gave other bits");
    }
    return worker.Send(message);
  }
};

TEST_F(AcceptanceServiceTest, AWorkerIsSweptBeforeItTakesWorkAndAfterADriverChange) {
  const std::string job = Submit({"bert"}) + ".bert";
  const v1::Hello hello = GpuHello("w", 24, 1);
  {
    FakeWorker worker(channel_, hello);
    const v1::AcceptanceRequest sweep = AwaitSweep(worker);
    EXPECT_EQ(sweep.repetitions(), 3);
    EXPECT_GT(sweep.test_size(), 2);
    for (const v1::Assignment& test : sweep.test()) EXPECT_FALSE(test.program_digest().empty());
    EXPECT_THAT(Why(job).reason(0), HasSubstr("was not accepted with its present devices and drivers"));
    ASSERT_TRUE(Report(worker, hello, sweep.id(), v1::AcceptanceReport::ACCEPTED));
    auto start = worker.AwaitStart();
    ASSERT_TRUE(start.has_value());
    ASSERT_TRUE(worker.SendResult(*start, v1::PASSED));
    ASSERT_TRUE(worker.AwaitAck().has_value());
    EXPECT_EQ(Worker("w").acceptance().state(), v1::AcceptanceReport::ACCEPTED);
  }
  v1::Hello other = hello;
  other.set_instance("j");
  other.mutable_device(1)->mutable_device()->set_driver("560.1");
  *other.mutable_acceptance() = Worker("w").acceptance();
  FakeWorker worker(channel_, other);
  EXPECT_FALSE(AwaitSweep(worker).id().empty());
}

TEST_F(AcceptanceServiceTest, ARejectedWorkerIsCordonedWithItsReport) {
  const std::string job = Submit({"bert"}) + ".bert";
  const v1::Hello hello = GpuHello("w", 24, 1);
  FakeWorker worker(channel_, hello);
  const v1::AcceptanceRequest sweep = AwaitSweep(worker);
  grpc::ClientContext context;
  v1::AcceptWorkerRequest request;
  request.set_worker("w");
  v1::AcceptWorkerResponse response;
  EXPECT_THAT(admin_->AcceptWorker(&context, request, &response).error_message(), HasSubstr("under way"));
  ASSERT_TRUE(Report(worker, hello, sweep.id(), v1::AcceptanceReport::REJECTED));
  ASSERT_TRUE(worker.SendResult(Ref("no such job", 1), v1::PASSED));
  ASSERT_TRUE(worker.AwaitAck().has_value());
  EXPECT_TRUE(Worker("w").cordoned());
  EXPECT_THAT(Worker("w").cordon_reason(), HasSubstr("bert on GPU-1: repetition 3 gave other bits"));
  EXPECT_THAT(Why(job).reason(0), HasSubstr("w is cordoned (rejected by acceptance sweep"));
  EXPECT_THAT(worker.starts(), IsEmpty());
  // On demand, once more.
  grpc::ClientContext again;
  ASSERT_TRUE(admin_->AcceptWorker(&again, request, &response).ok());
  ASSERT_TRUE(Report(worker, hello, response.id(), v1::AcceptanceReport::ACCEPTED));
  ASSERT_TRUE(Uncordon("w").ok());
  EXPECT_TRUE(worker.AwaitStart().has_value());
}

}  // namespace
}  // namespace assay::coordinator

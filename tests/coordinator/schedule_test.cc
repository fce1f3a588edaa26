#include "coordinator/schedule.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "coordinator/explain.h"
#include "tests/matchers.h"

namespace assay::coordinator {

// For messages of failures.
void PrintTo(const Placement& placement, std::ostream* out) {
  *out << placement.job_id << " at " << placement.worker << "/" << placement.device_id << " "
       << placement.memory;
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

QueuedJob Waiting(const std::string& id, uint64_t order, Priority priority = Priority::kMedium,
                  const std::string& submitter = "ada", double seconds = 1) {
  QueuedJob job;
  job.job_id = id;
  job.order = order;
  job.priority = priority;
  job.submitter = submitter;
  job.expected_seconds = seconds;
  job.device = v1::CPU;
  return job;
}

WorkerView Worker(const std::string& name, uint32_t cpu, uint32_t cuda = 0) {
  WorkerView worker;
  worker.name = name;
  if (cpu > 0) {
    DeviceView& device = worker.devices.emplace_back();
    device.slots = cpu;
  }
  if (cuda > 0) {
    DeviceView& device = worker.devices.emplace_back();
    device.cuda = true;
    device.slots = cuda;
  }
  return worker;
}

std::vector<Placement> Schedule(const std::vector<QueuedJob>& queued, std::map<std::string, uint32_t> running,
                                const std::vector<WorkerView>& workers,
                                const std::map<std::string, Spot>& taken = {}) {
  Slots slots;
  for (const WorkerView& worker : workers) slots.Put(worker);
  for (const auto& [job, spot] : taken) slots.Take(job, spot);
  const size_t free = slots.free(), ahead = slots.ahead();
  std::vector<Placement> placements = coordinator::Schedule(queued, std::move(running), slots);
  EXPECT_EQ(slots.free(), free);
  EXPECT_EQ(slots.ahead(), ahead);
  return placements;
}

std::string WhyNobodyTakes(v1::DeviceChoice device, bool needs_exporter,
                           const std::vector<WorkerView>& workers) {
  return coordinator::WhyNobodyTakes({device, needs_exporter, {}}, PointersTo(workers), {});
}

bool SomeoneExports(const std::vector<WorkerView>& workers) {
  return coordinator::SomeoneExports(PointersTo(workers));
}

Placement On(const std::string& job, const std::string& worker, bool cuda = false) {
  return {job, worker, "", cuda, 0};
}

std::vector<std::string> Jobs(const std::vector<Placement>& placements) {
  std::vector<std::string> ids;
  for (const Placement& placement : placements) ids.push_back(placement.job_id);
  return ids;
}

TEST(ScheduleTest, TheUrgentGoFirst) {
  EXPECT_THAT(Jobs(Schedule({Waiting("low", 1, Priority::kLow), Waiting("medium", 2, Priority::kMedium),
                             Waiting("critical", 3, Priority::kCritical)},
                            {}, {Worker("w", 2)})),
              ElementsAre("critical", "medium"));
}

TEST(ScheduleTest, SubmittersShareEvenlyWhateverTheySubmitted) {
  std::vector<QueuedJob> queued;
  for (int i = 0; i < 10; ++i) queued.push_back(Waiting(absl::StrCat("a", i), i));
  for (int i = 0; i < 2; ++i)
    queued.push_back(Waiting(absl::StrCat("b", i), 10 + i, Priority::kMedium, "bob"));
  EXPECT_THAT(Jobs(Schedule(queued, {}, {Worker("w", 4)})), ElementsAre("a0", "b0", "a1", "b1"));
  // What already runs counts.
  EXPECT_THAT(Jobs(Schedule(queued, {{"ada", 2}}, {Worker("w", 3)})), ElementsAre("b0", "b1", "a0"));
}

TEST(ScheduleTest, TheLongestGoFirst) {
  EXPECT_THAT(Jobs(Schedule({Waiting("short", 1, Priority::kMedium, "ada", 0.5),
                             Waiting("long", 2, Priority::kMedium, "ada", 5),
                             Waiting("unknown", 3, Priority::kMedium, "ada", kUnknownSeconds)},
                            {}, {Worker("w", 3)})),
              ElementsAre("unknown", "long", "short"));
}

TEST(ScheduleTest, JobsGoWhereTheirDeviceIs) {
  QueuedJob cuda = Waiting("cuda", 1), any = Waiting("any", 2), cpu = Waiting("cpu", 3);
  cuda.device = v1::CUDA;
  any.device = v1::AUTO;
  EXPECT_THAT(Schedule({cuda, any, cpu}, {}, {Worker("a", 1), Worker("b", 1, 2)}),
              ElementsAre(On("cuda", "b", true), On("any", "b", true), On("cpu", "a")));
  EXPECT_THAT(Schedule({cuda, any}, {}, {Worker("a", 2)}), ElementsAre(On("any", "a")));
}

TEST(ScheduleTest, ADrainingWorkerTakesNoMore) {
  WorkerView draining = Worker("w", 4);
  draining.closed = "is draining";
  EXPECT_THAT(Schedule({Waiting("j", 1)}, {}, {draining}), IsEmpty());
}

TEST(ScheduleTest, AJobGoesElsewhereAfterItsWorkerFailedItWhereThereIsAnElsewhere) {
  QueuedJob job = Waiting("j", 1);
  job.tried = {"a"};
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), Worker("b", 1)}), ElementsAre(On("j", "b")));
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), Worker("b", 1)}, {{"running", {"b", "", false, 0}}}),
              IsEmpty());
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), Worker("b", 0, 1)}), ElementsAre(On("j", "a")));
}

TEST(ScheduleTest, WorkIsGivenAheadOnlyWhileMoreWaitsThanThereAreSlots) {
  std::vector<WorkerView> workers = {Worker("a", 1), Worker("b", 1)};
  for (WorkerView& worker : workers) worker.devices[0].ahead = 1;
  auto placed = [&](int jobs) {
    std::vector<QueuedJob> queued;
    for (int i = 0; i < jobs; ++i) queued.push_back(Waiting(absl::StrCat("j", i), i));
    return Schedule(queued, {}, workers);
  };
  EXPECT_EQ(placed(4).size(), 2);  // the other two go to whoever is free first
  EXPECT_EQ(placed(5).size(), 3);
  EXPECT_EQ(placed(6).size(), 4);
  EXPECT_EQ(placed(20).size(), 4);
  EXPECT_THAT(placed(6), ElementsAre(On("j0", "a"), On("j1", "b"), On("j2", "a"), On("j3", "b")));
}

TEST(ScheduleTest, SaysWhyAJobCanGoNowhere) {
  EXPECT_THAT(WhyNobodyTakes(v1::CUDA, false, {Worker("a", 4)}), HasSubstr("cuda"));
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, false, {}), HasSubstr("no worker is connected"));
  EXPECT_EQ(WhyNobodyTakes(v1::AUTO, false, {Worker("a", 4)}), "");
  WorkerView leaving = Worker("a", 4);
  leaving.closed = "is draining";
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, false, {leaving}), HasSubstr("a is draining"));

  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {Worker("a", 4)}),
              HasSubstr("needs a worker labelled exporter; none is connected"));
  WorkerView exporter = Worker("e", 0, 2);
  exporter.exporter = true;
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {exporter, Worker("a", 4)}), HasSubstr("no connected exporter"));
  EXPECT_FALSE(SomeoneExports({exporter, Worker("a", 4)}));
  exporter = Worker("e", 1, 2);
  exporter.exporter = true;
  EXPECT_EQ(WhyNobodyTakes(v1::CPU, true, {exporter}), "");
  EXPECT_TRUE(SomeoneExports({exporter}));
  exporter.closed = "is draining";
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {exporter}), HasSubstr("draining"));
  EXPECT_FALSE(SomeoneExports({exporter}));
}

TEST(ScheduleTest, ExportsGoToExportersAndTestsRatherElsewhere) {
  QueuedJob job = Waiting("export", 1);
  job.needs_exporter = true;
  WorkerView exporter = Worker("e", 1);
  exporter.exporter = true;
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4)}), IsEmpty());
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), exporter}), ElementsAre(On("export", "e")));
  exporter.devices[0].slots = 8;
  EXPECT_THAT(Schedule({Waiting("test", 2)}, {}, {Worker("a", 1), exporter}), ElementsAre(On("test", "a")));
  EXPECT_THAT(Schedule({Waiting("test", 2)}, {}, {exporter}), ElementsAre(On("test", "e")));
  // A worker that has the checkpoint need not fetch it.
  QueuedJob test = Waiting("test", 2);
  test.exported_by = "e";
  EXPECT_THAT(Schedule({test}, {}, {Worker("a", 1), exporter}), ElementsAre(On("test", "e")));
}

constexpr uint64_t kGiB = uint64_t{1} << 30;

WorkerView GpuWorker(const std::string& name, const std::vector<uint64_t>& gib, uint32_t slots,
                     const std::string& model = "NVIDIA L4") {
  WorkerView worker;
  worker.name = name;
  for (size_t i = 0; i < gib.size(); ++i) {
    DeviceView& device = worker.devices.emplace_back();
    device.id = absl::StrCat("GPU-", i);
    device.cuda = true;
    device.slots = slots;
    device.memory = device.largest = gib[i] * kGiB;
    device.name = model;
  }
  return worker;
}

QueuedJob OnGpu(const std::string& id, uint64_t order, uint64_t gib,
                const std::vector<std::string>& selector = {}) {
  QueuedJob job = Waiting(id, order);
  job.device = v1::CUDA;
  Requirement requirement;
  requirement.gpu_memory = gib * kGiB;
  requirement.selector = selector;
  job.route = RouteOf(requirement);
  return job;
}

TEST(ScheduleTest, SmallJobsShareAGpuAndABigOneHasItAlone) {
  const WorkerView worker = GpuWorker("w", {24}, 4);
  EXPECT_THAT(
      Schedule({OnGpu("a", 1, 8), OnGpu("b", 2, 8), OnGpu("c", 3, 8), OnGpu("d", 4, 1)}, {}, {worker}),
      ElementsAre(Placement{"a", "w", "GPU-0", true, 8 * kGiB}, Placement{"b", "w", "GPU-0", true, 8 * kGiB},
                  Placement{"c", "w", "GPU-0", true, 8 * kGiB}))
      << "the fourth slot is free, its memory is not";
  EXPECT_THAT(Jobs(Schedule({OnGpu("big", 1, 20), OnGpu("a", 2, 8)}, {}, {worker})), ElementsAre("big"));
  EXPECT_THAT(Jobs(Schedule({OnGpu("big", 1, 20), OnGpu("a", 2, 4)}, {}, {worker})), ElementsAre("big", "a"));
  EXPECT_THAT(Schedule({OnGpu("huge", 1, 25)}, {}, {worker}), IsEmpty());
}

TEST(ScheduleTest, AJobOfUnknownNeedHasAGpuAlone) {
  const WorkerView worker = GpuWorker("w", {24, 16}, 4);
  EXPECT_THAT(Schedule({OnGpu("unknown", 1, 0), OnGpu("a", 2, 1), OnGpu("b", 3, 0)}, {}, {worker}),
              ElementsAre(Placement{"unknown", "w", "GPU-0", true, 24 * kGiB},
                          Placement{"a", "w", "GPU-1", true, kGiB}));
  // Of an attempt whose share nobody knows as well.
  EXPECT_THAT(Schedule({OnGpu("a", 1, 1)}, {}, {GpuWorker("w", {24}, 4)}, {{"old", {"w", "GPU-0", true, 0}}}),
              IsEmpty());
}

TEST(ScheduleTest, TheSmallestGpuThatIsLargeEnoughIsTaken) {
  const std::vector<WorkerView> workers = {GpuWorker("h", {80}, 2, "NVIDIA H100 80GB HBM3"),
                                           GpuWorker("l", {24}, 1)};
  EXPECT_THAT(
      Schedule({OnGpu("a", 1, 8), OnGpu("b", 2, 8), OnGpu("c", 3, 40)}, {}, workers),
      ElementsAre(Placement{"a", "l", "GPU-0", true, 8 * kGiB}, Placement{"b", "h", "GPU-0", true, 8 * kGiB},
                  Placement{"c", "h", "GPU-0", true, 40 * kGiB}));
}

TEST(ScheduleTest, LabelsAreAskedForAndAGpuIsKnownByItsName) {
  WorkerView h100 = GpuWorker("h", {80}, 1, "NVIDIA H100 80GB HBM3"), l4 = GpuWorker("l", {24}, 1);
  EXPECT_THAT(
      Jobs(Schedule({OnGpu("a", 1, 1, {"gpu=H100"}), OnGpu("b", 2, 1, {"gpu=H100"})}, {}, {h100, l4})),
      ElementsAre("a"));
  // What the node says of itself goes before what its devices are called.
  h100.labels = {"gpu=h100-pcie", "zone=a"};
  EXPECT_THAT(Schedule({OnGpu("a", 1, 1, {"gpu=H100"})}, {}, {h100, l4}), IsEmpty());
  EXPECT_THAT(Jobs(Schedule({OnGpu("a", 1, 1, {"gpu=h100-pcie", "zone"})}, {}, {h100, l4})),
              ElementsAre("a"));
  EXPECT_THAT(Schedule({OnGpu("a", 1, 1, {"gpu=h100-pcie", "zone=b"})}, {}, {h100, l4}), IsEmpty());
  // Of nodes with different GPUs the one that is meant.
  WorkerView both = GpuWorker("m", {24, 80}, 1);
  both.devices[1].name = "NVIDIA H100 80GB HBM3";
  EXPECT_THAT(Schedule({OnGpu("a", 1, 1, {"gpu=H100"})}, {}, {both}),
              ElementsAre(Placement{"a", "m", "GPU-1", true, kGiB}));
}

TEST(ScheduleTest, AJobThatHasToWaitHoldsUpNoOther) {
  std::vector<QueuedJob> queued;
  for (int i = 0; i < 50; ++i) {
    QueuedJob big = OnGpu(absl::StrCat("big", i), i, 60);
    big.priority = Priority::kCritical;
    queued.push_back(big);
  }
  queued.push_back(OnGpu("small", 100, 4));
  EXPECT_THAT(Jobs(Schedule(queued, {}, {GpuWorker("w", {24}, 2)})), ElementsAre("small"));
}

TEST(ScheduleTest, APredictionKeepsNoJobFromADeviceOnWhichItRan) {
  for (uint64_t peak = 1 << 20; peak < 200 * kGiB; peak = peak * 9 / 8 + 12345) {
    const uint64_t needs = PredictedBytes(peak);
    ASSERT_GE(needs, peak + peak / 4);
    if (peak > 512 << 20) {  // steps are 64 MiB at least
      ASSERT_LE(static_cast<double>(needs), 1.41 * static_cast<double>(peak)) << peak;
      ASSERT_TRUE(Suffices(peak + (1 << 20), needs, /*predicted=*/true)) << peak;
    }
    if (peak > 1 << 30) {
      ASSERT_FALSE(Suffices(peak * 8 / 10, needs, /*predicted=*/true)) << peak;
    }
    ASSERT_FALSE(Suffices(peak, needs, /*predicted=*/false));
  }
  QueuedJob job = Waiting("j", 1);
  job.device = v1::CUDA;
  job.route = RouteOf(Requirement{PredictedBytes(22 * kGiB), 0, true, {}});
  EXPECT_THAT(Schedule({job}, {}, {GpuWorker("w", {24}, 4)}),
              ElementsAre(Placement{"j", "w", "GPU-0", true, 24 * kGiB}));
}

TEST(ScheduleTest, MemoryOfTheNodeIsCountedForTestsOnTheCpu) {
  WorkerView node = Worker("w", 8);
  node.devices[0].memory = node.devices[0].largest = 32 * kGiB;
  auto on_cpu = [](const std::string& id, uint64_t order, uint64_t gib) {
    QueuedJob job = Waiting(id, order);
    job.route = RouteOf(Requirement{0, gib * kGiB, false, {}});
    return job;
  };
  EXPECT_THAT(Jobs(Schedule({on_cpu("a", 1, 20), on_cpu("b", 2, 20), on_cpu("c", 3, 12), on_cpu("d", 4, 0)},
                            {}, {node})),
              ElementsAre("a", "c", "d"));
  EXPECT_EQ(coordinator::WhyNobodyTakes({v1::CPU, false, {0, 40 * kGiB, false, {}}}, {&node}, {}),
            "needs 40 GiB of memory; the largest connected or configured pool has 32 GiB");
}

TEST(ScheduleTest, GpusOfAWorkerOfTheFirstProtocolAreCountedBySlots) {
  v1::Hello hello;
  for (int i = 0; i < 2; ++i) {
    v1::DeviceSlots& slots = *hello.add_device();
    slots.set_slots(1);
    slots.mutable_device()->set_kind("cuda");
    slots.mutable_device()->set_memory_bytes((24 - 8 * i) * kGiB);
  }
  const WorkerView old = ViewOf("old", 1, hello.label(), hello.device(), 1);
  ASSERT_EQ(old.devices.size(), 1);
  EXPECT_THAT(Schedule({OnGpu("a", 1, 12), OnGpu("b", 2, 0), OnGpu("c", 3, 1)}, {}, {old}),
              ElementsAre(On("a", "old", true), On("b", "old", true)));
  EXPECT_THAT(Schedule({OnGpu("large", 1, 20)}, {}, {old}), IsEmpty()) << "it may choose the smaller one";
}

TEST(ScheduleTest, SaysWhyNoGpuTakesIt) {
  const WorkerView l4 = GpuWorker("l", {24}, 1), cpu = Worker("c", 4);
  const Ask forty{v1::CUDA, false, {40 * kGiB, 0, false, {}}};
  EXPECT_EQ(coordinator::WhyNobodyTakes(forty, {&l4, &cpu}, {}),
            "needs 40 GiB of GPU memory; the largest connected or configured pool has 24 GiB");
  EXPECT_EQ(WhyNever(forty, l4), "needs 40 GiB of GPU memory; its largest GPU has 24 GiB");
  EXPECT_EQ(WhyNever(forty, cpu), "has no cuda slot");
  // A pool without a worker counts, and is named where it could take the job.
  EXPECT_EQ(coordinator::WhyNobodyTakes(forty, {&cpu}, {GpuWorker("l4s", {24}, 1)}),
            "needs 40 GiB of GPU memory; the largest connected or configured pool has 24 GiB");
  EXPECT_EQ(coordinator::WhyNobodyTakes(forty, {&l4}, {GpuWorker("h100s", {80}, 1)}),
            "no connected worker could take it; a worker of pool 'h100s' could: none is connected and open");
  const Ask labelled{v1::CUDA, false, {kGiB, 0, false, {"gpu=H100"}}};
  EXPECT_EQ(coordinator::WhyNobodyTakes(labelled, {&l4, &cpu}, {}),
            "no connected worker with a cuda slot carries the label gpu=H100");
  EXPECT_EQ(WhyNever(labelled, l4), "lacks label gpu=H100");
  EXPECT_EQ(WhyNever({v1::CUDA, false, {kGiB, 0, false, {"gpu=L4"}}}, l4), "");
}

TEST(NeedsTest, ARouteSaysAllThatIsAskedFor) {
  EXPECT_EQ(RouteOf(Requirement()), "");
  const Requirement all{40 * kGiB, 2 * kGiB, true, {"gpu=H100", "zone=a"}};
  EXPECT_EQ(RouteOf(all), "gpu:40960 host:2048 predicted +gpu=H100 +zone=a");
  ASSERT_THAT(ParseRoute(RouteOf(all)), IsOk());
  EXPECT_EQ(*ParseRoute(RouteOf(all)), all);
  EXPECT_EQ(RouteOf(Requirement{0, 0, true, {"b", "a", "b"}}), "+a +b");
  EXPECT_FALSE(ParseRoute("gpu:x").ok());
  EXPECT_FALSE(ParseRoute("tpu:1").ok());
  for (const char* good : {"gpu", "gpu=H100", "a/b=c.d-e_f", "a="}) EXPECT_THAT(CheckSelector(good), IsOk());
  for (const char* bad : {"", "=x", "a b", "a=b=c", "a=b c", "+a"})
    EXPECT_FALSE(CheckSelector(bad).ok()) << bad;
}

// The same by looking at everything, for comparison.
class Reference {
 public:
  Reference(std::vector<WorkerView> workers, const std::map<std::string, Spot>& taken)
      : workers_(std::move(workers)) {
    for (const auto& [job, spot] : taken) {
      for (WorkerView& worker : workers_) {
        for (DeviceView& device : worker.devices) {
          if (worker.name == spot.worker && device.id == spot.device_id && device.cuda == spot.cuda) {
            Count(device, spot.memory);
          }
        }
      }
    }
  }

  std::vector<Placement> Fill(std::vector<QueuedJob> queued, std::map<std::string, uint32_t> running) {
    std::vector<Placement> placements;
    std::map<std::pair<Priority, std::string>, uint64_t> oldest;
    for (const QueuedJob& job : queued) {
      auto [order, fresh] = oldest.try_emplace({job.priority, job.submitter}, job.order);
      order->second = std::min(order->second, job.order);
    }
    while (true) {
      const QueuedJob* next = nullptr;
      for (const QueuedJob& job : queued) {
        if (Best(job).second == nullptr) continue;
        // Only the first of its submitter and priority stands for its submitter.
        bool first = true;
        for (const QueuedJob& other : queued) {
          first &= other.submitter != job.submitter || other.priority != job.priority ||
                   Best(other).second == nullptr ||
                   std::make_pair(-job.expected_seconds, job.order) <=
                       std::make_pair(-other.expected_seconds, other.order);
        }
        if (!first) continue;
        auto rank = [&](const QueuedJob& one) {
          return std::make_tuple(one.priority, running[one.submitter], oldest[{one.priority, one.submitter}]);
        };
        if (next == nullptr || rank(job) < rank(*next)) next = &job;
      }
      if (next == nullptr) return placements;
      auto [worker, device] = Best(*next);
      const uint64_t memory = Amount(*device, *next);
      placements.push_back({next->job_id, worker->name, device->id, device->cuda, memory});
      Count(*device, memory);
      ++running[next->submitter];
      const std::string id = next->job_id;
      queued.erase(
          std::find_if(queued.begin(), queued.end(), [&](const QueuedJob& job) { return job.job_id == id; }));
    }
  }

 private:
  static Requirement Of(const QueuedJob& job) { return *ParseRoute(job.route); }
  static uint64_t Amount(const DeviceView& device, const QueuedJob& job) {
    const uint64_t needs = device.cuda ? Of(job).gpu_memory : Of(job).memory;
    if (device.memory == 0) return 0;
    return needs == 0 ? (device.cuda ? device.memory : 0) : std::min(needs, device.memory);
  }
  void Count(DeviceView& device, uint64_t memory) {
    ++used_[&device].first;
    used_[&device].second += memory;
  }
  bool Could(const QueuedJob& job, const WorkerView& worker, const DeviceView& device) const {
    return worker.closed.empty() && CouldTake(worker, device, job.device, job.needs_exporter, Of(job));
  }
  std::pair<WorkerView*, DeviceView*> Best(const QueuedJob& job) {
    auto tried = [&](const WorkerView& worker) {
      return std::find(job.tried.begin(), job.tried.end(), worker.name) != job.tried.end();
    };
    bool elsewhere = false;
    for (const WorkerView& worker : workers_) {
      for (const DeviceView& device : worker.devices)
        elsewhere |= !tried(worker) && Could(job, worker, device);
    }
    std::pair<WorkerView*, DeviceView*> best{nullptr, nullptr};
    std::tuple<bool, bool, double, bool, int64_t, std::string, size_t> least;
    for (WorkerView& worker : workers_) {
      for (size_t i = 0; i < worker.devices.size(); ++i) {
        DeviceView& device = worker.devices[i];
        const auto [attempts, memory] = used_[&device];
        if (!Could(job, worker, device) || (elsewhere && tried(worker)) || attempts >= device.slots) continue;
        const uint64_t amount = Amount(device, job);
        if (device.memory > 0 && amount > 0 && memory + amount > device.memory) continue;
        const bool at_hand = worker.name == job.exported_by;
        double size = device.cuda ? static_cast<double>(device.largest) : 0;
        if (Of(job).gpu_memory == 0) size = -size;
        const auto rank = std::make_tuple(
            !device.cuda, !at_hand, at_hand ? 0 : size, !at_hand && worker.exporter,
            static_cast<int64_t>(attempts) - static_cast<int64_t>(device.slots), worker.name, i);
        if (best.second != nullptr && rank >= least) continue;
        best = {&worker, &device};
        least = rank;
      }
    }
    return best;
  }

  std::vector<WorkerView> workers_;
  std::map<const DeviceView*, std::pair<uint32_t, uint64_t>> used_;
};

// Over random fleets and queues: the very placements that looking at everything gives; no device over its
// slots or memory, no job where it cannot run, and nothing that could run waits beside a place for it.
TEST(ScheduleTest, DoesWhatLookingAtEverythingWouldDo) {
  std::mt19937_64 random(20261122);
  auto below = [&](uint64_t n) { return random() % n; };
  const std::vector<std::string> labels = {"zone=a", "zone=b", "fast"};
  for (int round = 0; round < 1000; ++round) {
    std::vector<WorkerView> workers;
    std::map<std::string, Spot> taken;
    for (uint64_t i = 0; i < 1 + below(6); ++i) {
      WorkerView worker = Worker(absl::StrCat("w", i), below(4));
      if (!worker.devices.empty()) {
        worker.devices[0].id = "cpu";
        if (below(2) == 0) worker.devices[0].memory = worker.devices[0].largest = (1 + below(4)) * 8 * kGiB;
      }
      for (uint64_t gpu = 0; gpu < below(3); ++gpu) {
        DeviceView device;
        device.id = absl::StrCat("GPU-", gpu);
        device.cuda = true;
        device.slots = below(4);
        device.largest = (1 + below(3)) * 16 * kGiB;
        if (below(4) > 0) device.memory = device.largest;
        device.name = below(2) == 0 ? "NVIDIA L4" : "NVIDIA H100 80GB HBM3";
        worker.devices.push_back(device);
      }
      if (below(6) == 0) worker.closed = "is draining";
      worker.exporter = below(3) == 0;
      if (below(2) == 0) worker.labels.push_back(labels[below(labels.size())]);
      for (const DeviceView& device : worker.devices) {
        for (uint64_t k = 0; k < below(device.slots + 2) / 2; ++k) {
          taken[absl::StrCat(worker.name, device.id, k)] = {
              worker.name, device.id, device.cuda,
              device.memory == 0 ? 0 : std::min(device.memory, (1 + below(8)) * 2 * kGiB)};
        }
      }
      workers.push_back(worker);
    }
    std::vector<QueuedJob> queued;
    for (uint64_t i = 0; i < below(25); ++i) {
      QueuedJob job = Waiting(absl::StrCat("j", i), i, static_cast<Priority>(below(3)),
                              absl::StrCat("s", below(3)), static_cast<double>(below(4)));
      job.device = static_cast<v1::DeviceChoice>(1 + below(3));
      Requirement requirement;
      if (below(5) == 0) {
        job.device = v1::CPU;
        job.needs_exporter = true;
      } else {
        if (job.device != v1::CPU && below(3) > 0) requirement.gpu_memory = (1 + below(10)) * 4 * kGiB;
        if (job.device != v1::CUDA && below(3) == 0) requirement.memory = (1 + below(5)) * 4 * kGiB;
        requirement.predicted = requirement.gpu_memory + requirement.memory > 0 && below(2) == 0;
        if (below(4) == 0) requirement.selector.push_back(labels[below(labels.size())]);
        if (below(6) == 0) requirement.selector.push_back("gpu=H100");
      }
      job.route = RouteOf(requirement);
      if (below(4) == 0) job.tried.push_back(absl::StrCat("w", below(6)));
      if (below(4) == 0) job.exported_by = absl::StrCat("w", below(6));
      queued.push_back(job);
    }
    const std::map<std::string, uint32_t> running = {{"s0", below(4)}, {"s1", below(4)}};
    ASSERT_EQ(Schedule(queued, running, workers, taken), Reference(workers, taken).Fill(queued, running))
        << "round " << round;
  }
}

// A thousand workers of which a few are free, as in a fleet that is busy: placing costs no look at each of
// them.
TEST(SlotsTest, WhatIsTakenIsGivenBackExactly) {
  Slots slots;
  for (int i = 0; i < 1000; ++i) slots.Put(GpuWorker(absl::StrCat("w", i), {24, 24}, 2));
  EXPECT_EQ(slots.total(), 4000);
  std::mt19937_64 random(7);
  std::map<std::string, Spot> held;
  for (int i = 0; i < 20000; ++i) {
    const std::string job = absl::StrCat("j", random() % 3000);
    if (held.erase(job) > 0) {
      slots.GiveBack(job);
      continue;
    }
    QueuedJob waiting = OnGpu(job, 1, 1 + random() % 24);
    std::optional<Spot> spot = slots.Place(waiting, *ParseRoute(waiting.route), /*ahead=*/false);
    if (!spot) continue;
    slots.Take(job, *spot);
    held[job] = *spot;
  }
  EXPECT_EQ(slots.free(), 4000 - held.size());
  std::map<std::pair<std::string, std::string>, uint64_t> memory;
  for (const auto& [job, spot] : held) memory[{spot.worker, spot.device_id}] += spot.memory;
  for (const auto& [device, bytes] : memory) EXPECT_LE(bytes, 24 * kGiB);
  for (const auto& [job, spot] : held) slots.GiveBack(job);
  EXPECT_EQ(slots.free(), 4000);
  // What runs on a worker that describes itself anew stays counted; it goes with the worker.
  slots.Take("j", {"w0", "GPU-1", true, 20 * kGiB});
  WorkerView closed = GpuWorker("w0", {24, 24}, 2);
  closed.closed = "is draining";
  slots.Put(closed);
  EXPECT_EQ(slots.free(), 3996);
  slots.Put(GpuWorker("w0", {24, 24}, 2));
  EXPECT_EQ(slots.free(), 3999);
  EXPECT_EQ(slots.UseOf("w0")[1].memory, 20 * kGiB);
  slots.Remove("w0");
  EXPECT_EQ(slots.total(), 3996);
  slots.GiveBack("j");
  EXPECT_EQ(slots.free(), 3996);
}

}  // namespace
}  // namespace assay::coordinator

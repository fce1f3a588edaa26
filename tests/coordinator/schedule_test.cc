#include "coordinator/schedule.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/matchers.h"

namespace assay::coordinator {
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
  worker.cpu = {cpu, cpu};
  worker.cuda = {cuda, cuda};
  return worker;
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
              ElementsAre(Placement{"cuda", "b"}, Placement{"any", "b"}, Placement{"cpu", "a"}));
  EXPECT_THAT(Schedule({cuda, any}, {}, {Worker("a", 2)}), ElementsAre(Placement{"any", "a"}));
}

TEST(ScheduleTest, ADrainingWorkerTakesNoMore) {
  WorkerView draining = Worker("w", 4);
  draining.draining = true;
  EXPECT_THAT(Schedule({Waiting("j", 1)}, {}, {draining}), IsEmpty());
}

TEST(ScheduleTest, AJobGoesElsewhereAfterItsWorkerFailedItWhereThereIsAnElsewhere) {
  QueuedJob job = Waiting("j", 1);
  job.tried = {"a"};
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), Worker("b", 1)}), ElementsAre(Placement{"j", "b"}));
  WorkerView busy = Worker("b", 1);
  busy.cpu.free = 0;
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), busy}), IsEmpty());
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), Worker("b", 0, 1)}), ElementsAre(Placement{"j", "a"}));
}

TEST(ScheduleTest, WorkIsGivenAheadOnlyWhileMoreWaitsThanThereAreSlots) {
  std::vector<WorkerView> workers = {Worker("a", 1), Worker("b", 1)};
  for (WorkerView& worker : workers) worker.cpu.ahead = 1;
  auto placed = [&](int jobs) {
    std::vector<QueuedJob> queued;
    for (int i = 0; i < jobs; ++i) queued.push_back(Waiting(absl::StrCat("j", i), i));
    return Schedule(queued, {}, workers);
  };
  EXPECT_EQ(placed(4).size(), 2);  // the other two go to whoever is free first
  EXPECT_EQ(placed(5).size(), 3);
  EXPECT_EQ(placed(6).size(), 4);
  EXPECT_EQ(placed(20).size(), 4);
  EXPECT_THAT(placed(6), ElementsAre(Placement{"j0", "a"}, Placement{"j1", "b"}, Placement{"j2", "a"},
                                     Placement{"j3", "b"}));
}

TEST(ScheduleTest, SaysWhyAJobCanGoNowhere) {
  EXPECT_THAT(WhyNobodyTakes(v1::CUDA, false, {Worker("a", 4)}), HasSubstr("cuda"));
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, false, {}), HasSubstr("no worker is connected"));
  EXPECT_EQ(WhyNobodyTakes(v1::AUTO, false, {Worker("a", 4)}), "");
  WorkerView full = Worker("a", 4);
  full.cpu.free = 0;
  EXPECT_EQ(WhyNobodyTakes(v1::CPU, false, {full}), "");
  full.draining = true;
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, false, {full}), HasSubstr("draining"));

  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {Worker("a", 4)}),
              HasSubstr("needs a worker labelled exporter; none is connected"));
  WorkerView exporter = Worker("e", 0, 2);
  exporter.exporter = true;
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {exporter, Worker("a", 4)}), HasSubstr("no connected exporter"));
  EXPECT_FALSE(SomeoneExports({exporter, Worker("a", 4)}));
  exporter.cpu = {1, 0};
  EXPECT_EQ(WhyNobodyTakes(v1::CPU, true, {exporter}), "");
  EXPECT_TRUE(SomeoneExports({exporter}));
  exporter.draining = true;
  EXPECT_THAT(WhyNobodyTakes(v1::CPU, true, {exporter}), HasSubstr("draining"));
  EXPECT_FALSE(SomeoneExports({exporter}));
}

TEST(ScheduleTest, ExportsGoToExportersAndTestsRatherElsewhere) {
  QueuedJob job = Waiting("export", 1);
  job.needs_exporter = true;
  WorkerView exporter = Worker("e", 1);
  exporter.exporter = true;
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4)}), IsEmpty());
  EXPECT_THAT(Schedule({job}, {}, {Worker("a", 4), exporter}), ElementsAre(Placement{"export", "e"}));
  exporter.cpu = {8, 8};
  EXPECT_THAT(Schedule({Waiting("test", 2)}, {}, {Worker("a", 1), exporter}),
              ElementsAre(Placement{"test", "a"}));
  EXPECT_THAT(Schedule({Waiting("test", 2)}, {}, {exporter}), ElementsAre(Placement{"test", "e"}));
  // A worker that has the checkpoint need not fetch it.
  QueuedJob test = Waiting("test", 2);
  test.exported_by = "e";
  EXPECT_THAT(Schedule({test}, {}, {Worker("a", 1), exporter}), ElementsAre(Placement{"test", "e"}));
}

// Over random fleets and queues: no slot is filled twice, no job placed twice, no job where it cannot run,
// and nothing that could run waits beside a free slot.
TEST(ScheduleTest, FillsFreeSlotsAndNoOthers) {
  std::mt19937_64 random(20261122);
  auto below = [&](uint64_t n) { return random() % n; };
  for (int round = 0; round < 500; ++round) {
    std::vector<WorkerView> workers;
    for (uint64_t i = 0; i < below(5); ++i) {
      WorkerView worker = Worker(absl::StrCat("w", i), below(4), below(3));
      worker.cpu.free = below(worker.cpu.total + 1);
      worker.cuda.free = below(worker.cuda.total + 1);
      worker.draining = below(6) == 0;
      worker.exporter = below(2) == 0;
      workers.push_back(worker);
    }
    std::map<std::string, QueuedJob> by_id;
    std::vector<QueuedJob> queued;
    for (uint64_t i = 0; i < below(20); ++i) {
      QueuedJob job = Waiting(absl::StrCat("j", i), i, static_cast<Priority>(below(3)),
                              absl::StrCat("s", below(3)), static_cast<double>(below(4)));
      job.device = static_cast<v1::DeviceChoice>(1 + below(3));
      if (below(3) == 0) {
        job.device = v1::CPU;
        job.needs_exporter = true;
      }
      by_id[job.job_id] = job;
      queued.push_back(job);
    }
    const std::vector<Placement> placements = Schedule(queued, {}, workers);
    std::map<std::string, WorkerView> left;
    for (const WorkerView& worker : workers) left[worker.name] = worker;
    for (const Placement& placement : placements) {
      auto job = by_id.find(placement.job_id);
      ASSERT_NE(job, by_id.end()) << "placed twice or never queued";
      WorkerView& worker = left.at(placement.worker);
      ASSERT_FALSE(worker.draining);
      ASSERT_TRUE(worker.exporter || !job->second.needs_exporter);
      SlotCount& slots = SlotsFor(job->second.device, worker);
      ASSERT_GT(slots.free, 0);
      --slots.free;
      by_id.erase(job);
    }
    for (const auto& [id, job] : by_id) {
      for (const auto& [name, worker] : left) {
        EXPECT_TRUE(worker.draining || SlotsFor(job.device, worker).free == 0 ||
                    (job.needs_exporter && !worker.exporter))
            << id << " could run on " << name;
      }
    }
  }
}

}  // namespace
}  // namespace assay::coordinator

// A day of a fleet, simulated: what pools that KEDA scales by the queue cost, and how long jobs wait, beside
// pools of fixed size. The scheduler, the slots and what the external scaler answers are the coordinator's
// own; the day, the clock, KEDA's and Kubernetes' delays are made here. docs/benchmarks.md tells the figures.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/pools.h"
#include "coordinator/schedule.h"

namespace assay::coordinator {
namespace {

constexpr double kDay = 24 * 3600;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr char kPools[] = R"(
pool { name: "l4" device: "cuda" slots: 4 max_workers: 12 gpu_memory_gib: 22 label: "gpu=L4" }
pool { name: "h100" device: "cuda" slots: 8 max_workers: 4 gpu_memory_gib: 78 label: "gpu=H100" }
)";

// Of KEDA and Kubernetes, at their defaults, and of a cloud: seconds.
constexpr double kSync = 15;            // the autoscaler looks
constexpr double kStabilization = 300;  // the largest wish of so long decides about removing
constexpr double kCooldown = 300;       // without work for so long: to none
constexpr double kNodeStart = 180;      // a node with a GPU, its driver and the image
constexpr double kWorkerStart = 20;

struct SimJob {
  double submitted = 0;
  double seconds = 0;
  uint64_t gib = 0;  // 0: unknown
  bool nightly = false;
  std::string submitter;
};

// Single batches and bursts in working hours (UTC 7 to 19, most of them around 10 and 15), and a nightly run
// of 1,500.
std::vector<SimJob> MakeDay(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::lognormal_distribution<double> length(std::log(40), 0.9);
  std::uniform_real_distribution<double> uniform(0, 1);
  auto job = [&](double at, const std::string& who) {
    SimJob one;
    one.submitted = at;
    one.seconds = std::clamp(length(random), 3.0, 1800.0);
    const double draw = uniform(random);
    one.gib = draw < 0.70   ? 2 + random() % 4
              : draw < 0.88 ? 8 + random() % 8
              : draw < 0.95 ? 16 + random() % 6
                            : 40;
    if (uniform(random) < 0.03) one.gib = 0;
    one.submitter = who;
    return one;
  };
  std::vector<SimJob> day;
  for (double at = 7 * 3600; at < 19 * 3600;) {
    const double hour = at / 3600;
    const double busy =
        0.2 + std::exp(-(hour - 10) * (hour - 10) / 4) + std::exp(-(hour - 15) * (hour - 15) / 5);
    at += -std::log(1 - uniform(random)) * 600 / busy;
    const std::string who = absl::StrCat("person-", random() % 6);
    const int jobs = 5 + static_cast<int>(random() % 60);
    for (int i = 0; i < jobs; ++i) day.push_back(job(at, who));
  }
  for (int i = 0; i < 1500; ++i) {
    day.push_back(job(2 * 3600, "nightly"));
    day.back().nightly = true;
  }
  std::sort(day.begin(), day.end(),
            [](const SimJob& a, const SimJob& b) { return a.submitted < b.submitted; });
  return day;
}

struct Outcome {
  double gpu_hours = 0;
  std::vector<double> waits, nightly_waits;
  double last_end = 0;
};

// `fixed`: workers of each pool, all day; without: as the external scaler says.
class Day {
 public:
  Day(const v1::Pools& pools, std::optional<std::vector<uint32_t>> fixed)
      : pools_(pools), fixed_(std::move(fixed)), live_(pools.pool_size()) {}

  Outcome Run(const std::vector<SimJob>& day) {
    jobs_ = &day;
    for (int pool = 0; fixed_ && pool < pools_.pool_size(); ++pool) {
      for (uint32_t i = 0; i < (*fixed_)[pool]; ++i) Start(pool, 0);
    }
    size_t next = 0;
    double sync = 0;
    while (now_ < kDay || next < day.size() || !queued_.empty() || !running_.empty()) {
      double then = kDay * 2;
      if (next < day.size()) then = std::min(then, day[next].submitted);
      if (!ends_.empty()) then = std::min(then, ends_.top().first);
      for (const auto& [name, worker] : workers_) {
        if (!worker.ready) then = std::min(then, worker.ready_at);
      }
      if (!fixed_) then = std::min(then, sync);
      if (then >= kDay * 2) break;
      now_ = std::max(now_, then);
      while (next < day.size() && day[next].submitted <= now_) Queue(next++);
      while (!ends_.empty() && ends_.top().first <= now_) End(ends_.top().second);
      for (auto& [name, worker] : workers_) {
        if (!worker.ready && worker.ready_at <= now_) {
          worker.ready = true;
          slots_.Put(View(name, worker));
        }
      }
      if (!fixed_ && sync <= now_) {
        Scale();
        sync = now_ + kSync;
      }
      Place();
      if (now_ > kDay && next == day.size() && queued_.empty() && running_.empty()) break;
    }
    const double end = std::max(kDay, now_);
    for (const auto& [name, worker] : workers_) outcome_.gpu_hours += (end - worker.asked_at) / 3600;
    return outcome_;
  }

 private:
  struct Worker {
    int pool = 0;
    double asked_at = 0, ready_at = 0;
    bool ready = false, draining = false;
    uint32_t running = 0;
  };

  WorkerView View(const std::string& name, const Worker& worker) const {
    WorkerView view = ViewOf(pools_.pool(worker.pool));
    view.name = name;
    if (worker.draining) view.closed = "is draining";
    return view;
  }
  void Start(int pool, double delay) {
    Worker worker;
    worker.pool = pool;
    worker.asked_at = now_;
    worker.ready_at = now_ + delay;
    workers_[absl::StrCat(pools_.pool(pool).name(), "-", ++names_)] = worker;
  }
  void Leave(const std::string& name) {
    outcome_.gpu_hours += (now_ - workers_[name].asked_at) / 3600;
    slots_.Remove(name);
    workers_.erase(name);
  }
  void Queue(size_t index) {
    const SimJob& job = (*jobs_)[index];
    QueuedJob waiting;
    waiting.job_id = absl::StrCat(index);
    waiting.submitter = job.submitter;
    waiting.priority = job.nightly ? Priority::kLow : Priority::kMedium;
    waiting.device = v1::CUDA;
    waiting.expected_seconds = job.seconds;
    waiting.order = index;
    Requirement requirement;
    requirement.gpu_memory = job.gib * kGiB;
    waiting.route = RouteOf(requirement);
    queued_.emplace(index, std::move(waiting));
  }
  void End(size_t index) {
    ends_.pop();
    const std::string worker = running_.at(index).worker;
    slots_.GiveBack(absl::StrCat(index));
    --submitters_[(*jobs_)[index].submitter];
    running_.erase(index);
    outcome_.last_end = now_;
    if (--workers_[worker].running == 0 && workers_[worker].draining) Leave(worker);
  }
  void Place() {
    if (queued_.empty() || slots_.free() == 0) return;
    std::vector<QueuedJob> queued;
    for (const auto& [index, job] : queued_) queued.push_back(job);
    for (const Placement& placement : Schedule(queued, submitters_, slots_)) {
      const size_t index = std::stoul(placement.job_id);
      const SimJob& job = (*jobs_)[index];
      slots_.Take(placement.job_id,
                  {placement.worker, placement.device_id, placement.cuda, placement.memory});
      (job.nightly ? outcome_.nightly_waits : outcome_.waits).push_back(now_ - job.submitted);
      running_[index] = placement;
      ends_.emplace(now_ + job.seconds, index);
      ++submitters_[job.submitter];
      ++workers_[placement.worker].running;
      queued_.erase(index);
    }
  }
  void Scale() {
    std::map<std::string, Waiting> kinds;
    for (const auto& [index, job] : queued_) {
      Waiting& kind = kinds[job.route];
      kind.ask = AskOf(job);
      ++kind.jobs;
    }
    std::vector<Waiting> waiting;
    for (auto& [route, kind] : kinds) waiting.push_back(std::move(kind));
    std::map<std::string, double> running;
    for (const auto& [index, placement] : running_) {
      const v1::Pool& pool = pools_.pool(workers_[placement.worker].pool);
      running[pool.name()] += ShareOf({v1::CUDA, false, {placement.memory, 0, false, {}}}, pool);
    }
    const std::vector<double> wanted = WorkersWanted(pools_, waiting, running);
    for (int i = 0; i < pools_.pool_size(); ++i) {
      Pool& pool = live_[i];
      if (wanted[i] > 0) pool.active_at = now_;
      const auto wish = std::min<uint32_t>(pools_.pool(i).max_workers(),
                                           static_cast<uint32_t>(std::ceil(wanted[i] - 1e-6)));
      pool.wishes.emplace_back(now_, wish);
      while (pool.wishes.front().first < now_ - kStabilization) pool.wishes.erase(pool.wishes.begin());
      uint32_t highest = 0;
      for (const auto& [at, one] : pool.wishes) highest = std::max(highest, one);
      // KEDA itself takes the last one, when nothing was there to do for the cooldown.
      if (highest == 0 && now_ - pool.active_at < kCooldown) highest = 1;
      std::vector<std::string> here;
      for (const auto& [name, worker] : workers_) {
        if (worker.pool == i && !worker.draining) here.push_back(name);
      }
      for (size_t n = here.size(); n < wish; ++n) Start(i, kNodeStart + kWorkerStart);
      std::sort(here.begin(), here.end(), [&](const std::string& a, const std::string& b) {
        return workers_[a].running < workers_[b].running;
      });
      for (size_t n = 0; here.size() - n > highest && n < here.size(); ++n) {
        Worker& worker = workers_[here[n]];
        worker.draining = true;
        if (worker.running == 0) {
          Leave(here[n]);
        } else {
          slots_.Put(View(here[n], worker));
        }
      }
    }
  }

  struct Pool {
    double active_at = -kDay;
    std::vector<std::pair<double, uint32_t>> wishes;
  };

  const v1::Pools pools_;
  const std::optional<std::vector<uint32_t>> fixed_;
  const std::vector<SimJob>* jobs_ = nullptr;
  double now_ = 0;
  uint64_t names_ = 0;
  Slots slots_;
  std::map<std::string, Worker> workers_;
  std::map<size_t, QueuedJob> queued_;
  std::map<size_t, Placement> running_;
  std::map<std::string, uint32_t> submitters_;
  std::priority_queue<std::pair<double, size_t>, std::vector<std::pair<double, size_t>>, std::greater<>>
      ends_;
  std::vector<Pool> live_;
  Outcome outcome_;
};

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

int Main() {
  const absl::StatusOr<v1::Pools> pools = ParsePools("pools", kPools);
  if (!pools.ok()) {
    std::fprintf(stderr, "%s\n", std::string(pools.status().message()).c_str());
    return 2;
  }
  const std::vector<SimJob> day = MakeDay(20261122);
  double work = 0;
  for (const SimJob& job : day) work += job.seconds;
  std::printf(
      "%zu jobs, %.1f hours of them one after the other; KEDA looks every %.0f s, a node takes %.0f s\n\n",
      day.size(), work / 3600, kSync, kNodeStart + kWorkerStart);
  std::printf(
      "| pools (L4 + H100) | GPU hours | wait p50, s | p95, s | longest, s | nightly done after, min |\n");
  std::printf("|---|---|---|---|---|---|\n");
  struct Case {
    std::string name;
    std::optional<std::vector<uint32_t>> fixed;
  };
  const std::vector<Case> cases = {{"KEDA, 0 to 12 + 0 to 4", std::nullopt},
                                   {"fixed 2 + 1", std::vector<uint32_t>{2, 1}},
                                   {"fixed 4 + 1", std::vector<uint32_t>{4, 1}},
                                   {"fixed 8 + 2", std::vector<uint32_t>{8, 2}},
                                   {"fixed 12 + 4", std::vector<uint32_t>{12, 4}}};
  for (const Case& one : cases) {
    const Outcome outcome = Day(*pools, one.fixed).Run(day);
    if (outcome.waits.size() + outcome.nightly_waits.size() != day.size()) {
      std::fprintf(stderr, "%s: not every job ran\n", one.name.c_str());
      return 3;
    }
    std::printf("| %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", one.name.c_str(), outcome.gpu_hours,
                Quantile(outcome.waits, 0.5), Quantile(outcome.waits, 0.95), Quantile(outcome.waits, 1),
                Quantile(outcome.nightly_waits, 1) / 60);
  }
  return 0;
}

}  // namespace
}  // namespace assay::coordinator

int main() { return assay::coordinator::Main(); }

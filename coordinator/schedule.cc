#include "coordinator/schedule.h"

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

namespace assay::coordinator {
namespace {

// Jobs that ask the same: what holds for one that no worker was lost over holds for all.
struct Kind {
  Requirement requirement;
  bool full = false;  // nothing of it can be placed any more
};
using KindKey = std::tuple<v1::DeviceChoice, bool, std::string>;

// Jobs of one kind and submitter, the longest first.
struct Line {
  Kind* kind = nullptr;
  std::vector<const QueuedJob*> jobs;
  size_t next = 0;
};

bool Before(const QueuedJob& a, const QueuedJob& b) {
  return std::make_tuple(-a.expected_seconds, a.order) < std::make_tuple(-b.expected_seconds, b.order);
}

// The line whose first job is the one to go; nullptr: none can.
Line* FirstOf(std::vector<Line>& lines) {
  Line* first = nullptr;
  for (Line& line : lines) {
    if (line.kind->full || line.next == line.jobs.size()) continue;
    if (first == nullptr || Before(*line.jobs[line.next], *first->jobs[first->next])) first = &line;
  }
  return first;
}

class Filling {
 public:
  Filling(const std::vector<QueuedJob>& queued, std::map<std::string, uint32_t> running, Slots& slots)
      : running_(std::move(running)), slots_(slots) {
    for (const QueuedJob& job : queued) waiting_.push_back(&job);
    std::sort(waiting_.begin(), waiting_.end(), [](const QueuedJob* a, const QueuedJob* b) {
      return a->priority != b->priority ? a->priority < b->priority : Before(*a, *b);
    });
  }
  ~Filling() {
    for (const Placement& placement : placements_) slots_.GiveBack(placement.job_id);
  }
  Filling(const Filling&) = delete;
  Filling& operator=(const Filling&) = delete;

  // At most `limit` more.
  void Fill(bool ahead, size_t limit);
  size_t waiting() const { return waiting_.size(); }
  const std::vector<Placement>& placements() const { return placements_; }

 private:
  bool Place(const QueuedJob& job, Kind& kind, bool ahead);

  std::vector<const QueuedJob*> waiting_;
  std::map<std::string, uint32_t> running_;
  Slots& slots_;
  std::vector<Placement> placements_;
};

bool Filling::Place(const QueuedJob& job, Kind& kind, bool ahead) {
  std::optional<Spot> spot = slots_.Place(job, kind.requirement, ahead);
  if (!spot) {
    // Of one that workers have failed there may be no other worker while there is one for the rest.
    if (job.tried.empty()) kind.full = true;
    return false;
  }
  slots_.Take(job.job_id, *spot);
  ++running_[job.submitter];
  placements_.push_back({job.job_id, spot->worker, spot->device_id, spot->cuda, spot->memory});
  return true;
}

void Filling::Fill(bool ahead, size_t limit) {
  std::map<KindKey, Kind> kinds;
  std::set<const QueuedJob*> placed;
  auto room = [&] { return ahead ? slots_.ahead() : slots_.free(); };
  for (size_t from = 0, to = 0; from < waiting_.size() && limit > 0 && room() > 0; from = to) {
    std::map<std::string, std::map<const Kind*, Line>> by_submitter;
    for (; to < waiting_.size() && waiting_[to]->priority == waiting_[from]->priority; ++to) {
      const QueuedJob& job = *waiting_[to];
      auto [kind, fresh] = kinds.try_emplace({job.device, job.needs_exporter, job.route});
      if (fresh) {
        absl::StatusOr<Requirement> requirement = ParseRoute(job.route);
        // Of a newer release that shares the store: it is left to coordinators that can read it.
        kind->second.full = !requirement.ok();
        if (requirement.ok()) kind->second.requirement = *std::move(requirement);
      }
      Line& line = by_submitter[job.submitter][&kind->second];
      line.kind = &kind->second;
      line.jobs.push_back(&job);
    }
    struct Share {
      const std::string* submitter;
      std::vector<Line> lines;
      uint64_t oldest = UINT64_MAX;  // of its jobs
    };
    std::vector<Share> shares;
    for (auto& [submitter, lines] : by_submitter) {
      Share& share = shares.emplace_back();
      share.submitter = &submitter;
      for (auto& [kind, line] : lines) {
        for (const QueuedJob* job : line.jobs) share.oldest = std::min(share.oldest, job->order);
        share.lines.push_back(std::move(line));
      }
    }
    while (!shares.empty() && limit > 0 && room() > 0) {
      Line* line = nullptr;
      std::pair<uint32_t, uint64_t> least;
      for (auto share = shares.begin(); share != shares.end();) {
        Line* first = FirstOf(share->lines);
        if (first == nullptr) {
          share = shares.erase(share);
          continue;
        }
        const std::pair<uint32_t, uint64_t> rank{running_[*share->submitter], share->oldest};
        if (line == nullptr || rank < least) {
          line = first;
          least = rank;
        }
        ++share;
      }
      if (line == nullptr) break;
      const QueuedJob& job = *line->jobs[line->next++];
      if (!Place(job, *line->kind, ahead)) continue;
      placed.insert(&job);
      --limit;
    }
  }
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(),
                                [&](const QueuedJob* job) { return placed.count(job) > 0; }),
                 waiting_.end());
}

}  // namespace

std::vector<Placement> Schedule(const std::vector<QueuedJob>& queued, std::map<std::string, uint32_t> running,
                                Slots& slots, size_t beyond) {
  Filling filling(queued, std::move(running), slots);
  filling.Fill(/*ahead=*/false, queued.size());
  if (const size_t waiting = filling.waiting() + beyond; waiting > slots.total()) {
    filling.Fill(/*ahead=*/true, waiting - slots.total());
  }
  return filling.placements();
}

}  // namespace assay::coordinator

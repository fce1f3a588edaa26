#include "coordinator/store/live_index.h"

#include <algorithm>
#include <utility>

#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

std::vector<const JobRecord*> ById(std::vector<const JobRecord*> records) {
  std::sort(records.begin(), records.end(),
            [](const JobRecord* a, const JobRecord* b) { return a->job.job_id() < b->job.job_id(); });
  return records;
}

}  // namespace

void LiveIndex::Leave(const JobRecord& record, const Place& place) {
  if (place.state == v1::QUEUED) {
    --queued_;
    place.line->second.erase(place.in_line);
    if (place.line->second.empty()) lines_.erase(place.line);
  } else if (place.state == v1::RUNNING) {
    auto held = held_.find(place.worker);
    held->second.erase(&record);
    if (held->second.empty()) held_.erase(held);
    auto running = running_.find(record.submitter);
    if (--running->second == 0) running_.erase(running);
  }
}

void LiveIndex::Update(const JobRecord& record) {
  auto [at, fresh] = places_.try_emplace(&record);
  Place& place = at->second;
  if (!fresh) Leave(record, place);
  place.state = record.job.state();
  if (place.state == v1::QUEUED) {
    ++queued_;
    place.line = lines_
                     .try_emplace({record.priority, StageOf(record.job) == v1::STAGE_EXPORT,
                                   DeviceOf(record.job), RouteOf(record.job), record.submitter})
                     .first;
    place.in_line =
        place.line->second
            .emplace(-record.expected_seconds, (record.batch_number << 32) | record.ordinal, &record)
            .first;
  } else if (place.state == v1::RUNNING) {
    place.worker = record.job.worker();
    held_[place.worker].insert(&record);
    ++running_[record.submitter];
  } else {
    places_.erase(at);
  }
}

void LiveIndex::Clear() {
  lines_.clear();
  queued_ = 0;
  held_.clear();
  running_.clear();
  places_.clear();
}

std::vector<QueuedJob> LiveIndex::Queued(size_t limit) const {
  std::vector<QueuedJob> queued;
  for (const auto& [key, line] : lines_) {
    size_t taken = 0;
    for (const auto& [expected, order, record] : line) {
      if (++taken > limit) break;
      queued.push_back(QueuedJobOf(record->job, record->submitter, record->priority, record->expected_seconds,
                                   record->batch_number, record->ordinal));
    }
  }
  return queued;
}

std::vector<JobCount> LiveIndex::Count() const {
  std::map<std::tuple<v1::JobState, bool, v1::DeviceChoice, std::string, v1::Dtype>, JobCount> counts;
  auto count = [&](v1::JobState state, bool exports, v1::DeviceChoice device, const std::string& route,
                   const JobRecord& record) {
    const absl::Time created = TimeOf(record.job.create_time());  // as its batch
    auto [at, fresh] = counts.try_emplace({state, exports, device, route, record.job.target().dtype()});
    if (fresh) at->second = {state, device, exports, route, 0, created, record.job.target().dtype()};
    ++at->second.jobs;
    at->second.oldest = std::min(at->second.oldest, created);
  };
  for (const auto& [key, line] : lines_) {
    const auto& [priority, exports, device, route, submitter] = key;
    for (const auto& [expected, order, record] : line) count(v1::QUEUED, exports, device, route, *record);
  }
  for (const auto& [worker, held] : held_) {
    for (const JobRecord* record : held) {
      const v1::Job& job = record->job;
      count(v1::RUNNING, StageOf(job) == v1::STAGE_EXPORT, DeviceOf(job), RouteOf(job), *record);
    }
  }
  std::vector<JobCount> all;
  for (auto& [key, one] : counts) all.push_back(std::move(one));
  return all;
}

std::vector<const JobRecord*> LiveIndex::HeldBy(const std::string& worker) const {
  auto held = held_.find(worker);
  if (held == held_.end()) return {};
  return ById({held->second.begin(), held->second.end()});
}

std::vector<const JobRecord*> LiveIndex::Running() const {
  std::vector<const JobRecord*> records;
  for (const auto& [worker, held] : held_) records.insert(records.end(), held.begin(), held.end());
  return ById(std::move(records));
}

}  // namespace assay::coordinator

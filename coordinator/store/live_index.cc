#include "coordinator/store/live_index.h"

#include "coordinator/store/record_rules.h"

namespace assay::coordinator {

void LiveIndex::Leave(const JobRecord& record, const Place& place) {
  if (place.state == v1::QUEUED) {
    --queued_;
    place.line->second.erase(place.in_line);
    if (place.line->second.empty()) lines_.erase(place.line);
  } else if (place.state == v1::RUNNING) {
    auto held = held_.find(place.worker);
    held->second.erase(record.job.job_id());
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
    held_[place.worker][record.job.job_id()] = &record;
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

std::vector<const JobRecord*> LiveIndex::HeldBy(const std::string& worker) const {
  std::vector<const JobRecord*> records;
  auto held = held_.find(worker);
  if (held == held_.end()) return records;
  for (const auto& [job_id, record] : held->second) records.push_back(record);
  return records;
}

std::vector<const JobRecord*> LiveIndex::Running() const {
  std::map<std::string, const JobRecord*> running;
  for (const auto& [worker, held] : held_) running.insert(held.begin(), held.end());
  std::vector<const JobRecord*> records;
  for (const auto& [job_id, record] : running) records.push_back(record);
  return records;
}

}  // namespace assay::coordinator

// RecordStore's answers to those who only ask. What changes something is in record_store.cc.
#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/store/live_index.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {
namespace {

// Ends of what was remembered as running, and renewals, change nothing of the queue: the medium writes them
// while the queue is dealt with.
template <typename Entries>
bool QueueIsAsWritten(const Entries& changed) {
  return std::all_of(changed.begin(), changed.end(), [](const auto* entry) {
    const v1::JobState state = entry->record.job.state();
    return (entry->belief && state == v1::DONE) ||
           (entry->change == JobChange::kLease && state == v1::RUNNING);
  });
}

// Of each (priority, exports or tests, device, route, submitter) the `limit` that go first, of those that
// wait.
template <typename Entries>
std::vector<QueuedJob> FirstOf(const Entries& entries, size_t limit) {
  std::map<std::tuple<Priority, bool, v1::DeviceChoice, std::string, std::string>, std::vector<QueuedJob>>
      lines;
  for (const auto* entry : entries) {
    const JobRecord& record = entry->record;
    if (record.job.state() != v1::QUEUED) continue;
    QueuedJob job = QueuedJobOf(record.job, record.submitter, record.priority, record.expected_seconds,
                                record.batch_number, record.ordinal);
    auto& line = lines[{job.priority, job.needs_exporter, job.device, job.route, job.submitter}];
    line.push_back(std::move(job));
  }
  std::vector<QueuedJob> first;
  for (auto& [key, line] : lines) {
    const auto end = line.begin() + static_cast<std::ptrdiff_t>(std::min(limit, line.size()));
    std::partial_sort(line.begin(), end, line.end(), [](const QueuedJob& a, const QueuedJob& b) {
      return std::make_pair(-a.expected_seconds, a.order) < std::make_pair(-b.expected_seconds, b.order);
    });
    first.insert(first.end(), std::make_move_iterator(line.begin()), std::make_move_iterator(end));
  }
  return first;
}

}  // namespace

absl::StatusOr<std::vector<QueuedJob>> RecordStore::Queued(size_t limit) {
  ASSAY_RETURN_IF_ERROR(Load());
  if (alone()) return live_->Queued(limit);
  std::vector<QueuedJob> queued;
  std::optional<QueueHead> head;
  if (queue_is_as_begun_) {
    ASSAY_ASSIGN_OR_RETURN(head, QueuedAtBegin(limit));
    if (head) queued = FirstOf(fresh_, limit);
  }
  if (head) {
    waits_ = head->waits + fresh_.size();
  } else {
    if (!QueueIsAsWritten(changed_)) ASSAY_RETURN_IF_ERROR(FlushJobs());
    ASSAY_ASSIGN_OR_RETURN(head, ReadQueued(limit));
    waits_ = head->waits;
  }
  queued.reserve(queued.size() + head->records.size());
  seen_queued_.clear();
  for (QueuedRecord& row : head->records) {
    const JobRecord& record = row.record;
    queued.push_back(QueuedJobOf(record.job, record.submitter, record.priority, record.expected_seconds,
                                 record.batch_number, record.ordinal));
    const std::string& job_id = queued.back().job_id;
    seen_queued_.insert_or_assign(job_id, std::move(row));
  }
  return queued;
}

absl::StatusOr<size_t> RecordStore::CountQueued(size_t most) {
  ASSAY_RETURN_IF_ERROR(Load());
  if (alone()) return std::min(most, live_->queued());
  // What the transaction has started since is no matter here: it is told as waiting to no one.
  if (waits_ >= most) return most;
  if (!QueueIsAsWritten(changed_)) ASSAY_RETURN_IF_ERROR(FlushJobs());
  return ReadQueuedCount(most);
}

absl::StatusOr<std::vector<RunningAttempt>> RecordStore::Running() {
  ASSAY_RETURN_IF_ERROR(Load());
  std::vector<RunningAttempt> attempts;
  if (alone()) {
    for (const JobRecord* record : live_->Running()) attempts.push_back(RunningAttemptOf(*record));
    return attempts;
  }
  ASSAY_RETURN_IF_ERROR(FlushJobs());
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> running, ReadRunning());
  for (const JobRecord& record : running) attempts.push_back(RunningAttemptOf(record));
  return attempts;
}

absl::StatusOr<bool> RecordStore::SomeLeaseRanOut(absl::Time now) {
  ASSAY_RETURN_IF_ERROR(Load());
  if (!alone()) {
    ASSAY_RETURN_IF_ERROR(FlushJobs());
    return HasExpired(now);
  }
  const std::vector<const JobRecord*> running = live_->Running();
  return std::any_of(running.begin(), running.end(),
                     [&](const JobRecord* record) { return record->lease_until <= now; });
}

absl::StatusOr<std::map<std::string, uint32_t>> RecordStore::RunningBySubmitter() {
  ASSAY_RETURN_IF_ERROR(Load());
  if (alone()) return live_->running_by_submitter();
  ASSAY_RETURN_IF_ERROR(FlushJobs());
  return ReadRunningBySubmitter();
}

absl::StatusOr<std::vector<JobCount>> RecordStore::CountLive() {
  ASSAY_RETURN_IF_ERROR(Load());
  return live_->Count();
}

absl::StatusOr<v1::Batch> RecordStore::GetBatch(absl::string_view batch_id) {
  ASSAY_RETURN_IF_ERROR(Load());
  ASSAY_ASSIGN_OR_RETURN(std::optional<BatchRecord> record, PeekBatch(batch_id));
  if (!record) return NoBatch(batch_id);
  return std::move(record->batch);
}

absl::StatusOr<BatchPage> RecordStore::ListBatches(size_t page_size, uint64_t before) {
  ASSAY_RETURN_IF_ERROR(Flush());
  return ReadBatches(page_size, before);
}

absl::StatusOr<v1::Job> RecordStore::GetJob(absl::string_view job_id) {
  ASSAY_RETURN_IF_ERROR(Load());
  ASSAY_ASSIGN_OR_RETURN(std::optional<JobRecord> record, PeekJob(job_id));
  if (!record) return NoJob(job_id);
  return std::move(record->job);
}

absl::StatusOr<std::vector<v1::Job>> RecordStore::ListJobs(absl::string_view batch_id) {
  ASSAY_RETURN_IF_ERROR(FlushJobs());
  ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> records, JobsOf(batch_id));
  std::vector<v1::Job> jobs;
  jobs.reserve(records.size());
  for (JobRecord& record : records) jobs.push_back(std::move(record.job));
  return jobs;
}

absl::Status RecordStore::ReadEventsAfter(absl::string_view batch_id, uint64_t sequence, size_t limit,
                                          google::protobuf::RepeatedPtrField<v1::BatchEvent>& events) {
  if (work_.count(std::string(batch_id)) > 0) ASSAY_RETURN_IF_ERROR(Flush());
  ASSAY_ASSIGN_OR_RETURN(std::vector<EventRow> rows, ReadEvents(batch_id, sequence, limit));
  std::vector<std::pair<uint64_t, EventOutline>> outlines;
  for (const EventRow& row : rows) {
    std::vector<EventOutline> group(1);
    if (row.grouped) {
      ASSAY_ASSIGN_OR_RETURN(group, ReadEventGroup(row.bytes));
    } else if (!group.front().whole.emplace().ParseFromString(row.bytes)) {
      return absl::DataLossError("store: a broken event");
    }
    uint64_t number = row.sequence - group.size();
    for (EventOutline& outline : group) {
      if (++number > sequence && outlines.size() < limit) outlines.emplace_back(number, std::move(outline));
    }
  }
  // What the jobs' records say, for those events that only name them.
  std::set<std::string> named;
  for (const auto& [number, outline] : outlines) {
    if (!outline.whole && jobs_.count(outline.job_id) == 0 && recently_ended_.count(outline.job_id) == 0) {
      named.insert(outline.job_id);
    }
  }
  std::map<std::string, JobRecord> read;
  if (!named.empty()) {
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> records, ReadJobs({named.begin(), named.end()}));
    for (JobRecord& record : records) read.emplace(record.job.job_id(), std::move(record));
  }
  for (const auto& [number, outline] : outlines) {
    const v1::Job* job = &v1::Job::default_instance();
    if (auto kept = jobs_.find(outline.job_id); kept != jobs_.end()) {
      job = &kept->second->record.job;
    } else if (auto ended = recently_ended_.find(outline.job_id); ended != recently_ended_.end()) {
      job = &ended->second;
    } else if (auto found = read.find(outline.job_id); found != read.end()) {
      job = &found->second.job;
    } else if (!outline.whole) {
      return absl::DataLossError(
          absl::StrCat("store: an event of job '", outline.job_id, "', which is not there"));
    }
    v1::BatchEvent& event = *events.Add();
    FillEvent(outline, *job, event);
    event.set_sequence(number);
  }
  return absl::OkStatus();
}

// What a medium of the other kind is never asked.
absl::StatusOr<std::vector<JobRecord>> RecordStore::LockQueued(const std::vector<std::string>&) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<std::vector<JobRecord>> RecordStore::LockExpired(absl::Time) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<bool> RecordStore::HasExpired(absl::Time) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<RecordStore::QueueHead> RecordStore::ReadQueued(size_t) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<std::optional<RecordStore::QueueHead>> RecordStore::QueuedAtBegin(size_t) {
  return std::nullopt;
}
absl::StatusOr<std::vector<std::string>> RecordStore::LockUnchanged(const std::vector<const QueuedRecord*>&) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<size_t> RecordStore::ReadQueuedCount(size_t) {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<std::map<std::string, uint32_t>> RecordStore::ReadRunningBySubmitter() {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<std::vector<JobRecord>> RecordStore::ReadRunning() {
  return absl::InternalError("store: is not shared");
}
absl::StatusOr<std::vector<BatchRecord>> RecordStore::ReadLiveBatches() {
  return absl::InternalError("store: is not alone");
}

}  // namespace assay::coordinator

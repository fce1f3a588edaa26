// What a store that nobody else writes to keeps in memory of the jobs that have not ended: who waits, in the
// order of the queue, and who runs, by worker and submitter. All of it follows from the records.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "coordinator/store/record_store.h"

namespace assay::coordinator {

// Not thread-safe. Records are kept by address: each must stay where it is until it is removed.
class LiveIndex {
 public:
  // To be called whenever a record has changed; one that is DONE is forgotten.
  void Update(const JobRecord& record);
  void Clear();

  // See Store::Queued.
  std::vector<QueuedJob> Queued(size_t limit) const;
  size_t queued() const { return queued_; }
  const std::map<std::string, uint32_t>& running_by_submitter() const { return running_; }
  // As Store::CountJobs.
  std::vector<JobCount> Count() const;
  // In the order of their ids.
  std::vector<const JobRecord*> HeldBy(const std::string& worker) const;
  std::vector<const JobRecord*> Running() const;

 private:
  using LineKey = std::tuple<Priority, bool, v1::DeviceChoice, std::string, std::string>;
  // Longest first, then first come.
  using Line = std::set<std::tuple<double, uint64_t, const JobRecord*>>;
  struct Place {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    std::map<LineKey, Line>::iterator line;  // of a QUEUED one
    Line::iterator in_line;
    std::string worker;  // of a RUNNING one
  };

  void Leave(const JobRecord& record, const Place& place);

  std::map<LineKey, Line> lines_;
  size_t queued_ = 0;
  std::map<std::string, std::unordered_set<const JobRecord*>> held_;
  std::map<std::string, uint32_t> running_;
  std::unordered_map<const JobRecord*, Place> places_;
};

}  // namespace assay::coordinator

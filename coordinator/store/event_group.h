// The events of one batch that one transaction made, as a store keeps them: together, and without what the
// jobs' records say themselves. Of most jobs there are two events, their start and their end; a start is
// written as who, when and where, and an end as a name: a job that is DONE does not change any more.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "assay/v1/batch.pb.h"

namespace assay::coordinator {

// Appends to one group.
class EventGroupWriter {
 public:
  // The job's first attempt has started, and nothing has happened to it before.
  void Started(const v1::Job& job, absl::Time now);
  // The job is DONE.
  void Ended(const v1::Job& job, absl::Time now);
  // Any other; its sequence number is not written.
  void Add(const v1::BatchEvent& event);

  uint32_t size() const { return size_; }
  const std::string& bytes() const { return bytes_; }

 private:
  uint32_t size_ = 0;
  std::string bytes_;
};

// One event of a group, before what the records say is filled in.
struct EventOutline {
  std::optional<v1::BatchEvent> whole;
  // Of one that is not whole:
  std::string job_id;
  bool ended = false;  // else started
  absl::Time time;
  uint64_t attempt = 0;
  std::string worker;
};

// DATA_LOSS: not what EventGroupWriter wrote.
absl::StatusOr<std::vector<EventOutline>> ReadEventGroup(absl::string_view bytes);

// Makes `event`, which is empty, the one that the outline stands for. `job`: as it is now.
void FillEvent(const EventOutline& outline, const v1::Job& job, v1::BatchEvent& event);

}  // namespace assay::coordinator

#include "coordinator/store/event_group.h"

#include <utility>

#include "common/status_macros.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// Each entry begins with one of these; numbers are varints, texts have their length before them.
enum Kind : uint64_t { kWhole = 1, kStarted = 2, kEnded = 3 };

void PutNumber(uint64_t value, std::string& bytes) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
}

void PutText(absl::string_view text, std::string& bytes) {
  PutNumber(text.size(), bytes);
  bytes.append(text.data(), text.size());
}

absl::Status Broken() { return absl::DataLossError("store: a broken group of events"); }

absl::StatusOr<uint64_t> TakeNumber(absl::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return Broken();
}

absl::StatusOr<absl::string_view> TakeText(absl::string_view& bytes) {
  ASSAY_ASSIGN_OR_RETURN(uint64_t size, TakeNumber(bytes));
  if (size > bytes.size()) return Broken();
  const absl::string_view text = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return text;
}

}  // namespace

void EventGroupWriter::Started(const v1::Job& job, absl::Time now) {
  ++size_;
  PutNumber(kStarted, bytes_);
  PutText(job.job_id(), bytes_);
  PutNumber(static_cast<uint64_t>(absl::ToUnixNanos(now)), bytes_);
  PutNumber(job.attempt(), bytes_);
  PutText(job.worker(), bytes_);
}

void EventGroupWriter::Ended(const v1::Job& job, absl::Time now) {
  ++size_;
  PutNumber(kEnded, bytes_);
  PutText(job.job_id(), bytes_);
  PutNumber(static_cast<uint64_t>(absl::ToUnixNanos(now)), bytes_);
}

void EventGroupWriter::Add(const v1::BatchEvent& event) {
  ++size_;
  PutNumber(kWhole, bytes_);
  PutText(event.SerializeAsString(), bytes_);
}

absl::StatusOr<std::vector<EventOutline>> ReadEventGroup(absl::string_view bytes) {
  std::vector<EventOutline> outlines;
  while (!bytes.empty()) {
    EventOutline& outline = outlines.emplace_back();
    ASSAY_ASSIGN_OR_RETURN(uint64_t kind, TakeNumber(bytes));
    ASSAY_ASSIGN_OR_RETURN(absl::string_view text, TakeText(bytes));
    if (kind == kWhole) {
      if (!outline.whole.emplace().ParseFromArray(text.data(), static_cast<int>(text.size()))) {
        return Broken();
      }
      continue;
    }
    if (kind != kStarted && kind != kEnded) return Broken();
    outline.job_id = std::string(text);
    outline.ended = kind == kEnded;
    ASSAY_ASSIGN_OR_RETURN(uint64_t nanos, TakeNumber(bytes));
    outline.time = absl::FromUnixNanos(static_cast<int64_t>(nanos));
    if (outline.ended) continue;
    ASSAY_ASSIGN_OR_RETURN(outline.attempt, TakeNumber(bytes));
    ASSAY_ASSIGN_OR_RETURN(text, TakeText(bytes));
    outline.worker = std::string(text);
  }
  return outlines;
}

void FillEvent(const EventOutline& outline, const v1::Job& job, v1::BatchEvent& event) {
  if (outline.whole) {
    event = *outline.whole;
    return;
  }
  *event.mutable_time() = ToTimestamp(outline.time);
  if (outline.ended) {
    *event.mutable_job() = job;
    TrimForEvent(*event.mutable_job());
    return;
  }
  v1::Job& started = *event.mutable_job();
  started.set_job_id(job.job_id());
  started.set_batch_id(job.batch_id());
  *started.mutable_model() = job.model();
  *started.mutable_target() = job.target();
  *started.mutable_create_time() = job.create_time();
  if (job.has_default_checkpoint()) *started.mutable_default_checkpoint() = job.default_checkpoint();
  if (job.has_needs()) *started.mutable_needs() = job.needs();
  started.set_traceparent(job.traceparent());
  started.set_stage(FirstStageOf(job));
  BeginAttempt(started, outline.attempt, outline.worker, outline.time);
}

}  // namespace assay::coordinator

#include "coordinator/services/watch_stream.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

constexpr size_t kPage = 256;
// A group of events takes no more that has become as large as this.
constexpr size_t kMaxGroupBytes = 256 << 10;

}  // namespace

void WatchBoard::Notify(const std::set<std::string>& batches) {
  std::vector<std::shared_ptr<WatchStream>> awake;
  {
    absl::MutexLock lock(&mutex_);
    for (const std::string& batch : batches) {
      auto found = watchers_.find(batch);
      if (found == watchers_.end()) continue;
      for (const auto& [key, watcher] : found->second) {
        if (auto alive = watcher.lock()) awake.push_back(std::move(alive));
      }
    }
  }
  for (const auto& watcher : awake) watcher->Wake();
}

std::vector<std::shared_ptr<WatchStream>> WatchBoard::Everyone() {
  std::vector<std::shared_ptr<WatchStream>> streams;
  absl::MutexLock lock(&mutex_);
  for (const auto& [batch, watchers] : watchers_) {
    for (const auto& [key, watcher] : watchers) {
      if (auto alive = watcher.lock()) streams.push_back(std::move(alive));
    }
  }
  return streams;
}

void WatchBoard::NotifyAll() {
  for (const auto& stream : Everyone()) stream->Wake();
}

void WatchBoard::EndAll() {
  for (const auto& stream : Everyone()) stream->End();
}

void WatchBoard::Add(const std::string& batch_id, std::weak_ptr<WatchStream> watcher) {
  const WatchStream* key = watcher.lock().get();
  if (metrics_ != nullptr) metrics_->WatchersChanged(1);
  absl::MutexLock lock(&mutex_);
  watchers_[batch_id][key] = std::move(watcher);
}

void WatchBoard::Remove(const std::string& batch_id, const WatchStream* watcher) {
  if (metrics_ != nullptr) metrics_->WatchersChanged(-1);
  absl::MutexLock lock(&mutex_);
  auto found = watchers_.find(batch_id);
  if (found == watchers_.end()) return;
  found->second.erase(watcher);
  if (found->second.empty()) watchers_.erase(found);
}

WatchStream* WatchStream::Start(WatchBoard* board, Writer* writer, const v1::WatchBatchRequest& request) {
  std::shared_ptr<WatchStream> stream(new WatchStream(board, writer, request));
  stream->self_ = stream;
  // Before the first read: an event is either in what is read or wakes the stream.
  board->Add(stream->batch_id_, stream);
  absl::MutexLock lock(&stream->mutex_);
  stream->Advance();
  return stream.get();
}

WatchStream::WatchStream(WatchBoard* board, Writer* writer, const v1::WatchBatchRequest& request)
    : board_(board),
      writer_(writer),
      batch_id_(request.batch_id()),
      grouped_(request.grouped()),
      sequence_(request.after_sequence()) {}

void WatchStream::Wake() {
  absl::MutexLock lock(&mutex_);
  stale_ = true;
  Advance();
}

void WatchStream::Advance() {
  if (finished_ || writing_ || reading_) return;
  if (ending_) {
    FinishOnce(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream was ended: watch again"));
  } else if (next_ < page_.messages.size()) {
    writing_ = true;
    StartWrite(page_.messages[next_++]);
  } else if (page_.last) {
    FinishOnce(grpc::Status::OK);
  } else if (stale_) {
    Read();
  }
}

absl::StatusOr<WatchStream::Page> WatchStream::ReadPage(Store& store, const std::string& batch_id,
                                                        uint64_t after, bool grouped) {
  Page page;
  page.arena = std::make_unique<google::protobuf::Arena>();
  ASSAY_ASSIGN_OR_RETURN(v1::Batch batch, store.GetBatch(batch_id));
  auto* all = google::protobuf::Arena::CreateMessage<v1::BatchEvent>(page.arena.get());
  ASSAY_RETURN_IF_ERROR(store.ReadEventsAfter(batch_id, after, kPage, *all->mutable_group()));
  const int count = all->group_size();
  page.full = static_cast<size_t>(count) >= kPage;
  page.last = batch.has_end_time() && !page.full;
  if (count > 0) page.sequence = all->group(count - 1).sequence();
  for (int next = 0; next < count;) {
    const int first = next;
    for (size_t bytes = 0; next < count && (next == first || (grouped && bytes < kMaxGroupBytes)); ++next) {
      bytes += all->group(next).ByteSizeLong();
    }
    if (next == first + 1) {
      page.messages.push_back(&all->group(first));
    } else if (next == first + count) {
      page.messages.push_back(all);
    } else {
      auto* group = google::protobuf::Arena::CreateMessage<v1::BatchEvent>(page.arena.get());
      for (int i = first; i < next; ++i) {
        group->mutable_group()->UnsafeArenaAddAllocated(all->mutable_group(i));  // both are the arena's
      }
      page.messages.push_back(group);
    }
  }
  return page;
}

void WatchStream::Read() {
  reading_ = true;
  stale_ = false;
  writer_->Read<Page>(
      [batch_id = batch_id_, after = sequence_, grouped = grouped_](Store& store) {
        return ReadPage(store, batch_id, after, grouped);
      },
      [self = shared_from_this()](absl::StatusOr<Page> page) { self->Take(std::move(page)); });
}

void WatchStream::Take(absl::StatusOr<Page> page) {
  absl::MutexLock lock(&mutex_);
  reading_ = false;
  if (!page.ok()) return FinishOnce(ToGrpc(page.status()));
  page_ = *std::move(page);
  next_ = 0;
  if (page_.sequence > 0) sequence_ = page_.sequence;
  if (page_.full) stale_ = true;
  Advance();
}

void WatchStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) return FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher is gone"));
  if (board_->metrics_ != nullptr) {
    board_->metrics_->WatchEventsSent(
        static_cast<size_t>(std::max(1, page_.messages[next_ - 1]->group_size())));
  }
  Advance();
}

void WatchStream::OnCancel() { End(); }

void WatchStream::End() {
  absl::MutexLock lock(&mutex_);
  ending_ = true;
  Advance();
}

void WatchStream::FinishOnce(grpc::Status status) {
  if (std::exchange(finished_, true)) return;
  Finish(std::move(status));
}

void WatchStream::OnDone() {
  board_->Remove(batch_id_, this);
  self_.reset();
}

}  // namespace assay::coordinator

#include "coordinator/store/writer.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

// Bounds how long the first request of a group waits for the others' work.
constexpr size_t kMaxGroup = 512;
// Each time one of those that wait for each other has gone on.
constexpr int kTriesBesideOthers = 10;

}  // namespace

bool IsErrorOfTheDomain(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return true;
    default:
      return false;
  }
}

Writer::Writer(std::unique_ptr<Store> store) : store_(std::move(store)) {
  absl::MutexLock lock(&join_mutex_);
  thread_ = std::thread([this] { Loop(); });
}

Writer::~Writer() { Stop(); }

void Writer::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Writer::Enqueue(Request request) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      queue_.push_back(std::move(request));
      return;
    }
  }
  request.answer(absl::UnavailableError("the coordinator is shutting down: try again"));
}

void Writer::Loop() {
  while (true) {
    std::vector<Request> group;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !queue_.empty() || stopping_; };
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      const size_t taken = std::min(queue_.size(), kMaxGroup);
      group.assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(queue_.begin() + taken));
      queue_.erase(queue_.begin(), queue_.begin() + taken);
    }
    absl::Status status = RunUntilAlone(group);
    if (status.ok()) continue;
    spdlog::warn("a transaction of {} was taken back: {}", group.size(), status.ToString());
    // One of them may be to blame: alone, it fails alone.
    for (Request& request : group) {
      std::vector<Request> single;
      single.push_back(request);
      if (absl::Status alone = RunUntilAlone(single); !alone.ok()) request.answer(std::move(alone));
    }
  }
}

absl::Status Writer::RunUntilAlone(std::vector<Request>& group) {
  absl::Status status = RunGroup(group);
  for (int i = 1; i < kTriesBesideOthers && absl::IsAborted(status); ++i) status = RunGroup(group);
  if (!absl::IsAborted(status)) return status;
  return absl::UnavailableError(status.message());  // to clients and workers: try again
}

absl::Status Writer::RunGroup(std::vector<Request>& group) {
  const absl::Time start = absl::Now();
  const auto observe = [&](bool committed) {
    if (observer_) observer_(group.size(), absl::Now() - start, committed);
  };
  if (absl::Status status = store_->Begin(); !status.ok()) {
    observe(false);
    return status;
  }
  auto run = [&]() -> absl::Status {
    Touches touches;
    for (Request& request : group) {
      if (request.reads) ASSAY_RETURN_IF_ERROR(request.run(*store_));
      auto add = [](const std::vector<std::string>& from, std::vector<std::string>& to) {
        to.insert(to.end(), from.begin(), from.end());
      };
      add(request.touches.jobs, touches.jobs);
      add(request.touches.holders, touches.holders);
      add(request.touches.batches, touches.batches);
    }
    ASSAY_RETURN_IF_ERROR(store_->Take(touches));
    for (Request& request : group) {
      if (!request.reads) ASSAY_RETURN_IF_ERROR(request.run(*store_));
    }
    if (before_commit_) ASSAY_RETURN_IF_ERROR(before_commit_(*store_));
    return store_->Commit();
  };
  if (absl::Status status = run(); !status.ok()) {
    store_->Rollback();
    observe(false);
    return status;
  }
  observe(true);
  const std::set<std::string> touched = store_->TakeTouched();
  for (Request& request : group) request.answer(absl::OkStatus());
  if (after_commit_) after_commit_(touched);
  return absl::OkStatus();
}

}  // namespace assay::coordinator

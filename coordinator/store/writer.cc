#include "coordinator/store/writer.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/steady_wait.h"

namespace assay::coordinator {
namespace {

// Bounds how long the first request of a group waits for the others' work.
constexpr size_t kMaxGroup = 512;
// Of so many requests a group is one of many.
constexpr size_t kBusyGroup = 8;
// How often it is looked whether a group that waits is full.
const absl::Duration kLook = absl::Milliseconds(4);
// So many requests that fail alone, one after the other, show that it is not they who are to blame.
constexpr int kSinglesBeforeAway = 3;
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

Writer::Writer(std::unique_ptr<Store> store, Options options) : options_(options), store_(std::move(store)) {
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

std::vector<Writer::Request> Writer::NextGroup() {
  absl::MutexLock lock(&mutex_);
  auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !queue_.empty() || stopping_; };
  mutex_.Await(absl::Condition(&ready));
  auto full = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (queue_.size() >= kMaxGroup && away_since_ == absl::InfiniteFuture());
  };
  AwaitSteadily(mutex_, absl::Condition(&full),
                absl::FromChrono(next_group_ - std::chrono::steady_clock::now()), kLook);
  const auto taken = static_cast<std::ptrdiff_t>(std::min(queue_.size(), kMaxGroup));
  std::vector<Request> group(std::make_move_iterator(queue_.begin()),
                             std::make_move_iterator(queue_.begin() + taken));
  queue_.erase(queue_.begin(), queue_.begin() + taken);
  return group;
}

void Writer::Loop() {
  while (true) {
    std::vector<Request> group = NextGroup();
    if (group.empty()) return;
    next_group_ = std::chrono::steady_clock::now();
    expected_ = 0;
    absl::Status status = RunUntilAlone(group);
    if (std::max(group.size(), expected_) >= kBusyGroup) {
      next_group_ += absl::ToChronoMicroseconds(options_.pace);
    }
    if (status.ok()) {
      MediumIsBack();
      continue;
    }
    if (away_since_ != absl::InfiniteFuture() && absl::IsUnavailable(status)) {
      MediumIsAway(status);
      RunReads(group);
      Refuse(group, status);
      continue;
    }
    MediumIsBack();
    spdlog::warn("a transaction of {} was taken back: {}", group.size(), status.ToString());
    RunSingly(std::move(group));
  }
}

void Writer::RunReads(std::vector<Request>& group) {
  const auto first = std::stable_partition(group.begin(), group.end(),
                                           [](const Request& request) { return !request.reads; });
  std::vector<Request> reads(std::make_move_iterator(first), std::make_move_iterator(group.end()));
  group.erase(first, group.end());
  if (reads.empty()) return;
  if (absl::Status status = RunUntilAlone(reads, /*decide=*/false); !status.ok()) Refuse(reads, status);
}

void Writer::RunSingly(std::vector<Request> group) {
  RunReads(group);
  int away = 0;  // in a row
  absl::Status status;
  for (Request& request : group) {
    std::vector<Request> single;
    single.push_back(std::move(request));
    if (away < kSinglesBeforeAway) {
      status = RunUntilAlone(single);
      if (status.ok()) {
        away = 0;
        continue;
      }
      away = absl::IsUnavailable(status) ? away + 1 : 0;
      if (away == kSinglesBeforeAway || (away > 0 && &request == &group.back())) MediumIsAway(status);
    }
    Refuse(single, status);
  }
}

void Writer::Refuse(std::vector<Request>& group, const absl::Status& status) {
  // To clients and workers both are the same: try again.
  const absl::Status told = absl::IsAborted(status) ? absl::UnavailableError(status.message()) : status;
  for (Request& request : group) request.answer(told);
  refused_ += group.size();
}

void Writer::MediumIsAway(const absl::Status& status) {
  const absl::Time now = absl::Now();
  if (away_since_ == absl::InfiniteFuture()) {
    away_since_ = now;
    refused_ = 0;
    pause_ = options_.first_pause;
    spdlog::error("the store is away, nothing is accepted until it is back: {}", status.ToString());
  } else {
    pause_ = std::min(2 * pause_, options_.longest_pause);
  }
  next_group_ = std::chrono::steady_clock::now() +
                absl::ToChronoMicroseconds(pause_ * absl::Uniform(random_, 0.5, 1.0));
}

void Writer::MediumIsBack() {
  if (away_since_ == absl::InfiniteFuture()) return;
  spdlog::info("the store is back after {}; {} requests were refused",
               absl::FormatDuration(absl::Now() - away_since_), refused_);
  away_since_ = absl::InfiniteFuture();
}

absl::Status Writer::RunUntilAlone(std::vector<Request>& group, bool decide) {
  absl::Status status = RunGroup(group, decide);
  for (int i = 1; i < kTriesBesideOthers && absl::IsAborted(status); ++i) status = RunGroup(group, decide);
  return status;
}

absl::Status Writer::RunGroup(std::vector<Request>& group, bool decide) {
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
      auto add = [](const auto& from, auto& to) { to.insert(to.end(), from.begin(), from.end()); };
      add(request.touches.jobs, touches.jobs);
      add(request.touches.attempts, touches.attempts);
      add(request.touches.holders, touches.holders);
      add(request.touches.batches, touches.batches);
    }
    ASSAY_RETURN_IF_ERROR(store_->Take(touches));
    for (Request& request : group) {
      if (!request.reads) ASSAY_RETURN_IF_ERROR(request.run(*store_));
    }
    if (decide && before_commit_) ASSAY_RETURN_IF_ERROR(before_commit_(*store_));
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

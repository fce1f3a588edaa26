#include "worker/courier.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/logging.h"
#include "worker/blob_client.h"

namespace assay::worker {

Courier::Courier(Spool* spool) : spool_(spool) {
  absl::MutexLock lock(&mutex_);
  for (const AttemptKey& key : spool_->Keys()) {
    debts_[key];
    queue_.push_back(key);
  }
}

Courier::~Courier() { Stop(); }

void Courier::Start(ControlStream* stream) {
  stream_ = stream;
  thread_ = std::thread([this] { Loop(); });
}

void Courier::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Courier::Deliver(SpooledResult spooled) {
  const AttemptKey key = KeyOf(spooled.result.attempt());
  absl::MutexLock lock(&mutex_);
  auto [at, added] = debts_.try_emplace(key);
  if (!added) return;
  at->second.unspooled = std::make_shared<const SpooledResult>(std::move(spooled));
  queue_.push_back(key);
}

void Courier::SendAll() {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, debt] : debts_) {
    debt.sent = absl::InfiniteFuture();
    if (!std::exchange(debt.queued, true)) queue_.push_back(key);
  }
}

void Courier::Drop(const AttemptKey& key) {
  absl::MutexLock lock(&mutex_);
  debts_.erase(key);
  spool_->Drop(key);
}

std::vector<AttemptKey> Courier::Owed() const {
  absl::MutexLock lock(&mutex_);
  std::vector<AttemptKey> keys;
  for (const auto& [key, debt] : debts_) keys.push_back(key);
  return keys;
}

bool Courier::Owes(const AttemptKey& key) const {
  absl::MutexLock lock(&mutex_);
  return debts_.count(key) > 0;
}

size_t Courier::owed() const {
  absl::MutexLock lock(&mutex_);
  return debts_.size();
}

bool Courier::Overdue(absl::Duration limit) const {
  const absl::Time before = absl::Now() - limit;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, debt] : debts_) {
    if (debt.sent < before) return true;
  }
  return false;
}

bool Courier::AwaitNothingOwed(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || debts_.empty(); };
  mutex_.AwaitWithDeadline(absl::Condition(&over), deadline);
  return debts_.empty();
}

void Courier::Loop() {
  while (true) {
    AttemptKey key;
    {
      absl::MutexLock lock(&mutex_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || !queue_.empty(); };
      mutex_.Await(absl::Condition(&something));
      if (queue_.empty()) return;
      key = std::move(queue_.front());
      queue_.pop_front();
      auto at = debts_.find(key);
      if (at == debts_.end()) continue;
      at->second.queued = false;
    }
    Carry(key);
  }
}

void Courier::Carry(const AttemptKey& key) {
  std::shared_ptr<const SpooledResult> spooled;
  {
    absl::MutexLock lock(&mutex_);
    auto at = debts_.find(key);
    if (at == debts_.end()) return;
    spooled = at->second.unspooled;
  }
  if (spooled != nullptr) {
    if (absl::Status put = spool_->Put(*spooled); put.ok()) {
      absl::MutexLock lock(&mutex_);
      auto at = debts_.find(key);
      if (at == debts_.end()) {
        spool_->Drop(key);  // dropped while it was written
        return;
      }
      at->second.unspooled = nullptr;
    } else {
      // It is kept in memory and sent all the same; only the end of this process would lose it.
      spdlog::error("result of job {} attempt {} is not spooled: {}", key.first, key.second, put.ToString());
    }
  } else {
    absl::StatusOr<SpooledResult> read = spool_->Get(key);
    if (!read.ok()) {
      spdlog::error("result of job {} attempt {} is lost: {}", key.first, key.second,
                    read.status().ToString());
      absl::MutexLock lock(&mutex_);
      debts_.erase(key);
      return;
    }
    spooled = std::make_shared<const SpooledResult>(*std::move(read));
  }

  {
    absl::MutexLock lock(&mutex_);
    auto at = debts_.find(key);
    if (at == debts_.end()) return;
    at->second.sent = absl::Now();
  }
  v1::WorkerMessage message;
  v1::AttemptResult& result = *message.mutable_result();
  result = spooled->result;
  if (!spooled->log.empty()) {
    const std::string digest = Sha256Hex(spooled->log);
    const absl::Status uploaded = stream_->Call([&](const auto& channel, grpc::ClientContext& context) {
      return UploadBlob(channel, context, digest, spooled->log).status();
    });
    if (uploaded.ok()) {
      result.set_log_digest(digest);
    } else if (absl::IsUnavailable(uploaded) || absl::IsCancelled(uploaded) ||
               absl::IsDeadlineExceeded(uploaded)) {
      return;  // the next Welcome brings it up again, and Overdue() sees to it that there is one
    } else {
      spdlog::warn("log of job {} attempt {} was refused: {}", key.first, key.second, uploaded.ToString());
    }
  }
  stream_->Send(std::move(message));
}

}  // namespace assay::worker

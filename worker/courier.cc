#include "worker/courier.h"

#include <utility>

#include "common/digest.h"
#include "common/logging.h"
#include "worker/blob_client.h"
#include "worker/steady.h"

namespace assay::worker {
namespace {

// Messages stay under 1 MiB, and one result under its own limit (result_limits.h).
constexpr size_t kMessageBytes = size_t{256} << 10;
constexpr size_t kMostTogether = 64;

}  // namespace

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
  const absl::Time before = SteadyNow() - limit;
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

std::string Courier::SpoolTrouble() const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, debt] : debts_) {
    if (debt.refused) return spool_trouble_;
  }
  return "";
}

void Courier::RetrySpool() {
  absl::MutexLock lock(&mutex_);
  for (auto& [key, debt] : debts_) {
    if (debt.refused && !std::exchange(debt.queued, true)) queue_.push_back(key);
  }
}

void Courier::Loop() {
  while (true) {
    std::vector<AttemptKey> keys;
    {
      absl::MutexLock lock(&mutex_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || !queue_.empty(); };
      mutex_.Await(absl::Condition(&something));
      if (queue_.empty()) return;
      keys = TakeQueued();
    }
    Carry(keys);
  }
}

std::vector<AttemptKey> Courier::TakeQueued() {
  std::vector<AttemptKey> keys;
  for (; !queue_.empty() && keys.size() < kMostTogether; queue_.pop_front()) {
    auto at = debts_.find(queue_.front());
    if (at == debts_.end()) continue;
    at->second.queued = false;
    keys.push_back(std::move(queue_.front()));
  }
  return keys;
}

void Courier::Carry(const std::vector<AttemptKey>& keys) {
  std::vector<v1::AttemptResult> batch;
  size_t bytes = 0;
  for (const AttemptKey& key : keys) {
    std::optional<v1::AttemptResult> result = Ready(key);
    if (!result.has_value()) continue;
    const size_t size = result->ByteSizeLong();
    if (!batch.empty() && bytes + size > kMessageBytes) {
      SendBatch(std::exchange(batch, {}));
      bytes = 0;
    }
    bytes += size;
    batch.push_back(*std::move(result));
  }
  if (!batch.empty()) SendBatch(std::move(batch));
}

void Courier::SendBatch(std::vector<v1::AttemptResult> results) {
  if (results.size() > 1 && stream_->protocol() >= 2) {
    v1::WorkerMessage message;
    for (v1::AttemptResult& result : results) *message.mutable_results()->add_result() = std::move(result);
    stream_->Send(std::move(message));
    return;
  }
  for (v1::AttemptResult& result : results) {
    v1::WorkerMessage message;
    *message.mutable_result() = std::move(result);
    stream_->Send(std::move(message));
  }
}

std::shared_ptr<const SpooledResult> Courier::Spooled(const AttemptKey& key) {
  std::shared_ptr<const SpooledResult> spooled;
  {
    absl::MutexLock lock(&mutex_);
    auto at = debts_.find(key);
    if (at == debts_.end()) return nullptr;
    spooled = at->second.unspooled;
  }
  if (spooled == nullptr) {
    absl::StatusOr<SpooledResult> read = spool_->Get(key);
    if (read.ok()) return std::make_shared<const SpooledResult>(*std::move(read));
    spdlog::error("result of job {} attempt {} is lost: {}", key.first, key.second, read.status().ToString());
    absl::MutexLock lock(&mutex_);
    debts_.erase(key);
    return nullptr;
  }
  const absl::Status put = spool_->Put(*spooled);
  absl::MutexLock lock(&mutex_);
  auto at = debts_.find(key);
  if (at == debts_.end()) {
    spool_->Drop(key);  // dropped while it was written
    return nullptr;
  }
  at->second.refused = !put.ok();
  if (put.ok()) {
    at->second.unspooled = nullptr;
  } else {
    // It is kept in memory and sent all the same; only the end of this process would lose it.
    spool_trouble_ = put.ToString();
    spdlog::error("result of job {} attempt {} is not spooled: {}", key.first, key.second, put.ToString());
  }
  return spooled;
}

std::optional<v1::AttemptResult> Courier::Ready(const AttemptKey& key) {
  const std::shared_ptr<const SpooledResult> spooled = Spooled(key);
  if (spooled == nullptr) return std::nullopt;
  {
    absl::MutexLock lock(&mutex_);
    auto at = debts_.find(key);
    if (at == debts_.end()) return std::nullopt;
    at->second.sent = SteadyNow();
  }
  v1::AttemptResult result = spooled->result;
  if (spooled->log.empty()) return result;
  const std::string digest = Sha256Hex(spooled->log);
  const absl::Status uploaded = stream_->Call([&](const auto& channel, grpc::ClientContext& context) {
    return UploadBlob(channel, context, digest, spooled->log).status();
  });
  if (uploaded.ok()) {
    result.set_log_digest(digest);
  } else if (absl::IsUnavailable(uploaded) || absl::IsCancelled(uploaded) ||
             absl::IsDeadlineExceeded(uploaded)) {
    return std::nullopt;  // the next Welcome brings it up again, and Overdue() sees to it that there is one
  } else {
    spdlog::warn("log of job {} attempt {} was refused: {}", key.first, key.second, uploaded.ToString());
  }
  return result;
}

}  // namespace assay::worker

#include "coordinator/store/memory_store.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "common/status_macros.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {
namespace {

using AttemptKey = std::pair<std::string, uint64_t>;

class MemoryStore final : public RecordStore {
 public:
  MemoryStore(uint32_t max_attempts, const Clock* clock)
      : RecordStore(Sharing::kAlone, max_attempts), clock_(clock) {}

  absl::Time Now() override { return clock_->Now(); }

  absl::Status PutWorker(const WorkerRecord& worker) override {
    return Put(workers_, worker.summary.name(), worker);
  }
  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(absl::string_view name) override {
    return Find(workers_, std::string(name));
  }
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override {
    std::vector<WorkerRecord> workers;
    for (const auto& [name, worker] : workers_) workers.push_back(worker);
    return workers;
  }
  absl::Status BelieveWorkers(absl::string_view coordinator, absl::Time until) override {
    for (auto& [name, worker] : workers_) {
      if (worker.coordinator != coordinator) continue;
      WorkerRecord believed = worker;
      believed.believed_until = until;
      ASSAY_RETURN_IF_ERROR(Put(workers_, name, believed));
    }
    return absl::OkStatus();
  }

  absl::Status PutCordon(absl::string_view worker, absl::string_view reason) override {
    return Put(cordons_, std::string(worker), std::string(reason));
  }
  absl::StatusOr<bool> RemoveCordon(absl::string_view worker) override {
    return Erase(cordons_, std::string(worker));
  }
  absl::StatusOr<std::map<std::string, std::string>> ListCordons() override { return cordons_; }

  absl::Status AddOrder(const WorkerOrder& order) override {
    return orders_.count(order.id) > 0 ? absl::OkStatus() : Put(orders_, order.id, order);
  }
  absl::Status RemoveOrder(absl::string_view id) override {
    Erase(orders_, std::string(id));
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<WorkerOrder>> ListOrders() override {
    std::vector<WorkerOrder> orders;
    for (const auto& [id, order] : orders_) orders.push_back(order);
    return orders;
  }

  absl::StatusOr<std::vector<JobCount>> CountJobs() override { return CountLive(); }

  absl::Status AddToken(const TokenRecord& token) override {
    for (const auto& [id, known] : tokens_) {
      if (id == token.info.id() || known.hash == token.hash) return absl::AlreadyExistsError("token exists");
    }
    return PutToken(token);
  }
  absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) override {
    return LockToken("", hash);
  }
  absl::StatusOr<std::vector<TokenRecord>> ListTokens() override {
    std::vector<TokenRecord> tokens;
    for (const auto& [id, token] : tokens_) tokens.push_back(token);
    return tokens;
  }

  absl::Status DropWorker(absl::string_view name) override {
    if (cordons_.count(std::string(name)) > 0) return absl::OkStatus();
    Erase(workers_, std::string(name));
    ASSAY_ASSIGN_OR_RETURN(const std::vector<WorkerOrder> orders, ListOrders());
    for (const WorkerOrder& order : orders) {
      if (order.worker == name) Erase(orders_, order.id);
    }
    return absl::OkStatus();
  }
  absl::Status DropToken(absl::string_view id) override {
    Erase(tokens_, std::string(id));
    return absl::OkStatus();
  }
  absl::Status DropAudit(absl::Time before) override {
    undo_.push_back([this, all = audit_] { audit_ = all; });
    audit_.erase(std::remove_if(audit_.begin(), audit_.end(),
                                [&](const v1::AuditEntry& entry) {
                                  return absl::FromUnixSeconds(entry.time().seconds()) +
                                             absl::Nanoseconds(entry.time().nanos()) <
                                         before;
                                }),
                 audit_.end());
    return absl::OkStatus();
  }
  absl::Status AddAudit(const v1::AuditEntry& entry) override {
    audit_.push_back(entry);
    undo_.push_back([this] { audit_.pop_back(); });
    return absl::OkStatus();
  }
  absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) override {
    AuditPage page;
    size_t number = before == 0 ? audit_.size() : std::min<uint64_t>(before - 1, audit_.size());
    for (; number > 0 && page.entries.size() < page_size; --number)
      page.entries.push_back(audit_[number - 1]);
    if (number > 0) page.next = number + 1;
    return page;
  }

 protected:
  absl::Status BeginMedium() override {
    undo_.clear();
    return absl::OkStatus();
  }
  absl::Status CommitMedium() override {
    undo_.clear();
    return absl::OkStatus();
  }
  void RollbackMedium() override {
    for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) (*step)();
    undo_.clear();
  }

  absl::StatusOr<std::vector<JobRecord>> LockJobs(const Touches& touches) override {
    return ReadJobs(touches.jobs);
  }
  absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::vector<std::string>& job_ids) override {
    std::vector<JobRecord> records;
    for (const std::string& job_id : job_ids) {
      if (auto found = jobs_.find(job_id); found != jobs_.end()) records.push_back(found->second);
    }
    return records;
  }
  absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) override {
    std::vector<JobRecord> records;
    for (const auto& [id, record] : jobs_) {
      if (record.job.batch_id() == batch_id) records.push_back(record);
    }
    std::sort(records.begin(), records.end(),
              [](const JobRecord& a, const JobRecord& b) { return a.ordinal < b.ordinal; });
    return records;
  }
  absl::StatusOr<std::vector<BatchRecord>> ReadLiveBatches() override {
    std::vector<BatchRecord> records;
    for (const auto& [id, record] : batches_) {
      if (!record.batch.has_end_time()) records.push_back(record);
    }
    return records;
  }
  absl::Status WriteJobs(const std::vector<JobWrite>& jobs) override {
    for (const JobWrite& job : jobs) {
      ASSAY_RETURN_IF_ERROR(Put(jobs_, job.record->job.job_id(), *job.record));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) override {
    return Find(batches_, std::string(batch_id));
  }
  absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) override {
    auto found = by_request_.find(std::string(request_id));
    if (found == by_request_.end()) return std::nullopt;
    return FindBatch(found->second);
  }
  absl::StatusOr<bool> InsertBatch(BatchRecord& record) override {
    if (by_request_.count(record.request_id) > 0 || batches_.count(record.batch.batch_id()) > 0) return false;
    record.number = by_number_.empty() ? 1 : by_number_.rbegin()->first + 1;
    (void)Put(by_number_, record.number, record.batch.batch_id());
    (void)Put(by_request_, record.request_id, record.batch.batch_id());
    (void)Put(batches_, record.batch.batch_id(), record);
    return true;
  }
  absl::StatusOr<std::vector<BatchRecord>> LockBatches(const std::vector<std::string>& batch_ids) override {
    std::vector<BatchRecord> records;
    for (const std::string& batch_id : batch_ids) {
      if (auto found = batches_.find(batch_id); found != batches_.end()) records.push_back(found->second);
    }
    return records;
  }
  absl::Status WriteBatches(const std::vector<const BatchRecord*>& batches,
                            const std::vector<EventRow>& events) override {
    for (const BatchRecord* batch : batches) {
      ASSAY_RETURN_IF_ERROR(Put(batches_, batch->batch.batch_id(), *batch));
    }
    for (const EventRow& row : events) {
      ASSAY_RETURN_IF_ERROR(Put(events_, AttemptKey(row.batch_id, row.sequence), row));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<BatchPage> ReadBatches(size_t page_size, uint64_t before) override {
    BatchPage page;
    auto from = before == 0 ? by_number_.end() : by_number_.lower_bound(before);
    for (auto it = std::make_reverse_iterator(from); it != by_number_.rend(); ++it) {
      if (page.batches.size() == page_size) {
        page.next = std::prev(it)->first;
        break;
      }
      page.batches.push_back(batches_.at(it->second).batch);
    }
    return page;
  }
  absl::StatusOr<std::vector<EventRow>> ReadEvents(absl::string_view batch_id, uint64_t sequence,
                                                   size_t limit) override {
    std::vector<EventRow> rows;
    for (auto it = events_.upper_bound({std::string(batch_id), sequence});
         it != events_.end() && it->first.first == batch_id && rows.size() < limit; ++it) {
      rows.push_back(it->second);
    }
    return rows;
  }

  absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) override {
    return Find(recorded_answers_, AttemptKey(attempt.job_id(), attempt.attempt()));
  }
  absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) override {
    return Put(recorded_answers_, AttemptKey(attempt.job_id(), attempt.attempt()), answer);
  }
  absl::StatusOr<FiguresByModel> ReadFigures(const std::vector<std::string>& models) override {
    FiguresByModel known;
    for (const std::string& model : models) {
      if (auto found = recorded_figures_.find(model); found != recorded_figures_.end()) known.insert(*found);
    }
    return known;
  }
  absl::Status WriteFigures(const FiguresByModel& figures) override {
    for (const auto& [model, changed] : figures) {
      Figures all = changed;
      if (auto found = recorded_figures_.find(model); found != recorded_figures_.end()) {
        all.insert(found->second.begin(), found->second.end());  // keeps what has changed
      }
      ASSAY_RETURN_IF_ERROR(Put(recorded_figures_, model, all));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::set<std::string>> ReadFailed(const std::vector<std::string>& digests) override {
    std::set<std::string> known;
    for (const std::string& digest : digests) {
      if (failed_.count(digest) > 0) known.insert(digest);
    }
    return known;
  }
  absl::Status WriteFailed(const std::set<std::string>& digests) override {
    for (const std::string& digest : digests) ASSAY_RETURN_IF_ERROR(Put(failed_, digest, true));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id,
                                                       absl::string_view hash) override {
    for (const auto& [known, token] : tokens_) {
      if (id.empty() ? token.hash == hash : known == id) return token;
    }
    return std::nullopt;
  }
  absl::Status PutToken(const TokenRecord& token) override { return Put(tokens_, token.info.id(), token); }

  absl::Status EraseBatch(absl::string_view batch_id) override {
    ASSAY_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs, JobsOf(batch_id));
    for (const JobRecord& record : jobs) {
      const std::string& id = record.job.job_id();
      for (uint64_t attempt = 1; attempt <= record.job.attempt(); ++attempt) {
        Erase(recorded_answers_, AttemptKey(id, attempt));
      }
      Erase(jobs_, id);
    }
    const BatchRecord batch = batches_.at(std::string(batch_id));
    for (uint64_t sequence = 1; sequence <= batch.last_sequence; ++sequence) {
      Erase(events_, AttemptKey(batch.batch.batch_id(), sequence));
    }
    Erase(by_request_, batch.request_id);
    Erase(by_number_, batch.number);
    Erase(batches_, batch.batch.batch_id());
    return absl::OkStatus();
  }

  // False: it was not there.
  template <typename Key, typename Value>
  bool Erase(std::map<Key, Value>& map, const Key& key) {
    auto found = map.find(key);
    if (found == map.end()) return false;
    undo_.push_back([&map, before = *found] { map.insert(before); });
    map.erase(found);
    return true;
  }
  template <typename Key, typename Value>
  static std::optional<Value> Find(const std::map<Key, Value>& map, const Key& key) {
    auto found = map.find(key);
    if (found == map.end()) return std::nullopt;
    return found->second;
  }
  template <typename Key, typename Value>
  absl::Status Put(std::map<Key, Value>& map, const Key& key, const Value& value) {
    auto [at, fresh] = map.try_emplace(key, value);
    if (fresh) {
      undo_.push_back([&map, key] { map.erase(key); });
    } else {
      undo_.push_back([&map, key, before = std::move(at->second)] { map[key] = before; });
      at->second = value;
    }
    return absl::OkStatus();
  }

  const Clock* const clock_;
  std::map<std::string, BatchRecord> batches_;
  std::map<uint64_t, std::string> by_number_;
  std::map<std::string, std::string> by_request_;
  std::map<std::string, JobRecord> jobs_;
  std::map<AttemptKey, EventRow> events_;  // by batch and sequence
  std::map<AttemptKey, AnswerRecord> recorded_answers_;
  FiguresByModel recorded_figures_;
  std::map<std::string, bool> failed_;
  std::map<std::string, WorkerRecord> workers_;
  std::map<std::string, std::string> cordons_;  // reasons by worker
  std::map<std::string, WorkerOrder> orders_;   // by id
  std::map<std::string, TokenRecord> tokens_;   // by id
  std::vector<v1::AuditEntry> audit_;
  std::vector<std::function<void()>> undo_;
};

}  // namespace

std::unique_ptr<Store> NewMemoryStore(uint32_t max_attempts, const Clock* clock) {
  return std::make_unique<MemoryStore>(max_attempts, clock);
}

}  // namespace assay::coordinator

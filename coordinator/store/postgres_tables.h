// The PostgreSQL store's class, for the files that it is written in: postgres_store.cc, postgres_jobs.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "coordinator/store/postgres.h"
#include "coordinator/store/postgres_session.h"
#include "coordinator/store/record_store.h"

namespace assay::coordinator {

// Numbers from outside that are larger than the database's are beyond everything in it.
inline int64_t Clamped(uint64_t value) {
  return value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value);
}

// Of the jobs of batch $1, whose ids lie side by side ('/' follows '.').
#define ASSAY_OF_BATCH " WHERE job_id > $1::text || '.' AND job_id < $1::text || '/' AND batch_id = $1"

class PostgresStore final : public RecordStore {
 public:
  PostgresStore(std::unique_ptr<PostgresSession> session, uint32_t max_attempts)
      : RecordStore(Sharing::kShared, max_attempts), session_(std::move(session)) {}

  absl::Time Now() override { return session_->begun(); }

  absl::Status PutWorker(const WorkerRecord& worker) override;
  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(absl::string_view name) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;
  absl::Status BelieveWorkers(absl::string_view coordinator, absl::Time until) override;
  absl::Status PutCordon(absl::string_view worker, absl::string_view reason) override;
  absl::StatusOr<bool> RemoveCordon(absl::string_view worker) override;
  absl::StatusOr<std::map<std::string, std::string>> ListCordons() override;
  absl::Status AddOrder(const WorkerOrder& order) override;
  absl::Status RemoveOrder(absl::string_view id) override;
  absl::StatusOr<std::vector<WorkerOrder>> ListOrders() override;
  absl::StatusOr<std::vector<JobCount>> CountJobs() override;
  absl::Status AddToken(const TokenRecord& token) override;
  absl::StatusOr<std::optional<TokenRecord>> FindToken(absl::string_view hash) override;
  absl::StatusOr<std::vector<TokenRecord>> ListTokens() override;
  absl::Status AddAudit(const v1::AuditEntry& entry) override;
  absl::StatusOr<AuditPage> ListAudit(size_t page_size, uint64_t before) override;
  absl::Status DropWorker(absl::string_view name) override;
  absl::Status DropToken(absl::string_view id) override;
  absl::Status DropAudit(absl::Time before) override;

 protected:
  absl::Status BeginMedium() override;
  absl::Status CommitMedium() override {
    const std::set<std::string> touched = TakeTouched();
    ASSAY_ASSIGN_OR_RETURN(std::set<std::string> committed, session_->Commit(touched));
    Touch(committed);
    return absl::OkStatus();
  }
  void RollbackMedium() override { session_->Rollback(); }

  absl::StatusOr<std::vector<JobRecord>> LockJobs(const Touches& touches) override;
  absl::StatusOr<std::vector<JobRecord>> LockQueued(const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::vector<std::string>> LockUnchanged(
      const std::vector<const QueuedRecord*>& jobs) override;
  absl::StatusOr<std::vector<JobRecord>> LockExpired(absl::Time now) override;
  absl::StatusOr<bool> HasExpired(absl::Time now) override;
  absl::StatusOr<QueueHead> ReadQueued(size_t limit) override;
  absl::StatusOr<std::optional<QueueHead>> QueuedAtBegin(size_t limit) override;
  bool OthersWrite() override { return session_->others_write(); }
  absl::StatusOr<size_t> ReadQueuedCount(size_t most) override;
  absl::StatusOr<std::map<std::string, uint32_t>> ReadRunningBySubmitter() override;
  absl::StatusOr<std::vector<JobRecord>> ReadRunning() override;
  absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::vector<std::string>& job_ids) override;
  absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) override;
  absl::Status WriteJobs(const std::vector<JobWrite>& jobs) override;
  absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) override;
  absl::StatusOr<bool> InsertBatch(BatchRecord& record) override;
  absl::StatusOr<std::vector<BatchRecord>> LockBatches(const std::vector<std::string>& batch_ids) override;
  absl::Status WriteBatches(const std::vector<const BatchRecord*>& batches,
                            const std::vector<EventRow>& events) override;
  absl::StatusOr<BatchPage> ReadBatches(size_t page_size, uint64_t before) override;
  absl::StatusOr<std::vector<EventRow>> ReadEvents(absl::string_view batch_id, uint64_t sequence,
                                                   size_t limit) override;
  absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) override;
  absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) override;
  absl::StatusOr<FiguresByModel> ReadFigures(const std::vector<std::string>& models) override;
  absl::Status WriteFigures(const FiguresByModel& figures) override;
  absl::StatusOr<std::set<std::string>> ReadFailed(const std::vector<std::string>& digests) override;
  absl::Status WriteFailed(const std::set<std::string>& digests) override;
  absl::StatusOr<bool> HasFailed() override { return session_->some_inputs_failed(); }
  absl::Status EraseBatch(absl::string_view batch_id) override;
  absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id, absl::string_view hash) override;
  absl::Status PutToken(const TokenRecord& token) override;

 private:
  using Parameters = PostgresParameters;
  using Array = PostgresArray;

  // Of what WriteJobs has to write, each in one statement.
  absl::Status InsertJobs(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteWhole(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteEnded(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteStarted(const std::vector<const JobWrite*>& jobs);
  absl::Status WriteLeases(const std::vector<const JobWrite*>& jobs);

  // What records rest on that were only remembered; of others "infinity".
  class BeliefColumns {
   public:
    void Add(const JobWrite& job) {
      newest_.Int(job.belief ? static_cast<int64_t>(job.belief->attempt) : 0);
      believed_.Time(job.belief ? job.belief->lease_until : absl::InfiniteFuture());
    }
    Parameters& AddTo(Parameters& values) const { return values.Array(newest_).Array(believed_); }

   private:
    Array newest_{Array::Type::kInt}, believed_{Array::Type::kTime};
  };

  static absl::StatusOr<QueueHead> HeadOf(const PostgresRows& rows);

  std::unique_ptr<PostgresSession> session_;
  void NoteWanted(size_t limit, size_t found);

  // Of each line, by the last two transactions that looked; the newest is 0 where little waits.
  size_t queue_wanted_[2] = {0, 0};
  size_t queue_asked_ = 0;  // of each line, in this transaction; 0: it was not, or was answered
};

}  // namespace assay::coordinator

// The rules of the store, written once over plain records. What remains for an implementation is to keep the
// records and to find them again.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/store/store.h"

namespace assay::coordinator {

struct BatchRecord {
  v1::Batch batch;
  uint64_t number = 0;  // of submission, from 1; 0: not stored yet
  std::string request_id;
  std::string request_digest;
  uint64_t last_sequence = 0;
};

struct JobRecord {
  v1::Job job;
  std::string submitter;
  Priority priority = Priority::kMedium;
  uint64_t batch_number = 0;
  uint32_t ordinal = 0;  // in its batch
  double expected_seconds = kUnknownSeconds;
  absl::Time lease_until = absl::InfinitePast();  // while RUNNING
  uint32_t setbacks = 0;  // attempts at its stage lost or failed for the infrastructure's sake
  // Digests and checkpoint that the newest attempt was given; without an attempt number where nobody knows
  // (it started before this was recorded). Cleared when its stage ends.
  v1::Assignment assigned;
};

// The answer that was given to a result.
struct AnswerRecord {
  bool counted = false;
  std::string reason;
};

class RecordStore : public Store {
 public:
  // max_attempts: from 1.
  explicit RecordStore(uint32_t max_attempts) : max_attempts_(max_attempts) {}

  absl::StatusOr<v1::Batch> SubmitBatch(const BatchSubmission& submission, absl::Time now) final;
  absl::StatusOr<CancelledBatch> CancelBatch(absl::string_view batch_id, absl::Time now) final;
  absl::StatusOr<v1::Assignment> Lease(absl::string_view job_id, absl::string_view worker, absl::Time now,
                                       absl::Time until, const Assign& assign) final;
  absl::StatusOr<std::vector<v1::AttemptRef>> ExtendLeases(absl::string_view worker,
                                                           const std::vector<v1::AttemptRef>& attempts,
                                                           absl::Time until) final;
  absl::StatusOr<AdoptedAttempts> AdoptAttempts(absl::string_view worker, bool restarted,
                                                const std::vector<v1::AttemptRef>& attempts, absl::Time now,
                                                absl::Time until) final;
  absl::StatusOr<std::vector<LostAttempt>> ExpireLeases(absl::Time now) final;
  absl::Status ShortenLeases(absl::string_view worker, absl::Time until) final;
  absl::Status ExtendAllLeases(absl::Time until) final;
  absl::Status RecordProgress(const v1::AttemptRef& attempt, const v1::CaseResult& result,
                              absl::Time now) final;
  absl::StatusOr<v1::ResultAck> CommitResult(const v1::AttemptResult& result, absl::Time now) final;
  absl::StatusOr<std::vector<RunningAttempt>> Running() final;
  absl::StatusOr<std::map<std::string, uint32_t>> RunningBySubmitter() override;
  absl::Status DropBatch(absl::string_view batch_id) final;
  absl::StatusOr<v1::TokenInfo> RevokeToken(absl::string_view id, absl::Time now) final;
  absl::StatusOr<v1::TokenInfo> RedeemToken(absl::string_view hash, absl::Time now) final;
  absl::StatusOr<v1::Batch> GetBatch(absl::string_view batch_id) final;
  absl::StatusOr<v1::Job> GetJob(absl::string_view job_id) final;
  absl::StatusOr<std::vector<v1::Job>> ListJobs(absl::string_view batch_id) final;
  std::set<std::string> TakeTouched() final;

 protected:
  // Reads see what this transaction wrote. Errors are the medium's alone.
  virtual absl::StatusOr<std::optional<BatchRecord>> FindBatch(absl::string_view batch_id) = 0;
  virtual absl::StatusOr<std::optional<BatchRecord>> FindBatchByRequest(absl::string_view request_id) = 0;
  // Gives record.number where it is 0.
  virtual absl::Status PutBatch(BatchRecord& record) = 0;
  virtual absl::StatusOr<std::optional<JobRecord>> FindJob(absl::string_view job_id) = 0;
  virtual absl::Status PutJob(const JobRecord& record) = 0;
  virtual absl::StatusOr<std::vector<JobRecord>> JobsOf(absl::string_view batch_id) = 0;
  // In the order of their ids.
  virtual absl::StatusOr<std::vector<JobRecord>> RunningJobs() = 0;
  virtual absl::Status PutEvent(absl::string_view batch_id, const v1::BatchEvent& event) = 0;
  virtual absl::StatusOr<std::optional<AnswerRecord>> FindAnswer(const v1::AttemptRef& attempt) = 0;
  virtual absl::Status PutAnswer(const v1::AttemptRef& attempt, const AnswerRecord& answer) = 0;
  // What a model took last, in seconds, by TimingKey.
  virtual absl::StatusOr<std::optional<double>> FindSeconds(absl::string_view model,
                                                            absl::string_view target) = 0;
  virtual absl::Status PutSeconds(absl::string_view model, absl::string_view target, double seconds) = 0;
  // Digests of inputs at which some attempt failed.
  virtual absl::StatusOr<bool> HasFailed(absl::string_view inputs_digest) = 0;
  virtual absl::Status PutFailed(absl::string_view inputs_digest) = 0;

  // With all that belongs to it.
  virtual absl::Status EraseBatch(absl::string_view batch_id) = 0;

  // By id or by hash, whichever is not empty; nobody else changes it before this transaction ends.
  virtual absl::StatusOr<std::optional<TokenRecord>> LockToken(absl::string_view id,
                                                               absl::string_view hash) = 0;
  // Of a token that is there.
  virtual absl::Status PutToken(const TokenRecord& token) = 0;

  // Adds to what TakeTouched tells.
  void Touch(const std::set<std::string>& batches) { touched_.insert(batches.begin(), batches.end()); }

 private:
  // A batch and what happens to it in one operation; written once, at the end.
  class BatchEdit;

  // What the job's stage is expected to take.
  absl::StatusOr<double> ExpectedSeconds(const v1::Job& job);
  // Of a job whose test has ended: whether it is flaky, and what that says of later ones.
  absl::Status Learn(JobRecord& record);
  absl::StatusOr<LostAttempt> LoseAttempt(JobRecord record, absl::string_view why, bool counts,
                                          absl::Time now);

  const uint32_t max_attempts_;
  std::set<std::string> touched_;
};

}  // namespace assay::coordinator

// Submissions and results for tests.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "coordinator/store/record_rules.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

inline BatchSubmission Submission(const std::string& batch_id, const std::vector<std::string>& models,
                                  const std::string& submitter = "ada") {
  BatchSubmission submission;
  submission.request_id = absl::StrCat("request of ", batch_id);
  submission.request_digest = absl::StrCat("digest of ", batch_id);
  submission.batch_id = batch_id;
  submission.name = absl::StrCat(batch_id, ".json");
  submission.submitter = submitter;
  submission.target.set_device(v1::CPU);
  submission.target.set_dtype(v1::FLOAT32);
  for (const std::string& model : models) {
    NewJob& job = submission.jobs.emplace_back();
    job.model.set_name(model);
    job.model.set_template_("bert");
  }
  return submission;
}

inline constexpr char kCheckpoint[] = "acme/tiny";

// The models, each with a checkpoint that the batch names.
inline BatchSubmission CheckpointSubmission(const std::string& batch_id,
                                            const std::vector<std::string>& models) {
  BatchSubmission submission = Submission(batch_id, models);
  for (NewJob& job : submission.jobs) job.model.mutable_checkpoint()->set_id(kCheckpoint);
  return submission;
}

// The models, each with a default checkpoint to try.
inline BatchSubmission DefaultSubmission(const std::string& batch_id,
                                         const std::vector<std::string>& models) {
  BatchSubmission submission = Submission(batch_id, models);
  for (NewJob& job : submission.jobs) job.default_checkpoint.emplace().set_id(kCheckpoint);
  return submission;
}

// What a coordinator would give, as far as the store looks at it.
inline v1::Assignment Given(const v1::Job& job) {
  v1::Assignment given;
  given.mutable_attempt()->set_job_id(job.job_id());
  given.mutable_attempt()->set_attempt(job.attempt());
  given.set_template_digest(Sha256Hex("template"));
  given.set_stage(StageOf(job));
  const v1::TestResult* exported = ExportOf(job);
  if (exported != nullptr && exported->has_export_()) *given.mutable_export_() = exported->export_();
  return given;
}

// What an honest worker tells of a test that it was given.
inline v1::TestResult TestResultOf(const v1::Assignment& given, v1::Outcome outcome) {
  v1::TestResult result;
  result.set_outcome(outcome);
  v1::CaseResult& mock = *result.add_case_();
  mock.set_name("test_model_with_mock");
  mock.set_weights(v1::MOCK);
  mock.set_outcome(outcome);
  v1::Provenance& provenance = *result.mutable_provenance();
  provenance.set_test_digest("t");
  provenance.set_template_digest(given.template_digest());
  provenance.set_catalogue_digest(given.catalogue_digest());
  provenance.set_program_digest(given.program_digest());
  if (!given.has_export_()) return result;
  *provenance.mutable_checkpoint() = given.checkpoint();
  v1::CaseResult& loading = *result.add_case_();
  loading.set_name("test_model_loading");
  loading.set_weights(v1::REAL);
  loading.set_outcome(outcome);
  provenance.set_checkpoint_program_digest(given.export_().program_digest());
  provenance.set_golden_digest(given.export_().golden_digest());
  provenance.set_weights_digest(given.export_().checkpoint().weights_digest());
  return result;
}

inline v1::AttemptRef Ref(const std::string& job_id, uint64_t attempt) {
  v1::AttemptRef ref;
  ref.set_job_id(job_id);
  ref.set_attempt(attempt);
  return ref;
}

inline v1::AttemptResult Result(const std::string& job_id, uint64_t attempt, v1::Outcome outcome,
                                const std::string& test_digest = "t1", double seconds = 1) {
  v1::AttemptResult result;
  *result.mutable_attempt() = Ref(job_id, attempt);
  result.mutable_result()->set_outcome(outcome);
  result.mutable_result()->set_message("as the test says");
  result.mutable_result()->set_seconds(seconds);
  v1::Provenance& provenance = *result.mutable_result()->mutable_provenance();
  provenance.set_test_digest(test_digest);
  provenance.set_template_digest(Sha256Hex("template"));
  v1::CaseResult& mock = *result.mutable_result()->add_case_();
  mock.set_name("test_model_with_mock");
  mock.set_weights(v1::MOCK);
  mock.set_outcome(outcome);
  return result;
}

// Of an export stage of kCheckpoint.
inline v1::AttemptResult Exported(const std::string& job_id, uint64_t attempt,
                                  v1::Outcome outcome = v1::PASSED, double seconds = 1) {
  v1::AttemptResult result;
  *result.mutable_attempt() = Ref(job_id, attempt);
  result.mutable_result()->set_outcome(outcome);
  result.mutable_result()->set_message(outcome == v1::PASSED ? "" : "as the export says");
  result.mutable_result()->set_seconds(seconds);
  result.set_log_digest(Sha256Hex("log of the export"));
  if (outcome != v1::PASSED) return result;
  v1::ExportResult& made = *result.mutable_result()->mutable_export_();
  made.mutable_checkpoint()->set_id(kCheckpoint);
  made.mutable_checkpoint()->set_commit(std::string(40, 'c'));
  made.mutable_checkpoint()->set_weights_digest(Sha256Hex("weights"));
  made.mutable_checkpoint()->set_config_digest(Sha256Hex("configuration"));
  made.set_program_digest(Sha256Hex("program"));
  made.set_golden_digest(Sha256Hex("golden"));
  return result;
}

// Of a test that loaded what Exported gives.
inline v1::AttemptResult ResultWithCheckpoint(const std::string& job_id, uint64_t attempt,
                                              v1::Outcome outcome) {
  v1::AttemptResult result = Result(job_id, attempt, outcome);
  v1::CaseResult& loading = *result.mutable_result()->add_case_();
  loading.set_name("test_model_loading");
  loading.set_weights(v1::REAL);
  loading.set_outcome(outcome);
  v1::Provenance& provenance = *result.mutable_result()->mutable_provenance();
  provenance.set_checkpoint_program_digest(Sha256Hex("program"));
  provenance.set_golden_digest(Sha256Hex("golden"));
  provenance.set_weights_digest(Sha256Hex("weights"));
  return result;
}

}  // namespace assay::coordinator

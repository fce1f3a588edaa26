// Submissions and results for tests.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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
  result.mutable_result()->mutable_provenance()->set_test_digest(test_digest);
  return result;
}

}  // namespace assay::coordinator

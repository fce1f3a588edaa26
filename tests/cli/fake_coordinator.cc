#include "tests/cli/fake_coordinator.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace assay::cli {

FakeCoordinator::FakeCoordinator() {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeCoordinator::~FakeCoordinator() { server_->Shutdown(absl::ToChronoTime(absl::Now())); }

std::vector<v1::SubmitBatchRequest> FakeCoordinator::submits() {
  absl::MutexLock lock(&mutex_);
  return submits_;
}
std::vector<v1::WatchBatchRequest> FakeCoordinator::watches() {
  absl::MutexLock lock(&mutex_);
  return watches_;
}
std::vector<v1::CancelBatchRequest> FakeCoordinator::cancels() {
  absl::MutexLock lock(&mutex_);
  return cancels_;
}
std::vector<v1::GetReportRequest> FakeCoordinator::report_requests() {
  absl::MutexLock lock(&mutex_);
  return report_requests_;
}
std::vector<v1::GetLogsRequest> FakeCoordinator::log_requests() {
  absl::MutexLock lock(&mutex_);
  return log_requests_;
}

v1::Batch FakeCoordinator::BatchOf(const std::string& batch_id) const {
  v1::Batch batch;
  batch.set_batch_id(batch_id);
  batch.set_name("batch_1_models.json");
  batch.mutable_create_time()->set_seconds(1743854400);
  batch.set_total(static_cast<uint32_t>(jobs.size()));
  for (const v1::Job& job : jobs) {
    if (job.state() != v1::DONE) continue;
    batch.set_done(batch.done() + 1);
    v1::OutcomeCount* found = nullptr;
    for (v1::OutcomeCount& count : *batch.mutable_counts()) {
      if (count.outcome() == job.result().outcome()) found = &count;
    }
    if (found == nullptr) found = batch.add_counts();
    found->set_outcome(job.result().outcome());
    found->set_count(found->count() + 1);
  }
  return batch;
}

grpc::Status FakeCoordinator::SubmitBatch(grpc::ServerContext*, const v1::SubmitBatchRequest* request,
                                          v1::SubmitBatchResponse* response) {
  absl::MutexLock lock(&mutex_);
  submits_.push_back(*request);
  if (static_cast<int>(submits_.size()) <= unavailable_submits) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet");
  }
  if (!submit_status.ok()) return submit_status;
  *response->mutable_batch() = BatchOf(absl::StrCat("b", submits_.size()));
  response->mutable_batch()->set_name(request->name());
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::WatchBatch(grpc::ServerContext*, const v1::WatchBatchRequest* request,
                                         grpc::ServerWriter<v1::BatchEvent>* writer) {
  bool first;
  {
    absl::MutexLock lock(&mutex_);
    first = watches_.empty();
    watches_.push_back(*request);
  }
  int sent = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    v1::BatchEvent event;
    event.set_sequence(i + 1);
    *event.mutable_job() = jobs[i];
    if (event.sequence() <= request->after_sequence()) continue;
    if (first && break_watch_after > 0 && sent == break_watch_after) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone for a moment");
    }
    writer->Write(event);
    ++sent;
  }
  if (hold_watch) {
    watching.Notify();
    release.WaitForNotification();
    return grpc::Status(grpc::StatusCode::CANCELLED, "gone");
  }
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetBatch(grpc::ServerContext*, const v1::GetBatchRequest* request,
                                       v1::GetBatchResponse* response) {
  if (request->batch_id() == "nobody") return grpc::Status(grpc::StatusCode::NOT_FOUND, "no batch 'nobody'");
  *response->mutable_batch() = BatchOf(request->batch_id());
  for (const v1::Job& job : jobs) *response->add_job() = job;
  return grpc::Status::OK;
}

// Two pages of two batches each.
grpc::Status FakeCoordinator::ListBatches(grpc::ServerContext*, const v1::ListBatchesRequest* request,
                                          v1::ListBatchesResponse* response) {
  const bool first = request->page_token().empty();
  *response->add_batch() = BatchOf(first ? "b4" : "b2");
  *response->add_batch() = BatchOf(first ? "b3" : "b1");
  if (first) response->set_next_page_token("two");
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::CancelBatch(grpc::ServerContext*, const v1::CancelBatchRequest* request,
                                          v1::CancelBatchResponse* response) {
  absl::MutexLock lock(&mutex_);
  cancels_.push_back(*request);
  *response->mutable_batch() = BatchOf(request->batch_id());
  response->mutable_batch()->set_cancelled(true);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetReport(grpc::ServerContext*, const v1::GetReportRequest* request,
                                        v1::GetReportResponse* response) {
  absl::MutexLock lock(&mutex_);
  report_requests_.push_back(*request);
  auto found = reports.find(request->format());
  if (found == reports.end()) return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "unknown format");
  response->set_content(found->second);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetLogs(grpc::ServerContext*, const v1::GetLogsRequest* request,
                                      grpc::ServerWriter<v1::GetLogsResponse>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    log_requests_.push_back(*request);
  }
  if (log.empty()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no log yet");
  for (char c : log) {
    v1::GetLogsResponse chunk;
    chunk.set_chunk(std::string(1, c));
    writer->Write(chunk);
  }
  if (hold_log) release.WaitForNotification();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::ExplainJob(grpc::ServerContext*, const v1::ExplainJobRequest* request,
                                         v1::ExplainJobResponse* response) {
  response->mutable_job()->set_job_id(request->job_id());
  response->mutable_job()->set_state(v1::QUEUED);
  response->add_reason("needs 40 GiB of GPU memory; the largest connected or configured pool has 24 GiB");
  response->set_jobs_ahead(3);
  v1::WorkerFit& fit = *response->add_worker();
  fit.set_name("h100");
  fit.set_pool(true);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                                          v1::ListWorkersResponse* response) {
  v1::WorkerSummary& worker = *response->add_worker();
  worker.set_name("node-1");
  worker.set_connected(true);
  worker.set_draining(true);
  worker.add_running_job("j1");
  v1::DeviceSlots& device = *worker.add_device();
  device.set_slots(2);
  device.mutable_device()->set_kind("cpu");
  device.mutable_device()->set_name("Test CPU");
  return grpc::Status::OK;
}

v1::Job DoneJob(const std::string& model, v1::Outcome outcome, int checks) {
  v1::Job job;
  job.set_job_id("job-" + model);
  job.mutable_model()->set_name(model);
  job.set_state(v1::DONE);
  job.mutable_result()->set_outcome(outcome);
  job.mutable_result()->set_seconds(0.03);
  v1::CaseResult& one = *job.mutable_result()->add_case_();
  one.set_name("test_model_with_mock");
  one.set_outcome(outcome);
  for (int i = 0; i < checks; ++i) {
    v1::CheckResult& check = *one.add_check();
    check.set_name(absl::StrCat("check_", i));
    check.set_outcome(outcome);
    if (outcome != v1::PASSED) check.set_message("off by 0.5");
  }
  return job;
}

}  // namespace assay::cli

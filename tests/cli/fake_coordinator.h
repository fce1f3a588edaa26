// A coordinator without a store or workers: it says what a test tells it to, and remembers what it was asked.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace assay::cli {

class FakeCoordinator final : public v1::BatchService::Service {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;

  // For --address.
  const std::string& address() const { return address_; }

  // What the calls answer. Set before the binary runs.
  int unavailable_submits = 0;  // so many SubmitBatch calls fail first
  grpc::Status submit_status;   // then this
  std::vector<v1::Job> jobs;    // of every batch; also what WatchBatch tells, one event a job
  int break_watch_after = 0;    // the first stream ends as UNAVAILABLE after so many events
  bool hold_watch = false;      // the stream stays open after its events, until `release`
  std::map<v1::ReportFormat, std::string> reports;
  std::string log;
  bool hold_log = false;  // the stream stays open after the log, until `release`

  // What was asked.
  std::vector<v1::SubmitBatchRequest> submits();
  std::vector<v1::WatchBatchRequest> watches();
  std::vector<v1::CancelBatchRequest> cancels();
  std::vector<v1::GetReportRequest> report_requests();
  std::vector<v1::GetLogsRequest> log_requests();
  absl::Notification watching;  // a held stream has sent its events
  absl::Notification release;   // by the test, once the client is gone

  grpc::Status SubmitBatch(grpc::ServerContext*, const v1::SubmitBatchRequest*,
                           v1::SubmitBatchResponse*) override;
  grpc::Status WatchBatch(grpc::ServerContext*, const v1::WatchBatchRequest*,
                          grpc::ServerWriter<v1::BatchEvent>*) override;
  grpc::Status GetBatch(grpc::ServerContext*, const v1::GetBatchRequest*, v1::GetBatchResponse*) override;
  grpc::Status ListBatches(grpc::ServerContext*, const v1::ListBatchesRequest*,
                           v1::ListBatchesResponse*) override;
  grpc::Status CancelBatch(grpc::ServerContext*, const v1::CancelBatchRequest*,
                           v1::CancelBatchResponse*) override;
  grpc::Status GetReport(grpc::ServerContext*, const v1::GetReportRequest*, v1::GetReportResponse*) override;
  grpc::Status GetLogs(grpc::ServerContext*, const v1::GetLogsRequest*,
                       grpc::ServerWriter<v1::GetLogsResponse>*) override;
  grpc::Status ExplainJob(grpc::ServerContext*, const v1::ExplainJobRequest*,
                          v1::ExplainJobResponse*) override;
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse*) override;

 private:
  v1::Batch BatchOf(const std::string& batch_id) const;

  absl::Mutex mutex_;
  std::vector<v1::SubmitBatchRequest> submits_;
  std::vector<v1::WatchBatchRequest> watches_;
  std::vector<v1::CancelBatchRequest> cancels_;
  std::vector<v1::GetReportRequest> report_requests_;
  std::vector<v1::GetLogsRequest> log_requests_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

// A done job with one case and `checks` checks.
v1::Job DoneJob(const std::string& model, v1::Outcome outcome, int checks = 11);

}  // namespace assay::cli

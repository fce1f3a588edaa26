// The coordinator, as the commands see it: calls with deadlines and bounded retries, errors as absl::Status.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "assay/v1/admin.grpc.pb.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"

namespace assay::cli {

// With the address, where nobody answers there.
absl::Status ToAbsl(const grpc::Status& status, const std::string& address);

struct ConnectionOptions {
  // host:port; several, separated by commas, are coordinators that share a store: when one does not answer,
  // the next is asked. A name with several addresses is one of them, of which gRPC takes those that answer.
  std::string address = "127.0.0.1:7420";
  absl::Duration deadline = absl::Seconds(30);  // of each try of a unary call
  absl::Duration give_up = absl::Seconds(60);   // a watch that can reach no coordinator for so long ends
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // TLS, and who is calling; null: without TLS
};

// Errors name the address where the coordinator cannot be reached. Thread-safe.
class Connection {
 public:
  explicit Connection(ConnectionOptions options);

  // Whole or not at all. Tries again with the same request_id while the coordinator is unavailable. `errors`
  // holds those of a refused file, as its BatchRefused does.
  absl::StatusOr<v1::Batch> Submit(const v1::SubmitBatchRequest& request, std::vector<v1::FileError>* errors);
  absl::StatusOr<v1::GetBatchResponse> GetBatch(const std::string& batch_id);
  // Newest first; 0: all.
  absl::StatusOr<std::vector<v1::Batch>> ListBatches(size_t limit);
  absl::StatusOr<v1::Batch> Cancel(const std::string& batch_id);
  absl::StatusOr<std::string> GetReport(const std::string& batch_id, v1::ReportFormat format, uint32_t size);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const std::string& job_id);
  absl::StatusOr<v1::WorkerSummary> Cordon(const std::string& worker, const std::string& reason);
  absl::StatusOr<v1::WorkerSummary> Uncordon(const std::string& worker);
  absl::StatusOr<v1::WorkerSummary> Drain(const std::string& worker);
  // The id of the sweep that was begun.
  absl::StatusOr<std::string> Accept(const std::string& worker, uint32_t repetitions);
  // Hands over the log of a job's stage piece by piece; unspecified: of the last one that has ended.
  absl::Status GetLogs(const std::string& job_id, v1::Stage stage,
                       const std::function<void(const std::string&)>& chunk);

  // Calls `event` for each event of the batch once and in order until the batch has ended, across any number
  // of reconnects. UNAVAILABLE once no coordinator answered for give_up; CANCELLED after CancelWatches().
  absl::Status Watch(const std::string& batch_id, const std::function<void(const v1::BatchEvent&)>& event);
  // Ends all watches, now and later.
  void CancelWatches();

  // For services that have no functions here: to the first coordinator that can be reached, as far as one
  // can.
  std::shared_ptr<grpc::Channel> channel() const;
  const ConnectionOptions& options() const { return options_; }
  // In PEM, that the coordinator showed which answered the last unary call; empty: it showed none.
  std::string server_certificate() const;

 private:
  struct Peers;
  struct Watches;
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response);

  ConnectionOptions options_;
  std::shared_ptr<Peers> peers_;
  std::shared_ptr<Watches> watches_;
};

}  // namespace assay::cli

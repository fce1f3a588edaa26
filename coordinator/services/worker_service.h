// WorkerService: each worker's stream, between gRPC and the dispatcher.
#pragma once

#include "assay/v1/worker.grpc.pb.h"
#include "coordinator/dispatcher.h"

namespace assay::coordinator {

// Thread-safe.
class WorkerService final : public v1::WorkerService::CallbackService {
 public:
  // `dispatcher` must outlive the server.
  explicit WorkerService(Dispatcher* dispatcher) : dispatcher_(dispatcher) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Connect(
      grpc::CallbackServerContext* context) override;

 private:
  Dispatcher* const dispatcher_;
};

}  // namespace assay::coordinator

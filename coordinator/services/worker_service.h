// WorkerService: each worker's stream, between gRPC and the dispatcher.
#pragma once

#include "assay/v1/worker.grpc.pb.h"
#include "coordinator/access/access.h"
#include "coordinator/dispatcher.h"

namespace assay::coordinator {

// Thread-safe.
class WorkerService final : public v1::WorkerService::CallbackService {
 public:
  // Both must outlive the server.
  WorkerService(Dispatcher* dispatcher, Access* access) : dispatcher_(dispatcher), access_(access) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Connect(
      grpc::CallbackServerContext* context) override;

 private:
  Dispatcher* const dispatcher_;
  Access* const access_;
};

}  // namespace assay::coordinator

// BatchService: what clients ask. Parses, asks the dispatcher or the store, answers; holds no state of its
// own.
#pragma once

#include "assay/v1/coordinator.grpc.pb.h"
#include "common/clock.h"
#include "coordinator/access/access.h"
#include "coordinator/background.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/dispatcher.h"
#include "coordinator/services/watch_stream.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

// Thread-safe.
class BatchService final : public v1::BatchService::CallbackService {
 public:
  // All must outlive the server.
  struct Rooms {
    const Content* content = nullptr;
    BlobStore* blobs = nullptr;
    Writer* writer = nullptr;
    Writer* reader = nullptr;  // of lists and reports, that nothing else is to wait for; may be the writer
    Dispatcher* dispatcher = nullptr;
    WatchBoard* board = nullptr;
    Background* background = nullptr;
    Access* access = nullptr;
    const Clock* clock = nullptr;
  };
  explicit BatchService(Rooms rooms) : rooms_(rooms) {}

  grpc::ServerUnaryReactor* SubmitBatch(grpc::CallbackServerContext* context,
                                        const v1::SubmitBatchRequest* request,
                                        v1::SubmitBatchResponse* response) override;
  grpc::ServerWriteReactor<v1::BatchEvent>* WatchBatch(grpc::CallbackServerContext* context,
                                                       const v1::WatchBatchRequest* request) override;
  grpc::ServerUnaryReactor* GetBatch(grpc::CallbackServerContext* context, const v1::GetBatchRequest* request,
                                     v1::GetBatchResponse* response) override;
  grpc::ServerUnaryReactor* ListBatches(grpc::CallbackServerContext* context,
                                        const v1::ListBatchesRequest* request,
                                        v1::ListBatchesResponse* response) override;
  grpc::ServerUnaryReactor* CancelBatch(grpc::CallbackServerContext* context,
                                        const v1::CancelBatchRequest* request,
                                        v1::CancelBatchResponse* response) override;
  grpc::ServerUnaryReactor* GetReport(grpc::CallbackServerContext* context,
                                      const v1::GetReportRequest* request,
                                      v1::GetReportResponse* response) override;
  grpc::ServerUnaryReactor* ExplainJob(grpc::CallbackServerContext* context,
                                       const v1::ExplainJobRequest* request,
                                       v1::ExplainJobResponse* response) override;
  grpc::ServerWriteReactor<v1::GetLogsResponse>* GetLogs(grpc::CallbackServerContext* context,
                                                         const v1::GetLogsRequest* request) override;
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;

 private:
  const Rooms rooms_;
};

}  // namespace assay::coordinator

// BlobService over the content and the blob store.
#pragma once

#include "assay/v1/coordinator.grpc.pb.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/metrics.h"

namespace assay::coordinator {

// Thread-safe.
class BlobService final : public v1::BlobService::CallbackService {
 public:
  // All must outlive the server. `metrics` may be null.
  BlobService(const Content* content, BlobStore* blobs, CoordinatorMetrics* metrics)
      : content_(content), blobs_(blobs), metrics_(metrics) {}

  grpc::ServerReadReactor<v1::UploadRequest>* Upload(grpc::CallbackServerContext* context,
                                                     v1::UploadResponse* response) override;
  grpc::ServerWriteReactor<v1::DownloadResponse>* Download(grpc::CallbackServerContext* context,
                                                           const v1::DownloadRequest* request) override;
  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context, const v1::LookupRequest* request,
                                   v1::LookupResponse* response) override;

 private:
  const Content* const content_;
  BlobStore* const blobs_;
  CoordinatorMetrics* const metrics_;
};

}  // namespace assay::coordinator

// KEDA's external scaler: how many workers each pool should have for what is queued and runs.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "assay/v1/pools.pb.h"
#include "coordinator/dispatcher.h"
#include "coordinator/pools.h"
#include "keda/externalscaler.grpc.pb.h"

namespace assay::coordinator {

// How many workers each pool should have now, in the pools' order, from the store: any coordinator says the
// same.
absl::StatusOr<std::vector<double>> ReadWanted(Store& store, const v1::Pools& pools);

// A ScaledObjectRef names its pool by scalerMetadata["pool"]. The metric "assay-workers" is how many workers
// the pool should have, its target 1 a worker. Thread-safe.
//   INVALID_ARGUMENT  no pool is named, or one that is not configured.
//   UNAVAILABLE       the store cannot be asked.
class ScalerService final : public externalscaler::ExternalScaler::CallbackService {
 public:
  // `dispatcher` must outlive the server.
  ScalerService(Dispatcher* dispatcher, v1::Pools pools)
      : dispatcher_(dispatcher), pools_(std::move(pools)) {}

  grpc::ServerUnaryReactor* IsActive(grpc::CallbackServerContext* context,
                                     const externalscaler::ScaledObjectRef* request,
                                     externalscaler::IsActiveResponse* response) override;
  grpc::ServerWriteReactor<externalscaler::IsActiveResponse>* StreamIsActive(
      grpc::CallbackServerContext* context, const externalscaler::ScaledObjectRef* request) override;
  grpc::ServerUnaryReactor* GetMetricSpec(grpc::CallbackServerContext* context,
                                          const externalscaler::ScaledObjectRef* request,
                                          externalscaler::GetMetricSpecResponse* response) override;
  grpc::ServerUnaryReactor* GetMetrics(grpc::CallbackServerContext* context,
                                       const externalscaler::GetMetricsRequest* request,
                                       externalscaler::GetMetricsResponse* response) override;

  // Tells streams what has changed. To be called now and then.
  void Refresh();
  // Ends every stream, before a shutdown.
  void EndAll();

 private:
  class Stream;
  // The pool's place; INVALID_ARGUMENT.
  absl::StatusOr<int> PoolOf(const externalscaler::ScaledObjectRef& ref) const;
  void Wanted(std::function<void(absl::StatusOr<std::vector<double>>)> done);

  Dispatcher* const dispatcher_;
  const v1::Pools pools_;
  absl::Mutex mutex_;
  std::set<std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool asking_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace assay::coordinator

// Counts and times the calls of a server.
#pragma once

#include <memory>

#include "coordinator/metrics.h"
#include "grpcpp/support/server_interceptor.h"

namespace assay::coordinator {

// Of every call but workers' streams, which tell themselves when they end. `metrics` outlives the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewRpcMeter(
    CoordinatorMetrics* metrics);

}  // namespace assay::coordinator

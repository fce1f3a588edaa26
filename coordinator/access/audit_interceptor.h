// Sees every call that is let in: writes what changed something into the audit log, and keeps the streams
// that are to end when their caller's token does.
#pragma once

#include <memory>

#include "coordinator/access/access.h"
#include "grpcpp/support/server_interceptor.h"

namespace assay::coordinator {

// `access` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewAuditInterceptorFactory(
    Access* access);

}  // namespace assay::coordinator

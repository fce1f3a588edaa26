// AdminService: what operators ask of a coordinator: its workers, who may do what, and what was done.
#pragma once

#include "assay/v1/admin.grpc.pb.h"
#include "common/clock.h"
#include "coordinator/access/access.h"
#include "coordinator/dispatcher.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

// Thread-safe.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  // All must outlive the server.
  struct Rooms {
    Writer* writer = nullptr;
    Dispatcher* dispatcher = nullptr;
    Access* access = nullptr;
    const Clock* clock = nullptr;
  };
  explicit AdminService(Rooms rooms) : rooms_(rooms) {}

  // Of tokens and the audit log: admin_access.cc.
  grpc::ServerUnaryReactor* ListAudit(grpc::CallbackServerContext* context,
                                      const v1::ListAuditRequest* request,
                                      v1::ListAuditResponse* response) override;
  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* context,
                                        const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* context,
                                       const v1::ListTokensRequest* request,
                                       v1::ListTokensResponse* response) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* context,
                                        const v1::RevokeTokenRequest* request,
                                        v1::RevokeTokenResponse* response) override;
  // About workers: admin_workers.cc.
  grpc::ServerUnaryReactor* CordonWorker(grpc::CallbackServerContext* context,
                                         const v1::CordonWorkerRequest* request,
                                         v1::CordonWorkerResponse* response) override;
  grpc::ServerUnaryReactor* UncordonWorker(grpc::CallbackServerContext* context,
                                           const v1::UncordonWorkerRequest* request,
                                           v1::UncordonWorkerResponse* response) override;
  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* context,
                                        const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) override;
  grpc::ServerUnaryReactor* AcceptWorker(grpc::CallbackServerContext* context,
                                         const v1::AcceptWorkerRequest* request,
                                         v1::AcceptWorkerResponse* response) override;

 private:
  // Of a worker that was seen, with its entry in the audit log; answers with the worker as it then is.
  template <typename Response>
  grpc::ServerUnaryReactor* ChangeCordon(
      grpc::CallbackServerContext* context, Response* response, const char* rpc, std::string worker,
      std::function<absl::Status(Store&, const std::string& worker)> change_it);

  const Rooms rooms_;
};

}  // namespace assay::coordinator

// JoinService: how a worker gets a certificate of its own, and a new one before that ends.
#pragma once

#include <optional>

#include "assay/v1/admin.grpc.pb.h"
#include "common/clock.h"
#include "common/pem.h"
#include "coordinator/access/access.h"
#include "coordinator/store/writer.h"

namespace assay::coordinator {

// Thread-safe.
class JoinService final : public v1::JoinService::CallbackService {
 public:
  // All must outlive the server.
  struct Rooms {
    Writer* writer = nullptr;
    Access* access = nullptr;
    const Clock* clock = nullptr;
    std::optional<Authority> authority;  // unset: this coordinator cannot sign
    absl::Duration life;                 // of a certificate
  };
  explicit JoinService(Rooms rooms) : rooms_(std::move(rooms)) {}

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context, const v1::JoinRequest* request,
                                 v1::JoinResponse* response) override;

 private:
  const Rooms rooms_;
};

}  // namespace assay::coordinator

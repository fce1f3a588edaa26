// AdminService: what operators ask of a coordinator: its workers, who may do what, and what was done.
#pragma once

#include "assay/v1/admin.grpc.pb.h"
#include "common/clock.h"
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
    const Clock* clock = nullptr;
  };
  explicit AdminService(Rooms rooms) : rooms_(rooms) {}

 private:
  const Rooms rooms_;
};

}  // namespace assay::coordinator

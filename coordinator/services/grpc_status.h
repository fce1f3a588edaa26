#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "grpcpp/support/status.h"

namespace assay::coordinator {

// The codes of absl and gRPC have the same numbers.
inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

// "PERMISSION_DENIED": a code's name, as gRPC writes it; "OTHER": it has none.
inline std::string CodeName(int code) {
  const std::string name =
      absl::AsciiStrToUpper(absl::StatusCodeToString(static_cast<absl::StatusCode>(code)));
  return name.empty() ? "OTHER" : name;
}

}  // namespace assay::coordinator

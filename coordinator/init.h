// What is done to a data folder before a coordinator serves it with TLS.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace assay::coordinator {

struct InitOptions {
  std::filesystem::path data_dir;
  std::string database;            // postgres://…; empty: assay.db in data_dir
  std::vector<std::string> hosts;  // that clients and workers will know this coordinator by
  absl::Duration server_life = absl::Hours(24 * 365);
};

// Makes an authority, a server's certificate and a first token of the role admin (access/authority.h), and
// says on standard output what to do with them.
//   INVALID_ARGUMENT     no data folder or hosts, or a host that is neither a name nor an address.
//   FAILED_PRECONDITION  it was done before, or a coordinator serves the folder.
absl::Status Init(const InitOptions& options);

// A new key and certificate for the server; coordinators that run take it up within seconds.
//   NOT_FOUND  the folder holds no authority.
absl::Status Renew(const InitOptions& options);

}  // namespace assay::coordinator

// The private certificate authority of a small team: a folder with an authority, a server's certificate and
// the first token. Everything in it but ca.crt is readable by its owner alone.
//
//   ca.crt       the authority's certificate: clients and workers are given it
//   ca.key       its key. Whoever has it can be any worker, and any coordinator to the workers
//   server.pem   the coordinator's certificate and key
//   admin.token  the first token, role admin
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/pem.h"

namespace assay::coordinator {

inline constexpr absl::Duration kAuthorityLife = absl::Hours(24 * 3650);
inline constexpr absl::Duration kServerLife = absl::Hours(24 * 365);
// A worker renews its own well before.
inline constexpr absl::Duration kWorkerLife = absl::Hours(24 * 30);
// Certificates begin so long before they are made: clocks differ.
inline constexpr absl::Duration kClockLeeway = absl::Minutes(5);

struct TlsFolder {
  std::filesystem::path authority, authority_key, server, token;
};
TlsFolder TlsFolderIn(const std::filesystem::path& data_dir);

// Makes the folder, whole or not at all.
//   FAILED_PRECONDITION  there is one already.
//   INVALID_ARGUMENT     a host is neither a name nor an address.
absl::Status MakeTlsFolder(const std::filesystem::path& data_dir, const std::vector<std::string>& hosts,
                           const std::string& admin_token, absl::Time now, absl::Duration server_life);

// A new key and certificate for the server, for the hosts of the one before where none are given.
// Coordinators that run take it up within seconds. When it ends.
absl::StatusOr<absl::Time> RenewServer(const std::filesystem::path& data_dir, std::vector<std::string> hosts,
                                       absl::Time now, absl::Duration server_life);

// NOT_FOUND: this folder holds no authority to sign with.
absl::StatusOr<Authority> LoadAuthority(const std::filesystem::path& data_dir);

}  // namespace assay::coordinator

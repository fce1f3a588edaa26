// TLS 1.3 for servers and clients of gRPC, from PEM files that may be replaced while the process runs: what
// is written there is used for connections from about a second later on. No key or token is in any error.
//
// gRPC 1.51 has no setting for the lowest version of its reloading credentials, and offers TLS 1.2 too. Its
// list of cipher suites, however, is for TLS 1.2 alone: these functions leave it (GRPC_SSL_CIPHER_SUITES)
// with one that needs a pre-shared key, which nobody has here, so that only TLS 1.3 comes about. The first of
// these calls must come before any other TLS credentials of gRPC are made in the process.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

namespace assay {

struct ServerTls {
  std::filesystem::path certificate;  // the chain, the server's own first
  std::filesystem::path key;          // may be the same file
  std::filesystem::path authority;    // of clients; empty: no client can show a certificate
  // Else one that is shown is verified, and who shows none is to have a token.
  bool require_client_certificate = false;
};

// INVALID_ARGUMENT or NOT_FOUND: a file is missing or not what it should be, or the key is not the
// certificate's. FAILED_PRECONDITION: the certificate has ended, or not begun, at `now`.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentialsOf(const ServerTls& tls,
                                                                             absl::Time now);

// How a client or worker reaches a coordinator and says who it is.
struct ClientTls {
  std::filesystem::path authority;  // that the coordinator's certificate comes from; empty: no TLS
  // Its own identity, where it has one. `key` empty: it is in `certificate` too.
  std::filesystem::path certificate, key;
  // Says who it is where that is set: read again for each call, so that it may be replaced.
  std::filesystem::path token_file;
  std::string token;  // secret; instead of token_file
};

// Without an authority: credentials without TLS. INVALID_ARGUMENT: a token or certificate without an
// authority, as neither may go over a connection that others can read; both tokens; a file that is not what
// it should be.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentialsOf(const ClientTls& tls);

// The token in a file: one line. INVALID_ARGUMENT: none, or more than one line; NOT_FOUND.
absl::StatusOr<std::string> ReadTokenFile(const std::filesystem::path& path);

// What ASSAY_TLS_CA, ASSAY_TOKEN_FILE and ASSAY_TOKEN say, for options that were not given. A token is kept
// out of command lines on purpose, as every user of a machine can read those.
ClientTls WithEnvironment(ClientTls tls);

}  // namespace assay

#include "common/tls.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace assay {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPemFile = size_t{1} << 20;
constexpr size_t kMaxTokenFile = 4096;
// How often files are looked at for changes; gRPC counts in whole seconds.
constexpr unsigned kReloadSeconds = 1;

void AllowOnlyTls13() {
  static std::once_flag once;
  std::call_once(once, [] { ::setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-CHACHA20-POLY1305", 1); });
}

// With the file's name in front of what is wrong with it.
absl::Status In(const fs::path& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path.string(), ": ", std::string(status.message())));
}

absl::StatusOr<CertificateFacts> ReadCertificateFile(const fs::path& path) {
  ASSAY_ASSIGN_OR_RETURN(const std::string pem, ReadFile(path, kMaxPemFile));
  absl::StatusOr<CertificateFacts> facts = ReadCertificate(pem);
  if (!facts.ok()) return In(path, facts.status());
  return facts;
}

absl::Status CheckPair(const fs::path& certificate, const fs::path& key) {
  ASSAY_ASSIGN_OR_RETURN(const std::string certificate_pem, ReadFile(certificate, kMaxPemFile));
  ASSAY_ASSIGN_OR_RETURN(const std::string key_pem, ReadFile(key, kMaxPemFile));
  absl::StatusOr<CertificateFacts> facts = ReadCertificate(certificate_pem);
  if (!facts.ok()) return In(certificate, facts.status());
  absl::Status fits = CheckKeyFits(certificate_pem, key_pem);
  return fits.ok() ? fits : In(key, fits);
}

std::string Day(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// Puts a token on each call. gRPC calls it only for connections that are encrypted.
class TokenPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  TokenPlugin(fs::path file, std::string token) : file_(std::move(file)), token_(std::move(token)) {}

  bool IsBlocking() const override { return !file_.empty(); }
  const char* GetType() const override { return "assay-token"; }
  // gRPC's own would have the token in it.
  grpc::string DebugString() override { return "assay-token"; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    absl::StatusOr<std::string> token = token_;
    if (!file_.empty()) token = ReadTokenFile(file_);
    if (!token.ok()) {
      return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, std::string(token.status().message()));
    }
    metadata->insert({"authorization", absl::StrCat("Bearer ", *token)});
    return grpc::Status::OK;
  }

 private:
  const fs::path file_;
  const std::string token_;
};

// "ab c\n" would else become a header of its own making.
absl::Status CheckToken(const std::string& token) {
  for (const char c : token) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError("a token has a character in it that no token has");
    }
  }
  return token.empty() ? absl::InvalidArgumentError("an empty token") : absl::OkStatus();
}

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

absl::StatusOr<std::string> ReadTokenFile(const fs::path& path) {
  // Or it would be in the message that there is no such file.
  if (path.string().rfind("assay_", 0) == 0 && path.string().size() > 64) {
    return absl::InvalidArgumentError(
        "the token itself is given where the name of a file with it is wanted: every user of this machine "
        "can read"
        " it there, so make a new one");
  }
  ASSAY_ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxTokenFile));
  const std::string token(absl::StripAsciiWhitespace(content));
  if (absl::Status status = CheckToken(token); !status.ok()) return In(path, status);
  return token;
}

ClientTls WithEnvironment(ClientTls tls) {
  if (tls.authority.empty()) tls.authority = FromEnvironment("ASSAY_TLS_CA");
  if (tls.certificate.empty()) {
    tls.certificate = FromEnvironment("ASSAY_TLS_CERT");
    if (tls.key.empty()) tls.key = FromEnvironment("ASSAY_TLS_KEY");
  }
  if (tls.token_file.empty() && tls.token.empty()) {
    tls.token_file = FromEnvironment("ASSAY_TOKEN_FILE");
    if (tls.token_file.empty())
      tls.token = std::string(absl::StripAsciiWhitespace(FromEnvironment("ASSAY_TOKEN")));
  }
  return tls;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentialsOf(const ServerTls& tls,
                                                                             absl::Time now) {
  AllowOnlyTls13();
  const fs::path key = tls.key.empty() ? tls.certificate : tls.key;
  ASSAY_RETURN_IF_ERROR(CheckPair(tls.certificate, key));
  ASSAY_ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificateFile(tls.certificate));
  if (facts.not_after <= now || facts.not_before > now) {
    return absl::FailedPreconditionError(absl::StrCat(
        tls.certificate.string(), ": this certificate is good from ", Day(facts.not_before), " to ",
        Day(facts.not_after), ", and now it is ", Day(now), ": renew it, or mend this machine's clock"));
  }
  if (tls.authority.empty() && tls.require_client_certificate) {
    return absl::InvalidArgumentError(
        "certificates of clients are required, but no authority for them is given");
  }
  if (!tls.authority.empty()) ASSAY_RETURN_IF_ERROR(ReadCertificateFile(tls.authority).status());

  namespace ge = grpc::experimental;
  ge::TlsServerCredentialsOptions options(std::make_shared<ge::FileWatcherCertificateProvider>(
      key.string(), tls.certificate.string(), tls.authority.string(), kReloadSeconds));
  options.watch_identity_key_cert_pairs();
  if (tls.authority.empty()) {
    options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    options.watch_root_certs();
    options.set_cert_request_type(tls.require_client_certificate
                                      ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return ge::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentialsOf(const ClientTls& tls) {
  const bool token = !tls.token.empty() || !tls.token_file.empty();
  if (tls.authority.empty()) {
    if (token || !tls.certificate.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(token ? "a token" : "a certificate",
                                                     " is given, but no TLS to show it over: name the file "
                                                     "of the coordinator's authority with --tls-ca or"
                                                     " ASSAY_TLS_CA"));
    }
    return grpc::InsecureChannelCredentials();
  }
  if (!tls.token.empty() && !tls.token_file.empty()) {
    return absl::InvalidArgumentError("a token and a file with a token are given: which of them?");
  }
  AllowOnlyTls13();
  ASSAY_RETURN_IF_ERROR(ReadCertificateFile(tls.authority).status());
  namespace ge = grpc::experimental;
  ge::TlsChannelCredentialsOptions options;
  if (tls.certificate.empty()) {
    options.set_certificate_provider(
        std::make_shared<ge::FileWatcherCertificateProvider>(tls.authority.string(), kReloadSeconds));
  } else {
    const fs::path key = tls.key.empty() ? tls.certificate : tls.key;
    ASSAY_RETURN_IF_ERROR(CheckPair(tls.certificate, key));
    options.set_certificate_provider(std::make_shared<ge::FileWatcherCertificateProvider>(
        key.string(), tls.certificate.string(), tls.authority.string(), kReloadSeconds));
    options.watch_identity_key_cert_pairs();
  }
  options.watch_root_certs();
  std::shared_ptr<grpc::ChannelCredentials> channel = ge::TlsCredentials(options);
  if (!token) return channel;
  if (tls.token_file.empty()) {
    ASSAY_RETURN_IF_ERROR(CheckToken(tls.token));
  } else {
    ASSAY_RETURN_IF_ERROR(ReadTokenFile(tls.token_file).status());
  }
  return grpc::CompositeChannelCredentials(
      channel, grpc::MetadataCredentialsFromPlugin(std::make_unique<TokenPlugin>(tls.token_file, tls.token)));
}

}  // namespace assay

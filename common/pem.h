// Keys and certificates (X.509, RFC 5280) as PEM text: EC P-256 keys, ECDSA with SHA-256. Pure but for
// OpenSSL's random numbers, safe from any thread. No error has any part of a key in it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace assay {

// A new private key, PKCS #8. Secret.
absl::StatusOr<std::string> NewKeyPem();

struct CertificateFacts {
  std::string common_name;
  std::string serial;       // lower-case hex
  std::string fingerprint;  // SHA-256 of the certificate's DER, lower-case hex
  absl::Time not_before;
  absl::Time not_after;
  std::vector<std::string> hosts;  // names and addresses that it is good for as a server
};
// Of the first certificate in the text. INVALID_ARGUMENT: there is none.
absl::StatusOr<CertificateFacts> ReadCertificate(absl::string_view pem);

// A certificate that may sign others and nothing else, signed by itself.
absl::StatusOr<std::string> MakeAuthority(absl::string_view key_pem, const std::string& common_name,
                                          absl::Time not_before, absl::Time not_after);

// PKCS #10 (RFC 2986): asks for a certificate over the key, for this common name.
absl::StatusOr<std::string> MakeCertificateRequest(absl::string_view key_pem, const std::string& common_name);

struct Authority {
  std::string certificate_pem;
  std::string key_pem;  // secret
};

// A server's: good for these host names and addresses ("node-1", "10.0.0.7", "::1"), and for nothing but
// being a server, so that it is nobody's identity as a client. The first host is the common name.
// INVALID_ARGUMENT: no hosts, or one that is neither a name nor an address.
absl::StatusOr<std::string> SignServer(const Authority& authority, absl::string_view key_pem,
                                       const std::vector<std::string>& hosts, absl::Time not_before,
                                       absl::Time not_after);

// A client's. Nothing of the request is taken but its key and common name, which must be `common_name`.
// INVALID_ARGUMENT: no request, not signed by its own key, a key other than EC P-256 or P-384, Ed25519 or RSA
// of 2048 bits or more, or another name.
absl::StatusOr<std::string> SignClient(const Authority& authority, absl::string_view request_pem,
                                       const std::string& common_name, absl::Time not_before,
                                       absl::Time not_after);

// OK where the key is that of the certificate. INVALID_ARGUMENT: it is not, or one of them is none.
absl::Status CheckKeyFits(absl::string_view certificate_pem, absl::string_view key_pem);

// 32 random bytes of the kind that keys are made of.
absl::StatusOr<std::string> RandomSecret();

}  // namespace assay

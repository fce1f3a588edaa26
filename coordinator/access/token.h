// Bearer tokens: "assay_", 64 hexadecimal digits of random numbers (256 bits) and 8 of a checksum over them.
// The beginning is for scanners that look for secrets in code and logs (assay_[0-9a-f]{72}); the checksum
// tells what was mistyped or made up without asking the store. Pure, safe from any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "assay/v1/admin.pb.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

absl::StatusOr<std::string> NewToken();

// True where it has the form of a token and its checksum.
bool LooksLikeToken(absl::string_view token);

// What is kept of a token. Plain SHA-256 is right here, unlike for passwords: nobody can try out 2^256
// secrets, so that there is nothing for a slow hash with salt to slow down.
std::string TokenHash(absl::string_view token);

// In a time that does not tell how much of it agrees.
bool SameHash(absl::string_view a, absl::string_view b);

inline constexpr absl::Duration kTokenLife = absl::Hours(24 * 90);
inline constexpr absl::Duration kJoinTokenLife = absl::Hours(1);
inline constexpr size_t kMaxTokenName = 128;

struct IssuedToken {
  std::string token;  // secret
  TokenRecord record;
};
// A new token that is to be put into the store. InfinitePast as `expire`: the role's default.
//   INVALID_ARGUMENT  an unknown role, a name that is empty, too long or has characters that do not print, or
//   an
//                     expiry that is not after `now`.
absl::StatusOr<IssuedToken> IssueToken(const std::string& name, v1::Role role, absl::Time now,
                                       absl::Time expire);

// That a client's certificate was given out, so that it can be listed and revoked as a token can; its hash is
// the certificate's fingerprint.
TokenRecord CertificateRecord(const std::string& name, const std::string& fingerprint, absl::Time now,
                              absl::Time expire);

bool IsCertificateRecord(const TokenRecord& record);

// Why a token or certificate is good for nothing at `now`; OK: it is good.
absl::Status CheckUsable(const v1::TokenInfo& info, absl::Time now);

}  // namespace assay::coordinator

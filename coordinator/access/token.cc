#include "coordinator/access/token.h"

#include <openssl/crypto.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/id.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "common/timestamp.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// Before the ids of certificates.
constexpr char kCertificate[] = "c-";

constexpr absl::string_view kPrefix = "assay_";
constexpr size_t kSecretDigits = 64;
constexpr size_t kChecksumDigits = 8;

std::string ChecksumOf(absl::string_view digits) { return Sha256Hex(digits).substr(0, kChecksumDigits); }

std::string Said(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

absl::Status CheckName(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("a token needs a name");
  if (name.size() > kMaxTokenName) {
    return absl::InvalidArgumentError(absl::StrCat("a token's name has at most ", kMaxTokenName, " bytes"));
  }
  for (const char c : name) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "name '", absl::CEscape(name), "': letters, digits and signs of ASCII alone, no spaces"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> NewToken() {
  ASSAY_ASSIGN_OR_RETURN(const std::string secret, RandomSecret());
  const std::string digits = absl::BytesToHexString(secret);
  return absl::StrCat(kPrefix, digits, ChecksumOf(digits));
}

bool LooksLikeToken(absl::string_view token) {
  if (!absl::StartsWith(token, kPrefix)) return false;
  token.remove_prefix(kPrefix.size());
  if (token.size() != kSecretDigits + kChecksumDigits) return false;
  return ChecksumOf(token.substr(0, kSecretDigits)) == token.substr(kSecretDigits);
}

std::string TokenHash(absl::string_view token) { return Sha256Hex(token); }

bool SameHash(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

absl::StatusOr<IssuedToken> IssueToken(const std::string& name, v1::Role role, absl::Time now,
                                       absl::Time expire) {
  ASSAY_RETURN_IF_ERROR(CheckName(name));
  if (!v1::Role_IsValid(role) || role == v1::ROLE_UNSPECIFIED) {
    return absl::InvalidArgumentError("a token needs a role: read, submit, work, admin or join");
  }
  if (expire == absl::InfinitePast()) expire = now + (role == v1::JOIN ? kJoinTokenLife : kTokenLife);
  if (expire <= now) return absl::InvalidArgumentError(absl::StrCat("a token that ended at ", Said(expire)));
  IssuedToken issued;
  ASSAY_ASSIGN_OR_RETURN(issued.token, NewToken());
  issued.record.hash = TokenHash(issued.token);
  v1::TokenInfo& info = issued.record.info;
  info.set_id(absl::StrCat("t-", NewUuid().substr(0, 8)));
  info.set_name(name);
  info.set_role(role);
  *info.mutable_create_time() = ToTimestamp(now);
  *info.mutable_expire_time() = ToTimestamp(expire);
  return issued;
}

TokenRecord CertificateRecord(const std::string& name, const std::string& fingerprint, absl::Time now,
                              absl::Time expire) {
  TokenRecord record;
  record.hash = fingerprint;
  record.info.set_id(absl::StrCat(kCertificate, fingerprint.substr(0, 16)));
  record.info.set_name(name);
  record.info.set_role(v1::WORK);
  *record.info.mutable_create_time() = ToTimestamp(now);
  *record.info.mutable_expire_time() = ToTimestamp(expire);
  return record;
}

bool IsCertificateRecord(const TokenRecord& record) {
  return absl::StartsWith(record.info.id(), kCertificate);
}

absl::Status CheckUsable(const v1::TokenInfo& info, absl::Time now) {
  const std::string which = absl::StrCat(info.id(), " (", info.name(), ")");
  if (info.has_revoke_time()) {
    return absl::UnauthenticatedError(
        absl::StrCat(which, " was revoked at ", Said(TimeOf(info.revoke_time()))));
  }
  if (info.has_expire_time() && TimeOf(info.expire_time()) <= now) {
    return absl::UnauthenticatedError(
        absl::StrCat(which, " has expired, at ", Said(TimeOf(info.expire_time())), ": ask for a new one"));
  }
  if (info.has_redeem_time()) {
    return absl::UnauthenticatedError(absl::StrCat(
        which, " was redeemed at ", Said(TimeOf(info.redeem_time())), ", and is good only once"));
  }
  return absl::OkStatus();
}

}  // namespace assay::coordinator

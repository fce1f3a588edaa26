#include "common/pem.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "common/status_macros.h"

namespace assay {
namespace {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* value) const {
    Free(value);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Request = std::unique_ptr<X509_REQ, Freer<X509_REQ_free>>;
using Name = std::unique_ptr<X509_NAME, Freer<X509_NAME_free>>;

// ub-common-name of RFC 5280.
constexpr size_t kMaxCommonName = 64;
constexpr size_t kMaxPemBytes = size_t{64} << 10;

absl::Status Failed(absl::string_view what) {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return absl::InternalError(
      absl::StrCat("cannot ", what, reason == nullptr ? "" : ": ", reason == nullptr ? "" : reason));
}

absl::Status Wrong(const std::string& what) {
  ERR_clear_error();
  return absl::InvalidArgumentError(what);
}

Bio MemoryOf(absl::string_view text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(std::min(text.size(), kMaxPemBytes))));
}

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

// Without it OpenSSL asks the terminal for the password of an encrypted key.
int NoPassword(char*, int, int, void*) { return -1; }

absl::StatusOr<Key> ReadKey(absl::string_view pem) {
  Key key(PEM_read_bio_PrivateKey(MemoryOf(pem).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) return Wrong("no private key in PEM form, or one with a password");
  return key;
}

absl::StatusOr<Certificate> ReadX509(absl::string_view pem) {
  Certificate certificate(PEM_read_bio_X509(MemoryOf(pem).get(), nullptr, NoPassword, nullptr));
  if (certificate == nullptr) return Wrong("no certificate in PEM form");
  return certificate;
}

absl::StatusOr<Name> NameOf(const std::string& common_name) {
  if (common_name.empty() || common_name.size() > kMaxCommonName) {
    return absl::InvalidArgumentError(
        absl::StrCat("a certificate's name has 1 to ", kMaxCommonName, " bytes, not ", common_name.size()));
  }
  Name name(X509_NAME_new());
  if (name == nullptr ||
      X509_NAME_add_entry_by_txt(name.get(), "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(common_name.data()),
                                 static_cast<int>(common_name.size()), -1, 0) != 1) {
    return Wrong(absl::StrCat("'", absl::CEscape(common_name), "' cannot be a certificate's name"));
  }
  return name;
}

// The one common name; empty where there is none, or more than one.
std::string CommonNameOf(const X509_NAME* name) {
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0) return "";
  unsigned char* text = nullptr;
  const int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
  if (size < 0) return "";
  std::string result(reinterpret_cast<char*>(text), static_cast<size_t>(size));
  OPENSSL_free(text);
  return result;
}

absl::Status SetTimes(X509* certificate, absl::Time not_before, absl::Time not_after) {
  if (not_after <= not_before) return absl::InvalidArgumentError("a certificate must end after it begins");
  if (ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(not_before)) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(not_after)) == nullptr) {
    return Failed("set a certificate's times");
  }
  return absl::OkStatus();
}

absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return Failed(absl::StrCat("add ", OBJ_nid2sn(nid), " to a certificate"));
  }
  return absl::OkStatus();
}

// Version 3, with a random serial number of 127 bits (CA/Browser Forum: at least 64 of them random).
absl::StatusOr<Certificate> NewCertificate(const std::string& subject, EVP_PKEY* key, absl::Time not_before,
                                           absl::Time not_after) {
  Certificate certificate(X509_new());
  std::unique_ptr<BIGNUM, Freer<BN_free>> serial(BN_new());
  if (certificate == nullptr || serial == nullptr ||
      X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      BN_rand(serial.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) == nullptr) {
    return Failed("make a certificate");
  }
  ASSAY_ASSIGN_OR_RETURN(Name name, NameOf(subject));
  ASSAY_RETURN_IF_ERROR(SetTimes(certificate.get(), not_before, not_after));
  if (X509_set_subject_name(certificate.get(), name.get()) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1) {
    return Failed("make a certificate");
  }
  return certificate;
}

absl::StatusOr<std::string> SignedPem(X509* certificate, EVP_PKEY* key) {
  if (X509_sign(certificate, key, EVP_sha256()) == 0) return Failed("sign a certificate");
  Bio out(BIO_new(BIO_s_mem()));
  if (out == nullptr || PEM_write_bio_X509(out.get(), certificate) != 1) return Failed("write a certificate");
  return TextOf(out.get());
}

// One that is no authority itself.
absl::StatusOr<std::string> SignLeaf(const Authority& authority, const std::string& subject, EVP_PKEY* key,
                                     const std::string& usage, const std::string& alternative_names,
                                     absl::Time not_before, absl::Time not_after) {
  ASSAY_RETURN_IF_ERROR(CheckKeyFits(authority.certificate_pem, authority.key_pem));
  ASSAY_ASSIGN_OR_RETURN(Certificate issuer, ReadX509(authority.certificate_pem));
  ASSAY_ASSIGN_OR_RETURN(Key issuer_key, ReadKey(authority.key_pem));
  ASSAY_ASSIGN_OR_RETURN(Certificate leaf, NewCertificate(subject, key, not_before, not_after));
  if (X509_set_issuer_name(leaf.get(), X509_get_subject_name(issuer.get())) != 1) {
    return Failed("name a certificate's issuer");
  }
  X509* x509 = leaf.get();
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_basic_constraints, "critical,CA:FALSE"));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_key_usage, "critical,digitalSignature"));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_ext_key_usage, usage));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_subject_key_identifier, "hash"));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_authority_key_identifier, "keyid:always"));
  if (!alternative_names.empty()) {
    ASSAY_RETURN_IF_ERROR(AddExtension(x509, issuer.get(), NID_subject_alt_name, alternative_names));
  }
  return SignedPem(x509, issuer_key.get());
}

// As OpenSSL's configuration has it. It takes commas and colons for its own, hence the check.
absl::StatusOr<std::string> AlternativeName(const std::string& host) {
  std::unique_ptr<ASN1_OCTET_STRING, Freer<ASN1_OCTET_STRING_free>> address(a2i_IPADDRESS(host.c_str()));
  ERR_clear_error();
  if (address != nullptr) return absl::StrCat("IP:", host);
  bool good = !host.empty() && host.size() <= 253 && host.front() != '.' && host.front() != '-';
  for (size_t i = 0; i < host.size(); ++i) {
    const char c = host[i];
    const bool star = c == '*' && i == 0 && host.size() > 2 && host[1] == '.';
    good = good && (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_' || star);
  }
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat("host '", absl::CEscape(host), "' is neither a host name nor an address"));
  }
  return absl::StrCat("DNS:", host);
}

bool IsStrong(const EVP_PKEY* key) {
  switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_ED25519:
      return true;
    case EVP_PKEY_RSA:
      return EVP_PKEY_get_bits(key) >= 2048;
    case EVP_PKEY_EC: {
      char group[32] = "";
      size_t size = 0;
      if (EVP_PKEY_get_group_name(key, group, sizeof(group), &size) != 1) return false;
      const absl::string_view name(group, size);
      return name == "prime256v1" || name == "P-256" || name == "secp384r1" || name == "P-384";
    }
    default:
      return false;
  }
}

std::vector<std::string> HostsOf(const X509* certificate) {
  std::vector<std::string> hosts;
  std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    const unsigned char* bytes = ASN1_STRING_get0_data(value);
    const int size = ASN1_STRING_length(value);
    if (type == GEN_DNS) {
      hosts.emplace_back(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
    } else if (type == GEN_IPADD) {
      char text[INET6_ADDRSTRLEN] = "";
      if (inet_ntop(size == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text)) != nullptr)
        hosts.push_back(text);
    }
  }
  return hosts;
}

absl::Time TimeOf(const ASN1_TIME* time) {
  struct tm parts {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<std::string> NewKeyPem() {
  Key key(EVP_EC_gen("P-256"));
  Bio out(BIO_new(BIO_s_secmem()));
  if (key == nullptr || out == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(out.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed("make a key");
  }
  return TextOf(out.get());
}

absl::StatusOr<CertificateFacts> ReadCertificate(absl::string_view pem) {
  ASSAY_ASSIGN_OR_RETURN(Certificate certificate, ReadX509(pem));
  CertificateFacts facts;
  facts.common_name = CommonNameOf(X509_get_subject_name(certificate.get()));
  std::unique_ptr<BIGNUM, Freer<BN_free>> serial(
      ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate.get()), nullptr));
  if (serial == nullptr) return Wrong("a certificate without a serial number");
  char* hex = BN_bn2hex(serial.get());
  for (const char* c = hex; *c != '\0'; ++c) {
    facts.serial += static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
  }
  OPENSSL_free(hex);
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate.get(), &der);
  if (size < 0) return Wrong("a certificate that cannot be encoded");
  facts.fingerprint = Sha256Hex(absl::string_view(reinterpret_cast<char*>(der), static_cast<size_t>(size)));
  OPENSSL_free(der);
  facts.not_before = TimeOf(X509_get0_notBefore(certificate.get()));
  facts.not_after = TimeOf(X509_get0_notAfter(certificate.get()));
  facts.hosts = HostsOf(certificate.get());
  return facts;
}

absl::StatusOr<std::string> MakeAuthority(absl::string_view key_pem, const std::string& common_name,
                                          absl::Time not_before, absl::Time not_after) {
  ASSAY_ASSIGN_OR_RETURN(Key key, ReadKey(key_pem));
  ASSAY_ASSIGN_OR_RETURN(Certificate certificate,
                         NewCertificate(common_name, key.get(), not_before, not_after));
  X509* x509 = certificate.get();
  if (X509_set_issuer_name(x509, X509_get_subject_name(x509)) != 1) {
    return Failed("name a certificate's issuer");
  }
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, x509, NID_key_usage, "critical,keyCertSign,cRLSign"));
  ASSAY_RETURN_IF_ERROR(AddExtension(x509, x509, NID_subject_key_identifier, "hash"));
  return SignedPem(x509, key.get());
}

absl::StatusOr<std::string> MakeCertificateRequest(absl::string_view key_pem,
                                                   const std::string& common_name) {
  ASSAY_ASSIGN_OR_RETURN(Key key, ReadKey(key_pem));
  ASSAY_ASSIGN_OR_RETURN(Name name, NameOf(common_name));
  Request request(X509_REQ_new());
  Bio out(BIO_new(BIO_s_mem()));
  if (request == nullptr || out == nullptr || X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_REQ_set_subject_name(request.get(), name.get()) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0 ||
      PEM_write_bio_X509_REQ(out.get(), request.get()) != 1) {
    return Failed("make a certificate request");
  }
  return TextOf(out.get());
}

absl::StatusOr<std::string> SignServer(const Authority& authority, absl::string_view key_pem,
                                       const std::vector<std::string>& hosts, absl::Time not_before,
                                       absl::Time not_after) {
  if (hosts.empty()) return absl::InvalidArgumentError("a server's certificate needs a host");
  ASSAY_ASSIGN_OR_RETURN(Key key, ReadKey(key_pem));
  std::vector<std::string> names;
  for (const std::string& host : hosts) {
    ASSAY_ASSIGN_OR_RETURN(std::string name, AlternativeName(host));
    names.push_back(std::move(name));
  }
  return SignLeaf(authority, hosts[0].substr(0, kMaxCommonName), key.get(), "serverAuth",
                  absl::StrJoin(names, ","), not_before, not_after);
}

absl::StatusOr<std::string> SignClient(const Authority& authority, absl::string_view request_pem,
                                       const std::string& common_name, absl::Time not_before,
                                       absl::Time not_after) {
  Request request(PEM_read_bio_X509_REQ(MemoryOf(request_pem).get(), nullptr, NoPassword, nullptr));
  if (request == nullptr) return Wrong("not a certificate request in PEM form");
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (key == nullptr || X509_REQ_verify(request.get(), key) != 1) {
    return Wrong("the certificate request is not signed by its own key");
  }
  if (!IsStrong(key)) {
    return Wrong("the key must be EC P-256 or P-384, Ed25519, or RSA of 2048 bits or more");
  }
  const std::string asked = CommonNameOf(X509_REQ_get_subject_name(request.get()));
  if (asked != common_name) {
    return Wrong(absl::StrCat("the certificate request is for '", absl::CEscape(asked), "', not for '",
                              absl::CEscape(common_name), "'"));
  }
  return SignLeaf(authority, common_name, key, "clientAuth", "", not_before, not_after);
}

absl::Status CheckKeyFits(absl::string_view certificate_pem, absl::string_view key_pem) {
  ASSAY_ASSIGN_OR_RETURN(Certificate certificate, ReadX509(certificate_pem));
  ASSAY_ASSIGN_OR_RETURN(Key key, ReadKey(key_pem));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Wrong("the key is not that of the certificate");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RandomSecret() {
  std::string bytes(32, '\0');
  if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size())) != 1) {
    return Failed("get random numbers");
  }
  return bytes;
}

}  // namespace assay

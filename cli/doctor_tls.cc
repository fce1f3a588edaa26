// What `assay doctor` says of certificates, keys and tokens. No secret is printed, nor any part of one.
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "cli/doctor.h"
#include "common/certificate_watch.h"
#include "common/file.h"
#include "common/pem.h"

namespace assay::cli {
namespace {

// A worker's, which renews itself ten days before its end.
constexpr absl::Duration kWorkerSoon = absl::Hours(7 * 24);

using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

void Add(Findings& findings, std::string check, Health health, std::string saw, std::string remedy = "") {
  findings.push_back({std::move(check), health, std::move(saw), std::move(remedy)});
}

Certificate ReadCertificate(const std::string& path) {
  FILE* file = fopen(path.c_str(), "re");
  if (file == nullptr) return {nullptr, X509_free};
  X509* certificate = PEM_read_X509(file, nullptr, nullptr, nullptr);
  fclose(file);
  return {certificate, X509_free};
}

// A file that others than its owner may read.
bool IsOpenToOthers(const std::string& path) {
  struct stat about {};
  return stat(path.c_str(), &about) == 0 && (about.st_mode & 077) != 0;
}

std::string Minute(absl::Time time) {
  return absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M", time, absl::UTCTimeZone()), " UTC");
}

void CheckValidity(const std::string& check, const std::string& path, absl::Time now, Findings& findings) {
  const absl::StatusOr<std::string> pem = ReadFile(path);
  CheckCertificate(check, path, pem.ok() ? *pem : "", now, findings);
}

void CheckChain(const DoctorOptions& options, Findings& findings) {
  std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(), X509_STORE_free);
  std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> context(X509_STORE_CTX_new(),
                                                                          X509_STORE_CTX_free);
  const Certificate certificate = ReadCertificate(options.tls_cert);
  if (certificate == nullptr || X509_STORE_load_file(store.get(), options.tls_ca.c_str()) != 1)
    return;  // said already
  X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr);
  // That either has ended is said of each.
  X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context.get()), X509_V_FLAG_NO_CHECK_TIME);
  if (X509_verify_cert(context.get()) == 1) {
    return Add(findings, "tls.chain", Health::kOk, "the authority has signed the certificate");
  }
  Add(findings, "tls.chain", Health::kFail,
      X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get())),
      "the certificate and --tls-ca are of different authorities: name those that belong together");
}

void CheckKey(const DoctorOptions& options, Findings& findings) {
  FILE* file = fopen(options.tls_key.c_str(), "re");
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      file == nullptr ? nullptr : PEM_read_PrivateKey(file, nullptr, nullptr, const_cast<char*>("")),
      EVP_PKEY_free);
  if (file != nullptr) fclose(file);
  if (key == nullptr) {
    return Add(findings, "tls.key", Health::kFail,
               absl::StrCat(options.tls_key, " is no private key without a passphrase that can be read"),
               "name the right file, and let this user read it");
  }
  const Certificate certificate = ReadCertificate(options.tls_cert);
  if (certificate != nullptr && X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Add(findings, "tls.key", Health::kFail,
               absl::StrCat(options.tls_key, " is not the certificate's key"),
               "name the two that were made together");
  }
  if (IsOpenToOthers(options.tls_key)) {
    return Add(findings, "tls.key", Health::kWarn,
               absl::StrCat(options.tls_key, " can be read by other users"),
               absl::StrCat("chmod 600 ", options.tls_key));
  }
  Add(findings, "tls.key", Health::kOk, options.tls_key);
}

void CheckToken(const DoctorOptions& options, Findings& findings) {
  std::ifstream file(options.token_file);
  std::string token;
  std::getline(file, token);
  token = std::string(absl::StripAsciiWhitespace(token));
  if (token.empty()) {
    return Add(findings, "tls.token", Health::kFail,
               absl::StrCat(options.token_file, " cannot be read, or has no token in it"),
               "write the token into it, alone in its line");
  }
  if (IsOpenToOthers(options.token_file)) {
    return Add(findings, "tls.token", Health::kWarn,
               absl::StrCat(options.token_file, " can be read by other users"),
               absl::StrCat("chmod 600 ", options.token_file));
  }
  Add(findings, "tls.token", Health::kOk,
      absl::StrCat(options.token_file, " holds one (what it may do, the coordinator says)"));
}

}  // namespace

void CheckCertificate(const std::string& check, const std::string& what, const std::string& pem,
                      absl::Time now, Findings& findings) {
  const absl::StatusOr<CertificateFacts> facts = assay::ReadCertificate(pem);
  if (!facts.ok()) {
    return Add(findings, check, Health::kFail,
               absl::StrCat(what, " is no certificate in PEM that can be read"),
               "name the right file, and let this user read it");
  }
  const std::string saw = absl::StrCat(what, ", valid until ", Minute(facts->not_after));
  if (now < facts->not_before) {
    Add(findings, check, Health::kFail, absl::StrCat(saw, ", and not before ", Minute(facts->not_before)),
        "see whether this machine's clock is right");
  } else if (now >= facts->not_after) {
    Add(findings, check, Health::kFail, absl::StrCat(saw, ": it has ended"),
        "renew it (docs/security.md); it is read again without a restart");
  } else if (facts->not_after - now < RenewalMargin(*facts)) {
    Add(findings, check, Health::kWarn, saw, "renew it before then (docs/security.md)");
  } else {
    Add(findings, check, Health::kOk, saw);
  }
}

void CheckWorkerCertificates(const v1::ListWorkersResponse& workers, absl::Time now, Findings& findings) {
  size_t shown = 0;
  std::vector<std::string> ending;
  for (const v1::WorkerSummary& worker : workers.worker()) {
    if (!worker.connected() || !worker.has_certificate_expire_time()) continue;
    ++shown;
    const absl::Time end = absl::FromUnixSeconds(worker.certificate_expire_time().seconds());
    if (end - now < kWorkerSoon) ending.push_back(absl::StrCat(worker.name(), " (", Minute(end), ")"));
  }
  if (shown == 0) return;
  if (ending.empty()) {
    return Add(findings, "coordinator.worker_certificates", Health::kOk,
               absl::StrCat(shown, " connected with one; none ends within a week"));
  }
  Add(findings, "coordinator.worker_certificates", Health::kWarn,
      absl::StrCat(ending.size(), " of ", shown, " end within a week: ", absl::StrJoin(ending, ", ")),
      "each worker's log says why it could not renew its own; one that you renew by other means connects "
      "again with it when the present one ends");
}

void CheckTls(const DoctorOptions& options, absl::Time now, Findings& findings) {
  if (options.tls_ca.empty() && options.tls_cert.empty() && options.tls_key.empty()) {
    Add(findings, "tls.used", Health::kOk,
        "no certificate is named: without TLS everything stays on loopback");
  }
  if (!options.tls_ca.empty()) CheckValidity("tls.authority", options.tls_ca, now, findings);
  if (!options.tls_cert.empty()) CheckValidity("tls.certificate", options.tls_cert, now, findings);
  if (!options.tls_key.empty()) CheckKey(options, findings);
  if (!options.tls_ca.empty() && !options.tls_cert.empty()) CheckChain(options, findings);
  if (!options.token_file.empty()) CheckToken(options, findings);
}

}  // namespace assay::cli

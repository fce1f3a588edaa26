#include "cli/doctor.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/id.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DoctorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / absl::StrCat("doctor-", NewUuid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  // A key and a certificate for a day that it signs itself, in NAME.key and NAME.crt.
  void MakeCertificate(const std::string& name) {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 30 * 24 * 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    X509_sign(certificate, key, EVP_sha256());
    FILE* file = fopen(Path(name + ".key").c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
    chmod(Path(name + ".key").c_str(), 0600);
    file = fopen(Path(name + ".crt").c_str(), "w");
    PEM_write_X509(file, certificate);
    fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }

  static const Finding& Of(const Findings& findings, const std::string& check) {
    for (const Finding& finding : findings) {
      if (finding.check == check) return finding;
    }
    static const Finding none{"", Health::kFail, "", ""};
    ADD_FAILURE() << check << " was not looked at";
    return none;
  }

  fs::path folder_;
};

TEST_F(DoctorTest, WorkersWhoseCertificatesEndWithinAWeekAreNamed) {
  const absl::Time now = absl::Now();
  v1::ListWorkersResponse workers;
  const auto add = [&](const std::string& name, bool connected, std::optional<int> days) {
    v1::WorkerSummary& worker = *workers.add_worker();
    worker.set_name(name);
    worker.set_connected(connected);
    if (days) {
      worker.mutable_certificate_expire_time()->set_seconds(
          absl::ToUnixSeconds(now + *days * absl::Hours(24)));
    }
  };
  const auto look = [&] {
    Findings findings;
    CheckWorkerCertificates(workers, now, findings);
    return findings;
  };
  add("with-token", true, std::nullopt);
  add("gone", false, 1);
  EXPECT_TRUE(look().empty()) << "nobody who is here showed one";
  add("fresh", true, 20);
  Findings findings = look();
  EXPECT_EQ(Of(findings, "coordinator.worker_certificates").health, Health::kOk);
  add("ends", true, 6);
  findings = look();
  const Finding& finding = Of(findings, "coordinator.worker_certificates");
  EXPECT_EQ(finding.health, Health::kWarn);
  EXPECT_THAT(finding.saw, HasSubstr("1 of 2 end within a week: ends ("));
}

TEST_F(DoctorTest, CertificatesAreFineSoonOverOver) {
  MakeCertificate("node");
  DoctorOptions options;
  options.tls_ca = options.tls_cert = Path("node.crt");
  options.tls_key = Path("node.key");
  const auto at = [&](absl::Duration later) {
    Findings findings;
    CheckTls(options, absl::Now() + later, findings);
    return findings;
  };
  Findings fine = at(absl::ZeroDuration());
  for (const char* check : {"tls.authority", "tls.certificate", "tls.key", "tls.chain"}) {
    EXPECT_EQ(Of(fine, check).health, Health::kOk) << Of(fine, check).saw;
  }
  EXPECT_EQ(Of(at(absl::Hours(24 * 24)), "tls.certificate").health, Health::kWarn);
  const Findings over = at(absl::Hours(31 * 24));
  EXPECT_EQ(Of(over, "tls.certificate").health, Health::kFail);
  EXPECT_THAT(Of(over, "tls.certificate").saw, HasSubstr("it has ended"));
  EXPECT_THAT(Of(over, "tls.certificate").remedy, HasSubstr("renew"));
  const Findings early = at(-absl::Hours(1));
  EXPECT_EQ(Of(early, "tls.certificate").health, Health::kFail);
  EXPECT_THAT(Of(early, "tls.certificate").remedy, HasSubstr("clock"));
}

TEST_F(DoctorTest, KeysThatAreOpenOrOfAnotherAreSeen) {
  MakeCertificate("node");
  MakeCertificate("other");
  DoctorOptions options;
  options.tls_cert = Path("node.crt");
  options.tls_ca = Path("other.crt");
  options.tls_key = Path("other.key");
  Findings findings;
  CheckTls(options, absl::Now(), findings);
  EXPECT_EQ(Of(findings, "tls.key").health, Health::kFail);
  EXPECT_EQ(Of(findings, "tls.chain").health, Health::kFail);
  options.tls_key = Path("node.key");
  chmod(options.tls_key.c_str(), 0644);
  findings.clear();
  CheckTls(options, absl::Now(), findings);
  EXPECT_EQ(Of(findings, "tls.key").health, Health::kWarn);
  EXPECT_THAT(Of(findings, "tls.key").remedy, HasSubstr("chmod 600"));
}

TEST_F(DoctorTest, TokensAreNotPrinted) {
  DoctorOptions options;
  options.token_file = Path("token");
  std::ofstream(options.token_file) << "assay_canary\n";
  for (const mode_t mode : {0600, 0644}) {
    chmod(options.token_file.c_str(), mode);
    Findings findings;
    CheckTls(options, absl::Now(), findings);
    EXPECT_EQ(Of(findings, "tls.token").health, mode == 0600 ? Health::kOk : Health::kWarn);
    for (const Finding& finding : findings) {
      EXPECT_THAT(finding.saw + finding.remedy, ::testing::Not(HasSubstr("canary")));
    }
  }
}

TEST_F(DoctorTest, FoldersAreLookedAt) {
  Findings findings;
  CheckFolder("there", folder_.string(), 1, findings);
  CheckFolder("small", folder_.string(), uint64_t{1} << 62, findings);
  CheckFolder("later", Path("not/yet"), 1, findings);
  std::ofstream(Path("file")) << "x";
  CheckFolder("file", Path("file"), 1, findings);
  EXPECT_EQ(Of(findings, "there").health, Health::kOk);
  EXPECT_EQ(Of(findings, "small").health, Health::kFail);
  EXPECT_EQ(Of(findings, "later").health, Health::kOk);
  EXPECT_EQ(Of(findings, "file").health, Health::kFail);
}

TEST_F(DoctorTest, ACoordinatorThatWasNamedHasToAnswer) {
  DoctorOptions options;
  options.connection.address = "127.0.0.1:1";
  Findings findings;
  CheckCoordinator(options, findings);
  EXPECT_EQ(Of(findings, "coordinator.answer").health, Health::kWarn);
  options.coordinator_named = true;
  findings.clear();
  CheckCoordinator(options, findings);
  EXPECT_EQ(Of(findings, "coordinator.answer").health, Health::kFail);
  EXPECT_FALSE(Of(findings, "coordinator.answer").remedy.empty());
}

TEST_F(DoctorTest, ATestHostThatIsMissingIsSeen) {
  DoctorOptions options;
  options.host_binary = Path("assay-host");
  Findings findings;
  CheckWorkerHere(options, findings);
  EXPECT_EQ(Of(findings, "worker.host").health, Health::kFail);
}

}  // namespace
}  // namespace assay::cli

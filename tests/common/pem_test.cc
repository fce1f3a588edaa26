#include "common/pem.h"

#include <sys/stat.h>

#include <filesystem>
#include <sstream>

#include "common/certificate_watch.h"
#include "common/file.h"
#include "common/id.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/matchers.h"

namespace assay {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class PemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(authority_.key_pem, NewKeyPem());
    ASSERT_OK_AND_ASSIGN(authority_.certificate_pem,
                         MakeAuthority(authority_.key_pem, "Team", now_, now_ + absl::Hours(10)));
    ASSERT_OK_AND_ASSIGN(key_, NewKeyPem());
    ASSERT_OK_AND_ASSIGN(request_, MakeCertificateRequest(key_, "node-1"));
  }
  const absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  Authority authority_;
  std::string key_, request_;
};

TEST_F(PemTest, AWatchSaysOnceThatTheEndIsNearHasComeOrIsFarAgain) {
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / NewUuid();
  const auto write = [&](absl::Duration life) {
    const auto pem = SignClient(authority_, request_, "node-1", now_, now_ + life);
    ASSERT_THAT(pem, IsOk());
    ASSERT_THAT(WriteFileAtomically(file, *pem), IsOk());
  };
  std::ostringstream said;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_st>(said)));
  const auto after = [&](CertificateWatch& watch, absl::Duration later) {
    said.str("");
    const std::optional<absl::Time> end = watch.Look(now_ + later);
    return std::make_pair(end, said.str());
  };
  CertificateWatch watch(file, "this node's");
  EXPECT_THAT(after(watch, absl::ZeroDuration()).second, HasSubstr("cannot read this node's certificate"));
  EXPECT_THAT(after(watch, absl::ZeroDuration()),
              ::testing::Pair(::testing::Eq(std::nullopt), ::testing::IsEmpty()))
      << "once";
  write(absl::Hours(8));
  EXPECT_THAT(after(watch, absl::Hours(1)).second, HasSubstr("is good until"));
  EXPECT_EQ(after(watch, absl::Hours(5)).second, "") << "three hours of eight are left";
  EXPECT_THAT(after(watch, absl::Hours(7)).second, HasSubstr("ends at 2027-01-15 16:00:00 UTC: renew it"));
  const auto [end, again] = after(watch, absl::Hours(7));
  EXPECT_EQ(end, now_ + absl::Hours(8));
  EXPECT_EQ(again, "");
  EXPECT_THAT(after(watch, absl::Hours(8)).second, HasSubstr("has ended"));
  write(absl::Hours(100));
  EXPECT_THAT(after(watch, absl::Hours(8)).second, HasSubstr("is good until"));
  spdlog::set_default_logger(before);
  std::filesystem::remove(file);
}

TEST_F(PemTest, ACertificateSaysWhoAndUntilWhen) {
  ASSERT_OK_AND_ASSIGN(const std::string pem,
                       SignClient(authority_, request_, "node-1", now_, now_ + absl::Hours(1)));
  ASSERT_OK_AND_ASSIGN(const CertificateFacts facts, ReadCertificate(pem));
  EXPECT_EQ(facts.common_name, "node-1");
  EXPECT_EQ(facts.not_before, now_);
  EXPECT_EQ(facts.not_after, now_ + absl::Hours(1));
  EXPECT_EQ(facts.fingerprint.size(), 64u);
  EXPECT_THAT(CheckKeyFits(pem, key_), IsOk());
  EXPECT_THAT(CheckKeyFits(pem, authority_.key_pem), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK_AND_ASSIGN(const std::string again,
                       SignClient(authority_, request_, "node-1", now_, now_ + absl::Hours(1)));
  ASSERT_OK_AND_ASSIGN(const CertificateFacts other, ReadCertificate(again));
  EXPECT_NE(facts.serial, other.serial);
}

TEST_F(PemTest, AServersCertificateNamesItsHosts) {
  ASSERT_OK_AND_ASSIGN(
      const std::string pem,
      SignServer(authority_, key_, {"assay.example", "10.0.0.7", "::1"}, now_, now_ + absl::Hours(1)));
  ASSERT_OK_AND_ASSIGN(const CertificateFacts facts, ReadCertificate(pem));
  EXPECT_THAT(facts.hosts, ElementsAre("assay.example", "10.0.0.7", "::1"));
  for (const std::string host : {"", "a b", "a,DNS:b", "x:y", "-a", "*"}) {
    EXPECT_THAT(SignServer(authority_, key_, {host}, now_, now_ + absl::Hours(1)),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << host;
  }
  EXPECT_THAT(SignServer(authority_, key_, {}, now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(PemTest, OnlyWhatWasAskedForIsSigned) {
  EXPECT_THAT(SignClient(authority_, request_, "node-2", now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("for 'node-1', not for 'node-2'")));
  EXPECT_THAT(SignClient(authority_, "nonsense", "node-1", now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // One letter of the signed part is another.
  std::string forged = request_;
  const size_t at = forged.find('\n') + 30;
  forged[at] = forged[at] == 'A' ? 'B' : 'A';
  EXPECT_THAT(SignClient(authority_, forged, "node-1", now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  Authority broken = authority_;
  broken.key_pem = key_;
  EXPECT_THAT(SignClient(broken, request_, "node-1", now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument, Not(HasSubstr("PRIVATE"))));
  EXPECT_THAT(MakeCertificateRequest(key_, std::string(65, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(MakeCertificateRequest(key_, ""), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(PemTest, AWeakKeyIsNotSigned) {
  // openssl req -new -newkey rsa:1024 -subj /CN=node-1: the private key was thrown away.
  const std::string weak = R"(-----BEGIN CERTIFICATE REQUEST-----
MIIBUDCBugIBADARMQ8wDQYDVQQDDAZub2RlLTEwgZ8wDQYJKoZIhvcNAQEBBQAD
gY0AMIGJAoGBAMawLD5RI7JpKZOAWFbRwJZpi3fChBccO4gHd6O8aCq2j8Bp+FAh
yC5BRhJmO6m8yXmbdLRDP5aDU8lNTcarEhoIvUf68cWXvKV06LQdvYtwL9Vec9Jd
3SbIniHunKf6vJJUYVqRyeLEN5LK3Wb/F8/MNA3QMJ/nlCgDYZw1e+/BAgMBAAGg
ADANBgkqhkiG9w0BAQsFAAOBgQBj6VLbCk5dBzp1GLLs62Rms8uxrSOlbKLs22E1
MLnSTrYyrMvjqXL5kFSPdme9OcEGSNdQJbco9Jz7SBCrWhhwUKLxDNhJsBRsh8eg
vZLfkFiapg8bFPfWYeVuf1sr0wLNTdc6XUNz1Vtq4t+ssPFaSZhdFaSsloi5o0CF
ViogdQ==
-----END CERTIFICATE REQUEST-----
)";
  EXPECT_THAT(SignClient(authority_, weak, "node-1", now_, now_ + absl::Hours(1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2048")));
}

TEST(SecretFileTest, IsItsOwnersAlone) {
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / NewUuid();
  ASSERT_THAT(WriteFileAtomically(file, "open"), IsOk());
  ASSERT_THAT(WriteSecretFile(file, "secret"), IsOk());
  struct stat info {};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_THAT(ReadFile(file), IsOkAndHolds("secret"));
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace assay

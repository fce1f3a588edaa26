// Joining: a real coordinator, and the worker's side of it.
#include "worker/identity.h"

#include <thread>

#include "coordinator/access/access.h"
#include "tests/coordinator/access_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;
using worker::IdentityIn;
using worker::IdentityKeeper;
using worker::JoinOptions;

class IdentityTest : public AccessTest {
 protected:
  JoinOptions OptionsOf(const std::string& name, const std::string& token) {
    JoinOptions options;
    options.coordinators = {address_};
    options.name = name;
    options.state_dir = folder_ / name;
    options.authority = TlsFolderIn(data_dir_).authority;
    options.token = token;
    return options;
  }
  bool Welcomed(const ClientTls& tls, const std::string& name) {
    FakeWorker worker(ChannelOf(tls), HelloOf(name, "i", 1));
    return worker.AwaitWelcome().has_value();
  }
};

TEST_F(IdentityTest, AJoinTokenIsRedeemedOnceForAnIdentityOfItsOwn) {
  const v1::CreateTokenResponse token = CreateToken("node-1", v1::JOIN);
  ASSERT_THAT(worker::Join(OptionsOf("node-1", token.token())), IsOk());
  const ClientTls identity = IdentityIn(folder_ / "node-1");
  EXPECT_EQ(std::filesystem::status(identity.certificate).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_TRUE(Welcomed(identity, "node-1"));
  EXPECT_FALSE(Welcomed(identity, "node-2"));

  EXPECT_THAT(worker::Join(OptionsOf("node-1", token.token())),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has joined")));
  std::filesystem::remove_all(folder_ / "node-1");
  EXPECT_THAT(worker::Join(OptionsOf("node-1", token.token())),
              StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("redeemed")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "node-1" / "tls"));
}

TEST_F(IdentityTest, OfManyWhoRedeemItAtOnceOneDoes) {
  const std::string token = CreateToken("node-*", v1::JOIN).token();
  std::vector<absl::Status> joined(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < joined.size(); ++i) {
    threads.emplace_back([&, i] { joined[i] = worker::Join(OptionsOf(absl::StrCat("node-", i), token)); });
  }
  for (std::thread& thread : threads) thread.join();
  int good = 0;
  for (const absl::Status& status : joined) {
    good += status.ok();
    if (!status.ok()) {
      EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    }
  }
  EXPECT_EQ(good, 1);
}

TEST_F(IdentityTest, ATokenThatWillNotDoGivesNothing) {
  const auto fails = [&](const std::string& name, const std::string& token) {
    const absl::Status status = worker::Join(OptionsOf(name, token));
    EXPECT_FALSE(std::filesystem::exists(folder_ / name));
    EXPECT_EQ(std::string(status.message()).find(token), std::string::npos);
    return status;
  };
  EXPECT_THAT(fails("node-1", tokens_["join"]),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("'join'")));
  EXPECT_THAT(fails("join", tokens_["expired join"]), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(fails("join", tokens_["revoked join"]), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(fails("work", tokens_["work"]),
              StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("not a join token")));
  EXPECT_THAT(fails("admin", tokens_["admin"]), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(fails("node-1", *NewToken()),
              StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("unknown")));
  EXPECT_THAT(fails("node-1", "assay_mistyped"), StatusIs(absl::StatusCode::kUnauthenticated));
  // What was refused is not used up.
  EXPECT_THAT(worker::Join(OptionsOf("join", tokens_["join"])), IsOk());
}

TEST_F(IdentityTest, ATokenIsShownToNobodyElse) {
  JoinOptions options = OptionsOf("join", tokens_["join"]);
  options.authority = folder_ / "other.crt";
  ASSERT_THAT(WriteFileAtomically(options.authority, OtherAuthority().certificate_pem), IsOk());
  EXPECT_THAT(worker::Join(options), StatusIs(absl::StatusCode::kUnavailable));
  options.authority.clear();
  EXPECT_THAT(worker::Join(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-ca")));
  EXPECT_THAT(worker::Join(OptionsOf("join", "")), StatusIs(absl::StatusCode::kInvalidArgument));
}

// Given out for so short a time that it is to be renewed at once.
class RenewalTest : public IdentityTest {
 protected:
  ServerOptions Options() const override {
    ServerOptions options = AccessTest::Options();
    options.worker_certificate_life = absl::Minutes(1);
    return options;
  }
  IdentityKeeper::Options Keeping(const std::string& name) {
    IdentityKeeper::Options options;
    options.coordinators = {"127.0.0.1:1", address_};  // the first is not there
    options.name = name;
    options.tls = IdentityIn(folder_ / name);
    options.retry = absl::Milliseconds(20);
    return options;
  }
  std::string FingerprintOf(const std::string& name) {
    return ReadCertificate(*ReadFile(IdentityIn(folder_ / name).certificate))->fingerprint;
  }
};

TEST_F(RenewalTest, AWorkerRenewsItsOwnCertificate) {
  ASSERT_THAT(worker::Join(OptionsOf("node-1", CreateToken("node-1", v1::JOIN).token())), IsOk());
  const std::string before = FingerprintOf("node-1");
  IdentityKeeper keeper(Keeping("node-1"));
  const absl::Time end = absl::Now() + absl::Minutes(1);
  while (FingerprintOf("node-1") == before && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_NE(FingerprintOf("node-1"), before);
  EXPECT_TRUE(Welcomed(IdentityIn(folder_ / "node-1"), "node-1"));
}

TEST_F(RenewalTest, ARevokedCertificateIsNotRenewedAndLetsNobodyIn) {
  ASSERT_THAT(worker::Join(OptionsOf("node-1", CreateToken("node-1", v1::JOIN).token())), IsOk());
  const ClientTls identity = IdentityIn(folder_ / "node-1");
  const std::string before = FingerprintOf("node-1");
  auto channel = ChannelOf(identity);  // open before
  ASSERT_TRUE(Revoke(absl::StrCat("c-", before.substr(0, 16))).ok());
  auto join = v1::JoinService::NewStub(channel);
  ASSERT_OK_AND_ASSIGN(const std::string key, NewKeyPem());
  v1::JoinRequest request;
  request.set_worker("node-1");
  ASSERT_OK_AND_ASSIGN(*request.mutable_request_pem(), MakeCertificateRequest(key, "node-1"));
  v1::JoinResponse response;
  grpc::ClientContext context;
  const grpc::Status refused = join->Join(&context, request, &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAUTHENTICATED) << refused.error_message();
  FakeWorker worker(channel, HelloOf("node-1", "i", 1));
  EXPECT_FALSE(worker.AwaitWelcome().has_value());
  EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(RenewalTest, AnIdentityIsRenewedForItsOwnNameAlone) {
  ASSERT_THAT(worker::Join(OptionsOf("node-1", CreateToken("node-1", v1::JOIN).token())), IsOk());
  auto join = v1::JoinService::NewStub(ChannelOf(IdentityIn(folder_ / "node-1")));
  ASSERT_OK_AND_ASSIGN(const std::string key, NewKeyPem());
  v1::JoinRequest request;
  request.set_worker("node-2");
  ASSERT_OK_AND_ASSIGN(*request.mutable_request_pem(), MakeCertificateRequest(key, "node-2"));
  v1::JoinResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(join->Join(&context, request, &response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
}

TEST_F(IdentityTest, ACoordinatorWithoutTheAuthoritysKeySaysSo) {
  server_.reset();
  std::filesystem::rename(TlsFolderIn(data_dir_).authority_key, folder_ / "away");
  Start();
  EXPECT_THAT(worker::Join(OptionsOf("join", tokens_["join"])),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("tls/ca.key")));
}

}  // namespace
}  // namespace assay::coordinator

// The connection itself: its protocol, and certificates that change or end while a coordinator serves.
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/cleanup/cleanup.h"
#include "tests/coordinator/access_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;

struct Handshake {
  bool done = false;
  std::string protocol;
  std::string fingerprint;  // of the server's certificate
};

// A client that speaks these versions, and no HTTP.
Handshake ShakeHands(int port, int lowest, int highest) {
  Handshake shake;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  absl::Cleanup close = [fd] { ::close(fd); };
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, lowest);
  SSL_CTX_set_max_proto_version(context, highest);
  SSL* ssl = SSL_new(context);
  static constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_set_alpn_protos(ssl, kHttp2, sizeof(kHttp2));
  SSL_set_fd(ssl, fd);
  shake.done = SSL_connect(ssl) == 1;
  if (shake.done) {
    shake.protocol = SSL_get_version(ssl);
    X509* peer = SSL_get1_peer_certificate(ssl);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    X509_digest(peer, EVP_sha256(), digest, &size);
    for (unsigned i = 0; i < size; ++i)
      shake.fingerprint += absl::StrCat(absl::Hex(digest[i], absl::kZeroPad2));
    X509_free(peer);
  }
  SSL_free(ssl);
  SSL_CTX_free(context);
  return shake;
}

grpc::Status List(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  v1::ListBatchesResponse response;
  return v1::BatchService::NewStub(channel)->ListBatches(&context, v1::ListBatchesRequest(), &response);
}

class TlsTest : public AccessTest {
 protected:
  std::string ServedFingerprint() {
    return ShakeHands(server_->port(), TLS1_3_VERSION, TLS1_3_VERSION).fingerprint;
  }
  std::string StoredFingerprint() {
    auto pem = ReadFile(TlsFolderIn(data_dir_).server);
    return ReadCertificate(*pem)->fingerprint;
  }
  // Patience for what must come, in steps that cost little.
  template <typename Condition>
  bool Eventually(Condition condition) {
    const absl::Time end = absl::Now() + absl::Minutes(1);
    while (!condition()) {
      if (absl::Now() > end) return false;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return true;
  }
};

TEST_F(TlsTest, OnlyTls13) {
  const Handshake now = ShakeHands(server_->port(), TLS1_3_VERSION, TLS1_3_VERSION);
  EXPECT_TRUE(now.done);
  EXPECT_EQ(now.protocol, "TLSv1.3");
  EXPECT_EQ(now.fingerprint, StoredFingerprint());
  EXPECT_FALSE(ShakeHands(server_->port(), TLS1_VERSION, TLS1_2_VERSION).done);
}

TEST_F(TlsTest, ARenewedCertificateIsTakenUpWithoutARestart) {
  const std::string before = ServedFingerprint();
  auto open = ChannelWith("read");
  ASSERT_TRUE(List(open).ok());
  ::testing::internal::CaptureStdout();
  const absl::Status renewed = Renew({data_dir_, "", {}, kServerLife});
  ::testing::internal::GetCapturedStdout();
  ASSERT_THAT(renewed, IsOk());
  ASSERT_NE(StoredFingerprint(), before);
  EXPECT_TRUE(Eventually([&] { return ServedFingerprint() == StoredFingerprint(); }));
  EXPECT_TRUE(List(open).ok());
  const grpc::Status fresh = List(ChannelWith("read"));
  EXPECT_TRUE(fresh.ok()) << fresh.error_message();
}

// A certificate that ends at midnight: open connections go on, new ones are refused by the clients, a
// coordinator does not start with it, and renewing mends all of it without a restart.
TEST_F(TlsTest, ACertificateThatEnds) {
  auto open = ChannelWith("read");
  ASSERT_TRUE(List(open).ok());
  const auto renew = [this](absl::Duration life) {
    ::testing::internal::CaptureStdout();
    const absl::Status renewed = Renew({data_dir_, "", {}, life});
    ::testing::internal::GetCapturedStdout();
    return renewed;
  };
  ASSERT_THAT(renew(absl::Seconds(1)), IsOk());
  grpc::Status refused;
  ASSERT_TRUE(Eventually([&] { return !(refused = List(ChannelWith("read"))).ok(); }));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("certificate verify failed"));
  EXPECT_TRUE(List(open).ok());

  ServerOptions second = Options();
  second.data_dir.clear();
  second.tls.certificate = TlsFolderIn(data_dir_).server;
  EXPECT_THAT(Server::Start(second), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("renew it")));

  ASSERT_THAT(renew(kServerLife), IsOk());
  EXPECT_TRUE(Eventually([&] { return List(ChannelWith("read")).ok(); }));
}

TEST_F(TlsTest, InitIsDoneOnce) {
  EXPECT_THAT(Init({data_dir_, "", {"localhost"}, kServerLife}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("renew")));
  EXPECT_THAT(Init({folder_ / "other", "", {"not a host"}, kServerLife}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other" / "tls"));
  EXPECT_THAT(Init({folder_ / "other", "", {}, kServerLife}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Renew({folder_ / "other", "", {}, kServerLife}), StatusIs(absl::StatusCode::kNotFound));
  for (const auto& entry : std::filesystem::directory_iterator(data_dir_ / "tls")) {
    const auto mode = entry.status().permissions() & std::filesystem::perms::all;
    const bool open = entry.path().filename() == "ca.crt";
    EXPECT_EQ(static_cast<int>(mode), open ? 0644 : 0600) << entry.path();
  }
}

TEST_F(TlsTest, WhatCannotBeServedOrTrustedIsSaidWithItsFile) {
  ServerTls tls;
  tls.certificate = folder_ / "none.pem";
  EXPECT_THAT(ServerCredentialsOf(tls, absl::Now()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.pem")));
  const TlsFolder files = TlsFolderIn(data_dir_);
  tls.certificate = files.server;
  tls.key = files.authority_key;
  EXPECT_THAT(ServerCredentialsOf(tls, absl::Now()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ca.key: the key is not that")));
  tls.key.clear();
  EXPECT_THAT(ServerCredentialsOf(tls, absl::Now() - absl::Hours(1)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("clock")));
  tls.require_client_certificate = true;
  EXPECT_THAT(ServerCredentialsOf(tls, absl::Now()), StatusIs(absl::StatusCode::kInvalidArgument));

  ClientTls client;
  client.token = tokens_["admin"];
  EXPECT_THAT(ChannelCredentialsOf(client),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no TLS")));
  client.authority = files.authority_key;  // no certificate in it
  EXPECT_THAT(ChannelCredentialsOf(client),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ca.key")));
  client.authority = files.authority;
  client.token_file = files.token;
  EXPECT_THAT(ChannelCredentialsOf(client), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("which")));
  client.token.clear();
  EXPECT_THAT(ChannelCredentialsOf(client), IsOk());
}

}  // namespace
}  // namespace assay::coordinator

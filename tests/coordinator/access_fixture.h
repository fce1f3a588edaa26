// A coordinator with TLS as `assay-coordinator init` sets it up, and tokens of every kind.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "assay/v1/admin.grpc.pb.h"
#include "common/file.h"
#include "common/pem.h"
#include "common/tls.h"
#include "coordinator/access/authority.h"
#include "coordinator/access/token.h"
#include "coordinator/init.h"
#include "coordinator/server.h"
#include "coordinator/store/sqlite_store.h"
#include "tests/coordinator/server_fixture.h"

namespace assay::coordinator {

class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / absl::StrCat("access-", NewUuid());
    data_dir_ = folder_ / "data";
    ::testing::internal::CaptureStdout();
    const absl::Status made = Init({data_dir_, "", {"localhost", "127.0.0.1"}, kServerLife});
    const std::string said = ::testing::internal::GetCapturedStdout();
    ASSERT_THAT(made, IsOk());
    ASSERT_OK_AND_ASSIGN(tokens_["admin"], ReadTokenFile(TlsFolderIn(data_dir_).token));
    EXPECT_THAT(said, ::testing::Not(::testing::HasSubstr(tokens_["admin"])));
    AddTokens();
    Start();
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void AddTokens() {
    ASSERT_OK_AND_ASSIGN(auto store, OpenSqliteStore((data_dir_ / "assay.db").string(), 3));
    ASSERT_THAT(store->Begin(), IsOk());
    const absl::Time now = absl::Now();
    for (const auto& [name, role] : std::map<std::string, v1::Role>{
             {"read", v1::READ}, {"submit", v1::SUBMIT}, {"work", v1::WORK}, {"join", v1::JOIN}}) {
      ASSERT_OK_AND_ASSIGN(IssuedToken good, IssueToken(name, role, now, absl::InfinitePast()));
      ASSERT_THAT(store->AddToken(good.record), IsOk());
      tokens_[name] = good.token;
    }
    for (const auto& [name, role] : std::map<std::string, v1::Role>{{"read", v1::READ},
                                                                    {"submit", v1::SUBMIT},
                                                                    {"work", v1::WORK},
                                                                    {"join", v1::JOIN},
                                                                    {"admin", v1::ADMIN}}) {
      ASSERT_OK_AND_ASSIGN(IssuedToken old,
                           IssueToken(name, role, now - absl::Hours(2), now - absl::Hours(1)));
      ASSERT_THAT(store->AddToken(old.record), IsOk());
      tokens_[absl::StrCat("expired ", name)] = old.token;
      ASSERT_OK_AND_ASSIGN(IssuedToken bad, IssueToken(name, role, now, absl::InfinitePast()));
      ASSERT_THAT(store->AddToken(bad.record), IsOk());
      ASSERT_THAT(store->RevokeToken(bad.record.info.id(), now), IsOk());
      tokens_[absl::StrCat("revoked ", name)] = bad.token;
    }
    ASSERT_THAT(store->Commit(), IsOk());
  }

  virtual ServerOptions Options() const {
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.content_dir = std::filesystem::current_path();
    options.data_dir = data_dir_;
    return options;
  }
  void Start() {
    ASSERT_OK_AND_ASSIGN(server_, Server::Start(Options()));
    address_ = absl::StrCat("127.0.0.1:", server_->port());
  }

  // Never shared: each is a connection of its own.
  std::shared_ptr<grpc::Channel> ChannelOf(const ClientTls& tls) {
    auto credentials = ChannelCredentialsOf(tls);
    EXPECT_THAT(credentials, IsOk());
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address_, *credentials, arguments);
  }
  ClientTls Tls() const {
    ClientTls tls;
    tls.authority = TlsFolderIn(data_dir_).authority;
    return tls;
  }
  // With one of tokens_; empty: none.
  std::shared_ptr<grpc::Channel> ChannelWith(const std::string& token) {
    ClientTls tls = Tls();
    if (!token.empty()) tls.token = tokens_.at(token);
    return ChannelOf(tls);
  }
  // A certificate and key in one file, for a client.
  std::filesystem::path CertificateOf(const std::string& name, const Authority& authority,
                                      absl::Time not_after = absl::Now() + absl::Hours(1)) {
    auto key = NewKeyPem();
    auto request = MakeCertificateRequest(*key, name);
    auto certificate = SignClient(authority, *request, name, not_after - absl::Hours(3), not_after);
    EXPECT_THAT(certificate, IsOk());
    const std::filesystem::path file = folder_ / absl::StrCat(NewUuid(), ".pem");
    EXPECT_THAT(WriteSecretFile(file, absl::StrCat(*certificate, *key)), IsOk());
    return file;
  }
  Authority OwnAuthority() {
    auto authority = LoadAuthority(data_dir_);
    EXPECT_THAT(authority, IsOk());
    return *std::move(authority);
  }
  static Authority OtherAuthority() {
    Authority other;
    other.key_pem = *NewKeyPem();
    other.certificate_pem =
        *MakeAuthority(other.key_pem, "Somebody", absl::Now() - absl::Hours(4), absl::Now() + absl::Hours(4));
    return other;
  }

  v1::CreateTokenResponse CreateToken(const std::string& name, v1::Role role) {
    auto admin = v1::AdminService::NewStub(ChannelWith("admin"));
    grpc::ClientContext context;
    v1::CreateTokenRequest request;
    request.set_name(name);
    request.set_role(role);
    v1::CreateTokenResponse response;
    const grpc::Status status = admin->CreateToken(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status Revoke(const std::string& id) {
    auto admin = v1::AdminService::NewStub(ChannelWith("admin"));
    grpc::ClientContext context;
    v1::RevokeTokenRequest request;
    request.set_id(id);
    v1::RevokeTokenResponse response;
    return admin->RevokeToken(&context, request, &response);
  }
  std::vector<v1::AuditEntry> Audit() {
    auto admin = v1::AdminService::NewStub(ChannelWith("admin"));
    grpc::ClientContext context;
    v1::ListAuditResponse response;
    const grpc::Status status = admin->ListAudit(&context, v1::ListAuditRequest(), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.entry().begin(), response.entry().end()};
  }

  std::filesystem::path folder_, data_dir_;
  std::map<std::string, std::string> tokens_;
  std::unique_ptr<Server> server_;
  std::string address_;
};

}  // namespace assay::coordinator

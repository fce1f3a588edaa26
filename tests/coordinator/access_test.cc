// Who may call what, against a real server with TLS.
#include <functional>
#include <set>
#include <sstream>
#include <vector>

#include "coordinator/access/rules.h"
#include "coordinator/store/sqlite.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/empty.pb.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "grpcpp/impl/codegen/rpc_method.h"
#include "tests/coordinator/access_fixture.h"

namespace assay::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// What every method's roles should be, said once more: roles that may, or "anyone".
struct Expected {
  const char* service;
  const char* method;
  const char* roles;
};
constexpr Expected kExpected[] = {
    {"assay.v1.BatchService", "SubmitBatch", "submit admin"},
    {"assay.v1.BatchService", "WatchBatch", "read submit admin"},
    {"assay.v1.BatchService", "GetBatch", "read submit admin"},
    {"assay.v1.BatchService", "ListBatches", "read submit admin"},
    {"assay.v1.BatchService", "CancelBatch", "submit admin"},
    {"assay.v1.BatchService", "GetReport", "read submit admin"},
    {"assay.v1.BatchService", "GetLogs", "read submit admin"},
    {"assay.v1.BatchService", "ExplainJob", "read submit admin"},
    {"assay.v1.BatchService", "ListWorkers", "read submit admin"},
    {"assay.v1.WorkerService", "Connect", "work certificate admin"},
    {"assay.v1.BlobService", "Upload", "work certificate admin"},
    {"assay.v1.BlobService", "Download", "work certificate admin"},
    {"assay.v1.BlobService", "Lookup", "work certificate admin"},
    {"assay.v1.AdminService", "CordonWorker", "admin"},
    {"assay.v1.AdminService", "UncordonWorker", "admin"},
    {"assay.v1.AdminService", "DrainWorker", "admin"},
    {"assay.v1.AdminService", "AcceptWorker", "admin"},
    {"assay.v1.AdminService", "ListAudit", "admin"},
    {"assay.v1.AdminService", "CreateToken", "admin"},
    {"assay.v1.AdminService", "ListTokens", "admin"},
    {"assay.v1.AdminService", "RevokeToken", "admin"},
    {"assay.v1.JoinService", "Join", "anyone"},
    {"grpc.health.v1.Health", "Check", "anyone"},
    {"grpc.health.v1.Health", "Watch", "anyone"},
    {"grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo",
     "read submit work certificate admin"},
    {"externalscaler.ExternalScaler", "IsActive", "read submit work certificate admin"},
    {"externalscaler.ExternalScaler", "StreamIsActive", "read submit work certificate admin"},
    {"externalscaler.ExternalScaler", "GetMetricSpec", "read submit work certificate admin"},
    {"externalscaler.ExternalScaler", "GetMetrics", "read submit work certificate admin"},
};

// Calls with an empty message, whatever kind of method it is: how it ends tells whether it was let in. One
// that is let in and goes on for ever is given up.
grpc::Status CallAnyhow(const std::shared_ptr<grpc::Channel>& channel, const Expected& method) {
  const std::string path = absl::StrCat("/", method.service, "/", method.method);
  grpc::ClientContext context;
  const std::string name = method.method;
  const bool endless = name == "Watch" || name == "StreamIsActive" || name == "ServerReflectionInfo";
  context.set_deadline(std::chrono::system_clock::now() +
                       (endless ? std::chrono::milliseconds(300) : std::chrono::milliseconds(60'000)));
  google::protobuf::Empty request, response;
  return grpc::internal::BlockingUnaryCall<google::protobuf::Empty, google::protobuf::Empty>(
      channel.get(), grpc::internal::RpcMethod(path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC), &context,
      request, &response);
}

// By what a caller would see.
std::string Verdict(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAUTHENTICATED:
      return "unauthenticated";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "denied";
    case grpc::StatusCode::UNAVAILABLE:
      return "no connection";
    default:
      return "let in";
  }
}

TEST_F(AccessTest, EveryMethodAndRole) {
  const std::vector<std::string> roles = {"read", "submit", "work", "join", "admin"};
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels;
  channels["nobody"] = ChannelWith("");
  for (const std::string& role : roles) {
    for (const std::string kind : {"", "expired ", "revoked "})
      channels[kind + role] = ChannelWith(kind + role);
  }
  ClientTls made_up = Tls(), own = Tls(), wrong = Tls(), distrust = Tls(), ended = Tls();
  ASSERT_OK_AND_ASSIGN(made_up.token, NewToken());
  channels["unknown token"] = ChannelOf(made_up);
  own.certificate = CertificateOf("node-1", OwnAuthority());
  channels["certificate"] = ChannelOf(own);
  wrong.certificate = CertificateOf("node-1", OtherAuthority());
  wrong.token = tokens_["admin"];
  channels["certificate of a wrong authority"] = ChannelOf(wrong);
  ended.certificate = CertificateOf("node-1", OwnAuthority(), absl::Now() - absl::Minutes(1));
  channels["expired certificate"] = ChannelOf(ended);
  distrust.authority = folder_ / "other.crt";
  ASSERT_THAT(WriteFileAtomically(distrust.authority, OtherAuthority().certificate_pem), IsOk());
  distrust.token = tokens_["admin"];
  channels["client that trusts a wrong authority"] = ChannelOf(distrust);

  for (const Expected& method : kExpected) {
    std::set<std::string> may;
    std::istringstream words(method.roles);
    for (std::string word; words >> word;) may.insert(word);
    const bool anyone = may.count("anyone") > 0;
    for (const auto& [who, channel] : channels) {
      std::string expected = "unauthenticated";
      if (who.find("authority") != std::string::npos || who == "expired certificate") {
        expected = "no connection";
      } else if (anyone || may.count(who) > 0) {
        expected = "let in";
      } else if (who == "certificate" || std::count(roles.begin(), roles.end(), who) > 0) {
        expected = "denied";
      }
      const grpc::Status status = CallAnyhow(channel, method);
      EXPECT_EQ(Verdict(status), expected) << method.service << "/" << method.method << " as " << who << ": "
                                           << status.error_code() << " " << status.error_message();
      for (const auto& [name, token] : tokens_) EXPECT_THAT(status.error_message(), Not(HasSubstr(token)));
    }
  }
  EXPECT_EQ(Verdict(CallAnyhow(channels["nobody"], {"assay.v1.BatchService", "NoSuchMethod", ""})), "let in");
  EXPECT_EQ(CallAnyhow(channels["admin"], {"assay.v1.BatchService", "NoSuchMethod", ""}).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(AccessRulesTest, TheTestAboveKnowsEveryMethodThatIsServed) {
  std::set<std::string> tested, known;
  for (const Expected& method : kExpected)
    tested.insert(absl::StrCat("/", method.service, "/", method.method));
  for (const MethodRule& rule : MethodRules())
    known.insert(absl::StrCat("/", rule.service, "/", rule.method));
  EXPECT_EQ(tested, known);
  for (const char* name : {v1::AdminService::service_full_name(), v1::JoinService::service_full_name(),
                           v1::BatchService::service_full_name(), v1::BlobService::service_full_name(),
                           v1::WorkerService::service_full_name()}) {
    const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    for (int i = 0; i < service->method_count(); ++i) {
      EXPECT_THAT(tested, Contains(absl::StrCat("/", name, "/", service->method(i)->name())));
    }
  }
}

TEST(AccessRulesTest, AServiceWithAMethodThatHasNoRuleIsNotServed) {
  google::protobuf::FileDescriptorProto file;
  file.set_name("new.proto");
  file.set_package("assay.v1");
  file.add_message_type()->set_name("Empty");
  auto* service = file.add_service();
  service->set_name("BatchService");
  for (const char* name : {"SubmitBatch", "DeleteEverything"}) {
    auto* method = service->add_method();
    method->set_name(name);
    method->set_input_type(".assay.v1.Empty");
    method->set_output_type(".assay.v1.Empty");
  }
  google::protobuf::DescriptorPool pool;
  ASSERT_NE(pool.BuildFile(file), nullptr);
  EXPECT_THAT(CheckRulesCover({"assay.v1.BatchService"}, pool),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/assay.v1.BatchService/DeleteEverything")));
  EXPECT_THAT(CheckRulesCover({"assay.v1.NoSuchService"}, pool), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(CheckRulesCover({"assay.v1.BatchService"}), IsOk());
}

TEST_F(AccessTest, AReaderCannotCancel) {
  auto submitter = v1::BatchService::NewStub(ChannelWith("submit"));
  v1::SubmitBatchRequest submit;
  submit.set_content(BatchContent({"bert"}));
  v1::SubmitBatchResponse submitted;
  grpc::ClientContext submitting;
  ASSERT_TRUE(submitter->SubmitBatch(&submitting, submit, &submitted).ok());
  v1::CancelBatchRequest cancel;
  cancel.set_batch_id(submitted.batch().batch_id());
  v1::CancelBatchResponse cancelled;
  auto reader = v1::BatchService::NewStub(ChannelWith("read"));
  grpc::ClientContext cancelling;
  const grpc::Status refused = reader->CancelBatch(&cancelling, cancel, &cancelled);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), AllOf(HasSubstr("submit or admin"), HasSubstr("read has read")));
  v1::GetBatchRequest get;
  get.set_batch_id(submitted.batch().batch_id());
  v1::GetBatchResponse batch;
  grpc::ClientContext getting;
  ASSERT_TRUE(reader->GetBatch(&getting, get, &batch).ok());
  EXPECT_EQ(batch.job(0).state(), v1::QUEUED);

  // Both are on record, with the one that asked and, of what was let in, from where.
  std::vector<v1::AuditEntry> audit = Audit();
  ASSERT_EQ(audit.size(), 2u);
  EXPECT_EQ(audit[0].what(), "BatchService.CancelBatch");
  EXPECT_EQ(audit[0].who(), "read");
  EXPECT_EQ(audit[0].role(), v1::READ);
  EXPECT_EQ(audit[0].outcome(), "PERMISSION_DENIED");
  EXPECT_EQ(audit[1].what(), "BatchService.SubmitBatch");
  EXPECT_EQ(audit[1].who(), "submit");
  EXPECT_EQ(audit[1].outcome(), "OK");
  EXPECT_EQ(audit[1].target(), submitted.batch().batch_id());
  EXPECT_THAT(audit[1].from(), HasSubstr("127.0.0.1"));
  EXPECT_GT(audit[1].time().seconds(), 0);
}

// In one transaction: where the entry cannot be written, nothing is changed, of whatever method.
TEST_F(AccessTest, WhatCannotBePutOnRecordDoesNotHappen) {
  auto admin = v1::AdminService::NewStub(ChannelWith("admin"));
  auto batches = v1::BatchService::NewStub(ChannelWith("admin"));
  auto joining = v1::JoinService::NewStub(ChannelWith(""));
  ClientTls node = Tls();
  node.certificate = CertificateOf("node-1", OwnAuthority());
  v1::Hello hello = HelloOf("node-1", "i", 0);
  hello.set_protocol(2);
  FakeWorker worker(ChannelOf(node), hello);
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  v1::SubmitBatchRequest submit;
  submit.set_content(BatchContent({"bert"}));
  v1::SubmitBatchResponse submitted;
  grpc::ClientContext submitting;
  ASSERT_TRUE(batches->SubmitBatch(&submitting, submit, &submitted).ok());
  const v1::CreateTokenResponse token = CreateToken("node-2", v1::JOIN);

  v1::CancelBatchRequest cancel;
  cancel.set_batch_id(submitted.batch().batch_id());
  v1::CordonWorkerRequest cordon;
  cordon.set_worker("node-1");
  v1::UncordonWorkerRequest uncordon;
  uncordon.set_worker("node-1");
  v1::DrainWorkerRequest drain;
  drain.set_worker("node-1");
  v1::AcceptWorkerRequest accept;
  accept.set_worker("node-1");
  v1::CreateTokenRequest create;
  create.set_name("eve");
  create.set_role(v1::READ);
  v1::RevokeTokenRequest revoke;
  revoke.set_id(token.info().id());
  v1::JoinRequest join;
  join.set_token(token.token());
  join.set_worker("node-2");
  join.set_request_pem(*MakeCertificateRequest(*NewKeyPem(), "node-2"));
  v1::CancelBatchResponse cancelled;
  v1::CordonWorkerResponse cordoned;
  v1::UncordonWorkerResponse uncordoned;
  v1::DrainWorkerResponse drained;
  v1::AcceptWorkerResponse accepted;
  v1::CreateTokenResponse created;
  v1::RevokeTokenResponse revoked;
  v1::JoinResponse joined;
  using Context = grpc::ClientContext*;
  // In an order in which each can be done after those before it.
  const std::vector<std::pair<std::string, std::function<grpc::Status(Context)>>> changes = {
      {"BatchService.SubmitBatch", [&](Context c) { return batches->SubmitBatch(c, submit, &submitted); }},
      {"BatchService.CancelBatch", [&](Context c) { return batches->CancelBatch(c, cancel, &cancelled); }},
      {"AdminService.CordonWorker", [&](Context c) { return admin->CordonWorker(c, cordon, &cordoned); }},
      {"AdminService.UncordonWorker",
       [&](Context c) { return admin->UncordonWorker(c, uncordon, &uncordoned); }},
      {"AdminService.AcceptWorker", [&](Context c) { return admin->AcceptWorker(c, accept, &accepted); }},
      {"AdminService.DrainWorker", [&](Context c) { return admin->DrainWorker(c, drain, &drained); }},
      {"AdminService.CreateToken", [&](Context c) { return admin->CreateToken(c, create, &created); }},
      {"JoinService.Join", [&](Context c) { return joining->Join(c, join, &joined); }},
      {"AdminService.RevokeToken", [&](Context c) { return admin->RevokeToken(c, revoke, &revoked); }},
  };
  std::set<std::string> tested, known;
  for (const auto& [method, call] : changes) tested.insert(method);
  for (const MethodRule& rule : MethodRules()) {
    if (rule.changes) known.insert(rule.name());
  }
  ASSERT_EQ(tested, known);

  const std::string file = (data_dir_ / "assay.db").string();
  const auto execute = [&](const char* sql) {
    auto database = Database::Open(file);
    ASSERT_THAT(database, IsOk());
    ASSERT_THAT((*database)->Execute(sql), IsOk());
  };
  // Everything that any of them changes.
  const auto state = [&] {
    auto store = OpenSqliteStore(file, 3);
    EXPECT_THAT(store, IsOk());
    std::string all;
    const auto listed = (*store)->ListBatches(10, 0);
    const auto cordons = (*store)->ListCordons();
    const auto orders = (*store)->ListOrders();
    const auto tokens = (*store)->ListTokens();
    for (const v1::Batch& batch : listed->batches) all += batch.ShortDebugString();
    for (const auto& [name, reason] : *cordons) all += name;
    for (const WorkerOrder& order : *orders) all += order.wanted.ShortDebugString();
    for (const TokenRecord& known_token : *tokens) all += known_token.info.ShortDebugString();
    return all;
  };
  execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no log today'); END");
  const std::string before = state();
  for (const auto& [method, call] : changes) {
    grpc::ClientContext context;
    EXPECT_FALSE(call(&context).ok()) << method;
  }
  EXPECT_EQ(state(), before);
  EXPECT_FALSE(worker.drain());
  execute("DROP TRIGGER broken");
  for (const auto& [method, call] : changes) {
    const std::string was = state();
    grpc::ClientContext context;
    const grpc::Status status = call(&context);
    ASSERT_TRUE(status.ok()) << method << ": " << status.error_message();
    EXPECT_NE(state(), was) << method;
    auto store = OpenSqliteStore(file, 3);
    ASSERT_THAT(store, IsOk());
    ASSERT_OK_AND_ASSIGN(AuditPage page, (*store)->ListAudit(1, 0));
    ASSERT_EQ(page.entries.size(), 1u);
    EXPECT_EQ(page.entries[0].what(), method);
    EXPECT_EQ(page.entries[0].outcome(), "OK");
    EXPECT_NE(page.entries[0].target(), "") << method;
  }
}

TEST_F(AccessTest, AWorkerSpeaksOnlyForItself) {
  ClientTls node = Tls();
  node.certificate = CertificateOf("node-1", OwnAuthority());
  tokens_["pool"] = CreateToken("gpu-*", v1::WORK).token();
  struct Case {
    std::shared_ptr<grpc::Channel> channel;
    std::string worker;
    bool welcome;
  };
  for (const Case& c : std::vector<Case>{{ChannelOf(node), "node-1", true},
                                         {ChannelOf(node), "node-2", false},
                                         {ChannelWith("work"), "work", true},
                                         {ChannelWith("work"), "node-1", false},
                                         {ChannelWith("pool"), "gpu-7", true},
                                         {ChannelWith("pool"), "cpu-7", false}}) {
    FakeWorker worker(c.channel, HelloOf(c.worker, "i", 1));
    EXPECT_EQ(worker.AwaitWelcome().has_value(), c.welcome) << c.worker;
    if (!c.welcome) {
      EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED) << c.worker;
    }
  }
}

TEST_F(AccessTest, AWorkerReportsOnlyOnAttemptsThatItHolds) {
  auto submitter = v1::BatchService::NewStub(ChannelWith("submit"));
  v1::SubmitBatchRequest submit;
  submit.set_content(BatchContent({"bert"}));
  submit.mutable_target()->set_device(v1::CPU);
  v1::SubmitBatchResponse submitted;
  grpc::ClientContext submitting;
  ASSERT_TRUE(submitter->SubmitBatch(&submitting, submit, &submitted).ok());
  ClientTls honest = Tls(), other = Tls();
  honest.certificate = CertificateOf("node-1", OwnAuthority());
  other.certificate = CertificateOf("node-2", OwnAuthority());
  FakeWorker holder(ChannelOf(honest), HelloOf("node-1", "i", 1));
  const auto given = holder.AwaitStart();
  ASSERT_TRUE(given.has_value());
  FakeWorker liar(ChannelOf(other), HelloOf("node-2", "i", 0));
  ASSERT_TRUE(liar.AwaitWelcome().has_value());
  ASSERT_TRUE(liar.SendResult(*given, v1::PASSED));
  const auto refused = liar.AwaitAck();
  ASSERT_TRUE(refused.has_value());
  EXPECT_FALSE(refused->counted());
  v1::GetBatchRequest get;
  get.set_batch_id(submitted.batch().batch_id());
  v1::GetBatchResponse batch;
  grpc::ClientContext getting;
  ASSERT_TRUE(submitter->GetBatch(&getting, get, &batch).ok());
  EXPECT_EQ(batch.job(0).state(), v1::RUNNING);
  ASSERT_TRUE(holder.SendResult(*given, v1::PASSED));
  const auto taken = holder.AwaitAck();
  ASSERT_TRUE(taken.has_value());
  EXPECT_TRUE(taken->counted()) << taken->reason();
}

TEST_F(AccessTest, RevokingEndsOpenStreamsToo) {
  const v1::CreateTokenResponse token = CreateToken("node-9", v1::WORK);
  tokens_["node-9"] = token.token();
  FakeWorker worker(ChannelWith("node-9"), HelloOf("node-9", "i", 1));
  ASSERT_TRUE(worker.AwaitWelcome().has_value());
  ASSERT_TRUE(Revoke(token.info().id()).ok());
  EXPECT_FALSE(worker.AwaitStart().has_value());
  const grpc::Status ended = worker.Finish();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::UNAUTHENTICATED) << ended.error_message();
  EXPECT_THAT(ended.error_message(), HasSubstr("was revoked"));
  EXPECT_EQ(Revoke("t-00000000").error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AccessTest, RefusalsDoNotFillTheLog) {
  auto nobody = v1::BatchService::NewStub(ChannelWith(""));
  for (int i = 0; i < 300; ++i) {
    grpc::ClientContext context;
    v1::ListBatchesResponse response;
    ASSERT_EQ(nobody->ListBatches(&context, v1::ListBatchesRequest(), &response).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
  }
  ASSERT_EQ(Audit().size(), 1u);
  server_.reset();
  Start();
  const std::vector<v1::AuditEntry> audit = Audit();
  ASSERT_EQ(audit.size(), 2u);
  EXPECT_THAT(audit[0].detail(), HasSubstr("299 more"));
  EXPECT_EQ(audit[0].who(), "-");
}

TEST_F(AccessTest, ARequiredClientCertificateIsAskedOfEverybody) {
  server_.reset();
  ServerOptions options = Options();
  options.tls.require_client_certificate = true;
  ASSERT_OK_AND_ASSIGN(server_, Server::Start(options));
  address_ = absl::StrCat("127.0.0.1:", server_->port());
  const Expected list{"assay.v1.BatchService", "ListBatches", ""};
  EXPECT_EQ(Verdict(CallAnyhow(ChannelWith("admin"), list)), "no connection");
  ClientTls both = Tls();
  both.certificate = CertificateOf("ada", OwnAuthority());
  both.token = tokens_["admin"];
  EXPECT_EQ(Verdict(CallAnyhow(ChannelOf(both), list)), "let in");
}

TEST(ListenTest, BeyondLoopbackNeedsTls) {
  ServerOptions options;
  options.listen = "0.0.0.0:0";
  options.content_dir = std::filesystem::current_path();
  EXPECT_THAT(Server::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("assay-coordinator init")));
}

}  // namespace
}  // namespace assay::coordinator

#include "coordinator/access/audit_interceptor.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "coordinator/access/rules.h"
#include "coordinator/services/grpc_status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"

namespace assay::coordinator {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::ServerRpcInfo;

constexpr size_t kMaxDetail = 500;

// The string at "batch.batch_id"; empty where there is none.
std::string FieldAt(const google::protobuf::Message& message, absl::string_view path) {
  const google::protobuf::Message* at = &message;
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const auto* field = at->GetDescriptor()->FindFieldByName(names[i]);
    if (field == nullptr || field->is_repeated()) return "";
    if (i + 1 == names.size()) {
      if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING) return "";
      return absl::CEscape(
          absl::string_view(at->GetReflection()->GetString(*at, field)).substr(0, kMaxAuditTarget));
    }
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) return "";
    at = &at->GetReflection()->GetMessage(*at, field);
  }
  return "";
}

class AuditInterceptor final : public grpc::experimental::Interceptor {
 public:
  AuditInterceptor(Access* access, const MethodRule& rule, ServerRpcInfo* info)
      : access_(access), rule_(rule), info_(info) {
    absl::string_view field = rule_.target;
    (absl::ConsumePrefix(&field, "> ") ? response_field_ : request_field_) = field;
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        !request_field_.empty() && methods->GetRecvMessage() != nullptr) {
      target_ =
          FieldAt(*static_cast<const google::protobuf::Message*>(methods->GetRecvMessage()), request_field_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE) &&
        !response_field_.empty() && methods->GetSendMessage() != nullptr) {
      target_ =
          FieldAt(*static_cast<const google::protobuf::Message*>(methods->GetSendMessage()), response_field_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      // What was done is on record: the method wrote it where it did it.
      if (const grpc::Status status = methods->GetSendStatus(); !status.ok()) Refused(status);
    }
    methods->Proceed();
  }

 private:
  void Refused(const grpc::Status& status) {
    const Caller caller = access_->CallerOf(*info_->server_context());
    v1::AuditEntry entry;
    entry.set_who(caller.name);
    if (!access_->open()) entry.set_role(caller.role);
    entry.set_from(info_->server_context()->peer());
    entry.set_what(rule_.name());
    entry.set_target(target_);
    entry.set_outcome(CodeName(status.error_code()));
    entry.set_detail(status.error_message().substr(0, kMaxDetail));
    access_->audit()->Refused(std::move(entry));
  }

  Access* const access_;
  const MethodRule& rule_;
  ServerRpcInfo* const info_;
  absl::string_view request_field_, response_field_;
  std::string target_;
};

class StreamInterceptor final : public grpc::experimental::Interceptor {
 public:
  StreamInterceptor(Access* access, ServerRpcInfo* info)
      : access_(access), context_(info->server_context()) {}
  ~StreamInterceptor() override {
    if (call_ != nullptr) access_->Close(call_);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      // Of a service that blocks a thread, as reflection does, gRPC has none to show yet.
      call_ = context_->c_call();
      if (call_ != nullptr) access_->Open(call_, CredentialsOf(*context_));
    }
    methods->Proceed();
  }

 private:
  Access* const access_;
  grpc::ServerContextBase* const context_;
  grpc_call* call_ = nullptr;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Access* access) : access_(access) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    const MethodRule* rule = FindRule(info->method());
    if (rule == nullptr || info->method() == kWorkerStreamPath) return nullptr;
    if (rule->changes) return new AuditInterceptor(access_, *rule, info);
    if (!access_->open() && rule->roles != kAnyone && info->type() != ServerRpcInfo::Type::UNARY) {
      return new StreamInterceptor(access_, info);
    }
    return nullptr;
  }

 private:
  Access* const access_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewAuditInterceptorFactory(
    Access* access) {
  return std::make_unique<Factory>(access);
}

}  // namespace assay::coordinator

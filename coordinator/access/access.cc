#include "coordinator/access/access.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "coordinator/access/rules.h"
#include "coordinator/access/token.h"
#include "coordinator/services/grpc_status.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security_constants.h"

namespace assay::coordinator {
namespace {

constexpr size_t kMaxBeliefs = 10'000;
constexpr absl::string_view kScheme = "bearer ";

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

std::string CertificateOf(const grpc::AuthContext& context) {
  const std::vector<grpc::string_ref> found = context.FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  return found.empty() ? "" : std::string(View(found[0]));
}

// The one token that a call shows; empty: none. UNAUTHENTICATED: not in that form.
absl::StatusOr<std::string> TokenOf(const std::vector<std::string>& authorization) {
  if (authorization.empty()) return std::string();
  if (authorization.size() > 1) return absl::UnauthenticatedError("more than one 'authorization' header");
  const absl::string_view header = authorization[0];
  if (header.size() <= kScheme.size() || !absl::EqualsIgnoreCase(header.substr(0, kScheme.size()), kScheme)) {
    return absl::UnauthenticatedError("the 'authorization' header must be 'Bearer' and a token");
  }
  const std::string token(header.substr(kScheme.size()));
  if (!LooksLikeToken(token)) {
    return absl::UnauthenticatedError("what is shown is not a token of Assay: mistyped, or cut off?");
  }
  return token;
}

}  // namespace

Access::Access(Writer* writer, AuditLog* audit, const Clock* clock, bool open)
    : writer_(writer), audit_(audit), clock_(clock), open_(open) {}

Access::~Access() {
  absl::MutexLock lock(&mutex_);
  for (auto& [call, credentials] : calls_) grpc_call_unref(call);
}

absl::StatusOr<Access::Belief> Access::Ask(const std::string& hash) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = beliefs_.find(hash);
    if (found != beliefs_.end() &&
        Steady::now() - found->second.since < absl::ToChronoMilliseconds(kBelief)) {
      return found->second;
    }
  }
  // Before asking: what is believed must not be older than it seems.
  const Steady::time_point since = Steady::now();
  ASSAY_ASSIGN_OR_RETURN(Belief belief, writer_->Call<Belief>([&](Store& store) -> absl::StatusOr<Belief> {
    Belief belief;
    ASSAY_ASSIGN_OR_RETURN(belief.record, store.FindToken(hash));
    belief.then = store.Now();
    belief.since = since;
    return belief;
  }));
  if (belief.record && !SameHash(belief.record->hash, hash)) belief.record.reset();
  absl::MutexLock lock(&mutex_);
  if (beliefs_.size() >= kMaxBeliefs) beliefs_.clear();
  beliefs_[hash] = belief;
  return belief;
}

std::pair<absl::StatusOr<Caller>, Caller> Access::IdentifyAs(const Credentials& credentials) {
  const absl::StatusOr<std::string> token = TokenOf(credentials.authorization);
  if (!token.ok()) return {token.status(), Caller()};
  std::string hash;
  Caller caller;
  absl::Time not_after = absl::InfiniteFuture();
  if (!token->empty()) {
    hash = TokenHash(*token);
  } else if (!credentials.certificate_pem.empty()) {
    const absl::StatusOr<CertificateFacts> facts = ReadCertificate(credentials.certificate_pem);
    if (!facts.ok() || facts->common_name.empty()) {
      return {absl::UnauthenticatedError("the certificate names nobody"), Caller()};
    }
    caller.name = facts->common_name;
    caller.role = v1::WORK;
    hash = facts->fingerprint;
    not_after = facts->not_after;
  } else {
    return {absl::UnauthenticatedError(
                "a token is needed: give one with --token-file or in ASSAY_TOKEN, or a client certificate"),
            Caller()};
  }
  const absl::StatusOr<Belief> belief = Ask(hash);
  if (!belief.ok()) {
    return {absl::UnavailableError(
                absl::StrCat("cannot look up who is calling: ", std::string(belief.status().message()))),
            caller};
  }
  if (belief->record) {
    const v1::TokenInfo& info = belief->record->info;
    caller.name = info.name();
    caller.role = info.role();
    caller.id = info.id();
    const absl::Time now = belief->then + absl::FromChrono(Steady::now() - belief->since);
    if (absl::Status usable = CheckUsable(info, now); !usable.ok()) return {usable, caller};
  } else if (!token->empty()) {
    return {absl::UnauthenticatedError("the token is unknown here"), Caller()};
  }
  // TLS looks at it when a connection begins, and a connection may last.
  if (not_after <= clock_->Now()) {
    return {absl::UnauthenticatedError(absl::StrCat("the certificate of ", caller.name, " has ended")),
            caller};
  }
  return {caller, caller};
}

absl::Status Access::Admit(absl::string_view path, const Credentials& credentials) {
  const MethodRule* rule = FindRule(path);
  if (rule == nullptr) return absl::UnimplementedError("no such method is served here");
  if (open_ || rule->roles == kAnyone) return absl::OkStatus();
  auto [caller, known] = IdentifyAs(credentials);
  absl::Status status = caller.status();
  if (status.ok() && !MayCall(*rule, caller->role)) {
    status = absl::PermissionDeniedError(absl::StrCat(rule->name(), " needs the role ", RolesOf(*rule), "; ",
                                                      caller->name, " has ", RoleName(caller->role)));
  }
  if (status.ok() || absl::IsUnavailable(status)) return status;
  v1::AuditEntry entry;
  entry.set_who(known.name);
  entry.set_role(known.role);
  entry.set_what(rule->name());
  entry.set_outcome(CodeName(static_cast<int>(status.code())));
  entry.set_detail(std::string(status.message()));
  audit_->Refused(std::move(entry));
  return status;
}

Caller Access::CallerOf(const grpc::ServerContextBase& context) {
  Caller caller;
  if (open_) {
    caller.role = v1::ADMIN;
    return caller;
  }
  const Credentials credentials = CredentialsOf(context);
  const absl::StatusOr<std::string> token = TokenOf(credentials.authorization);
  if (!token.ok()) return caller;
  std::string hash;
  if (!token->empty()) {
    hash = TokenHash(*token);
  } else {
    const absl::StatusOr<CertificateFacts> facts = ReadCertificate(credentials.certificate_pem);
    if (!facts.ok()) return caller;
    hash = facts->fingerprint;
    caller.name = facts->common_name;
    caller.role = v1::WORK;
  }
  absl::MutexLock lock(&mutex_);
  const auto found = beliefs_.find(hash);
  if (found != beliefs_.end() && found->second.record) {
    const v1::TokenInfo& info = found->second.record->info;
    caller.name = info.name();
    caller.role = info.role();
    caller.id = info.id();
  }
  return caller;
}

v1::AuditEntry Access::ChangeOf(const grpc::ServerContextBase& context, absl::string_view method) {
  const Caller caller = CallerOf(context);
  v1::AuditEntry entry;
  entry.set_who(caller.name);
  if (!open_) entry.set_role(caller.role);
  entry.set_from(context.peer());
  entry.set_what(std::string(method));
  return entry;
}

absl::Status Access::MaySpeakFor(const grpc::ServerContextBase& context, absl::string_view worker) {
  if (open_) return absl::OkStatus();
  const Caller caller = CallerOf(context);
  const absl::string_view name = caller.name;
  const bool pattern = absl::EndsWith(name, "*");
  if (pattern ? absl::StartsWith(worker, name.substr(0, name.size() - 1)) : worker == name) {
    return absl::OkStatus();
  }
  const absl::Status status = absl::PermissionDeniedError(
      absl::StrCat(caller.name, " may not speak for the worker '", absl::CEscape(worker),
                   "': give each worker a token or certificate of its own name"));
  Refuse(context, FindRule(kWorkerStreamPath)->name(), worker, caller, status);
  return status;
}

void Access::Refuse(const grpc::ServerContextBase& context, absl::string_view method,
                    absl::string_view target, const Caller& caller, const absl::Status& why) {
  v1::AuditEntry entry;
  entry.set_who(caller.name);
  entry.set_role(caller.role);
  entry.set_from(context.peer());
  entry.set_what(std::string(method));
  entry.set_target(absl::CEscape(target.substr(0, 128)));
  entry.set_outcome(CodeName(static_cast<int>(why.code())));
  entry.set_detail(std::string(why.message()));
  audit_->Refused(std::move(entry));
}

void Access::Forget() {
  absl::MutexLock lock(&mutex_);
  beliefs_.clear();
}

void Access::Open(grpc_call* call, Credentials credentials) {
  grpc_call_ref(call);
  absl::MutexLock lock(&mutex_);
  calls_.emplace(call, std::move(credentials));
}

void Access::Close(grpc_call* call) {
  {
    absl::MutexLock lock(&mutex_);
    if (calls_.erase(call) == 0) return;
  }
  grpc_call_unref(call);
}

void Access::EndOutdatedCalls() {
  std::vector<std::pair<grpc_call*, Credentials>> calls;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [call, credentials] : calls_) {
      grpc_call_ref(call);
      calls.emplace_back(call, credentials);
    }
  }
  for (auto& [call, credentials] : calls) {
    const absl::Status status = Identify(credentials).status();
    if (absl::IsUnauthenticated(status)) {
      grpc_call_cancel_with_status(call, GRPC_STATUS_UNAUTHENTICATED, std::string(status.message()).c_str(),
                                   nullptr);
    }
    grpc_call_unref(call);
  }
}

Credentials CredentialsOf(const grpc::ServerContextBase& context) {
  Credentials credentials;
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  for (auto it = first; it != last; ++it) credentials.authorization.emplace_back(View(it->second));
  if (const auto peer = context.auth_context()) credentials.certificate_pem = CertificateOf(*peer);
  return credentials;
}

namespace {

class AccessProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit AccessProcessor(Access* access) : access_(access) {}

  // The store may have to be asked.
  bool IsBlocking() const override { return true; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    Credentials credentials;
    const auto [first, last] = metadata.equal_range("authorization");
    for (auto it = first; it != last; ++it) credentials.authorization.emplace_back(View(it->second));
    credentials.certificate_pem = CertificateOf(*context);
    // Refused where there is none.
    const auto path = metadata.find(":path");
    return ToGrpc(access_->Admit(path == metadata.end() ? "" : View(path->second), credentials));
  }

 private:
  Access* const access_;
};

}  // namespace

std::shared_ptr<grpc::AuthMetadataProcessor> NewAccessProcessor(Access* access) {
  return std::make_shared<AccessProcessor>(access);
}

}  // namespace assay::coordinator

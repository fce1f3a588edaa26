// Who a caller is, and whether the call is let in: looked at before a service sees it, for calls of every
// kind.
//
// A caller is named by a bearer token ("authorization: Bearer …"), whose role the store knows, or else by the
// client certificate of its connection: the worker that its common name says. What the store said of one is
// believed for kBelief, so that one revoked anywhere is refused everywhere within a second; calls that are
// open by then end.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/admin.pb.h"
#include "common/clock.h"
#include "coordinator/access/audit.h"
#include "coordinator/store/writer.h"
#include "grpcpp/security/auth_metadata_processor.h"
#include "grpcpp/server_context.h"

struct grpc_call;

namespace assay::coordinator {

struct Caller {
  std::string name = "-";  // the token's or certificate's
  v1::Role role = v1::ROLE_UNSPECIFIED;
  std::string
      id;  // of the token or certificate, as `assay token list` has it; empty: the store does not know it
};

// What a call shows of who makes it.
struct Credentials {
  std::vector<std::string> authorization;  // each such header
  std::string certificate_pem;             // of the connection's peer; verified by TLS; empty: it showed none
};

// Thread-safe.
class Access {
 public:
  static constexpr absl::Duration kBelief = absl::Milliseconds(500);

  // All must outlive it. `open`: without TLS, where nobody can say who they are; everything is let in.
  Access(Writer* writer, AuditLog* audit, const Clock* clock, bool open);
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

  bool open() const { return open_; }
  AuditLog* audit() const { return audit_; }

  // May wait for the store. OK; or the refusal, which is in the audit log by then:
  //   UNIMPLEMENTED      the path is no method that is served.
  //   UNAUTHENTICATED    no token or certificate, or one that is unknown, expired or revoked.
  //   PERMISSION_DENIED  the role may not.
  //   UNAVAILABLE        the store cannot be asked.
  absl::Status Admit(absl::string_view path, const Credentials& credentials);

  // May wait for the store. Who shows these; UNAUTHENTICATED or UNAVAILABLE.
  absl::StatusOr<Caller> Identify(const Credentials& credentials) { return IdentifyAs(credentials).first; }

  // Who makes a call that was let in: does not wait. Without TLS: nobody, with every right.
  Caller CallerOf(const grpc::ServerContextBase& context);

  // Of a method that was let in and is about to change something: who, from where and what, for RecordChange.
  // `method`: "BatchService.CancelBatch".
  v1::AuditEntry ChangeOf(const grpc::ServerContextBase& context, absl::string_view method);

  // Whether it may speak for the worker of this name: a token's or certificate's name is the worker's, or
  // ends in
  // "*" and the worker's begins so. PERMISSION_DENIED, which is in the audit log by then.
  absl::Status MaySpeakFor(const grpc::ServerContextBase& context, absl::string_view worker);

  // For what a service refuses by itself, as Admit does.
  void Refuse(const grpc::ServerContextBase& context, absl::string_view method, absl::string_view target,
              const Caller& caller, const absl::Status& why);

  // Ends the open calls of those that are good for nothing any more. May wait for the store.
  void EndOutdatedCalls();

  // What was believed is asked for again.
  void Forget();

  // A stream that is ended when its caller's token or certificate is; until Close.
  void Open(grpc_call* call, Credentials credentials);
  void Close(grpc_call* call);

 private:
  using Steady = std::chrono::steady_clock;
  struct Belief {
    std::optional<TokenRecord> record;
    absl::Time then;  // of the store, when it was asked
    Steady::time_point since;
  };

  // The second: whom the refusal is about, as far as that is known.
  std::pair<absl::StatusOr<Caller>, Caller> IdentifyAs(const Credentials& credentials);
  absl::StatusOr<Belief> Ask(const std::string& hash);

  Writer* const writer_;
  AuditLog* const audit_;
  const Clock* const clock_;
  const bool open_;

  absl::Mutex mutex_;
  std::map<std::string, Belief> beliefs_ ABSL_GUARDED_BY(mutex_);  // by hash
  std::map<grpc_call*, Credentials> calls_ ABSL_GUARDED_BY(mutex_);
};

// Metadata and peer of a call that gRPC has let in.
Credentials CredentialsOf(const grpc::ServerContextBase& context);

// Admit, where gRPC asks whether a call is let in: before it looks for the method.
std::shared_ptr<grpc::AuthMetadataProcessor> NewAccessProcessor(Access* access);

}  // namespace assay::coordinator

#include "coordinator/services/join_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/access/authority.h"
#include "coordinator/access/token.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

// What came of it: the refusals are no errors of the store, and must not take a group of requests back.
struct Joined {
  absl::Status status;
  v1::JoinResponse response;
};

// A join token is for the worker of its name, or for those that begin so: "gpu-*".
bool IsFor(const v1::TokenInfo& token, const std::string& worker) {
  const absl::string_view name = token.name();
  return absl::EndsWith(name, "*") ? absl::StartsWith(worker, name.substr(0, name.size() - 1))
                                   : name == worker;
}

// The token that is to be redeemed with this, or the certificate that is to be renewed: good at `now`, and
// for this worker.
absl::Status CheckEntitled(Store& store, const v1::JoinRequest& request, const std::string& certificate_pem,
                           absl::Time now) {
  if (request.token().empty()) {
    ASSAY_ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(certificate_pem));
    ASSAY_ASSIGN_OR_RETURN(const auto record, store.FindToken(facts.fingerprint));
    if (record) ASSAY_RETURN_IF_ERROR(CheckUsable(record->info, now));
    if (facts.not_after <= now) return absl::UnauthenticatedError("the certificate to be renewed has ended");
    if (facts.common_name != request.worker()) {
      return absl::PermissionDeniedError(absl::StrCat("a certificate of '", absl::CEscape(facts.common_name),
                                                      "' can be renewed for that name alone"));
    }
    return absl::OkStatus();
  }
  if (!LooksLikeToken(request.token())) {
    return absl::UnauthenticatedError("what is shown is not a token of Assay: mistyped, or cut off?");
  }
  const std::string hash = TokenHash(request.token());
  ASSAY_ASSIGN_OR_RETURN(const auto record, store.FindToken(hash));
  if (!record || !SameHash(record->hash, hash))
    return absl::UnauthenticatedError("the token is unknown here");
  ASSAY_RETURN_IF_ERROR(CheckUsable(record->info, now));
  if (record->info.role() != v1::JOIN) {
    return absl::UnauthenticatedError(absl::StrCat(record->info.id(), " is not a join token"));
  }
  if (!IsFor(record->info, request.worker())) {
    return absl::PermissionDeniedError(absl::StrCat(record->info.id(), " is for the worker '",
                                                    record->info.name(), "', not for '",
                                                    absl::CEscape(request.worker()), "'"));
  }
  return absl::OkStatus();
}

bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) ||
         absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) || absl::IsNotFound(status);
}

}  // namespace

grpc::ServerUnaryReactor* JoinService::Join(grpc::CallbackServerContext* context,
                                            const v1::JoinRequest* request, v1::JoinResponse* response) {
  auto* reactor = context->DefaultReactor();
  if (!rooms_.authority) {
    reactor->Finish(
        ToGrpc(absl::FailedPreconditionError("this coordinator holds no authority to sign with: "
                                             "assay-coordinator init makes one, and its data folder"
                                             " must have tls/ca.key")));
    return reactor;
  }
  const std::string certificate = CredentialsOf(*context).certificate_pem;
  if (request->worker().empty() || (request->token().empty() && certificate.empty())) {
    reactor->Finish(
        ToGrpc(request->worker().empty()
                   ? absl::InvalidArgumentError("a worker needs a name")
                   : absl::UnauthenticatedError("a join token is needed, or a certificate to renew")));
    return reactor;
  }
  rooms_.writer->Ask<Joined>(
      // One transaction: redeemed exactly where a certificate is given out for it, and by one alone.
      [this, request, certificate, change = rooms_.access->ChangeOf(*context, "JoinService.Join")](
          Store& store) -> absl::StatusOr<Joined> {
        const absl::Time now = store.Now();
        const auto join = [&]() -> absl::StatusOr<v1::JoinResponse> {
          ASSAY_RETURN_IF_ERROR(CheckEntitled(store, *request, certificate, now));
          v1::JoinResponse joined;
          ASSAY_ASSIGN_OR_RETURN(*joined.mutable_certificate_pem(),
                                 SignClient(*rooms_.authority, request->request_pem(), request->worker(),
                                            now - kClockLeeway, now + rooms_.life));
          joined.set_authority_pem(rooms_.authority->certificate_pem);
          ASSAY_ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(joined.certificate_pem()));
          if (!request->token().empty()) {
            const absl::Status redeemed = store.RedeemToken(TokenHash(request->token()), now).status();
            // Another coordinator was faster.
            if (absl::IsFailedPrecondition(redeemed)) {
              return absl::UnauthenticatedError("the token was redeemed just now, and is good only once");
            }
            ASSAY_RETURN_IF_ERROR(redeemed);
          }
          ASSAY_RETURN_IF_ERROR(
              store.AddToken(CertificateRecord(request->worker(), facts.fingerprint, now, facts.not_after)));
          ASSAY_RETURN_IF_ERROR(RecordChange(store, change, request->worker()));
          return joined;
        };
        absl::StatusOr<v1::JoinResponse> joined = join();
        if (joined.ok()) return Joined{absl::OkStatus(), *std::move(joined)};
        if (IsRefusal(joined.status())) return Joined{joined.status(), {}};
        return joined.status();
      },
      [reactor, response](absl::StatusOr<Joined> joined) {
        if (!joined.ok()) return reactor->Finish(ToGrpc(joined.status()));
        *response = std::move(joined->response);
        reactor->Finish(ToGrpc(joined->status));
      });
  return reactor;
}

}  // namespace assay::coordinator

#include "worker/identity.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "assay/v1/admin.grpc.pb.h"
#include "common/certificate_watch.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "grpcpp/create_channel.h"
#include "worker/blob_client.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kJoinLimit = absl::Seconds(30);
constexpr absl::Duration kShortestPause = absl::Seconds(1);

// `begin` is told of the call before it begins, and with null when it is over; false: it is not to begin.
absl::StatusOr<v1::JoinResponse> Ask(const std::string& address,
                                     const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                     const v1::JoinRequest& request, absl::Duration limit,
                                     const std::function<bool(grpc::ClientContext*)>& begin) {
  grpc::ChannelArguments arguments;
  // A channel of its own: one that is shared would still be the old identity's.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto stub = v1::JoinService::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  if (!begin(&context)) return absl::CancelledError("stopped");
  v1::JoinResponse response;
  const absl::Status status = FromGrpc(stub->Join(&context, request, &response));
  begin(nullptr);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(address, ": ", std::string(status.message())));
  }
  return response;
}

// What came back must be what was asked for.
absl::Status CheckAnswer(const v1::JoinResponse& response, const std::string& key, const std::string& name) {
  ASSAY_RETURN_IF_ERROR(CheckKeyFits(response.certificate_pem(), key));
  ASSAY_ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(response.certificate_pem()));
  if (facts.common_name != name) {
    return absl::InternalError(
        absl::StrCat("the coordinator gave a certificate for '", facts.common_name, "'"));
  }
  return absl::OkStatus();
}

std::string Day(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

}  // namespace

ClientTls IdentityIn(const fs::path& state_dir) {
  ClientTls tls;
  tls.authority = state_dir / "tls" / "ca.crt";
  tls.certificate = state_dir / "tls" / "worker.pem";
  return tls;
}

absl::Status Join(const JoinOptions& options) {
  if (options.coordinators.empty()) return absl::InvalidArgumentError("no coordinator is named");
  if (options.authority.empty()) {
    return absl::InvalidArgumentError(
        "--tls-ca is needed: a token is given only to a coordinator whose certificate that authority signed");
  }
  v1::JoinRequest request;
  if (!options.token_file.empty()) {
    ASSAY_ASSIGN_OR_RETURN(*request.mutable_token(), ReadTokenFile(options.token_file));
  } else {
    request.set_token(options.token);
  }
  if (request.token().empty()) {
    return absl::InvalidArgumentError("a join token is needed: --token-file FILE, or ASSAY_TOKEN");
  }
  const ClientTls identity = IdentityIn(options.state_dir);
  if (fs::exists(identity.certificate)) {
    return absl::FailedPreconditionError(
        absl::StrCat(identity.certificate.string(), " is there already: this worker has joined"));
  }
  ClientTls tls;
  tls.authority = options.authority;
  ASSAY_ASSIGN_OR_RETURN(const auto credentials, ChannelCredentialsOf(tls));
  ASSAY_ASSIGN_OR_RETURN(const std::string key, NewKeyPem());
  ASSAY_ASSIGN_OR_RETURN(*request.mutable_request_pem(), MakeCertificateRequest(key, options.name));
  request.set_worker(options.name);
  absl::StatusOr<v1::JoinResponse> response = absl::UnavailableError("not asked");
  for (const std::string& address : options.coordinators) {
    response = Ask(address, credentials, request, kJoinLimit, [](grpc::ClientContext*) { return true; });
    // Any other answer is one; the token may be used up.
    if (!absl::IsUnavailable(response.status()) && !absl::IsFailedPrecondition(response.status())) break;
  }
  ASSAY_RETURN_IF_ERROR(response.status());
  ASSAY_RETURN_IF_ERROR(CheckAnswer(*response, key, options.name));
  ASSAY_ASSIGN_OR_RETURN(const std::string authority, ReadFile(options.authority));
  // The authority that was trusted to begin with, rather than one that came over the network. The identity
  // last: it stands for all of it.
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(identity.authority, authority, true));
  return WriteSecretFile(identity.certificate, absl::StrCat(response->certificate_pem(), key));
}

IdentityKeeper::IdentityKeeper(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Loop(); });
}

IdentityKeeper::~IdentityKeeper() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  thread_.join();
}

void IdentityKeeper::Loop() {
  CertificateWatch watch(options_.tls.certificate, "this worker's");
  while (true) {
    absl::Duration pause = options_.pause, retry = options_.retry;
    const std::optional<absl::Time> end = watch.Look(absl::Now());
    if (end && options_.ends) options_.ends(*end);
    const absl::StatusOr<std::string> pem = ReadFile(options_.tls.certificate);
    const absl::StatusOr<CertificateFacts> facts =
        pem.ok() ? ReadCertificate(*pem) : absl::StatusOr<CertificateFacts>(pem.status());
    if (facts.ok()) {
      const absl::Duration often =
          std::max<absl::Duration>(kShortestPause, (facts->not_after - facts->not_before) / 50);
      pause = std::min(pause, often);
      retry = std::min(retry, often);
    }
    if (facts.ok() && options_.renews &&
        facts->not_after - absl::Now() < (facts->not_after - facts->not_before) / 3) {
      if (const absl::Status renewed = Renew(); renewed.ok()) {
        spdlog::info("this worker's certificate was renewed");
      } else {
        pause = retry;
        spdlog::warn("cannot renew this worker's certificate, which ends at {}: {}", Day(facts->not_after),
                     std::string(renewed.message()));
      }
    }
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopped_), pause)) return;
  }
}

absl::Status IdentityKeeper::Renew() {
  ASSAY_ASSIGN_OR_RETURN(const auto credentials, ChannelCredentialsOf(options_.tls));
  ASSAY_ASSIGN_OR_RETURN(const std::string key, NewKeyPem());
  v1::JoinRequest request;
  request.set_worker(options_.name);
  ASSAY_ASSIGN_OR_RETURN(*request.mutable_request_pem(), MakeCertificateRequest(key, options_.name));
  absl::StatusOr<v1::JoinResponse> response = absl::UnavailableError("no coordinator is named");
  for (const std::string& address : options_.coordinators) {
    response = Ask(address, credentials, request, options_.call_limit, [this](grpc::ClientContext* context) {
      absl::MutexLock lock(&mutex_);
      call_ = stopped_ ? nullptr : context;
      return !stopped_;
    });
    if (response.ok()) break;
  }
  ASSAY_RETURN_IF_ERROR(response.status());
  ASSAY_RETURN_IF_ERROR(CheckAnswer(*response, key, options_.name));
  return WriteSecretFile(options_.tls.certificate, absl::StrCat(response->certificate_pem(), key));
}

}  // namespace assay::worker

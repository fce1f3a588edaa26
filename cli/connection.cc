#include "cli/connection.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/id.h"
#include "grpc/grpc_security_constants.h"
#include "grpcpp/grpcpp.h"

namespace assay::cli {
namespace {

// Of a unary call that finds every coordinator unavailable, at each of them.
constexpr size_t kTries = 5;
// A report over many batches is larger than gRPC's 4 MiB.
constexpr int kMaxAnswerBytes = 256 << 20;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kLongestBackoff = absl::Seconds(2);
constexpr absl::Duration kConnectLimit = absl::Seconds(5);

// Full jitter: anywhere between half of the backoff and all of it, so that many clients do not return at
// once.
absl::Duration Jittered(absl::Duration backoff) {
  thread_local absl::BitGen random;
  return backoff * absl::Uniform(random, 0.5, 1.0);
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // In spite of its name, how long connecting may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(kConnectLimit)));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A coordinator's machine that vanished is noticed, as often as coordinators take it.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Loopback and names inside a cluster must not go through a web proxy of the user's environment.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(
      address, credentials != nullptr ? credentials : grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

absl::Status ToAbsl(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded) {
    return absl::Status(
        code, absl::StrCat("the coordinator at ", address, " does not answer: ", status.error_message()));
  }
  return absl::Status(code, status.error_message());
}

// The coordinators, which are all alike. Thread-safe.
struct Connection::Peers {
  struct Peer {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::BatchService::Stub> stub;
    std::unique_ptr<v1::AdminService::Stub> admin;
  };
  std::vector<Peer> all;       // constant; not empty
  std::atomic<size_t> at = 0;  // the one that answered last, modulo their number

  size_t Current() const { return at.load(); }
  v1::BatchService::Stub* Stub(size_t turn) const { return all[turn % all.size()].stub.get(); }
  template <typename Kind>
  Kind* Get(size_t turn) const {
    const Peer& peer = all[turn % all.size()];
    if constexpr (std::is_same_v<Kind, v1::AdminService::Stub>) {
      return peer.admin.get();
    } else {
      return peer.stub.get();
    }
  }
  void SetCertificate(const std::vector<grpc::string_ref>& shown) {
    absl::MutexLock lock(&mutex);
    certificate = shown.empty() ? "" : std::string(shown[0].data(), shown[0].size());
  }

  absl::Mutex mutex;
  std::string certificate ABSL_GUARDED_BY(mutex);  // that the last answer came with

  // The one of this turn does not answer: whoever comes next asks the next one.
  void MoveOn(size_t turn) { at.compare_exchange_strong(turn, turn + 1); }
};

// A unary call, again while nobody answers: of each coordinator at once, then with growing pauses between the
// rounds. Only for calls that may be repeated.
template <typename Stub, typename Request, typename Response>
grpc::Status Connection::Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                              const Request& request, Response* response) {
  absl::Duration backoff = kFirstBackoff;
  const size_t count = peers_->all.size();
  for (size_t attempt = 1;; ++attempt) {
    const size_t turn = peers_->Current();
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + options_.deadline));
    response->Clear();
    grpc::Status status = (peers_->template Get<Stub>(turn)->*method)(&context, request, response);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || attempt >= kTries * count) {
      const auto peer = context.auth_context();
      if (peer != nullptr) peers_->SetCertificate(peer->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME));
      return status;
    }
    peers_->MoveOn(turn);
    if (attempt % count != 0) continue;
    absl::SleepFor(Jittered(backoff));
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

// The streams that are open, to be cancelled from another thread.
struct Connection::Watches {
  absl::Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  std::set<grpc::ClientContext*> open ABSL_GUARDED_BY(mutex);

  // False: cancelled, do not begin.
  bool Begin(grpc::ClientContext* context) {
    absl::MutexLock lock(&mutex);
    if (!cancelled) open.insert(context);
    return !cancelled;
  }
  void End(grpc::ClientContext* context) {
    absl::MutexLock lock(&mutex);
    open.erase(context);
  }
  // Sleeps, but no longer than until the watches are cancelled; true: they are.
  bool WaitCancelled(absl::Duration duration) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&cancelled), duration);
  }
};

Connection::Connection(ConnectionOptions options)
    : options_(std::move(options)), peers_(std::make_shared<Peers>()), watches_(std::make_shared<Watches>()) {
  for (absl::string_view address : absl::StrSplit(options_.address, ',', absl::SkipWhitespace())) {
    const std::string name(absl::StripAsciiWhitespace(address));
    auto channel = MakeChannel(name, options_.credentials);
    peers_->all.push_back(
        {name, channel, v1::BatchService::NewStub(channel), v1::AdminService::NewStub(channel)});
  }
  // Nothing: gRPC says that it is no address.
  if (peers_->all.empty()) {
    auto channel = MakeChannel("", nullptr);
    peers_->all.push_back(
        {"", channel, v1::BatchService::NewStub(channel), v1::AdminService::NewStub(channel)});
  }
}

std::shared_ptr<grpc::Channel> Connection::channel() const {
  for (const Peers::Peer& peer : peers_->all) {
    if (peer.channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kConnectLimit))) return peer.channel;
  }
  return peers_->all[0].channel;
}

absl::StatusOr<v1::Batch> Connection::Submit(const v1::SubmitBatchRequest& request,
                                             std::vector<v1::FileError>* errors) {
  v1::SubmitBatchResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::SubmitBatch, request, &response);
  if (status.ok()) return std::move(*response.mutable_batch());
  v1::BatchRefused refused;
  if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT &&
      refused.ParseFromString(status.error_details())) {
    errors->assign(refused.error().begin(), refused.error().end());
  }
  return ToAbsl(status, options_.address);
}

absl::StatusOr<v1::GetBatchResponse> Connection::GetBatch(const std::string& batch_id) {
  v1::GetBatchRequest request;
  request.set_batch_id(batch_id);
  v1::GetBatchResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::GetBatch, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return response;
}

absl::StatusOr<std::vector<v1::Batch>> Connection::ListBatches(size_t limit) {
  std::vector<v1::Batch> batches;
  v1::ListBatchesRequest request;
  do {
    request.set_page_size(limit == 0 ? 1000
                                     : static_cast<uint32_t>(std::min<size_t>(limit - batches.size(), 1000)));
    v1::ListBatchesResponse response;
    const grpc::Status status = Call(&v1::BatchService::Stub::ListBatches, request, &response);
    if (!status.ok()) return ToAbsl(status, options_.address);
    std::move(response.mutable_batch()->begin(), response.mutable_batch()->end(),
              std::back_inserter(batches));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || batches.size() < limit));
  return batches;
}

absl::StatusOr<v1::Batch> Connection::Cancel(const std::string& batch_id) {
  v1::CancelBatchRequest request;
  request.set_request_id(NewUuid());
  request.set_batch_id(batch_id);
  v1::CancelBatchResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::CancelBatch, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return std::move(*response.mutable_batch());
}

absl::StatusOr<std::string> Connection::GetReport(const std::string& batch_id, v1::ReportFormat format,
                                                  uint32_t size) {
  v1::GetReportRequest request;
  request.set_batch_id(batch_id);
  request.set_format(format);
  request.set_size(size);
  v1::GetReportResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::GetReport, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return std::move(*response.mutable_content());
}

std::string Connection::server_certificate() const {
  absl::MutexLock lock(&peers_->mutex);
  return peers_->certificate;
}

absl::StatusOr<v1::ListWorkersResponse> Connection::ListWorkers() {
  v1::ListWorkersResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::ListWorkers, v1::ListWorkersRequest(), &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return response;
}

absl::Status Connection::GetLogs(const std::string& job_id, v1::Stage stage,
                                 const std::function<void(const std::string&)>& chunk) {
  v1::GetLogsRequest request;
  request.set_job_id(job_id);
  request.set_stage(stage);
  for (size_t attempt = 1;; ++attempt) {
    const size_t turn = peers_->Current();
    grpc::ClientContext context;
    auto reader = peers_->Stub(turn)->GetLogs(&context, request);
    v1::GetLogsResponse response;
    bool heard = false;
    for (; reader->Read(&response); heard = true) chunk(response.chunk());
    const grpc::Status status = reader->Finish();
    if (heard || status.error_code() != grpc::StatusCode::UNAVAILABLE || attempt >= peers_->all.size()) {
      return ToAbsl(status, options_.address);
    }
    peers_->MoveOn(turn);
  }
}

absl::Status Connection::Watch(const std::string& batch_id,
                               const std::function<void(const v1::BatchEvent&)>& event) {
  v1::WatchBatchRequest request;
  request.set_batch_id(batch_id);
  request.set_grouped(true);
  absl::Duration backoff = kFirstBackoff;
  absl::Time trouble_since = absl::InfiniteFuture();
  size_t silent = 0;  // streams in a row that brought nothing
  while (true) {
    const absl::Time began = absl::Now();
    bool heard = false;
    grpc::ClientContext context;
    if (!watches_->Begin(&context)) return absl::CancelledError("interrupted");
    const size_t turn = peers_->Current();
    auto reader = peers_->Stub(turn)->WatchBatch(&context, request);
    v1::BatchEvent got;
    while (reader->Read(&got)) {
      heard = true;
      auto take = [&](const v1::BatchEvent& one) {
        // Repeated by a coordinator that does not keep its word: shown once all the same.
        if (one.sequence() <= request.after_sequence()) return;
        request.set_after_sequence(one.sequence());
        event(one);
      };
      for (const v1::BatchEvent& one : got.group()) take(one);
      if (got.group().empty()) take(got);
    }
    const grpc::Status status = reader->Finish();
    watches_->End(&context);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
      if (status.error_code() == grpc::StatusCode::CANCELLED &&
          watches_->WaitCancelled(absl::ZeroDuration())) {
        return absl::CancelledError("interrupted");
      }
      return ToAbsl(status, options_.address);
    }
    // A stream that lasted longer than connecting may was open, however quiet its batch.
    if (heard || absl::Now() - began > 2 * kConnectLimit) {
      trouble_since = absl::InfiniteFuture();
      backoff = kFirstBackoff;
      silent = 0;
    }
    trouble_since = std::min(trouble_since, absl::Now());
    if (absl::Now() - trouble_since >= options_.give_up) return ToAbsl(status, options_.address);
    peers_->MoveOn(turn);
    if (++silent % peers_->all.size() != 0) continue;
    if (watches_->WaitCancelled(Jittered(backoff))) return absl::CancelledError("interrupted");
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

void Connection::CancelWatches() {
  absl::MutexLock lock(&watches_->mutex);
  watches_->cancelled = true;
  for (grpc::ClientContext* context : watches_->open) context->TryCancel();
}

absl::StatusOr<v1::ExplainJobResponse> Connection::ExplainJob(const std::string& job_id) {
  v1::ExplainJobRequest request;
  request.set_job_id(job_id);
  v1::ExplainJobResponse response;
  const grpc::Status status = Call(&v1::BatchService::Stub::ExplainJob, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return response;
}

absl::StatusOr<v1::WorkerSummary> Connection::Cordon(const std::string& worker, const std::string& reason) {
  v1::CordonWorkerRequest request;
  request.set_worker(worker);
  request.set_reason(reason);
  v1::CordonWorkerResponse response;
  const grpc::Status status = Call(&v1::AdminService::Stub::CordonWorker, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return std::move(*response.mutable_worker());
}

absl::StatusOr<v1::WorkerSummary> Connection::Uncordon(const std::string& worker) {
  v1::UncordonWorkerRequest request;
  request.set_worker(worker);
  v1::UncordonWorkerResponse response;
  const grpc::Status status = Call(&v1::AdminService::Stub::UncordonWorker, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return std::move(*response.mutable_worker());
}

absl::StatusOr<v1::WorkerSummary> Connection::Drain(const std::string& worker) {
  v1::DrainWorkerRequest request;
  request.set_worker(worker);
  v1::DrainWorkerResponse response;
  const grpc::Status status = Call(&v1::AdminService::Stub::DrainWorker, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return std::move(*response.mutable_worker());
}

absl::StatusOr<std::string> Connection::Accept(const std::string& worker, uint32_t repetitions) {
  v1::AcceptWorkerRequest request;
  request.set_worker(worker);
  request.set_repetitions(repetitions);
  v1::AcceptWorkerResponse response;
  const grpc::Status status = Call(&v1::AdminService::Stub::AcceptWorker, request, &response);
  if (!status.ok()) return ToAbsl(status, options_.address);
  return response.id();
}

}  // namespace assay::cli

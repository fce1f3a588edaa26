#include "worker/control_stream.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "assay/v1/worker.grpc.pb.h"
#include "common/logging.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "worker/blob_client.h"

namespace assay::worker {
namespace {

constexpr absl::Duration kDefaultHeartbeat = absl::Seconds(1);

// A channel of its own for each connection: a shared one would remember failures, and wait by its own
// backoff.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

// Fields are guarded by ControlStream::mutex_, but for what the comments say.
struct ControlStream::Connection {
  std::shared_ptr<grpc::Channel> channel;  // constant
  grpc::ClientContext context;             // thread-safe by itself
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream;  // likewise
  std::deque<v1::WorkerMessage> outgoing;
  absl::Duration heartbeat = kDefaultHeartbeat;
  bool welcomed = false;
  bool beat_now = false;
  bool closing = false;  // nothing more can be read
};

ControlStream::ControlStream(ControlStreamOptions options, StreamOwner* owner)
    : options_(std::move(options)), owner_(owner) {
  thread_ = std::thread([this] { Loop(); });
}

ControlStream::~ControlStream() { Stop(); }

void ControlStream::Send(v1::WorkerMessage message) {
  absl::MutexLock lock(&mutex_);
  if (connection_ == nullptr || !connection_->welcomed) return;
  connection_->outgoing.push_back(std::move(message));
}

void ControlStream::BeatNow() {
  absl::MutexLock lock(&mutex_);
  if (connection_ != nullptr) connection_->beat_now = true;
}

void ControlStream::Reconnect() {
  absl::MutexLock lock(&mutex_);
  if (connection_ != nullptr) connection_->context.TryCancel();
}

void ControlStream::Leave() {
  absl::MutexLock lock(&mutex_);
  leaving_ = true;
  if (connection_ != nullptr && !connection_->welcomed) connection_->context.TryCancel();
}

void ControlStream::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    if (connection_ != nullptr) connection_->context.TryCancel();
    for (grpc::ClientContext* call : calls_) call->TryCancel();
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

absl::Status ControlStream::Call(
    const std::function<absl::Status(const std::shared_ptr<grpc::Channel>&, grpc::ClientContext&)>& call,
    absl::Duration limit) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  std::shared_ptr<grpc::Channel> channel;
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return absl::CancelledError("stopped");
    if (connection_ == nullptr || !connection_->welcomed) {
      return absl::UnavailableError("no coordinator is connected");
    }
    channel = connection_->channel;
    calls_.insert(&context);
  }
  const absl::Status status = call(channel, context);
  absl::MutexLock lock(&mutex_);
  calls_.erase(&context);
  return status;
}

bool ControlStream::AwaitConnected(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  auto known = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || (connection_ != nullptr && connection_->welcomed);
  };
  return mutex_.AwaitWithDeadline(absl::Condition(&known), deadline) && !stopped_;
}

bool ControlStream::AwaitEnd(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&ended_), deadline);
}

void ControlStream::Loop() {
  absl::Cleanup end = [this] {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  };
  absl::BitGen random;
  absl::Duration backoff = options_.min_backoff;
  for (size_t turn = 0;; ++turn) {
    if (Serve(options_.addresses[turn % options_.addresses.size()])) backoff = options_.min_backoff;
    absl::MutexLock lock(&mutex_);
    auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return Over(); };
    // Jitter, so that the workers of a coordinator that comes back do not all come at once.
    mutex_.AwaitWithTimeout(absl::Condition(&over), backoff * absl::Uniform(random, 0.5, 1.0));
    if (Over()) return;
    backoff = std::min(backoff * 2, options_.max_backoff);
  }
}

bool ControlStream::Serve(const std::string& address) {
  Connection connection;
  connection.channel = MakeChannel(address);
  auto stub = v1::WorkerService::NewStub(connection.channel);
  {
    absl::MutexLock lock(&mutex_);
    if (Over()) return false;
    connection_ = &connection;
    // With its metadata corked the call starts with the first write: nothing here waits for the network.
    connection.context.set_initial_metadata_corked(true);
    connection.stream = stub->Connect(&connection.context);
  }
  std::thread writer([this, &connection] { WriteLoop(connection); });
  v1::CoordinatorMessage message;
  while (connection.stream->Read(&message)) {
    switch (message.kind_case()) {
      case v1::CoordinatorMessage::kWelcome:
        spdlog::info("connected to coordinator {} at {}", message.welcome().coordinator(), address);
        {
          absl::MutexLock lock(&mutex_);
          if (message.welcome().heartbeat_ms() > 0) {
            connection.heartbeat = absl::Milliseconds(message.welcome().heartbeat_ms());
          }
          connection.welcomed = true;
        }
        owner_->Welcomed(message.welcome());
        break;
      case v1::CoordinatorMessage::kDesired:
        owner_->Desired(message.desired());
        break;
      case v1::CoordinatorMessage::kAck:
        owner_->Acknowledged(message.ack());
        break;
      default:
        spdlog::warn("coordinator {} sent a message of a kind this worker does not know", address);
    }
  }
  bool welcomed;
  {
    absl::MutexLock lock(&mutex_);
    connection.closing = true;
    welcomed = connection.welcomed;
    connection_ = nullptr;
  }
  writer.join();
  const absl::Status ended = FromGrpc(connection.stream->Finish());
  absl::MutexLock lock(&mutex_);
  if (Over()) return welcomed;
  if (absl::IsInvalidArgument(ended) || absl::IsFailedPrecondition(ended) ||
      absl::IsPermissionDenied(ended) || absl::IsUnauthenticated(ended)) {
    spdlog::error("coordinator {} refuses this worker: {}", address, ended.ToString());
  } else if (welcomed) {
    spdlog::warn("stream to coordinator {} ended: {}; connecting again", address, ended.ToString());
  } else {
    spdlog::info("coordinator {} is not there: {}", address, ended.ToString());
  }
  return welcomed;
}

void ControlStream::WriteLoop(Connection& connection) {
  v1::WorkerMessage first;
  *first.mutable_hello() = owner_->MakeHello();
  if (!connection.stream->Write(first)) return;

  absl::MutexLock lock(&mutex_);
  auto answered = [&connection] { return connection.welcomed || connection.closing; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&answered), options_.welcome_limit)) {
    spdlog::warn("coordinator did not answer a Hello within {}",
                 absl::FormatDuration(options_.welcome_limit));
    connection.context.TryCancel();
    return;
  }
  absl::Time next_beat = absl::Now() + connection.heartbeat;
  auto something = [this, &connection]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return connection.closing || !connection.outgoing.empty() || connection.beat_now || leaving_;
  };
  while (true) {
    mutex_.AwaitWithDeadline(absl::Condition(&something), next_beat);
    if (connection.closing) return;
    const std::deque<v1::WorkerMessage> messages = std::exchange(connection.outgoing, {});
    const bool leave = leaving_;
    const bool beat = std::exchange(connection.beat_now, false) || absl::Now() >= next_beat;
    mutex_.Unlock();
    absl::Cleanup relock = [this] { mutex_.Lock(); };
    for (size_t i = 0; i < messages.size(); ++i) {
      // Those that wait together travel together.
      grpc::WriteOptions options;
      if (i + 1 < messages.size() || beat) options.set_buffer_hint();
      if (!connection.stream->Write(messages[i], options)) return;
    }
    if (beat) {
      v1::WorkerMessage message;
      *message.mutable_heartbeat() = owner_->MakeHeartbeat();
      next_beat = absl::Now() + connection.heartbeat;
      if (!connection.stream->Write(message)) return;
    }
    if (leave && messages.empty()) {
      connection.stream->WritesDone();
      return;
    }
  }
}

}  // namespace assay::worker

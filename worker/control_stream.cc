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
constexpr int kConnectLimitMs = 2'000;
constexpr int kSilenceLimitMs = 3'000;

// A channel of its own for each connection: a shared one would remember failures, and wait by its own
// backoff.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A name may have the addresses of several coordinators: whichever answers, and not all workers the same
  // one.
  arguments.SetLoadBalancingPolicyName("round_robin");
  // An address that swallows packets is given up soon …
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectLimitMs);
  // … and so is a machine that vanished: with a keepalive set, gRPC has the kernel (TCP_USER_TIMEOUT) end a
  // connection whose packets, of heartbeats as a rule, are not acknowledged for so long. Pings come too
  // seldom to trouble a server.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 600'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kSilenceLimitMs);
  // As the coordinator's side (server.cc).
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
  return grpc::CreateCustomChannel(
      address, credentials != nullptr ? credentials : grpc::InsecureChannelCredentials(), arguments);
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
  uint32_t protocol = 0;  // of Hello, and then of Welcome
  bool beat_now = false;
  bool closing = false;  // nothing more can be read
};

absl::Duration Backoff::Next(bool welcomed, absl::BitGenRef random) {
  failed_ = welcomed ? 0 : failed_ + 1;
  absl::Duration most = spread_;
  for (size_t round = addresses_; round < failed_ && most < max_; ++round) most *= 2;
  return std::min(most, std::max(max_, spread_)) * absl::Uniform(random, 0.0, 1.0);
}

ControlStream::ControlStream(ControlStreamOptions options, StreamOwner* owner)
    : options_(std::move(options)), owner_(owner) {
  thread_ = std::thread([this] { Loop(); });
}

ControlStream::~ControlStream() { Stop(); }

void ControlStream::Send(v1::WorkerMessage message) {
  absl::MutexLock lock(&mutex_);
  if (connection_ == nullptr || !connection_->welcomed) return;
  connection_->outgoing.push_back(std::move(message));
  bell_.Ring();
}

uint32_t ControlStream::protocol() {
  absl::MutexLock lock(&mutex_);
  return connection_ != nullptr && connection_->welcomed ? connection_->protocol : 0;
}

void ControlStream::BeatNow() {
  absl::MutexLock lock(&mutex_);
  if (connection_ != nullptr) connection_->beat_now = true;
  bell_.Ring();
}

void ControlStream::Reconnect() {
  absl::MutexLock lock(&mutex_);
  if (connection_ != nullptr) connection_->context.TryCancel();
}

void ControlStream::Leave() {
  absl::MutexLock lock(&mutex_);
  leaving_ = true;
  bell_.Ring();
  if (connection_ != nullptr && !connection_->welcomed) connection_->context.TryCancel();
}

void ControlStream::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    bell_.Ring();
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

bool ControlStream::IsOpen() const {
  absl::MutexLock lock(&mutex_);
  return connection_ != nullptr;
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
  const size_t count = options_.addresses.size();
  Backoff backoff(options_.min_backoff, options_.max_backoff, count);
  // Not all workers begin with the same one.
  for (size_t turn = absl::Uniform<size_t>(random, 0, count);; ++turn) {
    const std::string& address = options_.addresses[turn % count];
    End end = Serve(address, kNewestProtocol);
    // A coordinator of the first release says so. It may be a newer one the next time.
    if (end == End::kOtherProtocol) end = Serve(address, kOldestProtocol);
    const absl::Time again = SteadyNow() + backoff.Next(end == End::kWelcomed, random);
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        if (Over()) return;
      }
      if (SteadyNow() >= again) break;
      bell_.Wait(again);
    }
  }
}

ControlStream::End ControlStream::Serve(const std::string& address, uint32_t protocol) {
  Connection connection;
  connection.protocol = protocol;
  connection.channel = MakeChannel(address, options_.credentials);
  auto stub = v1::WorkerService::NewStub(connection.channel);
  {
    absl::MutexLock lock(&mutex_);
    if (Over()) return End::kNotThere;
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
          connection.protocol = std::clamp<uint32_t>(message.welcome().protocol(), 1, protocol);
          connection.welcomed = true;
        }
        bell_.Ring();
        owner_->Welcomed(message.welcome());
        break;
      case v1::CoordinatorMessage::kDesired:
        for (const v1::ResultAck& ack : message.desired().ack()) owner_->Acknowledged(ack);
        owner_->Desired(message.desired());
        break;
      case v1::CoordinatorMessage::kAck:
        owner_->Acknowledged(message.ack());
        break;
      case v1::CoordinatorMessage::kAcks:
        for (const v1::ResultAck& ack : message.acks().ack()) owner_->Acknowledged(ack);
        break;
      default:
        spdlog::warn("coordinator {} sent a message of a kind this worker does not know", address);
    }
  }
  bool welcomed;
  {
    absl::MutexLock lock(&mutex_);
    connection.closing = true;
    bell_.Ring();
    welcomed = connection.welcomed;
    connection_ = nullptr;
  }
  writer.join();
  const absl::Status ended = FromGrpc(connection.stream->Finish());
  absl::MutexLock lock(&mutex_);
  if (Over()) return End::kNotThere;
  if (absl::IsFailedPrecondition(ended) && !welcomed && protocol > kOldestProtocol) {
    spdlog::info("coordinator {} does not serve this worker's protocol: {}; trying the first", address,
                 ended.ToString());
    return End::kOtherProtocol;
  }
  if (absl::IsInvalidArgument(ended) || absl::IsFailedPrecondition(ended) ||
      absl::IsPermissionDenied(ended) || absl::IsUnauthenticated(ended)) {
    spdlog::error("coordinator {} refuses this worker: {}", address, ended.ToString());
  } else if (welcomed) {
    spdlog::warn("stream to coordinator {} ended: {}; connecting again", address, ended.ToString());
  } else {
    spdlog::info("coordinator {} is not there: {}", address, ended.ToString());
  }
  return welcomed ? End::kWelcomed : End::kNotThere;
}

void ControlStream::WriteLoop(Connection& connection) {
  uint32_t offered;
  {
    absl::MutexLock lock(&mutex_);
    offered = connection.protocol;
  }
  v1::WorkerMessage first;
  *first.mutable_hello() = owner_->MakeHello(offered);
  if (!connection.stream->Write(first)) return;

  const absl::Time welcome_deadline = SteadyNow() + options_.welcome_limit;
  absl::Time next_beat = absl::InfiniteFuture();
  while (true) {
    std::deque<v1::WorkerMessage> messages;
    bool leave = false, beat = false;
    {
      absl::MutexLock lock(&mutex_);
      if (connection.closing) return;
      const absl::Time now = SteadyNow();
      if (connection.welcomed) {
        next_beat = std::min(next_beat, now + connection.heartbeat);
        messages = std::exchange(connection.outgoing, {});
        leave = leaving_;
        beat = std::exchange(connection.beat_now, false) || now >= next_beat;
      } else if (now >= welcome_deadline) {
        spdlog::warn("coordinator did not answer a Hello within {}",
                     absl::FormatDuration(options_.welcome_limit));
        connection.context.TryCancel();
        return;
      }
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      // Those that wait together travel together.
      grpc::WriteOptions options;
      if (i + 1 < messages.size() || beat) options.set_buffer_hint();
      if (!connection.stream->Write(messages[i], options)) return;
    }
    if (beat) {
      v1::WorkerMessage message;
      *message.mutable_heartbeat() = owner_->MakeHeartbeat();
      next_beat = SteadyNow() + connection.heartbeat;
      if (!connection.stream->Write(message)) return;
    }
    if (leave && messages.empty()) {
      connection.stream->WritesDone();
      return;
    }
    if (messages.empty() && !beat) {
      bell_.Wait(next_beat == absl::InfiniteFuture() ? welcome_deadline : next_beat);
    }
  }
}

}  // namespace assay::worker

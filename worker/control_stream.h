// The bidirectional stream to a coordinator: connects, says Hello, keeps the heartbeat, and connects again,
// to the next address in turn, whenever the stream ends.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/bit_gen_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/worker.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "worker/steady.h"

namespace assay::worker {

// Called on the stream's threads with no lock of the stream held. May call the stream, but not Stop().
class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  // As a coordinator of that protocol understands it.
  virtual v1::Hello MakeHello(uint32_t protocol) = 0;
  virtual v1::Heartbeat MakeHeartbeat() = 0;
  virtual void Welcomed(const v1::Welcome& welcome) = 0;
  virtual void Desired(const v1::DesiredState& desired) = 0;
  virtual void Acknowledged(const v1::ResultAck& ack) = 0;
};

// The protocols that this worker speaks.
inline constexpr uint32_t kOldestProtocol = 1, kNewestProtocol = 3;

// Pauses between connections, so that the workers of a coordinator that goes do not all come to the next one
// in the same instant: uniformly distributed from 0 to `spread`, which is less than the 500 ms for which a
// coordinator keeps the attempts of a worker whose stream broke; when every address was tried once in vain,
// to twice as much each time, up to `max`. Not thread-safe.
class Backoff {
 public:
  Backoff(absl::Duration spread, absl::Duration max, size_t addresses)
      : spread_(spread), max_(max), addresses_(addresses) {}
  // After a connection that was welcomed, or was not.
  absl::Duration Next(bool welcomed, absl::BitGenRef random);

 private:
  const absl::Duration spread_, max_;
  const size_t addresses_;
  size_t failed_ = 0;  // in a row
};

struct ControlStreamOptions {
  std::vector<std::string> addresses;  // host:port, not empty; a name may stand for several machines
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // TLS, and who this worker is; null: without TLS
  absl::Duration min_backoff = absl::Milliseconds(250);   // Backoff's spread
  absl::Duration max_backoff = absl::Seconds(2);
  absl::Duration welcome_limit = absl::Seconds(10);  // from the call to Welcome
};

// Thread-safe.
class ControlStream {
 public:
  ControlStream(ControlStreamOptions options, StreamOwner* owner);
  ~ControlStream();  // as Stop()

  // Sends it if a coordinator has welcomed this worker; else it is dropped: Hello will tell all that matters.
  void Send(v1::WorkerMessage message);
  // Of the stream that stands; 0: none does.
  uint32_t protocol();
  // A heartbeat at once, after what was sent before; several wishes make one heartbeat.
  void BeatNow();
  // Breaks the stream, to connect again.
  void Reconnect();
  // Ends the stream in good order after what was sent, and connects no more.
  void Leave();
  // Until the stream has ended after Leave() (true), or the deadline has passed.
  bool AwaitEnd(absl::Time deadline);
  void Stop();

  // Makes a call of another service over the same connection. It is cancelled by Stop(), and after `limit`.
  //   UNAVAILABLE  no coordinator is connected.
  absl::Status Call(
      const std::function<absl::Status(const std::shared_ptr<grpc::Channel>&, grpc::ClientContext&)>& call,
      absl::Duration limit = absl::Minutes(5));
  // Until a coordinator has welcomed this worker (true), or the deadline has passed or the stream is stopped.
  bool AwaitConnected(absl::Time deadline);
  // False while no stream is open, nor being opened: between one that broke and the next try.
  bool IsOpen() const;

 private:
  struct Connection;

  void Loop();
  enum class End { kNotThere, kOtherProtocol, kWelcomed };
  // One connection, until it ends.
  End Serve(const std::string& address, uint32_t protocol);
  void WriteLoop(Connection& connection);
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || leaving_; }

  const ControlStreamOptions options_;
  StreamOwner* const owner_;

  mutable absl::Mutex mutex_;
  Connection* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  Bell bell_;  // something to do for the thread that waits: of a connection's writer, or of the loop between
               // two

  absl::Mutex join_mutex_;
  std::thread thread_;
};

}  // namespace assay::worker

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
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/worker.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace assay::worker {

// Called on the stream's threads with no lock of the stream held. May call the stream, but not Stop().
class StreamOwner {
 public:
  virtual ~StreamOwner() = default;
  virtual v1::Hello MakeHello() = 0;
  virtual v1::Heartbeat MakeHeartbeat() = 0;
  virtual void Welcomed(const v1::Welcome& welcome) = 0;
  virtual void Desired(const v1::DesiredState& desired) = 0;
  virtual void Acknowledged(const v1::ResultAck& ack) = 0;
};

struct ControlStreamOptions {
  std::vector<std::string> addresses;  // host:port, not empty
  absl::Duration min_backoff = absl::Milliseconds(50);
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

 private:
  struct Connection;

  void Loop();
  // One connection, until it ends. True where the worker was welcomed.
  bool Serve(const std::string& address);
  void WriteLoop(Connection& connection);
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || leaving_; }

  const ControlStreamOptions options_;
  StreamOwner* const owner_;

  absl::Mutex mutex_;
  Connection* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  absl::Mutex join_mutex_;
  std::thread thread_;
};

}  // namespace assay::worker

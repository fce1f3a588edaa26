// A coordinator that keeps nothing on disk and does what a test tells it to: for tests of the worker.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "assay/v1/worker.grpc.pb.h"
#include "grpcpp/server.h"
#include "worker/spool.h"

namespace assay::worker {

// Thread-safe. Awaiting functions give up after a minute and fail the test.
class FakeCoordinator {
 public:
  FakeCoordinator();
  ~FakeCoordinator();

  std::string address() const;
  // The server goes (streams break, the port is closed) and comes back at the same port.
  void GoAway();
  void ComeBack();

  std::string AddBlob(const std::string& content);
  void AddBlobAs(const std::string& digest, const std::string& content);
  // What was uploaded under this digest; empty where nothing was.
  std::string Blob(const std::string& digest) const;
  int downloads() const;
  void RefuseUploads(bool refuse);
  // While on, downloads do not answer as long as their worker's stream stands.
  void HoldDownloads(bool on);
  void AwaitHeldDownload();

  // Told to the worker now, or when it connects.
  void Start(const v1::Assignment& assignment);
  void Abandon(const AttemptKey& key);
  // While off, results are taken and not answered.
  void Acknowledge(bool on);
  // The protocol that is spoken, 2 unless told otherwise; one of protocol 1 refuses workers of another, as
  // the first release does.
  void Speak(uint32_t protocol);
  int refused() const;
  // The most results that came in one message.
  int most_together() const;
  void Want(const v1::DesiredState& desired);
  v1::AcceptanceReport AwaitReport(size_t count = 1);  // the count-th, from 1
  void SetHeartbeat(uint32_t heartbeat_ms);
  // While off, a draining worker's heartbeats are taken and not answered.
  void AnswerDrain(bool on);
  // Told to the worker in the answer to its first draining heartbeat.
  void StartWhenDraining(const v1::Assignment& assignment);

  v1::Hello AwaitHello(size_t count);  // the count-th Hello, from 1
  v1::AttemptResult AwaitResult(const AttemptKey& key, size_t times = 1);
  v1::Heartbeat AwaitHeartbeat(const std::function<bool(const v1::Heartbeat&)>& wanted);
  size_t heartbeats() const;
  void AwaitHeartbeats(size_t count);
  v1::Heartbeat LastHeartbeat() const;
  v1::AttemptEvent AwaitEvent(const AttemptKey& key);
  // Until a worker has ended its stream in good order.
  void AwaitGoodbye();
  std::vector<v1::AttemptEvent> Events(const AttemptKey& key) const;
  size_t Results(const AttemptKey& key) const;  // how often it came
  size_t hellos() const;

 private:
  class Workers;
  class Blobs;
  using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

  void Tell(v1::CoordinatorMessage message);
  void Take(const v1::AttemptResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> blobs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> keys_ ABSL_GUARDED_BY(mutex_);
  bool answer_drain_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<v1::Assignment> at_drain_ ABSL_GUARDED_BY(mutex_);
  int downloads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool hold_downloads_ ABSL_GUARDED_BY(mutex_) = false;
  int held_downloads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool refuse_uploads_ ABSL_GUARDED_BY(mutex_) = false;
  bool acknowledge_ ABSL_GUARDED_BY(mutex_) = true;
  uint32_t protocol_ ABSL_GUARDED_BY(mutex_) = 2;
  int refused_ ABSL_GUARDED_BY(mutex_) = 0;
  int most_together_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::AcceptanceReport> reports_ ABSL_GUARDED_BY(mutex_);
  uint32_t heartbeat_ms_ ABSL_GUARDED_BY(mutex_) = 60'000;
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::deque<v1::CoordinatorMessage> untold_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Hello> hellos_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Heartbeat> heartbeats_ ABSL_GUARDED_BY(mutex_);
  std::map<AttemptKey, std::vector<v1::AttemptEvent>> events_ ABSL_GUARDED_BY(mutex_);
  std::map<AttemptKey, std::vector<v1::AttemptResult>> results_ ABSL_GUARDED_BY(mutex_);
  int goodbyes_ ABSL_GUARDED_BY(mutex_) = 0;

  int port_ = 0;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Blobs> blob_service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace assay::worker

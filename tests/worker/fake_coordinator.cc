#include "tests/worker/fake_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"

namespace assay::worker {
namespace {

constexpr absl::Duration kLong = absl::Minutes(1);
constexpr size_t kChunk = size_t{64} << 10;

v1::CoordinatorMessage AckOf(const v1::AttemptResult& result) {
  v1::CoordinatorMessage ack;
  *ack.mutable_ack()->mutable_attempt() = result.attempt();
  ack.mutable_ack()->set_counted(true);
  return ack;
}

}  // namespace

class FakeCoordinator::Workers final : public v1::WorkerService::Service {
 public:
  explicit Workers(FakeCoordinator* owner) : owner_(owner) {}

  grpc::Status Connect(grpc::ServerContext* context, Stream* stream) override {
    FakeCoordinator& o = *owner_;
    v1::WorkerMessage message;
    if (!stream->Read(&message) || !message.has_hello()) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no Hello");
    }
    {
      absl::MutexLock lock(&o.mutex_);
      if (o.protocol_ == 1 && message.hello().protocol() != 1) {
        ++o.refused_;
        return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "only protocol 1 is served here");
      }
      o.hellos_.push_back(message.hello());
      v1::CoordinatorMessage welcome;
      welcome.mutable_welcome()->set_coordinator("fake");
      welcome.mutable_welcome()->set_heartbeat_ms(o.heartbeat_ms_);
      welcome.mutable_welcome()->set_lease_ms(3 * o.heartbeat_ms_);
      if (o.protocol_ > 1) welcome.mutable_welcome()->set_protocol(o.protocol_);
      stream->Write(welcome);
      o.stream_ = stream;
      for (const v1::CoordinatorMessage& untold : std::exchange(o.untold_, {})) stream->Write(untold);
    }
    while (stream->Read(&message)) {
      absl::MutexLock lock(&o.mutex_);
      switch (message.kind_case()) {
        case v1::WorkerMessage::kHeartbeat: {
          o.heartbeats_.push_back(message.heartbeat());
          if (!message.heartbeat().draining() || !o.answer_drain_) break;
          v1::CoordinatorMessage desired;
          desired.mutable_desired();
          for (const v1::Assignment& assignment : std::exchange(o.at_drain_, {})) {
            *desired.mutable_desired()->add_start() = assignment;
          }
          stream->Write(desired);
          break;
        }
        case v1::WorkerMessage::kEvent:
          o.events_[KeyOf(message.event().attempt())].push_back(message.event());
          break;
        case v1::WorkerMessage::kResult:
          o.Take(message.result());
          if (o.acknowledge_) stream->Write(AckOf(message.result()));
          break;
        case v1::WorkerMessage::kResults: {
          EXPECT_GE(o.protocol_, 2);
          EXPECT_LT(message.ByteSizeLong(), size_t{1} << 20);
          o.most_together_ = std::max(o.most_together_, message.results().result_size());
          v1::CoordinatorMessage acks;
          for (const v1::AttemptResult& result : message.results().result()) {
            o.Take(result);
            *(o.protocol_ >= 3 ? acks.mutable_desired()->add_ack() : acks.mutable_acks()->add_ack()) =
                AckOf(result).ack();
          }
          if (o.acknowledge_) stream->Write(acks);
          break;
        }
        case v1::WorkerMessage::kAcceptance:
          EXPECT_GE(o.protocol_, 2);
          o.reports_.push_back(message.acceptance());
          break;
        default:
          ADD_FAILURE() << "unexpected: " << message.ShortDebugString();
      }
    }
    absl::MutexLock lock(&o.mutex_);
    if (o.stream_ == stream) o.stream_ = nullptr;
    if (!context->IsCancelled()) ++o.goodbyes_;
    return grpc::Status::OK;
  }

 private:
  FakeCoordinator* const owner_;
};

class FakeCoordinator::Blobs final : public v1::BlobService::Service {
 public:
  explicit Blobs(FakeCoordinator* owner) : owner_(owner) {}

  grpc::Status Download(grpc::ServerContext*, const v1::DownloadRequest* request,
                        grpc::ServerWriter<v1::DownloadResponse>* writer) override {
    std::map<std::string, std::string> blobs;
    {
      absl::MutexLock lock(&owner_->mutex_);
      ++owner_->downloads_;
      blobs = owner_->blobs_;
      if (owner_->hold_downloads_) {
        ++owner_->held_downloads_;
        // A server that shuts down cancels the worker's stream first, then waits for this.
        auto released = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(owner_->mutex_) {
          return !owner_->hold_downloads_ || owner_->stream_ == nullptr;
        };
        owner_->mutex_.Await(absl::Condition(&released));
      }
    }
    for (const std::string& digest : request->digest()) {
      auto at = blobs.find(digest);
      if (at == blobs.end()) return grpc::Status(grpc::StatusCode::NOT_FOUND, digest);
      v1::DownloadResponse response;
      response.set_digest(digest);
      response.set_size(at->second.size());
      for (size_t done = 0; done == 0 || done < at->second.size(); done += kChunk) {
        response.set_chunk(at->second.substr(done, kChunk));
        if (!writer->Write(response)) return grpc::Status::CANCELLED;
        response.Clear();
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status Lookup(grpc::ServerContext*, const v1::LookupRequest* request,
                      v1::LookupResponse* response) override {
    absl::MutexLock lock(&owner_->mutex_);
    for (const std::string& key : request->key()) {
      if (auto at = owner_->keys_.find(key); at != owner_->keys_.end()) {
        (*response->mutable_digest())[key] = at->second;
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status Upload(grpc::ServerContext*, grpc::ServerReader<v1::UploadRequest>* reader,
                      v1::UploadResponse* response) override {
    v1::UploadRequest request;
    std::string digest, content, key;
    uint64_t size = 0;
    for (bool first = true; reader->Read(&request); first = false) {
      if (first) {
        digest = request.digest();
        size = request.size();
        key = request.key();
      }
      EXPECT_LE(request.chunk().size(), size_t{256} << 10);
      content += request.chunk();
    }
    absl::MutexLock lock(&owner_->mutex_);
    if (owner_->refuse_uploads_) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too large");
    if (content.size() != size || Sha256Hex(content) != digest) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not what was announced");
    }
    owner_->blobs_[digest] = content;
    response->set_digest(key.empty() ? digest : owner_->keys_.try_emplace(key, digest).first->second);
    return grpc::Status::OK;
  }

 private:
  FakeCoordinator* const owner_;
};

FakeCoordinator::FakeCoordinator()
    : workers_(std::make_unique<Workers>(this)), blob_service_(std::make_unique<Blobs>(this)) {
  ComeBack();
}

FakeCoordinator::~FakeCoordinator() { GoAway(); }

std::string FakeCoordinator::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeCoordinator::GoAway() {
  if (server_ == nullptr) return;
  server_->Shutdown(absl::ToChronoTime(absl::Now()));
  server_->Wait();
  server_.reset();
}

void FakeCoordinator::ComeBack() {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(workers_.get());
  builder.RegisterService(blob_service_.get());
  server_ = builder.BuildAndStart();
  ASSERT_NE(server_, nullptr);
  port_ = port;
}

std::string FakeCoordinator::AddBlob(const std::string& content) {
  const std::string digest = Sha256Hex(content);
  AddBlobAs(digest, content);
  return digest;
}

void FakeCoordinator::AddBlobAs(const std::string& digest, const std::string& content) {
  absl::MutexLock lock(&mutex_);
  blobs_[digest] = content;
}

std::string FakeCoordinator::Blob(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  auto at = blobs_.find(digest);
  return at == blobs_.end() ? "" : at->second;
}

int FakeCoordinator::downloads() const {
  absl::MutexLock lock(&mutex_);
  return downloads_;
}

void FakeCoordinator::HoldDownloads(bool on) {
  absl::MutexLock lock(&mutex_);
  hold_downloads_ = on;
}

void FakeCoordinator::AwaitHeldDownload() {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return held_downloads_ > 0; };
  EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) << "nobody downloads";
}

void FakeCoordinator::RefuseUploads(bool refuse) {
  absl::MutexLock lock(&mutex_);
  refuse_uploads_ = refuse;
}

void FakeCoordinator::Take(const v1::AttemptResult& result) {
  results_[KeyOf(result.attempt())].push_back(result);
}

void FakeCoordinator::Speak(uint32_t protocol) {
  absl::MutexLock lock(&mutex_);
  protocol_ = protocol;
}

int FakeCoordinator::most_together() const {
  absl::MutexLock lock(&mutex_);
  return most_together_;
}

int FakeCoordinator::refused() const {
  absl::MutexLock lock(&mutex_);
  return refused_;
}

void FakeCoordinator::Want(const v1::DesiredState& desired) {
  v1::CoordinatorMessage message;
  *message.mutable_desired() = desired;
  Tell(std::move(message));
}

v1::AcceptanceReport FakeCoordinator::AwaitReport(size_t count) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reports_.size() >= count; };
  if (mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) return reports_[count - 1];
  ADD_FAILURE() << "no acceptance report number " << count;
  return {};
}

void FakeCoordinator::Tell(v1::CoordinatorMessage message) {
  absl::MutexLock lock(&mutex_);
  if (stream_ == nullptr || !stream_->Write(message)) untold_.push_back(std::move(message));
}

void FakeCoordinator::Start(const v1::Assignment& assignment) {
  v1::CoordinatorMessage message;
  *message.mutable_desired()->add_start() = assignment;
  Tell(std::move(message));
}

void FakeCoordinator::Abandon(const AttemptKey& key) {
  v1::CoordinatorMessage message;
  *message.mutable_desired()->add_abandon() = RefOf(key);
  Tell(std::move(message));
}

void FakeCoordinator::Acknowledge(bool on) {
  absl::MutexLock lock(&mutex_);
  acknowledge_ = on;
}

void FakeCoordinator::AnswerDrain(bool on) {
  absl::MutexLock lock(&mutex_);
  answer_drain_ = on;
}

void FakeCoordinator::StartWhenDraining(const v1::Assignment& assignment) {
  absl::MutexLock lock(&mutex_);
  at_drain_.push_back(assignment);
}

void FakeCoordinator::SetHeartbeat(uint32_t heartbeat_ms) {
  absl::MutexLock lock(&mutex_);
  heartbeat_ms_ = heartbeat_ms;
}

v1::Hello FakeCoordinator::AwaitHello(size_t count) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return hellos_.size() >= count; };
  if (mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) return hellos_[count - 1];
  ADD_FAILURE() << "no Hello number " << count;
  return {};
}

v1::AttemptResult FakeCoordinator::AwaitResult(const AttemptKey& key, size_t times) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return results_[key].size() >= times; };
  if (mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) return results_[key][times - 1];
  ADD_FAILURE() << "no result number " << times << " of job " << key.first;
  return {};
}

v1::Heartbeat FakeCoordinator::AwaitHeartbeat(const std::function<bool(const v1::Heartbeat&)>& wanted) {
  absl::MutexLock lock(&mutex_);
  size_t looked_at = 0;
  v1::Heartbeat found;
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (; looked_at < heartbeats_.size(); ++looked_at) {
      if (!wanted(heartbeats_[looked_at])) continue;
      found = heartbeats_[looked_at];
      return true;
    }
    return false;
  };
  EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) << "no such heartbeat";
  return found;
}

size_t FakeCoordinator::heartbeats() const {
  absl::MutexLock lock(&mutex_);
  return heartbeats_.size();
}

void FakeCoordinator::AwaitHeartbeats(size_t count) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return heartbeats_.size() >= count; };
  EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) << "no heartbeat number " << count;
}

v1::Heartbeat FakeCoordinator::LastHeartbeat() const {
  absl::MutexLock lock(&mutex_);
  return heartbeats_.empty() ? v1::Heartbeat() : heartbeats_.back();
}

v1::AttemptEvent FakeCoordinator::AwaitEvent(const AttemptKey& key) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !events_[key].empty(); };
  if (mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) return events_[key].front();
  ADD_FAILURE() << "no event of job " << key.first;
  return {};
}

void FakeCoordinator::AwaitGoodbye() {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return goodbyes_ > 0; };
  EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) << "no worker left in good order";
}

std::vector<v1::AttemptEvent> FakeCoordinator::Events(const AttemptKey& key) const {
  absl::MutexLock lock(&mutex_);
  auto at = events_.find(key);
  return at == events_.end() ? std::vector<v1::AttemptEvent>() : at->second;
}

size_t FakeCoordinator::Results(const AttemptKey& key) const {
  absl::MutexLock lock(&mutex_);
  auto at = results_.find(key);
  return at == results_.end() ? 0 : at->second.size();
}

size_t FakeCoordinator::hellos() const {
  absl::MutexLock lock(&mutex_);
  return hellos_.size();
}

}  // namespace assay::worker

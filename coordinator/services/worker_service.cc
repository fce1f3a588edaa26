#include "coordinator/services/worker_service.h"

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/pem.h"
#include "coordinator/access/rules.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

// Messages of one worker that wait for their commit; then its stream is read no further.
constexpr int kMaxUncommitted = 64;
// Most messages are smaller, as they lie in memory.
constexpr size_t kUsualMessageBytes = 4096;

// On an arena of its own: a result is of many small parts, and what one thread allocates another frees.
std::shared_ptr<v1::WorkerMessage> NewMessage() {
  google::protobuf::ArenaOptions options;
  options.start_block_size = kUsualMessageBytes;
  auto arena = std::make_shared<google::protobuf::Arena>(options);
  auto* message = google::protobuf::Arena::CreateMessage<v1::WorkerMessage>(arena.get());
  return {std::move(arena), message};
}

absl::Status CheckHello(const v1::Hello& hello) {
  // A newer one is answered with the newest that is served here.
  if (hello.protocol() == 0) return absl::FailedPreconditionError("protocol 0 is not served here: upgrade");
  if (hello.worker().empty()) return absl::InvalidArgumentError("Hello.worker is empty");
  if (hello.instance().empty()) return absl::InvalidArgumentError("Hello.instance is empty");
  return absl::OkStatus();
}

class WorkerStream final : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>,
                           public WorkerLink,
                           public std::enable_shared_from_this<WorkerStream> {
 public:
  static WorkerStream* Start(Dispatcher* dispatcher, Access* access, grpc::CallbackServerContext* context) {
    std::shared_ptr<WorkerStream> stream(new WorkerStream(dispatcher, access, context));
    stream->self_ = stream;
    if (stream->may_end_) access->Open(context->c_call(), CredentialsOf(*context));
    stream->StartRead(stream->incoming_.get());
    return stream.get();
  }

  const std::string& worker() const override { return worker_; }
  std::optional<absl::Time> certificate_end() const override { return certificate_end_; }

  void Send(v1::CoordinatorMessage message) override {
    absl::MutexLock lock(&mutex_);
    if (closing_ || finished_) return;
    outgoing_.push_back(std::move(message));
    Advance();
  }

  void Close(absl::Status status) override {
    absl::MutexLock lock(&mutex_);
    CloseLocked(status);
  }

  void OnReadDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      if (!ok) {  // the worker has closed its side, or is gone
        CloseLocked(absl::OkStatus());
        return;
      }
      ++uncommitted_;
    }
    // Released when the message is committed.
    auto done = [self = shared_from_this()] { self->Committed(); };
    if (!greeted_) {
      absl::Status status = incoming_->has_hello()
                                ? CheckHello(incoming_->hello())
                                : absl::InvalidArgumentError("the first message of a worker must be Hello");
      if (status.ok()) status = access_->MaySpeakFor(*context_, incoming_->hello().worker());
      if (!status.ok()) {
        Close(std::move(status));
        return;
      }
      greeted_ = true;
      worker_ = incoming_->hello().worker();
      if (const auto facts = ReadCertificate(CredentialsOf(*context_).certificate_pem); facts.ok()) {
        certificate_end_ = facts->not_after;
      }
      dispatcher_->Connected(shared_from_this(), std::move(*incoming_->mutable_hello()), std::move(done));
    } else {
      dispatcher_->Received(shared_from_this(), std::move(incoming_), std::move(done));
    }
    absl::MutexLock lock(&mutex_);
    if (uncommitted_ < kMaxUncommitted) {
      ReadNext();
    } else {
      read_wanted_ = true;
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    outgoing_.pop_front();
    if (!ok) {
      outgoing_.clear();
      CloseLocked(absl::UnavailableError("the worker is gone"));
    }
    Advance();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    while (outgoing_.size() > (writing_ ? 1 : 0)) outgoing_.pop_back();
    CloseLocked(absl::UnavailableError("the stream was ended: connect again"));
  }

  void OnDone() override {
    if (greeted_) dispatcher_->Disconnected(shared_from_this());
    if (may_end_) access_->Close(context_->c_call());
    if (CoordinatorMetrics* metrics = dispatcher_->options().metrics; metrics != nullptr) {
      absl::MutexLock lock(&mutex_);
      const int code = finished_ ? ToGrpc(*closing_).error_code() : grpc::StatusCode::CANCELLED;
      metrics->RpcEnded(FindRule(kWorkerStreamPath)->name(), code, absl::Now() - start_, /*streaming=*/true);
    }
    self_.reset();
  }

 private:
  WorkerStream(Dispatcher* dispatcher, Access* access, grpc::CallbackServerContext* context)
      : dispatcher_(dispatcher), access_(access), context_(context) {}

  void Committed() {
    absl::MutexLock lock(&mutex_);
    --uncommitted_;
    if (std::exchange(read_wanted_, false)) ReadNext();
  }

  void ReadNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    incoming_ = NewMessage();
    StartRead(incoming_.get());
  }

  void CloseLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!closing_) closing_ = status;
    Advance();
  }

  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || writing_) return;
    if (!outgoing_.empty()) {
      writing_ = true;
      // What has another one behind it goes out with that one.
      grpc::WriteOptions options;
      if (outgoing_.size() > 1) options.set_buffer_hint();
      StartWrite(&outgoing_.front(), options);
    } else if (closing_) {
      finished_ = true;
      Finish(ToGrpc(*closing_));
    }
  }

  Dispatcher* const dispatcher_;
  Access* const access_;
  grpc::CallbackServerContext* const context_;  // until OnDone
  std::shared_ptr<WorkerStream> self_;          // until OnDone
  const bool may_end_ = !access_->open();       // with what it was opened with
  const absl::Time start_ = absl::Now();
  // Of the reads, of which there is one at a time.
  std::shared_ptr<v1::WorkerMessage> incoming_ = NewMessage();
  bool greeted_ = false;
  std::string worker_;
  std::optional<absl::Time> certificate_end_;

  absl::Mutex mutex_;
  std::deque<v1::CoordinatorMessage> outgoing_ ABSL_GUARDED_BY(mutex_);  // the first is being written
  std::optional<absl::Status> closing_ ABSL_GUARDED_BY(mutex_);
  int uncommitted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool read_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* WorkerService::Connect(
    grpc::CallbackServerContext* context) {
  return WorkerStream::Start(dispatcher_, access_, context);
}

}  // namespace assay::coordinator

// A worker that speaks the protocol and does nothing by itself: tests decide what it says and when.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "assay/v1/worker.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {

inline v1::Hello HelloOf(const std::string& worker, const std::string& instance, uint32_t cpu_slots,
                         const std::vector<v1::AttemptRef>& attempts = {}) {
  v1::Hello hello;
  hello.set_protocol(1);
  hello.set_worker(worker);
  hello.set_instance(instance);
  hello.set_build("test");
  v1::DeviceSlots& device = *hello.add_device();
  device.mutable_device()->set_kind("cpu");
  device.set_slots(cpu_slots);
  for (const v1::AttemptRef& attempt : attempts) *hello.add_attempt() = attempt;
  return hello;
}

// One stream. Awaiting functions give an empty optional when the stream has ended, at the latest after a
// minute. For one thread.
class FakeWorker {
 public:
  explicit FakeWorker(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::WorkerService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    stream_ = stub_->Connect(&context_);
  }
  FakeWorker(const std::shared_ptr<grpc::Channel>& channel, const v1::Hello& hello) : FakeWorker(channel) {
    v1::WorkerMessage message;
    *message.mutable_hello() = hello;
    Send(message);
  }
  ~FakeWorker() {
    if (!finished_) {
      Break();
      Finish();
    }
  }

  bool Send(const v1::WorkerMessage& message) { return stream_->Write(message); }
  // Of a test, as an honest worker would tell it.
  bool SendResult(const v1::Assignment& given, v1::Outcome outcome, const std::string& log_digest = "") {
    return SendResult(given.attempt(), TestResultOf(given, outcome), log_digest);
  }
  // Of an attempt that came on this stream; of any other one, of which nothing is known.
  bool SendResult(const v1::AttemptRef& attempt, v1::Outcome outcome, const std::string& log_digest = "") {
    return SendResult(attempt, TestResultOf(given_[{attempt.job_id(), attempt.attempt()}], outcome),
                      log_digest);
  }
  bool SendResult(const v1::AttemptRef& attempt, const v1::TestResult& result,
                  const std::string& log_digest = "") {
    v1::WorkerMessage message;
    *message.mutable_result()->mutable_attempt() = attempt;
    *message.mutable_result()->mutable_result() = result;
    message.mutable_result()->set_log_digest(log_digest);
    return Send(message);
  }
  bool SendCase(const v1::AttemptRef& attempt, const std::string& name) {
    v1::WorkerMessage message;
    *message.mutable_event()->mutable_attempt() = attempt;
    message.mutable_event()->mutable_case_result()->set_name(name);
    message.mutable_event()->mutable_case_result()->set_outcome(v1::PASSED);
    return Send(message);
  }
  bool SendHeartbeat(const std::vector<v1::AttemptRef>& attempts, bool draining = false) {
    v1::WorkerMessage message;
    message.mutable_heartbeat()->set_draining(draining);
    for (const v1::AttemptRef& attempt : attempts) *message.mutable_heartbeat()->add_attempt() = attempt;
    return Send(message);
  }

  std::optional<v1::Welcome> AwaitWelcome() { return Await(welcomes_); }
  std::optional<v1::Assignment> AwaitStart() { return Await(starts_); }
  std::optional<v1::AttemptRef> AwaitAbandon() { return Await(abandons_); }
  std::optional<v1::ResultAck> AwaitAck() { return Await(acks_); }
  // One message more, of whatever kind, into the queues. False: the stream has ended.
  bool Read() {
    v1::CoordinatorMessage message;
    if (!stream_->Read(&message)) return false;
    if (message.has_welcome()) welcomes_.push_back(message.welcome());
    if (message.has_ack()) acks_.push_back(message.ack());
    for (const v1::ResultAck& ack : message.acks().ack()) acks_.push_back(ack);
    for (const v1::ResultAck& ack : message.desired().ack()) acks_.push_back(ack);
    for (const v1::AttemptRef& attempt : message.desired().abandon()) abandons_.push_back(attempt);
    for (const v1::Assignment& start : message.desired().start()) {
      given_[{start.attempt().job_id(), start.attempt().attempt()}] = start;
      starts_.push_back(start);
    }
    if (message.has_desired()) ++desired_;
    drain_ |= message.desired().drain();
    if (message.desired().has_accept()) sweep_ = message.desired().accept();
    return true;
  }
  std::deque<v1::Assignment>& starts() { return starts_; }
  std::deque<v1::ResultAck>& acks() { return acks_; }
  std::deque<v1::AttemptRef>& abandons() { return abandons_; }
  int desired() const { return desired_; }  // messages with a DesiredState, empty ones too

  bool drain() const { return drain_; }
  const std::optional<v1::AcceptanceRequest>& sweep() const {
    return sweep_;
  }  // the newest that it was asked for

  // As a network that goes away.
  void Break() { context_.TryCancel(); }
  // Reads to the end and says how the stream ended.
  grpc::Status Finish() {
    finished_ = true;
    while (Read()) {
    }
    return stream_->Finish();
  }

 private:
  template <typename T>
  std::optional<T> Await(std::deque<T>& queue) {
    while (queue.empty()) {
      if (!Read()) return std::nullopt;
    }
    T first = std::move(queue.front());
    queue.pop_front();
    return first;
  }

  std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream_;
  std::deque<v1::Welcome> welcomes_;
  std::deque<v1::Assignment> starts_;
  std::deque<v1::AttemptRef> abandons_;
  std::deque<v1::ResultAck> acks_;
  std::map<std::pair<std::string, uint64_t>, v1::Assignment> given_;
  int desired_ = 0;
  bool drain_ = false;
  std::optional<v1::AcceptanceRequest> sweep_;
  bool finished_ = false;
};

}  // namespace assay::coordinator

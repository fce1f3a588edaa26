// assay-queue-bench: a coordinator's queue under load, with simulated workers that answer at once. It speaks
// the public protocol over real connections; the coordinator is another process, and everything it
// acknowledges is durable. Prints one JSON object.
//
//   throughput  submits all jobs in batches, and ends when every batch has ended: as ListBatches, asked every
//   10 ms,
//               tells, or with --watch when a watcher of each batch has read every event.
//   rate        submits at a steady rate, slots being plenty, and watches every batch; dispatch latency is
//   from the
//               answer to a submission to the assignment's arrival at its worker.
//   lone        one job after the other: from the call of submit to the watcher's event of its result.
//
// A result has one case of one check and the digests of its assignment; --checks and --log-bytes make it of
// the size that real tests have.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "assay/v1/worker.grpc.pb.h"
#include "common/digest.h"
#include "common/id.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"

namespace assay::bench {
namespace {

struct Options {
  // Of one queue: workers and batches go to each in turn.
  std::vector<std::string> coordinators = {"127.0.0.1:7420"};
  std::string mode = "throughput";
  int workers = 16;
  int slots = 64;
  int jobs = 20000;
  int batch_jobs = 2000;
  int warm_up = 200;
  double rate = 5000;
  int checks = 1;
  int log_bytes = 0;
  int coordinator_pid = 0;
  int protocol = 3;
  bool watch = false;
};

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "assay-queue-bench: " << what << std::endl;
  std::_Exit(1);
}

// When jobs were submitted and when they arrived at a worker.
class Dispatches {
 public:
  void Submitted(const std::string& batch_id, absl::Time when) {
    absl::MutexLock lock(&mutex_);
    submitted_[batch_id] = when;
  }
  void Arrived(const std::string& batch_id, absl::Time when) {
    absl::MutexLock lock(&mutex_);
    arrived_.emplace_back(batch_id, when);
  }
  std::vector<double> Milliseconds() {
    absl::MutexLock lock(&mutex_);
    std::vector<double> all;
    for (const auto& [batch, when] : arrived_) {
      auto found = submitted_.find(batch);
      if (found == submitted_.end()) continue;  // of the warm-up
      // An assignment can overtake the answer to its submission.
      all.push_back(std::max(0.0, absl::ToDoubleMilliseconds(when - found->second)));
    }
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, absl::Time> submitted_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, absl::Time>> arrived_ ABSL_GUARDED_BY(mutex_);
};

v1::AttemptResult ResultOf(const v1::Assignment& assignment, const std::string& worker, int checks,
                           const std::string& log_digest) {
  v1::AttemptResult result;
  *result.mutable_attempt() = assignment.attempt();
  result.set_log_digest(log_digest);
  v1::TestResult& test = *result.mutable_result();
  test.set_outcome(v1::PASSED);
  test.set_seconds(0.001);
  v1::CaseResult& only = *test.add_case_();
  only.set_name("no_op");
  only.set_outcome(v1::PASSED);
  for (int i = 0; i < checks; ++i) {
    v1::CheckResult& check = *only.add_check();
    check.set_name(absl::StrCat("check_", i));
    check.set_outcome(v1::PASSED);
    check.set_error(1e-7);
    check.set_tolerance(5e-6);
  }
  v1::Provenance& ran = *test.mutable_provenance();
  ran.set_worker(worker);
  ran.set_template_digest(assignment.template_digest());
  ran.set_catalogue_digest(assignment.catalogue_digest());
  ran.set_program_digest(assignment.program_digest());
  ran.set_test_digest(assignment.template_digest());
  ran.set_dtype(v1::FLOAT32);
  ran.mutable_device()->set_kind("cpu");
  return result;
}

// A worker without a test host. Owns itself until its stream ends.
class SimulatedWorker final : public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  SimulatedWorker(std::shared_ptr<grpc::Channel> channel, std::string name, const Options& options,
                  std::string log_digest, Dispatches* dispatches)
      : stub_(v1::WorkerService::NewStub(std::move(channel))),
        name_(std::move(name)),
        options_(options),
        log_digest_(std::move(log_digest)),
        dispatches_(dispatches) {
    v1::WorkerMessage hello;
    v1::Hello& who = *hello.mutable_hello();
    who.set_protocol(static_cast<uint32_t>(options_.protocol));
    who.set_worker(name_);
    who.set_instance(NewUuid());
    who.set_build("assay-queue-bench");
    v1::DeviceSlots& device = *who.add_device();
    device.mutable_device()->set_kind("cpu");
    device.mutable_device()->set_id("cpu");
    device.set_slots(static_cast<uint32_t>(options_.slots));
    stub_->async()->Connect(&context_, this);
    absl::MutexLock lock(&mutex_);
    out_.push_back(std::move(hello));
    AddHold();
    StartCall();
    StartRead(&in_);
    Write();
  }

  bool welcomed() {
    absl::MutexLock lock(&mutex_);
    return welcomed_;
  }
  absl::Duration heartbeat() {
    absl::MutexLock lock(&mutex_);
    return heartbeat_;
  }
  uint64_t refused() {
    absl::MutexLock lock(&mutex_);
    return refused_;
  }
  void Beat() {
    absl::MutexLock lock(&mutex_);
    if (!welcomed_ || ended_) return;
    v1::WorkerMessage message;
    v1::Heartbeat& beat = *message.mutable_heartbeat();
    beat.set_free_slots(static_cast<uint32_t>(options_.slots));
    out_.push_back(std::move(message));
    Write();
  }
  void End() {
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      ended_ = true;
    }
    context_.TryCancel();
    RemoveHold();
  }

  void OnReadDone(bool ok) override {
    const absl::Time now = absl::Now();
    {
      absl::MutexLock lock(&mutex_);
      if (!ok && ended_) return;
      if (!ok) {
        RemoveHold();  // OnDone tells why
        return;
      }
      Take(now);
      Write();
    }
    StartRead(&in_);
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (ok) Write();
  }
  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&mutex_);
    if (!ended_) Die(absl::StrCat(name_, ": the stream ended: ", status.error_message()));
    done_ = true;
  }
  void AwaitDone() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
  }

 private:
  void Take(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (in_.has_welcome()) {
      welcomed_ = true;
      several_ = in_.welcome().protocol() >= 2;
      heartbeat_ = absl::Milliseconds(in_.welcome().heartbeat_ms());
    }
    if (in_.has_ack() && !in_.ack().counted()) ++refused_;
    for (const v1::ResultAck& ack : in_.acks().ack()) refused_ += ack.counted() ? 0 : 1;
    for (const v1::ResultAck& ack : in_.desired().ack()) refused_ += ack.counted() ? 0 : 1;
    v1::WorkerMessage message;
    for (const v1::Assignment& assignment : in_.desired().start()) {
      dispatches_->Arrived(assignment.batch_id(), now);
      v1::AttemptResult result = ResultOf(assignment, name_, options_.checks, log_digest_);
      if (several_) {
        *message.mutable_results()->add_result() = std::move(result);
      } else {
        *out_.emplace_back().mutable_result() = std::move(result);
      }
    }
    if (message.has_results()) out_.push_back(std::move(message));
  }
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || out_.empty() || ended_) return;
    writing_ = true;
    writing_message_ = std::move(out_.front());
    out_.pop_front();
    StartWrite(&writing_message_);
  }

  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  const std::string name_;
  const Options options_;
  const std::string log_digest_;
  Dispatches* const dispatches_;
  grpc::ClientContext context_;
  v1::CoordinatorMessage in_;
  absl::Mutex mutex_;
  std::deque<v1::WorkerMessage> out_ ABSL_GUARDED_BY(mutex_);
  v1::WorkerMessage writing_message_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  bool several_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration heartbeat_ ABSL_GUARDED_BY(mutex_);  // as the coordinator asked for
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t refused_ ABSL_GUARDED_BY(mutex_) = 0;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& address, int number) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // As a worker's.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
  arguments.SetInt("assay.bench.channel", number);  // a connection of its own
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Each batch names the same models, as those of a team that tests its models again and again.
std::string BatchFile(int jobs) {
  std::string text = "{\"encoder_only\": [";
  for (int i = 0; i < jobs; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ",", "{\"name\":\"no_op_", i,
                    "\",\"template\":\"bert\",\"task\":\"fill-mask\"}");
  }
  return text + "]}";
}

std::string Submit(v1::BatchService::Stub& stub, int jobs) {
  v1::SubmitBatchRequest request;
  request.set_request_id(NewUuid());
  request.set_name("bench.json");
  request.set_submitter("bench");
  request.set_content(BatchFile(jobs));
  request.mutable_target()->set_device(v1::CPU);
  request.mutable_target()->set_dtype(v1::FLOAT32);
  v1::SubmitBatchResponse response;
  grpc::ClientContext context;
  grpc::Status status = stub.SubmitBatch(&context, request, &response);
  if (!status.ok()) Die(absl::StrCat("submit: ", status.error_message()));
  return response.batch().batch_id();
}

void MustHavePassed(const v1::Batch& batch, int jobs) {
  const bool all_passed = batch.counts_size() == 1 && batch.counts(0).outcome() == v1::PASSED &&
                          batch.counts(0).count() == static_cast<uint32_t>(jobs);
  if (!all_passed) Die(absl::StrCat("a batch did not pass: ", batch.ShortDebugString()));
}

// Until every batch has ended, by their counts. Every job must have passed. `batches`: jobs by batch.
void Poll(v1::BatchService::Stub& stub, std::map<std::string, int> batches) {
  while (!batches.empty()) {
    v1::ListBatchesRequest request;
    request.set_page_size(1000);
    v1::ListBatchesResponse response;
    grpc::ClientContext context;
    grpc::Status status = stub.ListBatches(&context, request, &response);
    if (!status.ok()) Die(absl::StrCat("list: ", status.error_message()));
    for (const v1::Batch& batch : response.batch()) {
      auto found = batches.find(batch.batch_id());
      if (found == batches.end() || !batch.has_end_time()) continue;
      MustHavePassed(batch, found->second);
      batches.erase(found);
    }
    if (!batches.empty()) absl::SleepFor(absl::Milliseconds(10));
  }
}

// Until the batch has ended, by its events. Every job must have passed.
void Watch(v1::BatchService::Stub& stub, const std::string& batch_id, int jobs) {
  v1::WatchBatchRequest request;
  request.set_batch_id(batch_id);
  request.set_grouped(true);
  grpc::ClientContext context;
  auto reader = stub.WatchBatch(&context, request);
  v1::BatchEvent event;
  v1::Batch last;
  uint64_t sequence = 0;
  while (reader->Read(&event)) {
    auto take = [&](const v1::BatchEvent& one) {
      if (one.sequence() != ++sequence) Die("an event is missing or repeated");
      if (one.has_batch()) last = one.batch();
    };
    for (const v1::BatchEvent& one : event.group()) take(one);
    if (event.group().empty()) take(event);
  }
  grpc::Status status = reader->Finish();
  if (!status.ok()) Die(absl::StrCat("watch: ", status.error_message()));
  MustHavePassed(last, jobs);
}

// User and system time of a process, in seconds.
double CpuSeconds(int pid) {
  if (pid == 0) return 0;
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t end = text.rfind(')');
  if (end == std::string::npos) Die("--coordinator-pid: no such process");
  const std::vector<std::string> fields = absl::StrSplit(text.substr(end + 2), ' ');
  return (std::stod(fields[11]) + std::stod(fields[12])) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double Quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(q * static_cast<double>(sorted.size())))];
}

std::string UploadLog(const std::string& address, int bytes) {
  if (bytes == 0) return "";
  // Lines as tests write them: neither constant nor random.
  std::string log;
  for (int line = 0; log.size() < static_cast<size_t>(bytes); ++line) {
    absl::StrAppend(&log, "case test_model_with_mock, check ", line, ": error ", line * 37 % 1001, "e-9\n");
  }
  auto stub = v1::BlobService::NewStub(Connect(address, -2));
  grpc::ClientContext context;
  v1::UploadResponse response;
  auto writer = stub->Upload(&context, &response);
  v1::UploadRequest request;
  request.set_digest(Sha256Hex(log));
  request.set_size(log.size());
  for (size_t at = 0; at < log.size(); at += 256 << 10) {
    request.set_chunk(log.substr(at, 256 << 10));
    writer->Write(request);
    request.Clear();
  }
  writer->WritesDone();
  if (grpc::Status status = writer->Finish(); !status.ok())
    Die(absl::StrCat("log: ", status.error_message()));
  return Sha256Hex(log);
}

int Run(const Options& options) {
  Dispatches dispatches;
  const auto in_turn = [&](size_t number) {
    return options.coordinators[number % options.coordinators.size()];
  };
  const std::string log_digest = UploadLog(options.coordinators.front(), options.log_bytes);
  std::vector<std::unique_ptr<SimulatedWorker>> workers;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < options.workers; ++i) {
    workers.push_back(std::make_unique<SimulatedWorker>(Connect(in_turn(static_cast<size_t>(i)), i),
                                                        absl::StrCat("sim-", i), options, log_digest,
                                                        &dispatches));
  }
  for (const absl::Time limit = absl::Now() + absl::Seconds(60);;) {
    if (std::all_of(workers.begin(), workers.end(), [](const auto& worker) { return worker->welcomed(); }))
      break;
    if (absl::Now() > limit) Die("not every worker was welcomed within a minute");
    absl::SleepFor(absl::Milliseconds(5));
  }
  std::atomic<bool> over = false;
  std::thread heart([&] {
    const absl::Duration each = workers.front()->heartbeat() / static_cast<double>(workers.size());
    for (size_t next = 0; !over; next = (next + 1) % workers.size()) {
      workers[next]->Beat();
      absl::SleepFor(each);
    }
  });

  std::vector<std::unique_ptr<v1::BatchService::Stub>> stubs;
  for (const std::string& coordinator : options.coordinators) {
    stubs.push_back(v1::BatchService::NewStub(Connect(coordinator, -1)));
  }
  const std::unique_ptr<v1::BatchService::Stub>& stub = stubs.front();
  if (options.warm_up > 0) Watch(*stub, Submit(*stub, options.warm_up), options.warm_up);
  nlohmann::json report = {{"mode", options.mode}, {"workers", options.workers}, {"slots", options.slots}};
  const double cpu_before = CpuSeconds(options.coordinator_pid);
  const absl::Time begin = absl::Now();
  if (options.mode == "lone") {
    std::vector<double> times;
    for (int i = 0; i < options.jobs; ++i) {
      const absl::Time start = absl::Now();
      Watch(*stub, Submit(*stub, 1), 1);
      times.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
    }
    std::sort(times.begin(), times.end());
    report["lone_ms"] = {{"p50", Quantile(times, 0.5)}, {"p99", Quantile(times, 0.99)}};
  } else {
    const bool steady = options.mode == "rate";
    std::vector<std::thread> watchers;
    std::map<std::string, int> batches;
    int submitted = 0;
    for (int number = 0; submitted < options.jobs; ++number) {
      const int jobs = std::min(options.batch_jobs, options.jobs - submitted);
      if (steady) absl::SleepFor(begin + absl::Seconds(submitted / options.rate) - absl::Now());
      const std::string batch_id = Submit(*stubs[static_cast<size_t>(number) % stubs.size()], jobs);
      dispatches.Submitted(batch_id, absl::Now());
      submitted += jobs;
      if (steady || options.watch) {
        watchers.emplace_back([&stub, batch_id, jobs] { Watch(*stub, batch_id, jobs); });
      } else {
        batches[batch_id] = jobs;
      }
    }
    Poll(*stub, std::move(batches));
    for (std::thread& watcher : watchers) watcher.join();
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  over = true;
  heart.join();
  report["jobs"] = options.jobs;
  report["seconds"] = seconds;
  report["jobs_per_second"] = options.jobs / seconds;
  if (options.coordinator_pid != 0) {
    report["coordinator_cpu_us_per_job"] =
        (CpuSeconds(options.coordinator_pid) - cpu_before) / options.jobs * 1e6;
  }
  if (options.mode == "rate") {
    const std::vector<double> times = dispatches.Milliseconds();
    if (times.size() != static_cast<size_t>(options.jobs)) Die("assignments and jobs are not of one number");
    report["dispatch_ms"] = {
        {"p50", Quantile(times, 0.5)}, {"p99", Quantile(times, 0.99)}, {"max", times.back()}};
  }
  for (auto& worker : workers) {
    if (worker->refused() > 0) Die("a result was not counted");
    worker->End();
  }
  for (auto& worker : workers) worker->AwaitDone();
  std::cout << report.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace assay::bench

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as the coordinator's
  assay::bench::Options options;
  CLI::App app("A coordinator's queue under load, with simulated workers.", "assay-queue-bench");
  app.add_option("--coordinator", options.coordinators, "host:port, or several of one queue")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"throughput", "rate", "lone"}));
  app.add_option("--workers", options.workers)->check(CLI::Range(1, 5000));
  app.add_option("--slots", options.slots, "of each worker")->check(CLI::Range(1, 10000));
  app.add_option("--jobs", options.jobs)->check(CLI::Range(1, 10'000'000));
  app.add_option("--batch-jobs", options.batch_jobs, "jobs a batch")->check(CLI::Range(1, 8000));
  app.add_option("--warm-up", options.warm_up, "jobs before the clock runs")->check(CLI::Range(0, 8000));
  app.add_option("--rate", options.rate, "jobs a second, of mode rate")->check(CLI::Range(1.0, 1e6));
  app.add_option("--checks", options.checks, "checks of a result")->check(CLI::Range(1, 1000));
  app.add_option("--log-bytes", options.log_bytes, "size of the log that results name");
  app.add_option("--coordinator-pid", options.coordinator_pid, "whose processor time is measured");
  app.add_option("--protocol", options.protocol, "of the workers")->check(CLI::Range(1, 3));
  app.add_flag("--watch", options.watch, "mode throughput: read every event of every batch");
  CLI11_PARSE(app, argc, argv);
  return assay::bench::Run(options);
}

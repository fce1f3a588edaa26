// kill -9 of the real coordinator process at moments that nobody chose: while a batch is being submitted,
// between a result and its acknowledgement, while assignments are on their way. No batch that was accepted
// and no result that was acknowledged is lost, and none counts twice.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "common/file.h"
#include "common/id.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/postgres_server.h"
#include "tests/coordinator/server_fixture.h"

extern char** environ;

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

// One life of the process.
class Process {
 public:
  // `database`: empty for a file in the folder.
  explicit Process(const fs::path& dir, const std::string& database = "") {
    const std::string binary = absl::StrCat(std::getenv("ASSAY_BUILD_DIR"), "/bin/assay-coordinator");
    const fs::path port_file = dir / "port";
    fs::remove(port_file);
    std::vector<std::string> words = {
        binary, "--listen", "127.0.0.1:0", "--data-dir", (dir / "data").string(), "--content-dir",
        fs::current_path().string(), "--lease-ms", "2000",
        // What runs when the coordinator is killed does not use up attempts, but
        // assignments that crossed its death may.
        "--max-attempts", "1000", "--log-level", "warn", "--port-file", port_file.string()};
    if (!database.empty()) words.insert(words.end(), {"--database", database});
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawn(&pid_, binary.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) pid_ = -1;
    while (pid_ > 0 && !fs::exists(port_file)) {
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = -1;  // it died at its start
        return;
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    auto text = ReadFile(port_file);
    int port = 0;
    if (text.ok() && absl::SimpleAtoi(absl::StripSuffix(*text, "\n"), &port)) {
      channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    }
  }
  ~Process() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  pid_t pid_ = -1;
  std::shared_ptr<grpc::Channel> channel_;
};

// What outlives the coordinator: a client that repeats a request until it is answered, and a worker with a
// spool.
struct World {
  static constexpr int kBatches = 40;
  int next_batch = 0;
  std::map<int, std::string> accepted;  // batch ids by the number of the request
  // Of the worker.
  std::map<std::pair<std::string, uint64_t>, v1::Assignment> spool;
  std::map<std::string, uint64_t> counted;  // by job: the attempt that was acknowledged
  std::set<std::pair<std::string, uint64_t>> started;
};

v1::SubmitBatchRequest RequestOf(int number) {
  v1::SubmitBatchRequest request;
  request.set_request_id(absl::StrCat("request-", number));
  request.set_name(absl::StrCat("batch_", number, ".json"));
  request.set_content(BatchContent({"bert", "roberta", "albert"}));
  request.mutable_target()->set_device(v1::CPU);
  return request;
}

// Until everything is submitted, or the coordinator is gone.
void SubmitAll(const std::shared_ptr<grpc::Channel>& channel, World& world) {
  auto stub = v1::BatchService::NewStub(channel);
  while (world.next_batch < World::kBatches) {
    grpc::ClientContext context;
    v1::SubmitBatchResponse response;
    if (!stub->SubmitBatch(&context, RequestOf(world.next_batch), &response).ok()) return;
    world.accepted[world.next_batch++] = response.batch().batch_id();
  }
}

// Works until the coordinator is gone, or `enough` results were sent: then the coordinator is killed with
// whatever is under way.
void Work(Process& process, World& world, int enough, bool to_the_end) {
  std::vector<v1::AttemptRef> owed;
  for (const auto& [attempt, given] : world.spool) owed.push_back(given.attempt());
  FakeWorker worker(process.channel(), HelloOf("w", "one instance", 4, owed));
  for (const auto& [attempt, given] : world.spool) worker.SendResult(given, v1::PASSED);
  int sent = 0;
  auto take = [&] {
    for (; !worker.abandons().empty(); worker.abandons().pop_front()) {
      world.spool.erase({worker.abandons().front().job_id(), worker.abandons().front().attempt()});
    }
    for (; !worker.acks().empty(); worker.acks().pop_front()) {
      const v1::ResultAck& ack = worker.acks().front();
      world.spool.erase({ack.attempt().job_id(), ack.attempt().attempt()});
      if (!ack.counted()) continue;
      auto [known, fresh] = world.counted.try_emplace(ack.attempt().job_id(), ack.attempt().attempt());
      EXPECT_EQ(known->second, ack.attempt().attempt()) << "two attempts counted";
    }
    for (; !worker.starts().empty(); worker.starts().pop_front()) {
      const v1::AttemptRef attempt = worker.starts().front().attempt();
      EXPECT_TRUE(world.started.insert({attempt.job_id(), attempt.attempt()}).second) << "handed out twice";
      world.spool[{attempt.job_id(), attempt.attempt()}] = worker.starts().front();
      if (!to_the_end && sent >= enough) continue;
      worker.SendResult(attempt, v1::PASSED);
      if (++sent == enough && !to_the_end) process.Kill();
    }
  };
  while (!(to_the_end && world.counted.size() == 3 * World::kBatches) && worker.Read()) take();
  take();
}

// What the coordinator says of the jobs whose result was never acknowledged.
std::string Uncounted(const std::shared_ptr<grpc::Channel>& channel, const World& world) {
  auto stub = v1::BatchService::NewStub(channel);
  std::string text;
  for (const auto& [number, batch_id] : world.accepted) {
    grpc::ClientContext context;
    v1::GetBatchRequest request;
    request.set_batch_id(batch_id);
    v1::GetBatchResponse batch;
    if (!stub->GetBatch(&context, request, &batch).ok()) return "the coordinator does not answer";
    for (const v1::Job& job : batch.job()) {
      if (!world.counted.contains(job.job_id())) absl::StrAppend(&text, job.ShortDebugString(), "\n");
    }
  }
  return text;
}

// `between`: what else happens after each kill.
void DieAndGoOn(const std::string& database, int lives, const std::function<void()>& between) {
  ASSERT_NE(std::getenv("ASSAY_BUILD_DIR"), nullptr)
      << "run by ctest, or set ASSAY_BUILD_DIR to the build folder";
  const fs::path dir = fs::path(::testing::TempDir()) / absl::StrCat("crash-", NewUuid());
  fs::create_directories(dir);
  std::mt19937_64 random(std::random_device{}());
  World world;
  for (int life = 0; life < lives; ++life) {
    Process process(dir, database);
    ASSERT_NE(process.channel(), nullptr);
    std::thread client([&] { SubmitAll(process.channel(), world); });
    Work(process, world, static_cast<int>(1 + random() % 12), /*to_the_end=*/false);
    process.Kill();
    client.join();
    between();
    if (::testing::Test::HasFailure()) return;
  }
  Process process(dir, database);
  ASSERT_NE(process.channel(), nullptr);
  SubmitAll(process.channel(), world);
  ASSERT_EQ(world.accepted.size(), World::kBatches);
  Work(process, world, 0, /*to_the_end=*/true);
  ASSERT_EQ(world.counted.size(), 3 * World::kBatches) << Uncounted(process.channel(), world);

  auto stub = v1::BatchService::NewStub(process.channel());
  v1::ListBatchesRequest all;
  all.set_page_size(1000);
  grpc::ClientContext list_context;
  v1::ListBatchesResponse list;
  ASSERT_TRUE(stub->ListBatches(&list_context, all, &list).ok());
  EXPECT_EQ(list.batch_size(), World::kBatches) << "a repeated request made a second batch, or one is lost";
  for (const auto& [number, batch_id] : world.accepted) {
    grpc::ClientContext context;
    v1::GetBatchRequest request;
    request.set_batch_id(batch_id);
    v1::GetBatchResponse batch;
    ASSERT_TRUE(stub->GetBatch(&context, request, &batch).ok());
    EXPECT_EQ(batch.batch().name(), absl::StrCat("batch_", number, ".json"));
    EXPECT_TRUE(batch.batch().has_end_time());
    ASSERT_EQ(batch.batch().counts_size(), 1);
    EXPECT_EQ(batch.batch().counts(0).count(), 3);
    for (const v1::Job& job : batch.job()) {
      EXPECT_EQ(job.state(), v1::DONE);
      EXPECT_EQ(job.attempt(), world.counted[job.job_id()]);
    }
    grpc::ClientContext watch_context;
    v1::WatchBatchRequest watch;
    watch.set_batch_id(batch_id);
    auto stream = stub->WatchBatch(&watch_context, watch);
    v1::BatchEvent event;
    std::map<std::string, int> ended;
    uint64_t sequence = 0;
    while (stream->Read(&event)) {
      EXPECT_EQ(event.sequence(), ++sequence);
      if (event.job().state() == v1::DONE) ++ended[event.job().job_id()];
    }
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(ended.size(), 3);
    for (const auto& [job, times] : ended) EXPECT_EQ(times, 1) << job;
  }
  process.Kill();
  fs::remove_all(dir);
}

TEST(CrashTest, NothingAcceptedIsLostAndNothingCountsTwice) {
  DieAndGoOn(/*database=*/"", 8, [] {});
}

// Its server, too, is killed after each life of the coordinator.
TEST(CrashTest, NothingAcceptedIsLostAndNothingCountsTwiceOnPostgres) {
  PostgresServer& server = PostgresServer::Get();
  DieAndGoOn(server.NewStore(), 5, [&] {
    server.Kill();
    server.Start();
  });
}

}  // namespace
}  // namespace assay::coordinator

#include "coordinator/server.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "coordinator/background.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/dispatcher.h"
#include "coordinator/metrics.h"
#include "coordinator/postgres_blob_store.h"
#include "coordinator/services/admin_service.h"
#include "coordinator/services/batch_service.h"
#include "coordinator/services/blob_service.h"
#include "coordinator/services/watch_stream.h"
#include "coordinator/services/worker_service.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/postgres_notify.h"
#include "coordinator/store/postgres_store.h"
#include "coordinator/store/sqlite_store.h"
#include "coordinator/store/writer.h"
#include "coordinator/vitals.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

// A batch file of 1 MiB and what goes with it.
constexpr int kMaxRequestBytes = (1 << 20) + (64 << 10);

// How long streams that were told to end may take.
constexpr absl::Duration kShutdownGrace = absl::Milliseconds(500);

constexpr absl::Duration kBetweenForgetting = absl::Hours(24);

absl::Status CheckListen(const std::string& listen, bool allow_remote) {
  const size_t colon = listen.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("listen '", listen, "': host:port is wanted"));
  }
  const std::string host = listen.substr(0, colon);
  if (allow_remote || host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "listen '", listen,
      "': there is no encryption or authentication yet, so that anyone who reaches the port",
      " could run jobs and read results; only loopback is listened on unless told so explicitly"));
}

// A lock on a data folder, for as long as it lives.
class FolderLock {
 public:
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const fs::path& dir) {
    const fs::path path = dir / "lock";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) return absl::UnavailableError(absl::StrCat(path.string(), ": ", std::strerror(errno)));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      close(fd);
      return absl::FailedPreconditionError(absl::StrCat(
          dir.string(), " is in use by another coordinator: stop it, or give each its own folder"));
    }
    return std::unique_ptr<FolderLock>(new FolderLock(fd));
  }
  ~FolderLock() { close(fd_); }

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace

// In the order in which each needs those before it.
struct Server::State {
  ServerOptions options;
  std::unique_ptr<FolderLock> lock;
  std::shared_ptr<const Content> content;
  std::unique_ptr<BlobStore> blobs;
  CoordinatorMetrics metrics;
  WatchBoard board;
  std::unique_ptr<Writer> writer;
  std::unique_ptr<Dispatcher> dispatcher;
  std::unique_ptr<PostgresBell> bell;  // none: nobody else uses the store
  std::unique_ptr<Background> background, caretaker;
  std::unique_ptr<BatchService> batch_service;
  std::unique_ptr<BlobService> blob_service;
  std::unique_ptr<WorkerService> worker_service;
  std::unique_ptr<AdminService> admin_service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::unique_ptr<MetricsEndpoint> metrics_endpoint;
  std::unique_ptr<Vitals> vitals;

  absl::Mutex mutex;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::thread ticker;

  absl::Status OpenStore();
  void ListenToOthers();
  absl::Status Serve();
  absl::Status ServeMetrics();
  void SetServing(bool store_is_there);
  void KeepTime();
  // Forgets what options.retention does not keep, in the background.
  void Forget();
  void Stop();
};

absl::Status Server::State::OpenStore() {
  std::unique_ptr<Store> store;
  if (options.data_dir.empty() && options.database.empty()) {
    store = NewMemoryStore(options.max_attempts, options.clock);
    blobs = NewMemoryBlobStore();
  } else if (!options.data_dir.empty()) {
    std::error_code error;
    fs::create_directories(options.data_dir, error);
    if (error) {
      return absl::InvalidArgumentError(absl::StrCat(options.data_dir.string(), ": ", error.message()));
    }
    ASSAY_ASSIGN_OR_RETURN(lock, FolderLock::Take(options.data_dir));
    if (options.database.empty()) {
      ASSAY_ASSIGN_OR_RETURN(store, OpenSqliteStore((options.data_dir / "assay.db").string(),
                                                    options.max_attempts, options.clock));
    }
    if (options.blobs.empty()) {
      ASSAY_ASSIGN_OR_RETURN(blobs, OpenFolderBlobStore(options.data_dir / "blobs"));
    }
  }
  if (!options.database.empty()) {
    ASSAY_ASSIGN_OR_RETURN(store, OpenPostgresStore(options.database, options.max_attempts));
  }
  if (blobs == nullptr && (options.blobs.empty() || options.blobs == "postgres")) {
    ASSAY_ASSIGN_OR_RETURN(blobs, OpenPostgresBlobStore(options.database));
  } else if (blobs == nullptr) {
    ASSAY_ASSIGN_OR_RETURN(blobs, OpenFolderBlobStore(options.blobs, /*shared=*/true));
  }
  writer = std::make_unique<Writer>(std::move(store));
  writer->ObserveGroups([this](size_t requests, absl::Duration took, bool committed) {
    committed ? metrics.GroupCommitted(requests, took) : metrics.GroupFailed();
  });
  Dispatcher::Options dispatch;
  dispatch.lease = options.lease;
  dispatch.ahead_per_slot = options.ahead_per_slot;
  dispatch.disconnect_grace = options.disconnect_grace;
  // Unlike any other's: a worker's row says by it who holds its stream.
  dispatch.name = absl::StrCat("assay-coordinator-", NewUuid().substr(0, 8));
  dispatch.clock = options.clock;
  dispatch.content = content.get();
  dispatch.blobs = blobs.get();
  dispatch.metrics = &metrics;
  board.Measure(&metrics);
  dispatcher =
      std::make_unique<Dispatcher>(writer.get(), dispatch, [this](const std::set<std::string>& batches) {
        metrics.BatchesTouched(batches.size());
        board.Notify(batches);
        if (bell != nullptr) bell->Ring(batches);
      });
  // Where there may be others, the store knows whether leases stood still (postgres_store.h).
  if (!options.database.empty()) return absl::OkStatus();
  // Nobody could send heartbeats to a coordinator that was not there.
  return writer
      ->Call<bool>([lease = options.lease](Store& s) -> absl::StatusOr<bool> {
        ASSAY_RETURN_IF_ERROR(s.ExtendAllLeases(s.Now() + lease));
        return true;
      })
      .status();
}

absl::Status Server::State::Serve() {
  background = std::make_unique<Background>();
  caretaker = std::make_unique<Background>();
  BatchService::Rooms rooms;
  rooms.content = content.get();
  rooms.blobs = blobs.get();
  rooms.writer = writer.get();
  rooms.dispatcher = dispatcher.get();
  rooms.board = &board;
  rooms.background = background.get();
  rooms.clock = options.clock;
  batch_service = std::make_unique<BatchService>(rooms);
  blob_service = std::make_unique<BlobService>(content.get(), blobs.get(), &metrics);
  worker_service = std::make_unique<WorkerService>(dispatcher.get());
  AdminService::Rooms admin_rooms;
  admin_rooms.writer = writer.get();
  admin_rooms.dispatcher = dispatcher.get();
  admin_rooms.clock = options.clock;
  admin_service = std::make_unique<AdminService>(admin_rooms);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(batch_service.get());
  builder.RegisterService(blob_service.get());
  builder.RegisterService(worker_service.get());
  builder.RegisterService(admin_service.get());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(NewRpcMeter(&metrics));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  // Reports and large batches in one answer; control messages are kept small where they are made.
  builder.SetMaxSendMessageSize(-1);
  // A second coordinator on the same port is a mistake, not a cluster.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A node that vanished without a word is noticed.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen, ": is the port taken?"));
  }
  SetServing(true);
  vitals =
      std::make_unique<Vitals>(writer.get(), options.clock, &metrics, [this](bool up) { SetServing(up); });
  return ServeMetrics();
}

// The service "" is the process: it lives until it shuts down, whatever the store does, and restarting it
// helps nobody. That it can do its work is said of each service.
void Server::State::SetServing(bool store_is_there) {
  grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
  if (health == nullptr) return;
  for (const char* name : {v1::BatchService::service_full_name(), v1::WorkerService::service_full_name(),
                           v1::AdminService::service_full_name(), v1::BlobService::service_full_name()}) {
    health->SetServingStatus(name, store_is_there);
  }
}

absl::Status Server::State::ServeMetrics() {
  if (options.metrics_listen.empty()) return absl::OkStatus();
  metrics.AskAtScrape([this](auto done) { dispatcher->Look(std::move(done)); });
  ASSAY_ASSIGN_OR_RETURN(
      metrics_endpoint,
      MetricsEndpoint::Start(options.metrics_listen, options.metrics_anywhere,
                             {metrics.collected(), NewProcessMetrics("assay-coordinator")}));
  return absl::OkStatus();
}

void Server::State::ListenToOthers() {
  if (options.database.empty()) return;
  PostgresBell::Options ringing;
  ringing.poll = options.poll;
  bell = std::make_unique<PostgresBell>(options.database, ringing,
                                        [this](const std::optional<std::set<std::string>>& batches) {
                                          if (batches) {
                                            board.Notify(*batches);
                                          } else {
                                            board.NotifyAll();
                                          }
                                          dispatcher->Heard(batches);
                                        });
}

void Server::State::Forget() {
  if (!options.retention) return;
  caretaker->Run([this] {
    auto run = [this](const std::function<absl::Status(Store&)>& work) -> absl::Status {
      {
        absl::MutexLock lock_(&mutex);
        if (stopping) return absl::CancelledError("shutting down");
      }
      return writer
          ->Call<bool>([&work](Store& store) -> absl::StatusOr<bool> {
            ASSAY_RETURN_IF_ERROR(work(store));
            return true;
          })
          .status();
    };
    absl::StatusOr<Pruned> pruned = Prune(run, *blobs, *content, *options.retention);
    if (pruned.ok()) {
      spdlog::info("retention: dropped {} batches with {} jobs, {} blobs of {} bytes, {} workers",
                   pruned->batches, pruned->jobs, pruned->blobs.blobs, pruned->blobs.bytes, pruned->workers);
    } else if (!absl::IsCancelled(pruned.status())) {
      spdlog::warn("retention: {}", pruned.status().ToString());
    }
  });
}

void Server::State::KeepTime() {
  absl::Time next_forget = absl::Now();
  while (true) {
    {
      absl::MutexLock lock_(&mutex);
      if (mutex.AwaitWithTimeout(absl::Condition(&stopping), options.lease_tick)) return;
    }
    dispatcher->Tick();
    if (absl::Now() >= next_forget) {
      Forget();
      next_forget = absl::Now() + kBetweenForgetting;
    }
    vitals->Look();
  }
}

void Server::State::Stop() {
  {
    absl::MutexLock lock_(&mutex);
    if (std::exchange(stopping, true)) return;
  }
  if (ticker.joinable()) ticker.join();
  if (server != nullptr) {
    // Whoever asks from now on is sent elsewhere.
    if (auto* health = server->GetHealthCheckService(); health != nullptr) health->Shutdown();
    const absl::Status goodbye = absl::UnavailableError("the coordinator is shutting down: connect again");
    dispatcher->CloseAll(goodbye);
    board.EndAll();
    server->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
    server->Wait();
  }
  // Scrapes wait for the writer.
  metrics_endpoint.reset();
  metrics.AskAtScrape(nullptr);
  background.reset();
  caretaker.reset();
  if (writer != nullptr) writer->Stop();
  bell.reset();  // the writer's thread rings it
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { Shutdown(); }
int Server::port() const { return state_->port; }
int Server::metrics_port() const {
  return state_->metrics_endpoint == nullptr ? 0 : state_->metrics_endpoint->port();
}
void Server::Shutdown() { state_->Stop(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  if (options.clock == nullptr) options.clock = &Clock::System();
  if (options.max_attempts == 0) return absl::InvalidArgumentError("max_attempts: at least 1");
  if (options.lease < absl::Milliseconds(10)) return absl::InvalidArgumentError("lease: at least 10 ms");
  if (options.lease_tick <= absl::ZeroDuration())
    return absl::InvalidArgumentError("lease_tick: more than 0");
  ASSAY_RETURN_IF_ERROR(CheckListen(options.listen, options.allow_remote));
  if (options.blobs == "postgres" && options.database.empty()) {
    return absl::InvalidArgumentError("blobs: postgres is wanted, and there is no database");
  }
  if (!options.blobs.empty() && options.data_dir.empty() && options.database.empty()) {
    return absl::InvalidArgumentError("blobs: a folder for them needs a data folder or a database beside it");
  }
  if (options.poll < absl::Milliseconds(1)) return absl::InvalidArgumentError("poll: at least 1 ms");
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  ASSAY_ASSIGN_OR_RETURN(state->content, Content::Load(state->options.content_dir));
  std::unique_ptr<Server> server(new Server(std::move(state)));
  ASSAY_RETURN_IF_ERROR(server->state_->OpenStore());
  server->state_->ListenToOthers();
  ASSAY_RETURN_IF_ERROR(server->state_->Serve());
  server->state_->ticker = std::thread([state = server->state_.get()] { state->KeepTime(); });
  return server;
}

}  // namespace assay::coordinator

#include "coordinator/server.h"

#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/certificate_watch.h"
#include "common/id.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "coordinator/access/access.h"
#include "coordinator/access/audit.h"
#include "coordinator/access/audit_interceptor.h"
#include "coordinator/access/authority.h"
#include "coordinator/access/rules.h"
#include "coordinator/background.h"
#include "coordinator/blob_store.h"
#include "coordinator/content.h"
#include "coordinator/dispatcher.h"
#include "coordinator/folder_lock.h"
#include "coordinator/metrics.h"
#include "coordinator/pools.h"
#include "coordinator/postgres_blob_store.h"
#include "coordinator/rpc_meter.h"
#include "coordinator/services/admin_service.h"
#include "coordinator/services/batch_service.h"
#include "coordinator/services/blob_service.h"
#include "coordinator/services/join_service.h"
#include "coordinator/services/scaler_service.h"
#include "coordinator/services/watch_stream.h"
#include "coordinator/services/worker_service.h"
#include "coordinator/steady_wait.h"
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

// How often scalers that watch are told what has changed.
constexpr absl::Duration kScalerPeriod = absl::Seconds(1);

// How long streams that were told to end may take.
constexpr absl::Duration kShutdownGrace = absl::Milliseconds(500);

constexpr absl::Duration kBetweenForgetting = absl::Hours(24);
constexpr absl::Duration kBetweenCertificateLooks = absl::Minutes(1);
// How often a wait looks whether the server stops.
constexpr absl::Duration kStopLook = absl::Milliseconds(20);
// How often open calls of revoked tokens are looked for.
constexpr absl::Duration kAccessTick = absl::Milliseconds(250);

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
      "': without TLS there is neither encryption nor authentication, so that anyone who reaches the port",
      " could run jobs and read results: run assay-coordinator init, or give --tls-cert; only loopback is",
      " listened on else, unless told so explicitly"));
}

}  // namespace

// In the order in which each needs those before it.
struct Server::State {
  ServerOptions options;
  std::unique_ptr<FolderLock> lock;
  std::shared_ptr<const Content> content;
  v1::Pools pools;
  std::unique_ptr<BlobStore> blobs;
  CoordinatorMetrics metrics;
  WatchBoard board;
  std::unique_ptr<Writer> writer, aside;  // see Dispatcher::Options
  std::unique_ptr<AuditLog> audit;
  std::unique_ptr<Access> access;
  std::unique_ptr<Dispatcher> dispatcher;
  std::unique_ptr<PostgresBell> bell;  // none: nobody else uses the store
  std::unique_ptr<Background> background, caretaker;
  std::unique_ptr<BatchService> batch_service;
  std::unique_ptr<BlobService> blob_service;
  std::unique_ptr<WorkerService> worker_service;
  std::unique_ptr<AdminService> admin_service;
  std::unique_ptr<JoinService> join_service;
  std::unique_ptr<ScalerService> scaler_service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::unique_ptr<MetricsEndpoint> metrics_endpoint;
  std::unique_ptr<Vitals> vitals;

  absl::Mutex mutex;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::thread ticker;
  std::thread access_ticker;

  absl::Status OpenStore();
  void ListenToOthers();
  absl::Status Serve();
  absl::Status ServeMetrics();
  void SetServing(bool store_is_there);
  void KeepTime();
  // Forgets tokens that ended long ago, and what options.retention does not keep, in the background.
  void Forget();
  void KeepAccess();
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
  if (!options.database.empty()) {
    ASSAY_ASSIGN_OR_RETURN(
        store, OpenPostgresStore(options.database, options.max_attempts, {}, PostgresUse::kSubmissions));
    aside = std::make_unique<Writer>(std::move(store));
  }
  for (Writer* each : {writer.get(), aside.get()}) {
    if (each == nullptr) continue;
    each->ObserveGroups([this](size_t requests, absl::Duration took, bool committed) {
      committed ? metrics.GroupCommitted(requests, took) : metrics.GroupFailed();
    });
  }
  Dispatcher::Options dispatch;
  dispatch.lease = options.lease;
  dispatch.ahead_per_slot = options.ahead_per_slot;
  dispatch.disconnect_grace = options.disconnect_grace;
  // Unlike any other's: a worker's row says by it who holds its stream.
  dispatch.name = absl::StrCat("assay-coordinator-", NewUuid().substr(0, 8));
  dispatch.require_acceptance = options.require_acceptance;
  for (const v1::Pool& pool : pools.pool()) dispatch.pools.push_back(ViewOf(pool));
  dispatch.clock = options.clock;
  dispatch.machine = &SteadyClock::Get();
  dispatch.content = content.get();
  dispatch.blobs = blobs.get();
  dispatch.metrics = &metrics;
  dispatch.aside = aside.get();
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
  const bool tls = !options.tls.certificate.empty();
  audit = std::make_unique<AuditLog>(writer.get(), options.clock);
  access = std::make_unique<Access>(writer.get(), audit.get(), options.clock, !tls);
  background = std::make_unique<Background>();
  caretaker = std::make_unique<Background>();
  BatchService::Rooms rooms;
  rooms.content = content.get();
  rooms.blobs = blobs.get();
  rooms.writer = writer.get();
  rooms.reader = aside != nullptr ? aside.get() : writer.get();
  rooms.dispatcher = dispatcher.get();
  rooms.board = &board;
  rooms.background = background.get();
  rooms.access = access.get();
  rooms.clock = options.clock;
  batch_service = std::make_unique<BatchService>(rooms);
  blob_service = std::make_unique<BlobService>(content.get(), blobs.get(), &metrics);
  worker_service = std::make_unique<WorkerService>(dispatcher.get(), access.get());
  AdminService::Rooms admin_rooms;
  admin_rooms.writer = writer.get();
  admin_rooms.dispatcher = dispatcher.get();
  admin_rooms.access = access.get();
  admin_rooms.clock = options.clock;
  admin_service = std::make_unique<AdminService>(admin_rooms);
  JoinService::Rooms join_rooms;
  join_rooms.writer = writer.get();
  join_rooms.access = access.get();
  join_rooms.clock = options.clock;
  join_rooms.life = options.worker_certificate_life;
  if (tls && !options.data_dir.empty() && fs::exists(TlsFolderIn(options.data_dir).authority_key)) {
    ASSAY_ASSIGN_OR_RETURN(join_rooms.authority, LoadAuthority(options.data_dir));
  }
  join_service = std::make_unique<JoinService>(std::move(join_rooms));
  scaler_service = std::make_unique<ScalerService>(dispatcher.get(), pools);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  if (tls) {
    ASSAY_ASSIGN_OR_RETURN(credentials, ServerCredentialsOf(options.tls, options.clock->Now()));
    credentials->SetAuthMetadataProcessor(NewAccessProcessor(access.get()));
  }
  builder.AddListeningPort(options.listen, credentials, &port);
  std::vector<std::string> served = {"grpc.reflection.v1alpha.ServerReflection"};
  const auto serve = [&builder, &served](grpc::Service* service, const char* name) {
    builder.RegisterService(service);
    served.push_back(name);
  };
  serve(batch_service.get(), v1::BatchService::service_full_name());
  serve(blob_service.get(), v1::BlobService::service_full_name());
  serve(worker_service.get(), v1::WorkerService::service_full_name());
  serve(admin_service.get(), v1::AdminService::service_full_name());
  serve(join_service.get(), v1::JoinService::service_full_name());
  serve(scaler_service.get(), externalscaler::ExternalScaler::service_full_name());
  ASSAY_RETURN_IF_ERROR(CheckRulesCover(served));
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(NewAuditInterceptorFactory(access.get()));
  interceptors.push_back(NewRpcMeter(&metrics));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  // Reports and large batches in one answer; control messages are kept small where they are made.
  builder.SetMaxSendMessageSize(-1);
  // A second coordinator on the same port is a mistake, not a cluster.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A fixed window, as large as a message of a worker may be: to size one itself gRPC sends pings beside
  // them.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
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
    if (!options.retention) {
      absl::StatusOr<size_t> tokens = DropEndedTokens(run, kKeepTokens);
      if (!tokens.ok() && !absl::IsCancelled(tokens.status())) {
        spdlog::warn("cannot drop tokens that have ended: {}", tokens.status().ToString());
      }
      return;
    }
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
  const SteadyClock& steady = SteadyClock::Get();
  absl::Time next_forget = steady.Now();
  absl::Time scaler_looked = absl::InfinitePast(), certificate_looked = absl::InfinitePast();
  CertificateWatch certificate(options.tls.certificate, "the server's");
  while (true) {
    {
      absl::MutexLock lock_(&mutex);
      if (AwaitSteadily(mutex, absl::Condition(&stopping), options.lease_tick, kStopLook)) return;
    }
    dispatcher->Tick();
    if (steady.Now() >= next_forget) {
      Forget();
      next_forget = steady.Now() + kBetweenForgetting;
    }
    vitals->Look();
    if (steady.Now() - scaler_looked >= kScalerPeriod) {
      scaler_service->Refresh();
      scaler_looked = steady.Now();
    }
    if (!options.tls.certificate.empty() && steady.Now() - certificate_looked >= kBetweenCertificateLooks) {
      if (const auto end = certificate.Look(options.clock->Now())) metrics.CertificateEnds(*end);
      certificate_looked = steady.Now();
    }
  }
}

void Server::State::KeepAccess() {
  while (true) {
    {
      absl::MutexLock lock_(&mutex);
      if (AwaitSteadily(mutex, absl::Condition(&stopping), kAccessTick, kStopLook)) return;
    }
    access->EndOutdatedCalls();
    audit->Tick();
  }
}

void Server::State::Stop() {
  {
    absl::MutexLock lock_(&mutex);
    if (std::exchange(stopping, true)) return;
  }
  if (ticker.joinable()) ticker.join();
  if (access_ticker.joinable()) access_ticker.join();
  if (server != nullptr) {
    // Whoever asks from now on is sent elsewhere.
    if (auto* health = server->GetHealthCheckService(); health != nullptr) health->Shutdown();
    const absl::Status goodbye = absl::UnavailableError("the coordinator is shutting down: connect again");
    dispatcher->CloseAll(goodbye);
    board.EndAll();
    scaler_service->EndAll();
    server->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
    server->Wait();
  }
  // Scrapes wait for the writer.
  metrics_endpoint.reset();
  metrics.AskAtScrape(nullptr);
  background.reset();
  caretaker.reset();
  if (audit != nullptr) audit->Flush();
  if (aside != nullptr) aside->Stop();
  if (writer != nullptr) writer->Stop();
  bell.reset();  // the writers' threads ring it
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
  if (const TlsFolder folder = TlsFolderIn(options.data_dir);
      options.tls.certificate.empty() && !options.data_dir.empty() && fs::exists(folder.server)) {
    options.tls.certificate = folder.server;
    if (options.tls.authority.empty()) options.tls.authority = folder.authority;
  }
  ASSAY_RETURN_IF_ERROR(
      CheckListen(options.listen, options.allow_remote || !options.tls.certificate.empty()));
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
  if (!state->options.pools_file.empty()) {
    ASSAY_ASSIGN_OR_RETURN(state->pools, LoadPools(state->options.pools_file.string()));
  }
  std::unique_ptr<Server> server(new Server(std::move(state)));
  ASSAY_RETURN_IF_ERROR(server->state_->OpenStore());
  server->state_->ListenToOthers();
  ASSAY_RETURN_IF_ERROR(server->state_->Serve());
  server->state_->ticker = std::thread([state = server->state_.get()] { state->KeepTime(); });
  server->state_->access_ticker = std::thread([state = server->state_.get()] { state->KeepAccess(); });
  return server;
}

}  // namespace assay::coordinator

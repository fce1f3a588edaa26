// A coordinator in one process: content, store, dispatcher and the gRPC services in front of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/tls.h"
#include "coordinator/retention.h"

namespace assay::coordinator {

struct ServerOptions {
  // host:port; port 0 takes any free one. Without TLS nobody says who they are: a host that is not loopback
  // is refused then unless allow_remote is set.
  std::string listen = "127.0.0.1:7420";
  bool allow_remote = false;

  // Without a certificate: data_dir/tls as `assay-coordinator init` makes it, where that is; else no TLS.
  ServerTls tls;
  // Of certificates that workers are given.
  absl::Duration worker_certificate_life = absl::Hours(24 * 30);

  // Holds assay.db and blobs/. Empty: everything is in memory and gone with the server.
  std::filesystem::path data_dir;
  // postgres://…: the store is there instead of in assay.db. Any number of servers may share it.
  std::string database;
  // "postgres": in the database; else a folder, which servers may share. Empty: data_dir/blobs, or the
  // database where there is no data_dir.
  std::string blobs;
  // Applied at the start and then once a day. Unset: nothing is ever forgotten.
  std::optional<Retention> retention;
  // How often a server that shares its database looks at it unasked: what it is told by NOTIFY comes at once.
  absl::Duration poll = absl::Seconds(1);
  // Holds templates/ and models/ (registry.json, catalogue/, programs/). Read once, at start.
  std::filesystem::path content_dir;

  // An attempt whose worker has not been heard of for this long is lost. Workers beat three times a lease.
  absl::Duration lease = absl::Seconds(4);
  // How long a worker whose connection has closed keeps its attempts, unless it connects again.
  absl::Duration disconnect_grace = absl::Milliseconds(500);
  // Attempts a job gets where its worker is lost or the infrastructure fails. From 1.
  uint32_t max_attempts = 3;
  // Jobs that a worker is given beyond each of its slots while many wait, so that it fetches and generates
  // the next test while one runs. 0: none.
  uint32_t ahead_per_slot = 1;
  // How often leases are looked at. Nothing else waits for it.
  absl::Duration lease_tick = absl::Milliseconds(200);
  // host:port of an HTTP endpoint with metrics for Prometheus; empty: there is none. Without encryption or
  // authentication: other than loopback only where metrics_anywhere is set.
  std::string metrics_listen;
  bool metrics_anywhere = false;
  // Times of leases and records; must outlive the server. Null: the machine's clock.
  const Clock* clock = nullptr;
  // Pools of workers, as coordinator/pools.h reads them: what they could take counts as configured, and
  // KEDA's external scaler answers for them. Empty: none.
  std::filesystem::path pools_file;
  // Nothing is given to a worker that has not passed an acceptance sweep with its present devices and
  // drivers; each that has not is asked for one.
  bool require_acceptance = false;
};

// Thread-safe.
class Server {
 public:
  // Serves when it returns. INVALID_ARGUMENT for a bad address, options or content; FAILED_PRECONDITION for
  // a data folder or database that a newer Assay wrote or that another coordinator holds; UNAVAILABLE where
  // the address is taken or the database cannot be reached.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options);

  // As Shutdown.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  int metrics_port() const;  // 0: there is none

  // Ends every stream with UNAVAILABLE or CANCELLED, commits what was accepted, and returns when nothing
  // runs any more. Attempts go on at their workers. Repeating it does nothing.
  void Shutdown();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace assay::coordinator

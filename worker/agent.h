// The worker's agent: takes attempts from a coordinator over one bidirectional stream, generates their tests,
// has them run by test hosts, and gives every result back exactly as often as the coordinator needs to see
// it.
//
//   assignment ─▶ fetch blobs ─▶ find checkpoint ─▶ generate, verify ─▶ wait for a slot ─▶ test host ─▶ spool
//   ─▶ log, result ─▶ ack
//   assignment of an export stage ─▶ fetch blobs ─▶ find checkpoint ─▶ exporter, where nothing is cached ─▶
//   spool …
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/credentials.h"
#include "hub/hub.h"
#include "worker/exporter.h"
#include "worker/gpus.h"

namespace assay::worker {

class WorkerMetrics;

struct AgentOptions {
  std::string coordinator;  // host:port; several, separated by commas, are tried in turn
  std::string name;         // stable name of the node
  // TLS, and who this worker is; null: without TLS.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  std::filesystem::path state_dir;    // blob cache and spool; one agent at a time
  uint32_t slots = 1;                 // tests that run at once on the CPU
  std::filesystem::path host_binary;  // assay-host
  bool cpu_only = false;              // leave GPUs alone
  // GPUs to use; unset: those that this process may see.
  std::optional<std::vector<Gpu>> gpus;
  // Most tests at once on a GPU, each with a host of its own; 0: one for every 8 GiB, 1 to 4. One in any case
  // where the GPU's memory is not known.
  uint32_t gpu_slots = 0;
  // Of a GPU's memory, what is kept from tests, for their processes and others'; unset: half a GiB, and as
  // much again for each slot.
  std::optional<uint64_t> gpu_memory_reserve;
  // A GPU's host that holds more of its memory after a test is replaced. cuBLAS's workspace, which stays,
  // takes up to 32 MiB a stream.
  uint64_t gpu_kept_limit = uint64_t{256} << 20;
  // "key=value". Where `exporter` has a folder, "exporter=<version of transformers>" comes by itself.
  std::vector<std::string> labels;
  // More of them, one a line, that may change while the agent runs (worker/labels.h); empty: none.
  std::filesystem::path label_file;

  // Where checkpoints are. Ids are looked for as <checkpoint_root>/<org>/<name> first (empty: not), then by
  // the hub's client in its cache and on the hub.
  std::filesystem::path checkpoint_root;
  hub::HubOptions hub = hub::HubOptions::FromEnvironment();
  // Checkpoints named by an absolute folder must lie below one of these …
  std::vector<std::filesystem::path> checkpoint_folders;
  // … or may lie anywhere, where the batch's author and the worker's owner are the same person.
  bool any_checkpoint_folder = false;
  // Export stages; without a folder of its own this worker takes none. exporter.allow_pickle also lets the
  // hub's client fetch pickles.
  ExporterOptions exporter;

  uint64_t cache_bytes = uint64_t{2} << 30;
  // How long past its own limit a test may stay silent before its host is killed.
  absl::Duration host_grace = absl::Seconds(10);
  // How long a host may take to say that it is ready.
  absl::Duration host_start_limit = absl::Seconds(60);
  // How long blobs of an assignment are tried for while no coordinator answers.
  absl::Duration fetch_limit = absl::Seconds(60);
  // A result that is not acknowledged for this long, or for a lease where that is longer, makes the agent
  // doubt its connection and make a new one.
  absl::Duration ack_limit = absl::Seconds(10);
  // How long a draining agent waits for acknowledgements after its last test; what is left stays spooled.
  absl::Duration drain_limit = absl::Seconds(30);
  // With less than this free in state_dir the agent takes nothing new.
  uint64_t min_free_bytes = uint64_t{64} << 20;
  absl::Duration min_backoff = absl::Milliseconds(250);
  absl::Duration max_backoff = absl::Seconds(5);
  WorkerMetrics* metrics = nullptr;  // told of what happens, and asks; outlives the agent. May be null
};

// Thread-safe. One agent owns its state_dir while it lives.
class Agent {
 public:
  // Starts the test hosts, waits until they are ready, and begins to connect; a coordinator that is not there
  // yet is no error.
  //   INVALID_ARGUMENT     an option is missing or malformed.
  //   FAILED_PRECONDITION  another agent uses state_dir, or the test host cannot start; the message holds its
  //                        last output.
  static absl::StatusOr<std::unique_ptr<Agent>> Start(AgentOptions options);
  virtual ~Agent() = default;  // as Stop()

  // Finish what was taken, take no more, get every acknowledgement, leave. Returns at once.
  virtual void Drain() = 0;
  // Looks at label_file at once; else it does so with every heartbeat.
  virtual void ReadLabels() = 0;
  // Until drained or stopped.
  virtual void Wait() = 0;
  // Stop now: hosts are killed, running attempts are left for the coordinator to give to another worker.
  virtual void Stop() = 0;
  // Results that no coordinator has acknowledged; they are in the spool.
  virtual size_t unacknowledged() const = 0;
};

}  // namespace assay::worker

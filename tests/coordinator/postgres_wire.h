// What lies between a store and its server, and may be cut at a chosen moment.
#pragma once

#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace assay::coordinator {

// Passes one connection at a time on from a Unix socket of its own. Thread-safe.
class PostgresWire {
 public:
  enum class Cut {
    kNowhere,
    kBeforeTheServer,  // what the client says next does not arrive
    kBeforeTheClient,  // it arrives, and the server's answer does not
  };

  // `server`: the socket that it passes on to.
  explicit PostgresWire(const std::string& server);
  ~PostgresWire();
  PostgresWire(const PostgresWire&) = delete;
  PostgresWire& operator=(const PostgresWire&) = delete;

  // Where to connect: the folder of a socket named .s.PGSQL.5432.
  const std::string& folder() const { return folder_; }
  // Once; later connections pass everything, unless `closed`: then nobody gets through until Open.
  void Arm(Cut cut, bool closed = false);
  void Open();

 private:
  void Serve();
  void Pass(int client, int server);

  const std::string server_;
  std::string folder_;
  int listener_ = -1;
  int stop_[2];
  absl::Mutex mutex_;
  Cut cut_ ABSL_GUARDED_BY(mutex_) = Cut::kNowhere;
  bool close_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace assay::coordinator

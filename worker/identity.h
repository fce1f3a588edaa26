// Who a worker is: a certificate of its own, got once with a join token and renewed by the worker itself
// before it ends. It lies in <state dir>/tls: ca.crt, and worker.pem with certificate and key, readable by
// the owner alone.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/tls.h"
#include "grpcpp/client_context.h"

namespace assay::worker {

// Where the identity is, or would be.
ClientTls IdentityIn(const std::filesystem::path& state_dir);

struct JoinOptions {
  std::vector<std::string> coordinators;  // host:port
  std::string name;                       // of the worker
  std::filesystem::path state_dir;
  std::filesystem::path authority;  // that the coordinator's certificate comes from
  std::filesystem::path token_file;
  std::string token;  // secret; instead of token_file
};
// Trades a join token for an identity, at the first coordinator that answers.
//   INVALID_ARGUMENT     an option is missing; the token or the request was refused so.
//   UNAUTHENTICATED      the token is unknown, expired, revoked or was redeemed.
//   FAILED_PRECONDITION  there is an identity already, or the coordinator cannot sign.
//   UNAVAILABLE          no coordinator answers, or one whose certificate is not the authority's.
absl::Status Join(const JoinOptions& options);

// Renews the identity when a third of its life is left, trying again until that works, and warns where its
// end comes near all the same. Of a short life it takes shorter pauses. Thread-safe.
class IdentityKeeper {
 public:
  struct Options {
    std::vector<std::string> coordinators;
    std::string name;
    ClientTls tls;  // the present identity
    absl::Duration retry = absl::Minutes(5);
    absl::Duration call_limit = absl::Seconds(30);
    absl::Duration pause = absl::Minutes(1);  // between looks at the certificate
    bool renews = true;                       // else somebody else does: it is only looked at
    std::function<void(absl::Time)> ends;     // told at each look when the present one ends; may be null
  };
  explicit IdentityKeeper(Options options);
  ~IdentityKeeper();
  IdentityKeeper(const IdentityKeeper&) = delete;
  IdentityKeeper& operator=(const IdentityKeeper&) = delete;

 private:
  void Loop();
  absl::Status Renew();

  const Options options_;
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread thread_;
};

}  // namespace assay::worker

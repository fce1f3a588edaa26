// The test host as a worker drives it: proto/assay/v1/host.proto on a pipe in and a pipe out.
#pragma once

#include "absl/status/status.h"
#include "host/test_processes.h"

namespace assay::host {

struct ServeOptions {
  int requests_fd = 0;
  int events_fd = -1;
  ProcessOptions processes;
};

// Says HostReady, then runs what is asked until the requests end or a SIGTERM or SIGINT comes; then kills
// what still runs. INVALID_ARGUMENT: the requests are no messages. UNAVAILABLE: no one reads the events.
absl::Status Serve(const ServeOptions& options);

}  // namespace assay::host

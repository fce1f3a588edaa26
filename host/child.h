// The child's side of a test: a freshly forked process that runs tests and tells its parent over a pipe.
#pragma once

#include <functional>
#include <optional>

#include "assay/v1/host.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/device_memory.h"
#include "engine/run_test.h"
#include "host/protection.h"

namespace assay::host {

// Runs one test; engine::RunTest but in tests of the host itself.
using Runner =
    std::function<v1::TestResult(const v1::ModelTest&, const engine::RunOptions&, engine::TestSink&)>;

// Who runs here, for a HostReady; engine::Describe but in tests.
using Describer = std::function<v1::Provenance(v1::DeviceChoice)>;

// What the process holds of its GPU; engine/device_memory.h but in tests.
struct DeviceMeter {
  std::function<void()> start;                      // before a test
  std::function<engine::DeviceMemory()> give_back;  // after it; throws where the device is in error
};

struct ChildOptions {
  Runner runner;
  Describer describe;  // of resident children
  ProtectionFor protection = ProtectionFor::kCpu;
  bool allow_cuda = false;
  DeviceMeter device;  // of resident children; empty: there is none to measure
  // Where events go (v1::HostEvent without an id, length-delimited).
  int events_fd = -1;
  // Resident children read length-delimited v1::RunTest from here until it ends, and begin with a HostReady
  // that names the device they found; -1 for a child that runs one test.
  int requests_fd = -1;
};

// Runs `test` (or, without one, every request of requests_fd) and leaves through _exit, so that no destructor
// of a library runs. Standard output and error already are the pipe that the parent reads.
[[noreturn]] void RunChild(const ChildOptions& options, const v1::RunTest* test);

}  // namespace assay::host

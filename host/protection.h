// What a test's process may not do. A test is data and cannot ask for any of it; these are the walls behind
// that, should an operator of LibTorch be led astray.
#pragma once

#include <string>
#include <vector>

namespace assay::host {

enum class ProtectionFor {
  kCpu,   // no files written, no sockets, no programs started, no processes made
  kCuda,  // the driver needs local sockets, writes to its devices and a cache of kernels
};

// Applies every protection to this process; for ever, and for the threads it starts. Returns in words those
// that the kernel refused (empty: all hold). Call in a freshly forked child, before it reads any of the test.
std::vector<std::string> Protect(ProtectionFor device);

// Forks a process that tries, so that a host can say at its start what will not hold.
std::vector<std::string> RefusedProtections(ProtectionFor device);

// Drops every variable of the environment that LibTorch, the loader or the sanitizers do not need: secrets of
// the process that started us do not reach a test.
void ScrubEnvironment();

}  // namespace assay::host

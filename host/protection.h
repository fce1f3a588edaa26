// What a test's process may not do. A test is data and cannot ask for any of it; these are the walls behind
// that, should an operator of LibTorch be led astray.
#pragma once

#include <string>
#include <vector>

namespace assay::host {

enum class ProtectionFor {
  kCpu,   // no files written, no sockets, no programs started, no processes made
  kCuda,  // the driver needs local sockets, writes to its devices and a cache of kernels
  // A program that may start others: no network, and no way into other processes. What it may read and write
  // is for ShowOnly().
  kProgram,
};

// Files that a program gets to see.
struct ShownFiles {
  std::vector<std::string> read;   // files and folders, with all below them; what runs may be run
  std::vector<std::string> write;  // folders in which it may do as it likes
};

// Applies every protection to this process; for ever, and for the threads it starts. Returns in words those
// that the kernel refused (empty: all hold). Call in a freshly forked child, before it reads any of the test.
std::vector<std::string> Protect(ProtectionFor device);

// Landlock: this process, and what it starts, finds nothing but `files` (a path that does not exist is left
// out). Other processes' memory and environment are hidden as well. False, with errno, where the kernel
// refuses.
bool ShowOnly(const ShownFiles& files);

// Forks a process that tries, so that a host can say at its start what will not hold.
std::vector<std::string> RefusedProtections(ProtectionFor device);

// Drops every variable of the environment that LibTorch, the loader or the sanitizers do not need: secrets of
// the process that started us do not reach a test.
void ScrubEnvironment();

}  // namespace assay::host
